"""Calibration cards: what must help helps, a card is what it was fitted from, bad cards are refused, and figures are of unseen domains."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import BadConfig, Corrupt, InputError
from clonedna.core.genome import Features
from clonedna.genomes.calibration import COLUMNS, SIGNS, Card, design, expected_error, predict, read_card
from clonedna.genomes.fitting import Outcome, fit, isotonic

ENCODER, DIMENSION = "made-up@1", 8
shares = st.floats(0, 1, allow_nan=False)
features = st.builds(
    Features,
    text_cosine=st.floats(-1, 1, allow_nan=False), centroid_cosine=st.none() | st.floats(-1, 1, allow_nan=False), overlap=shares,
    meaning_cosine=st.none() | st.floats(-1, 1, allow_nan=False),
    margin=st.floats(-2, 2, allow_nan=False), z=st.floats(-50, 50, allow_nan=False), hubness=st.floats(-1, 1, allow_nan=False),
    distance=st.none() | st.floats(0, 8, allow_nan=False),
)  # fmt: skip


def outcome(number: int, draw: random.Random, domains: int = 6, **changes: Any) -> Outcome:
    """What a probe would have measured if s* rose with the cosine, and with nothing else."""
    cosine, lift = draw.uniform(0, 0.8), draw.uniform(0, 0.3)
    value = min(1.0, max(0.0, 1.6 * cosine - 0.2 + draw.gauss(0, 0.08)))
    made = Outcome(
        skill=f"skill {number}", domain=f"domain-{number % domains}", block=sha256(str(number)),
        features=Features(
            text_cosine=cosine, meaning_cosine=cosine + lift, overlap=draw.random(), margin=draw.uniform(-0.3, 0.3),
            z=draw.gauss(0, 1), hubness=draw.uniform(-0.1, 0.1), distance=None,
        ),
        encoder=ENCODER, dimension=DIMENSION, base_fingerprint="f" * 64, value=value, low=max(0.0, value - 0.1),
        high=min(1.0, value + 0.1), n=16, at="2026-01-02T03:04:05Z",
    )  # fmt: skip
    return made.model_copy(update=changes)


def outcomes(n: int = 240, seed: int = 0, **changes: Any) -> list[Outcome]:
    draw = random.Random(seed)
    return [outcome(number, draw, **changes) for number in range(n)]


@pytest.fixture(scope="module")
def card() -> Card:
    return fit(outcomes(), base="fake", how="a test").card


def test_what_a_block_s_own_prompts_say_lifts_nothing_by_itself() -> None:
    told = Features(text_cosine=0.2, meaning_cosine=0.5, overlap=0.3, margin=0.1, z=2.0)
    assert design(told.model_copy(update={"centroid_cosine": 1.0})) == design(told)
    assert design(told.model_copy(update={"meaning_cosine": 0.6}))[1] == pytest.approx(0.4)
    assert [design(told.model_copy(update={"meaning_cosine": one}))[1] for one in (0.1, None)] == [0, 0]


def test_what_decides_is_found_and_is_good_on_domains_that_were_not_seen(card: Card) -> None:
    weights = dict(zip(COLUMNS, card.weights, strict=True))
    assert weights["text"] > 5 * max(weight for name, weight in weights.items() if name != "text")
    assert card.ece.value is not None
    assert card.ece.value < 0.05
    assert 0.85 <= (card.coverage.value or 0) <= 0.97
    fresh = outcomes(600, seed=1)
    found = [predict(card, ENCODER, DIMENSION, one.features).value or 0.0 for one in fresh]
    assert expected_error(found, [one.value for one in fresh]) < 0.06


def test_outcomes_that_say_nothing_do_not_look_well_calibrated_by_being_learnt_by_heart() -> None:
    draw = random.Random(7)
    noise = [one.model_copy(update={"value": draw.choice([0.0, 1.0])}) for one in outcomes(120)]
    fitted = fit(noise, base="fake", how="noise")
    assert max(fitted.held_out) - min(fitted.held_out) < 0.9
    assert np.corrcoef(fitted.held_out, [one.value for one in noise])[0, 1] < 0.3


@settings(max_examples=60, deadline=None)
@given(features, st.sampled_from(range(6)), st.floats(0, 1, allow_nan=False))
def test_no_feature_that_must_help_can_hurt(card: Card, one: Features, which: int, more: float) -> None:
    name = ("text_cosine", "meaning_cosine", "overlap", "margin", "z", "hubness")[which]
    before = getattr(one, name)
    if before is None:
        return
    sign = -1 if name == "hubness" else 1
    changed = one.model_copy(update={name: before + sign * more})
    if name == "text_cosine":  # the lift over the text is the meaning's own
        changed = changed.model_copy(update={"meaning_cosine": one.meaning_cosine and one.meaning_cosine + more})
    low, high = (predict(card, ENCODER, DIMENSION, each).value for each in (one, changed))
    assert low is not None
    assert high is not None
    assert high >= low - 1e-12


@settings(deadline=None)
@given(features)
def test_predictions_are_shares_inside_their_interval(card: Card, one: Features) -> None:
    found = predict(card, ENCODER, DIMENSION, one, domain="domain-1")
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.status == "predicted"
    assert len(design(one)) == len(COLUMNS) == len(SIGNS)


def test_a_domain_moves_a_prediction_by_its_shrunk_residual() -> None:
    some = outcomes(200)
    lifted = [
        one.model_copy(update={"value": min(1.0, one.value + 0.3)}) if one.domain == "domain-0" else one for one in some
    ]
    made = fit(lifted, base="fake", how="a test").card
    n = made.domains["domain-0"]
    assert 0.05 < made.offsets["domain-0"] < 0.3 * n / (n + 20) + 0.05
    assert all(value < made.offsets["domain-0"] for name, value in made.offsets.items() if name != "domain-0")
    middle = Features(text_cosine=0.4)
    at = [predict(made, ENCODER, DIMENSION, middle, domain=name).value or 0.0 for name in ("domain-0", "unknown")]
    assert at[0] - at[1] == pytest.approx(made.offsets["domain-0"])


def test_the_order_of_outcomes_does_not_matter_and_a_card_is_read_back(card: Card) -> None:
    some = outcomes()
    random.Random(3).shuffle(some)
    again = fit(some, base="fake", how="a test").card
    assert again.id == card.id
    assert read_card(canonical(card)) == card


def test_another_encoders_card_is_refused_with_the_next_step(card: Card) -> None:
    with pytest.raises(BadConfig, match="is for made-up") as caught:
        predict(card, "hashed-3-5@1", 384, Features(text_cosine=0.5))
    assert "recalibrate" in caught.value.hint
    with pytest.raises(BadConfig):
        predict(card, ENCODER, DIMENSION + 1, Features(text_cosine=0.5))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [-1, 0, 0, 0, 0, 0, 0]}, {"weights": [0, 0, 0, 0, 0, 1, 0]}, {"scale": [0, 1, 1, 1, 1, 1, 1]},
        {"knots": [[0, 0.5], [1, 0.4]]}, {"knots": [[1, 0.1], [0, 0.4]]}, {"knots": []}, {"columns": ["text"]}, {"bias": "NaN"},
        {"bands": [{"upto": 0.5, "below": 0, "above": 0}]}, {"surprise": 1}, {"format": "dna-calibration/2"}, {"n": 0},
        {"offsets": {"x": 7}},
    ],
)  # fmt: skip
def test_a_card_that_does_not_hold_together_is_refused(card: Card, change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        read_card(json.dumps(card.model_dump(mode="json") | change).encode())


def test_what_is_no_card_is_refused() -> None:
    for data in (b"", b"[]", b"{", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b" " * 2_000_000):
        with pytest.raises(Corrupt):
            read_card(data)


def test_too_few_mixed_or_equal_outcomes_are_refused() -> None:
    some = outcomes(60)
    for bad, words in (
        (some[:49], "49 measured outcomes"),
        ([*some[:59], some[59].model_copy(update={"encoder": "other"})], "encoder"),
        ([*some[:59], some[59].model_copy(update={"base_fingerprint": "other"})], "base_fingerprint"),
        ([one.model_copy(update={"value": 0.5}) for one in some], "same value"),
        ([some[0]] * 40 + some[:20], "one and the same"),
    ):
        with pytest.raises(InputError, match=words):
            fit(bad, base="fake", how="a test")


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5, allow_nan=False), shares), min_size=1, max_size=80))
def test_the_curve_rises_and_stays_among_the_values(points: list[tuple[float, float]]) -> None:
    knots = isotonic([x for x, _ in points], [y for _, y in points], least=1)
    assert all(a[0] < b[0] and a[1] <= b[1] + 1e-9 for a, b in pairwise(knots))
    assert min(y for _, y in points) - 1e-8 <= knots[0][1] <= knots[-1][1] <= max(y for _, y in points) + 1e-8


def test_the_curve_is_the_least_squares_one() -> None:
    """By the min-max formula (Robertson, Wright & Dykstra 1988): the greatest of the least means of runs that hold a point."""
    draw = np.random.default_rng(0)
    x = np.sort(draw.normal(size=50))
    y = np.clip(x / 4 + 0.5 + draw.normal(scale=0.2, size=50), 0, 1)
    theirs = [max(min(y[j : k + 1].mean() for k in range(i, 50)) for j in range(i + 1)) for i in range(50)]
    knots = isotonic(x.tolist(), y.tolist(), least=1)
    assert sorted({round(float(one), 6) for one in theirs}) == sorted({round(value, 6) for _, value in knots})


def test_calibration_error_is_the_mean_gap_of_ten_bins() -> None:
    assert expected_error([0.05, 0.05, 0.95], [0.15, 0.05, 0.95]) == pytest.approx(0.1 / 3)
    assert expected_error([1.0], [1.0]) == 0
    with pytest.raises(ValueError, match="as many"):
        expected_error([], [])
