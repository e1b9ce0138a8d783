"""Promoted or rejected: by the intervals on the new and the old hold-out, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from clonedna.core.block import GateVerdict, Measure, not_available
from clonedna.core.fakes import FakeEngine
from clonedna.core.model import Layer, LoraSpec
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import paired_gain
from clonedna.evals.likelihood import example_of
from clonedna.mint.continuing_gate import (
    BACKWARD,
    NEW_GAIN,
    OLD_CHANGE,
    Ancestor,
    Terms,
    compare_with_ancestors,
    judge_continued,
    mean_gain,
)
from tests.unit.mint.test_continuing import aged, first, following, heritage, own_holdout, split
from tests.values import span

ACCEPTED = GateVerdict(status="accepted")


def measure(value: float, low: float, high: float) -> Measure:
    return Measure(value=value, status="measured", n=20, how="a test", ci95=(low, high))


@pytest.mark.parametrize(
    ("new", "old", "reasons"),
    [
        (measure(0.1, 0.01, 0.2), measure(0.0, -0.01, 0.01), []),
        (measure(0.1, 0.01, 0.2), measure(-0.019, -0.0199, -0.018), []),
        (measure(0.1, 0.0, 0.2), measure(0.0, -0.01, 0.01), ["no sure gain on new work"]),
        (measure(-0.1, -0.2, -0.05), measure(0.0, -0.01, 0.01), ["no sure gain on new work"]),
        (measure(0.1, 0.01, 0.2), measure(0.05, -0.021, 0.1), ["the old hold-out may have fallen"]),
        (measure(0.0, -0.1, 0.1), measure(-0.5, -0.6, -0.4), ["no sure gain on new work", "the old hold-out may have fallen"]),
        (not_available("none"), measure(0.0, -0.01, 0.01), ["the gain on new work is not known: none"]),
        (measure(0.1, 0.01, 0.2), not_available("none"), ["what became of the old hold-out is not known: none"]),
    ],
)  # fmt: skip
def test_the_intervals_decide(new: Measure, old: Measure, reasons: list[str]) -> None:
    verdict = judge_continued(ACCEPTED, {NEW_GAIN: new, OLD_CHANGE: old})
    assert verdict.status == ("rejected" if reasons else "accepted")
    assert len(verdict.reasons) == len(reasons)
    assert all(said.startswith(word) for said, word in zip(verdict.reasons, reasons, strict=True))


def test_what_was_not_measured_is_no_promotion() -> None:
    assert judge_continued(ACCEPTED, {}).status == "rejected"


def test_what_the_ordinary_gate_rejects_stays_rejected() -> None:
    good = {NEW_GAIN: measure(0.1, 0.01, 0.2), OLD_CHANGE: measure(0.0, -0.01, 0.01)}
    verdict = judge_continued(GateVerdict(status="rejected", reasons=("forgetting",)), good)
    assert verdict == GateVerdict(status="rejected", reasons=("forgetting",))


def terms(shift: float, n: int, files: int) -> Terms:
    before = [10.0 + i % 3 for i in range(n)]
    now = [b - shift * 4 - 0.1 * (i % 5 - 2) for i, b in enumerate(before)]
    return Terms(before, now, [4] * n, [f"file {i % files}" for i in range(n)])


def test_of_one_hold_out_the_mean_is_its_paired_gain() -> None:
    one = terms(0.3, 20, 6)
    assert mean_gain([one], seed=3) == paired_gain(one.before, one.now, one.tokens, seed=3, clusters=one.files)


def test_the_mean_counts_each_hold_out_once_whatever_its_size() -> None:
    value, (low, high) = mean_gain([terms(0.4, 30, 6), terms(-0.2, 10, 5)])
    assert value == pytest.approx(0.1, abs=1e-6)
    assert low < value < high
    assert mean_gain([terms(0.4, 30, 2), terms(-0.2, 10, 2)])[0] == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(ValueError, match="at least one part"):
        mean_gain([])


ONE = first([span(i) for i in range(40)])
TWO = following(aged(range(100, 140)), heritage(ONE))
NAMES = [version.id for version in reversed(heritage(ONE, TWO).versions)]


async def trained(engine: FakeEngine, pairs: list[Pair], folder: Path, start: Path | None = None) -> str:
    trainer = await engine.train(LoraSpec(), start=start)
    await trainer.forward_backward([example_of(pair) for pair in pairs])
    await trainer.optim_step(1e-4)
    await trainer.save(folder)
    return (await engine.load(folder)).id


def compared(folder: Path, *, gone: bool = False, learn: bool = True) -> dict[str, Measure]:
    """The measures of a third version over a second and a first, on the fake engine."""
    third = following(aged(range(200, 240)), heritage(ONE, TWO))

    async def work() -> dict[str, Measure]:
        engine = FakeEngine()
        one = await trained(engine, split(ONE, "train"), folder / "1")
        two = await trained(engine, split(TWO, "train"), folder / "2", folder / "1")
        three = await trained(engine, split(third, "train"), folder / "3", folder / "2") if learn else two
        ancestors = [
            Ancestor(id=NAMES[1], reference="ada@1.1.0", adapter=two),
            Ancestor(id=NAMES[0], reference="ada@1.0.0", adapter=None if gone else one),
        ]
        measures = (await compare_with_ancestors(engine, three, ancestors, third)).measures
        for name, version, adapter in ((OLD_CHANGE, NAMES[1], two), (NEW_GAIN, "", two)):
            examples = [example_of(pair) for pair in own_holdout(third, version)]
            before = await engine.nll(examples, [Layer(adapter=adapter)])
            now = await engine.nll(examples, [Layer(adapter=three)])
            expected = sum(b.nll - n.nll for b, n in zip(before, now, strict=True)) / sum(n.tokens for n in now)
            assert measures[name].value == pytest.approx(expected)
            assert measures[name].n == len(examples)
        return measures

    return anyio.run(work)


def test_each_version_is_measured_on_its_own_hold_out(tmp_path: Path) -> None:
    measures = compared(tmp_path)
    assert {one.status for one in measures.values()} == {"measured"}
    low, high = measures[NEW_GAIN].ci95 or (0.0, 0.0)
    assert 0 < low < (measures[NEW_GAIN].value or 0) < high
    assert measures[BACKWARD].n == len(own_holdout(ONE)) + len(own_holdout(TWO))


def test_a_version_that_learned_nothing_gains_and_loses_nothing(tmp_path: Path) -> None:
    measures = compared(tmp_path, learn=False)
    assert (measures[NEW_GAIN].value, measures[OLD_CHANGE].value) == (0.0, 0.0)
    assert judge_continued(ACCEPTED, measures).status == "rejected"


def test_backward_transfer_needs_every_version_before(tmp_path: Path) -> None:
    measures = compared(tmp_path, gone=True)
    assert measures[BACKWARD].status == "not_available"
    assert "ada@1.0.0" in measures[BACKWARD].how
    assert measures[OLD_CHANGE].status == "measured"
