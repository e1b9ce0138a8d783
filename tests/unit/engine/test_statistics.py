"""Counts and times, with requests that are nothing but their times."""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.engine.statistics import LATEST, Statistics, spread


def request(asked: float, prompt: int = 5) -> Any:
    return SimpleNamespace(asked=asked, told=asked, count=0, prompt=[0] * prompt)


def tell(counts: Statistics, one: Any, now: float, *, training: bool = False) -> None:
    counts.token(one, now, training=training)
    one.count += 1


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_a_spread_is_of_values_that_were_there(values: list[float]) -> None:
    got = spread(values)
    assert got.n == len(values)
    if not values:
        assert (got.p50, got.p95) == (None, None)
        return
    rounded = [round(value, 3) for value in values]
    assert got.p50 in rounded
    assert got.p95 in rounded
    assert got.p50 == round(statistics.median_low(values), 3)
    assert sum(value <= got.p95 + 1e-3 for value in values) >= 0.95 * len(values)


def test_first_tokens_gaps_and_gaps_beside_training_are_kept_apart() -> None:
    counts = Statistics()
    one = request(10.0)
    tell(counts, one, 10.5)
    tell(counts, one, 10.6)
    tell(counts, one, 10.9, training=True)
    assert list(counts.first) == pytest.approx([500])
    assert list(counts.gaps) == pytest.approx([100])
    assert list(counts.gaps_training) == pytest.approx([300])
    assert (counts.prompt_tokens, counts.completion_tokens, counts.requests) == (5, 3, 0)
    counts.ended(one)
    assert counts.requests == 1
    assert list(counts.durations) == pytest.approx([0.9])


def test_only_the_latest_are_kept() -> None:
    counts = Statistics()
    one = request(0.0)
    for i in range(LATEST + 100):
        tell(counts, one, float(i))
    assert len(counts.gaps) == LATEST
    assert counts.completion_tokens == LATEST + 100


@pytest.mark.parametrize(
    ("took", "waiting", "running", "seconds"), [(2, 0, 4, 1), (2, 7, 4, 4), (900, 9, 1, 60), (0, 0, 0, 1)]
)
def test_when_to_ask_again_follows_from_how_long_the_latest_took(
    took: float, waiting: int, running: int, seconds: int
) -> None:
    counts = Statistics()
    one = request(0.0)
    one.told = float(took)
    counts.ended(one)
    assert counts.retry_after(waiting, running) == seconds
