"""Weights of a weighted sum, chosen by what was measured: a small, bounded search that gives the same answer each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Measured = Callable[[tuple[float, ...]], Awaitable[float]]

COMMON = (0.5, 0.71, 1.41, 2.0, 2.83)  # factors of all weights at once, tried first
STEPS = (1.41, 1.19)  # by how much one weight is moved, up and down
MOST = 48
LARGEST = 4.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best weights that were seen and the loss there; the loss at the start; how many were measured."""

    weights: tuple[float, ...]
    loss: float
    before: float
    measured: int


async def tune(measure: Measured, start: Sequence[float], *, most: int = MOST) -> Tuned:
    """Lower ``measure(weights)``: a factor for all first, then one weight at a time, up or down, as long as that helps.

    ``most``: measurements in all, the start's among them. A weight stays within 4 in size; one of zero stays zero. Raises ``ValueError``
    for no weights.
    """
    if not start or most < 1:
        raise ValueError("need a weight and a measurement")
    seen: dict[tuple[float, ...], float] = {}

    async def loss(weights: tuple[float, ...]) -> float | None:
        if weights not in seen:
            if len(seen) >= most or max(map(abs, weights)) > LARGEST:
                return None
            seen[weights] = await measure(weights)
        return seen[weights]

    best = tuple(float(weight) for weight in start)
    before = seen[best] = await measure(best)
    for factor in COMMON:
        await loss(tuple(factor * weight for weight in start))
    best = min(seen, key=lambda weights: (seen[weights], weights))
    for step in STEPS:
        moved = True
        while moved and len(seen) < most:
            moved = False
            for place in range(len(best)):
                for factor in (step, 1 / step):
                    tried = (*best[:place], best[place] * factor, *best[place + 1 :])
                    found = await loss(tried)
                    if found is not None and found < seen[best]:
                        best, moved = tried, True
                        break
    return Tuned(best, seen[best], before, len(seen))
