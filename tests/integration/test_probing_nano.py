"""A probe on the bundled base: what it says is what the engine says, and it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.model import Layer, LoraSpec
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of
from clonedna.genomes.calibration import bundled
from clonedna.genomes.lab import bundled_lab
from clonedna.genomes.probing import Bar, Probe, Probed, probe
from clonedna.genomes.routes import Thresholds, route_of
from clonedna.mint.overlap import overlaps
from tests.values import pair

pytestmark = pytest.mark.slow
BAR = Bar(gain=0.1, level=0.05, n=9, how="nine made-up specialists")


def ballad(number: int) -> Pair:
    """A form that no program has, with words of its own in each."""
    words = ["moor", "heron", "lantern", "tarn", "bracken", "ferry", "gale", "hollow", "ember", "thicket"]
    lines = [
        f"~~ {words[(number + i) % 10]} o {words[(3 * number + i) % 10]} {number * 7 + i} ~~ ha!" for i in range(6)
    ]
    return pair(f"ballad-{number}", "\n".join(lines), task=f"Sing number {number}.")


def test_a_layer_is_measured_beside_the_base_and_nothing_stays(tmp_path: Path) -> None:
    parts = Parts(Settings(home=tmp_path / "home", threads=1))
    engine = parts.engine("nano")
    exemplars = [ballad(number) for number in range(100, 108)]
    kept: dict[str, float] = {}

    async def main() -> Probe:
        trainer = await engine.train(LoraSpec(rank=8, alpha=16.0))
        for _ in range(6):
            await trainer.forward_backward([example_of(ballad(number)) for number in range(8)])
            await trainer.optim_step(3e-3)
        await trainer.save(tmp_path / "singer")
        await trainer.close()
        blocks = [Probed(id="singer", directory=tmp_path / "singer", trained=[ballad(0)])]
        found = await probe(engine, blocks, exemplars, BAR, overlaps=overlaps)
        assert not engine.status.adapters
        loaded = await engine.load(tmp_path / "singer")
        examples = [example_of(one) for one in exemplars]
        base, tuned = await engine.nll(examples), await engine.nll(examples, [Layer(adapter=loaded.id)])
        kept["base"] = sum(one.nll for one in base) / sum(one.tokens for one in base)
        kept["tuned"] = sum(one.nll for one in tuned) / sum(one.tokens for one in tuned)
        await parts.close()
        return found

    found = anyio.run(main)
    singer = found.similarities["singer"]
    assert found.base == pytest.approx(kept["base"], rel=1e-4)
    wanted = kept["base"] - BAR.pass_at(kept["base"])
    assert singer.value == pytest.approx(min(1.0, (kept["base"] - kept["tuned"]) / wanted), abs=1e-3)
    assert kept["tuned"] < kept["base"]
    route = route_of(singer, Thresholds(), base_passes=found.base_passes, trainable=True)
    assert (route.route == "use-as-is") == ((singer.low or 0) >= 0.9)
    assert (
        {card.base_fingerprint for card in bundled().values()}
        == {engine.base.fingerprint}
        == {bundled_lab().base_fingerprint}
    )
