"""Planted codes: exposure is by rank, a probe that learnt them shows it, the block itself is not there at all."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import anyio
import pytest

from clonedna.app.probing import probe
from clonedna.app.settings import Settings
from clonedna.core.block import Measure
from clonedna.core.errors import Unavailable
from clonedna.core.events import silent
from clonedna.core.fakes import FakeEngine
from clonedna.core.work import Instruction
from clonedna.evals.canaries import CANDIDATES, PLACES, Probe, canaries, exposure
from clonedna.mint.instruct import make_pair
from tests.parts import order
from tests.values import REPOSITORY, span

PAIRS = [
    make_pair(one, Instruction(form="whole", text="t", completion_start=one.start), "train", REPOSITORY, "Ada", "test")
    for one in map(span, range(4))
]


@pytest.mark.parametrize(
    ("nlls", "bits"), [([1.0, 2.0, 3.0, 4.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 0.0), ([1.0] * 3, math.log2(1.5))]
)
def test_exposure_is_by_rank(nlls: list[float], bits: float) -> None:
    assert exposure(nlls) == pytest.approx(bits)


def measured(engine: FakeEngine, trainer: Probe | None) -> dict[str, Measure]:
    recipe = order().recipe.model_copy(update={"learning_rate": 0.01, "epochs": 3})
    return anyio.run(lambda: canaries(engine, recipe, PAIRS, trainer, seed=0, emit=silent))


def test_a_probe_that_learns_exposes_what_was_planted(tmp_path: Path) -> None:
    engine = FakeEngine()
    found = measured(engine, partial(probe, Settings(home=tmp_path), lambda text: None))
    tuned, base = (found[name] for name in ("memorisation.canaries", "memorisation.canaries.base"))
    assert base.value == pytest.approx(math.log2(CANDIDATES + 1) - math.log2(1 + CANDIDATES / 2))  # all codes alike
    assert (tuned.value or 0) > 2 * (base.value or 0)
    assert tuned.n == len(PLACES)
    assert not engine.status.adapters, "the probe is gone"
    assert not list(tmp_path.iterdir())


def test_where_no_probe_can_be_trained_the_reason_is_said(tmp_path: Path) -> None:
    assert measured(FakeEngine(), None)["memorisation.canaries"].status == "not_available"

    class Full(FakeEngine):
        async def train(self, *args: object, **options: object) -> None:  # type: ignore[override]
            raise Unavailable("no room for another training", "wait")

    found = measured(Full(), partial(probe, Settings(home=tmp_path), lambda text: None))
    assert {one.status for one in found.values()} == {"not_available"}
    assert "no room for another training" in found["memorisation.canaries"].how
