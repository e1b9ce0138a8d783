"""Interference as arithmetic: phi, ratios and cosines by hand, retention and the index, notes."""

from __future__ import annotations

import math
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.block import Measure, not_available
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.interference import Pairwise
from clonedna.core.model import Example, Score
from clonedna.genomes.interference import (
    GUARD_GATE,
    MEMBER_GATE,
    Member,
    by_module,
    cosine,
    guard_rise,
    index,
    measure,
    norm_ratio,
    note_of,
    phi,
)

A, B = "a" * 64, "b" * 64
PAIR = Pairwise(norms={"q": (3.0, 1.0), "k": (4.0, 0.0)}, inner={"q": 1.5}, energies={"q": (9.0, 4.0), "k": (7.0, 0.0)})


def scores(*nlls: float) -> list[Score]:
    return [Score(nll=nll, tokens=10, bytes=30) for nll in nlls]


def kept(value: float | None) -> Measure:
    return not_available("?") if value is None else Measure(value=value, status="measured", n=4, how="?")


def test_phi_ratio_and_cosine_are_the_formulas() -> None:
    assert phi(PAIR).value == pytest.approx(math.sqrt(16 / 4))
    assert phi(PAIR, weight=-0.5).value == pytest.approx(1.0)
    assert norm_ratio(PAIR).value == pytest.approx(5.0)
    assert cosine(PAIR) == pytest.approx(1.5 / (5 * 1))
    assert by_module(PAIR) == {"q": pytest.approx(1.5), "k": None}
    assert by_module(PAIR.model_copy(update={"energies": None}), weight=2.0) == {"q": pytest.approx(6.0), "k": None}


def test_without_covariances_phi_says_so_and_norms_stay() -> None:
    bare = PAIR.model_copy(update={"energies": None})
    assert phi(bare).status == "not_available"
    assert "covariances" in phi(bare).how
    assert norm_ratio(bare).status == "measured"


def test_a_target_that_changes_nothing_has_no_phi_no_ratio_and_no_cosine() -> None:
    nothing = Pairwise(norms={"q": (1.0, 0.0)}, inner={"q": 0.0}, energies={"q": (1.0, 0.0)})
    assert [phi(nothing).value, norm_ratio(nothing).value, cosine(nothing)] == [None, None, None]


@given(st.lists(st.floats(-2, 1.5), min_size=1, max_size=8), st.floats(-0.1, 0.2), st.booleans())
def test_the_index_passes_if_and_only_if_both_parts_do(values: list[float], rise: float, routed: bool) -> None:
    found = index([kept(value) for value in values], kept(rise), routed=routed)
    losses = [max(0.0, 1 - value) for value in values]
    assert found.member.value == pytest.approx(sum(losses) / len(losses))
    assert found.worst.value == max(losses)
    assert found.passes == ((found.member.value or 0) <= (0.10 if routed else MEMBER_GATE) and rise <= GUARD_GATE)


def test_an_index_with_a_part_unknown_never_passes_and_may_fail() -> None:
    assert index([kept(1.0), kept(None)], kept(0.0)).passes is None
    assert index([kept(1.0)], kept(None)).passes is None
    assert index([], kept(0.0)).passes is None
    assert index([kept(0.1)], kept(None)).passes is False
    assert index([kept(None)], kept(0.5)).passes is False


def test_guard_rise_is_relative() -> None:
    assert guard_rise(scores(10, 10), scores(10, 11)).value == pytest.approx(0.05)
    assert guard_rise([], []).status == "not_available"


@pytest.mark.parametrize("routed", [False, True])
def test_a_composition_is_measured_member_by_member(tmp_path: Path, routed: bool) -> None:
    async def run() -> None:
        engine = FakeEngine()
        members: list[Member] = []
        for i, text in enumerate(("abababab", "axaxaxax")):
            trainer = FakeTrainer()
            example = Example(text="a", completion=text)
            await trainer.forward_backward([example])
            await trainer.optim_step(0.01)
            await trainer.save(tmp_path / str(i))
            info = await engine.load(tmp_path / str(i))
            members.append(Member((A, B)[i], info.id, 1.0, (example,) * 2, ("a.py", "b.py")))
        guard = [Example(text="a", completion="cacaca"), Example(text="a", completion="dadada")]
        found = await measure(engine, members, guard, routed=routed)
        values = [found.retention[A].value or 0.0, found.retention[B].value or 0.0]
        if routed:
            assert values == [pytest.approx(1.0)] * 2
            assert found.index.member.value == pytest.approx(0.0, abs=1e-9)
        else:
            assert min(values) > 0
            assert max(values) < 1  # they contradict each other behind every a
        assert (found.index.guard.value or 0) > 0
        assert found.index.guard.n == 2
        assert found.index.passes is routed

    anyio.run(run)


def test_a_note_has_its_blocks_in_order_with_what_belongs_to_each() -> None:
    note = note_of(B, A, {A: kept(0.25), B: kept(0.75)}, (2.0, 3.0), base_fingerprint="f")
    assert (note.first, note.second, note.weights) == (A, B, (3.0, 2.0))
    assert (note.retention[0].value, note.retention[1].value) == (0.25, 0.75)
