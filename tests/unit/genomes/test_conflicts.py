"""Lights: the monotone fit, cards, notes before predictions, modules, what is unknown."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.block import Measure
from clonedna.core.errors import InputError
from clonedna.core.interference import ConflictCard, Curve, Outcome, Pairwise
from clonedna.genomes.conflicts import default_card, expected, fit, judge, light_of, monotone, noted, outcomes_of
from clonedna.genomes.interference import note_of

A, B, C = "a" * 64, "b" * 64, "c" * 64
CARD = ConflictCard(
    phi=Curve(x=(0.5, 1.5), damage=(0.0, 1.0)),
    norm_ratio=Curve(x=(0.0, 4.0), damage=(0.0, 1.0)),
    fitted_on="made up",
    n=20,
)
PAIR = Pairwise(norms={"q": (1.0, 1.0), "k": (1.0, 1.0)}, inner={"q": 0.1}, energies={"q": (1.0, 1.0), "k": (0.2, 1.0)})
BARE = PAIR.model_copy(update={"energies": None})


def kept(value: float) -> Measure:
    return Measure(value=value, status="measured", n=9, how="?")


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(-1, 2)), min_size=1, max_size=40))
def test_the_fit_is_monotone_keeps_the_mean_and_is_no_worse_than_a_constant(points: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    curve = monotone(x, y)
    assert list(curve.x) == sorted(set(curve.x))
    assert list(curve.damage) == sorted(curve.damage)
    fitted = [expected(curve, at) for at in x]
    assert sum(fitted) == pytest.approx(sum(y), abs=1e-3 * len(y))
    mean = sum(y) / len(y)
    assert sum((a - b) ** 2 for a, b in zip(y, fitted, strict=True)) <= sum((a - mean) ** 2 for a in y) + 1e-3


def test_the_fit_of_monotone_points_is_the_points_and_equal_places_share_their_mean() -> None:
    assert [expected(monotone([1, 2, 3], [0.1, 0.2, 0.9]), at) for at in (0, 1, 2, 2.5, 9)] == pytest.approx(
        [0.1, 0.1, 0.2, 0.55, 0.9]
    )
    assert expected(monotone([1, 1, 2], [0.0, 1.0, 2.0]), 1) == 0.5
    assert expected(monotone([1, 2, 3], [0.9, 0.1, 0.5]), 2) == pytest.approx(0.5)


@given(st.integers(0, 99))
def test_a_fit_does_not_depend_on_the_order_of_outcomes(seed: int) -> None:
    outcomes = [Outcome(phi=i / 10, norm_ratio=i / 7, damage=((i * 7) % 11) / 10) for i in range(24)]
    mixed = outcomes.copy()
    random.Random(seed).shuffle(mixed)
    assert fit(mixed, "x") == fit(outcomes, "x")


def test_a_card_needs_enough_pairs_and_phi_may_be_missing() -> None:
    outcomes = [Outcome(phi=None, norm_ratio=i, damage=i / 100) for i in range(30)]
    card = fit(outcomes, "thirty pairs")
    assert (card.phi, card.n, card.fitted_on) == (None, 30, "thirty pairs")
    with pytest.raises(InputError, match="20"):
        fit(outcomes[:19], "x")


def test_lights_have_their_limits() -> None:
    assert [light_of(d, CARD) for d in (-0.5, 0.1, 0.11, 0.3, 0.31, None)] == [
        "green",
        "green",
        "amber",
        "amber",
        "red",
        "unknown",
    ]


def test_phi_is_believed_before_norms_and_a_note_before_both() -> None:
    by_phi = judge(A, B, PAIR, CARD)
    assert (by_phi.by, by_phi.light) == ("phi", "amber")
    assert by_phi.damage.status == "estimated"
    bare = judge(A, B, BARE, CARD)
    assert (bare.by, bare.light, bare.phi.status) == ("norm_ratio", "amber", "not_available")
    assert "covariances" in bare.why
    seen = judge(A, B, PAIR, CARD, note=kept(0.95))
    assert (seen.by, seen.light, seen.damage.status) == ("note", "green", "measured")
    assert seen.phi == by_phi.phi
    assert judge(A, B, PAIR, CARD, weight=0.1).light == "green"


def test_what_is_unknown_is_said_to_be() -> None:
    nothing = judge(A, B, None, CARD)
    assert (nothing.by, nothing.light, nothing.damage.status) == ("nothing", "unknown", "not_available")
    zero = judge(A, B, Pairwise(norms={"q": (1.0, 0.0)}, inner={}), CARD)
    assert (zero.light, zero.modules[0].light) == ("unknown", "unknown")
    far = judge(A, B, PAIR, CARD, weight=9.0)
    assert "beyond" in far.damage.how


def test_modules_come_worst_first_with_lights_of_their_own() -> None:
    modules = judge(A, B, PAIR, CARD).modules
    assert [(one.module, one.light) for one in modules] == [("q", "red"), ("k", "green")]


def test_a_note_counts_for_its_base_its_composition_its_weights_and_its_direction() -> None:
    note = note_of(A, B, {A: kept(0.2), B: kept(0.9)}, (1.0, 2.0), base_fingerprint="f")
    assert noted([note], A, B, base_fingerprint="f", weights=(1.0, 2.0)) == kept(0.9)
    assert noted([note], B, A, base_fingerprint="f", weights=(2.0, 1.0)) == kept(0.2)
    assert noted([note], A, B, base_fingerprint="g", weights=(1.0, 2.0)) is None
    assert noted([note], A, B, base_fingerprint="f") is None
    assert noted([note], A, C, base_fingerprint="f", weights=(1.0, 2.0)) is None
    other = note.composition.model_copy(update={"method": "svd", "kind": "merge"})
    assert noted([note], A, B, base_fingerprint="f", weights=(1.0, 2.0), composition=other) is None


def test_outcomes_are_both_ways_of_notes_whose_files_are_known() -> None:
    note = note_of(A, B, {A: kept(0.2), B: kept(0.9)}, (1.0, 1.0), base_fingerprint="f")
    found = outcomes_of([note], {(A, B): PAIR, (B, A): BARE})
    assert [(one.phi is None, round(one.damage, 9)) for one in found] == [(False, 0.1), (True, 0.8)]
    assert outcomes_of([note], {}) == ()


def test_the_card_that_ships_says_what_it_was_fitted_on_and_rises() -> None:
    card = default_card()
    assert card.n >= 20
    assert "nano" in card.fitted_on
    assert card.phi is not None
    for curve in (card.phi, card.norm_ratio):
        assert list(curve.x) == sorted(set(curve.x))
        assert list(curve.damage) == sorted(curve.damage)
        assert len(curve.x) == len(curve.damage)
    assert light_of(expected(card.phi, 0.0), card) == "green"
