"""The rising values nearest to points in least squares: isotonic regression by pooling adjacent violators (Ayer et al. 1955).

Points at one place have one value. The same points in any order give the same levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """Neighbouring points that share a value. ``first``, ``last``: the places of its ends; ``places``, ``values``: sums over its ``n``."""

    first: float
    last: float
    places: float
    values: float
    n: int

    @property
    def value(self) -> float:
        return self.values / self.n

    @property
    def place(self) -> float:
        """The mean place."""
        return self.places / self.n

    def with_next(self, other: Level) -> Level:
        """Both as one level; ``other`` is the one behind it."""
        return Level(
            self.first, other.last, self.places + other.places, self.values + other.values, self.n + other.n
        )  # fmt: skip


def levels(at: Sequence[float], y: Sequence[float]) -> list[Level]:
    """The levels of points at the places ``at`` with the values ``y`` (as many), from left to right; each value is above the one before."""
    found: list[Level] = []
    for place, value in sorted(zip(map(float, at), map(float, y), strict=True)):
        one = Level(place, place, place, value, 1)
        if found and found[-1].last == place and found[-1].first == place:
            found[-1] = found[-1].with_next(one)
        else:
            found.append(one)
    kept: list[Level] = []
    for one in found:
        kept.append(one)
        while len(kept) > 1 and kept[-2].values * kept[-1].n >= kept[-1].values * kept[-2].n:
            kept[-2:] = [kept[-2].with_next(kept[-1])]
    return kept
