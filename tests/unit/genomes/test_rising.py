"""Isotonic levels: rising, of every point once, least squares, one value at one place, in any order the same."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.genomes.rising import levels

# Few places and values, so that many are equal.
points = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=24)


@given(points, st.randoms(use_true_random=False))
def test_levels_rise_and_hold_every_point_once(some: list[tuple[int, int]], draw: random.Random) -> None:
    found = levels([x for x, _ in some], [y for _, y in some])
    assert all(a.last < b.first and a.value < b.value for a, b in pairwise(found))
    assert sum(one.n for one in found) == len(some)
    assert sum(one.values for one in found) == sum(y for _, y in some)
    assert sum(one.places for one in found) == sum(x for x, _ in some)
    mixed = list(some)
    draw.shuffle(mixed)
    assert levels([x for x, _ in mixed], [y for _, y in mixed]) == found


@given(points)
def test_they_are_the_least_squares_ones(some: list[tuple[int, int]]) -> None:
    """By the min-max formula (Robertson, Wright & Dykstra 1988), over places instead of points."""
    places = sorted({x for x, _ in some})
    at = [[y for x, y in some if x == place] for place in places]

    def mean(low: int, high: int) -> float:
        values = [y for one in at[low : high + 1] for y in one]
        return sum(values) / len(values)

    for i, place in enumerate(places):
        wanted = max(min(mean(j, k) for k in range(i, len(places))) for j in range(i + 1))
        got = next(one.value for one in levels(*zip(*some, strict=True)) if one.first <= place <= one.last)
        assert got == pytest.approx(wanted)


def test_points_at_one_place_share_their_mean() -> None:
    (only,) = levels([0.0] * 16, [0.0] * 8 + [1.0] * 8)
    assert (only.value, only.n, only.place) == (0.5, 16, 0.0)
