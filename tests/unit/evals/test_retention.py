"""Retention: the ratio it says, an interval that holds it, and no figure where there is nothing to keep."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.block import Measure, not_available
from clonedna.core.model import Score
from clonedna.evals.retention import gain, retention, together


def scores(*values: float, tokens: int = 10) -> list[Score]:
    return [Score(nll=value, tokens=tokens, bytes=40) for value in values]


BASE = scores(30, 32, 28, 31, 33, 29, 30, 30)
ALONE = scores(20, 23, 19, 22, 21, 20, 22, 19)
FILES = ["a.py"] * 4 + ["b.py"] * 4


def shifted(share: float) -> list[Score]:
    """Every pair keeps this share of its own gain."""
    return [b.model_copy(update={"nll": b.nll - share * (b.nll - a.nll)}) for b, a in zip(BASE, ALONE, strict=True)]


@given(st.floats(-2, 2))
def test_an_even_share_is_the_retention_and_its_whole_interval(share: float) -> None:
    found = retention(BASE, ALONE, shifted(share), FILES)
    assert found.value == pytest.approx(share, abs=1e-9)
    assert found.ci95 == pytest.approx((share, share), abs=1e-9)
    assert (found.n, found.split, found.status) == (8, "holdout", "measured")


def test_it_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    base, alone = scores(10, 10), scores(0, 9)
    found = retention(base, alone, scores(5, 10), ["a", "a"])
    assert found.value == pytest.approx(5 / 11)
    assert found.ci95 is not None
    assert found.ci95[0] <= 5 / 11 <= found.ci95[1]


def test_what_alone_gains_nothing_has_no_retention() -> None:
    draw = random.Random(0)
    noise = [b.model_copy(update={"nll": b.nll + draw.uniform(-1, 1)}) for b in BASE]
    for alone in (BASE, noise, scores(*(b.nll + 1 for b in BASE))):
        found = retention(BASE, alone, ALONE, FILES)
        assert (found.value, found.status) == (None, "not_available")
        assert "gains nothing that is certain" in found.how
    assert retention([], [], [], []).value is None


def test_gain_is_nats_a_token() -> None:
    found = gain(BASE, ALONE, FILES)
    assert found.value == pytest.approx(sum(b.nll - a.nll for b, a in zip(BASE, ALONE, strict=True)) / 80)
    assert found.ci95 is not None
    assert found.ci95[0] > 0


def test_files_widen_the_interval_where_they_differ() -> None:
    base = scores(*[30.0] * 40)
    alone = scores(*[20.0] * 40)
    composed = scores(*[20.0 if number // 8 % 2 else 30.0 for number in range(40)])
    apart = retention(base, alone, composed, [str(number // 8) for number in range(40)])
    as_one = retention(base, alone, composed, ["a.py"] * 40)
    assert apart.ci95 is not None
    assert as_one.ci95 is not None
    assert apart.ci95[1] - apart.ci95[0] > as_one.ci95[1] - as_one.ci95[0]
    assert "5 files" in apart.how


def test_mean_and_worst_are_over_those_that_are_known() -> None:
    kept = [Measure(value=v, status="measured", how="x") for v in (0.9, 0.2)]
    mean, worst = together([kept[0], not_available("gains nothing"), kept[1]])
    assert (mean.value, worst.value, mean.n) == (pytest.approx(0.55), 0.2, 2)
    assert "2 of 3 members" in mean.how
    assert [one.value for one in together([not_available("x")])] == [None, None]
