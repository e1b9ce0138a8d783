"""Likelihoods of many pairs through many ways (the base, layers, mixtures), with progress: what comparisons of compositions are made of."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from clonedna.core.events import Emit, StageProgress
from clonedna.core.genome import Through
from clonedna.core.model import Example, Score
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of

PAIRS_A_CALL = 64


async def score_ways(
    engine: Engine, pairs: Sequence[Pair], ways: Sequence[Through], *, emit: Emit
) -> tuple[tuple[Score, ...], ...]:
    """Scores of all pairs through each way: ``len(ways)`` rows of ``len(pairs)``.

    Calls are of 64 pairs: the engine packs a call's sequences side by side into full steps, so mixing adapters within one would save
    nothing. Two calls wait at once, so that one's text becomes tokens while the other computes.
    """
    examples = [example_of(pair) for pair in pairs]
    starts = range(0, len(examples), PAIRS_A_CALL)
    found: dict[tuple[int, int], tuple[Score, ...]] = {}
    two, began = anyio.CapacityLimiter(2), anyio.current_time()
    total = len(examples) * len(ways)

    async def ask(row: int, start: int) -> None:
        way = ways[row]
        async with two:
            found[row, start] = await engine.nll(
                examples[start : start + PAIRS_A_CALL], way.layers, mixture=way.mixture
            )
        done, seconds = sum(map(len, found.values())), anyio.current_time() - began
        rate = done / seconds if seconds > 0 else None
        left = None if rate is None else round((total - done) / rate, 1)
        emit(StageProgress(stage="score", done=done, total=total, unit="spans", rate=rate, eta_seconds=left))

    async with anyio.create_task_group() as group:
        for row in range(len(ways)):
            for start in starts:
                group.start_soon(ask, row, start)
    return tuple(tuple(score for start in starts for score in found[row, start]) for row in range(len(ways)))


async def score_each(engine: Engine, examples: Sequence[Example], ways: Sequence[Through]) -> tuple[Score, ...]:
    """Scores of each example through a way of its own; those of one way are asked together."""
    found: dict[int, Score] = {}
    for way in dict.fromkeys(ways):
        own = [number for number, one in enumerate(ways) if one == way]
        scores = await engine.nll([examples[number] for number in own], way.layers, mixture=way.mixture)
        found |= dict(zip(own, scores, strict=True))
    return tuple(found[number] for number in range(len(examples)))
