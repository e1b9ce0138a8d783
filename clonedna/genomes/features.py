"""What similarity is predicted from: for one skill and each block of a pool, the few numbers that words and vectors give.

Pure functions over what an index and a catalogue said. Nothing here is clipped or weighed; ``genomes.calibration`` does that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from clonedna.core.genome import Features
from clonedna.core.vectors import Near
from clonedna.genomes.ranking import likeness
from clonedna.genomes.rarity import Rarity

POOL = 50
"""Of so many nearest blocks the mean and spread of a query are taken, of all where there are fewer."""
LEAST_POOL = 5
NEIGHBOURS = 10
Distance = Callable[[str], float | None]


def features_of(
    asked: Sequence[str], near: Sequence[Near], rarity: Rarity, *, hubs: Mapping[str, float] | None = None,
    distance: Distance | None = None,
) -> dict[str, Features]:  # fmt: skip
    """Of every block in ``near`` (all of one query, the nearest first), by id.

    ``margin`` and ``z`` are of what blocks are ordered by (``likeness``), but for their prompts: what a block was given to train on is its
    maker's to choose, and lifts no prediction. ``margin`` is a block's less the greatest of any other (0 if there is none), ``z`` is it in
    standard deviations above the pool's mean (0 for a pool of fewer than five, where a spread says nothing). ``asked``: the texts that
    ``near`` was asked by. ``hubs``: from ``hubness``. ``distance``: links in the taxonomy between the skill and a block, by id; ``None``
    where either is not in it.
    """
    overlap = rarity.sharing(asked)
    shares = {one.id: overlap(one.id) for one in near}
    alike = {one.id: likeness(one.text_cosine, None, one.meaning_cosine, shares[one.id]) for one in near}
    mean, spread = _moments([alike[one.id] for one in near[:POOL]])
    order = sorted(alike.values(), reverse=True)
    return {
        one.id: Features(
            text_cosine=one.text_cosine, centroid_cosine=one.centroid_cosine, meaning_cosine=one.meaning_cosine, overlap=shares[one.id],
            margin=_margin(alike[one.id], order), z=(alike[one.id] - mean) / spread if spread else 0.0,
            hubness=(hubs or {}).get(one.id, 0.0), distance=None if distance is None else distance(one.id),
        )
        for one in near
    }  # fmt: skip


def _moments(cosines: Sequence[float]) -> tuple[float, float]:
    if len(cosines) < LEAST_POOL:
        return 0.0, 0.0
    mean = math.fsum(cosines) / len(cosines)
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in cosines) / len(cosines))
    return mean, spread if spread > 1e-9 else 0.0


def _margin(cosine: float, order: Sequence[float]) -> float:
    """``order``: all of the pool, the greatest first; the block's own is among them."""
    if len(order) < 2:
        return 0.0
    return cosine - (order[1] if cosine >= order[0] else order[0])


def neighbours(pool: int) -> int:
    """How many nearest of a pool count for hubness: a tenth of it, at least one, at most ten."""
    return max(1, min(NEIGHBOURS, pool // 10))


def hubness(rows: Sequence[Sequence[Near]], pool: int) -> dict[str, float]:
    """How much more often than by chance a block is among the nearest of anybody: the share of queries that it is near, less ``k / pool``.

    ``rows``: the ``neighbours(pool)`` nearest for each of a fixed set of queries. A block that is in none has ``-k / pool``, and is not
    named. Hubs (Radovanovic et al. 2010) are near everything and therefore say little.
    """
    k = neighbours(pool)
    count = Counter(one.id for row in rows for one in row[:k])
    return {name: n / len(rows) - k / pool for name, n in count.items()} if rows and pool else {}
