"""Which layers answer what is wanted: the ranking of candidates, and the set of them that is worth having. Arithmetic alone.

Ranking: ``(0.55 sim - 0.25 div + 0.15 trust + 0.05 size) / 0.75``, greedily and scored again after each pick (maximal marginal relevance,
Carbonell & Goldstein 1998). ``div`` is the greatest cosine with what was picked before, 0 where nothing was; ``size`` is 1 / (1 + bytes
over the pool's median); ``trust`` comes behind the hard gate, which is not here.

The set S: greedily the candidate with most ``sum_k w_k max_{L in S} s*_k(L) - 0.25 redundancy - mu conflict - nu cost``, until the next one
adds less than 0.02, there are 8, or what is covered reaches the aim. Redundancy is the greatest cosine with a chosen layer, times the share
of the candidate's own coverage that was there before: what is new is never redundant, however alike the words are. Of candidates that
repeat each other (duplicates, forks) one counts.
Ties go by ``(-score rounded to 6 digits, id)``: the same inputs give the same answer, on any machine and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import Field

from clonedna.core.canonical import digest
from clonedna.core.genome import MOST_LAYERS, LayerScore
from clonedna.core.value import Value

WHOLE = 0.75  # the most that the ranking's sum can be
DIGITS = 6
Cosine = Callable[[str, str], float]


class Choosing(Value):
    """What decides a choice. ``target``: the coverage at which nothing is added; ``mu``, ``nu``: on conflict, and on a layer's cost."""

    similarity: float = Field(default=0.55, ge=0, le=1)
    diversity: float = Field(default=0.25, ge=0, le=1)
    trust: float = Field(default=0.15, ge=0, le=1)
    size: float = Field(default=0.05, ge=0, le=1)
    redundancy: float = Field(default=0.25, ge=0, le=1)
    mu: float = Field(default=0.10, ge=0, le=1)
    nu: float = Field(default=0.01, ge=0, le=1)
    least: float = Field(default=0.02, ge=0, le=1)
    target: float = Field(default=0.95, gt=0, le=1)
    layers: int = Field(default=MOST_LAYERS, ge=1, le=MOST_LAYERS)
    pool: int = Field(default=50, ge=1, le=200)
    probed: int = Field(default=5, ge=0, le=16)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block that passed the gate. ``bytes`` of its adapter, ``trust`` from 0 to 1, ``kin``: ids that it repeats or was forked from."""

    id: str
    bytes: int
    trust: float
    kin: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The set, in the order of the picks; ``gains``: what each added to the aim; ``covered``: the weighted similarity of all."""

    ids: tuple[str, ...]
    gains: tuple[float, ...]
    covered: float
    stopped: str


def trust_prior(well: float, badly: float) -> float:
    """The mean of a Beta(1, 1) prior's posterior after that many (weighted) evaluations that were reproduced, and that were not."""
    return (1.0 + max(0.0, well)) / (2.0 + max(0.0, well) + max(0.0, badly))


def relative_size(size: int, sizes: Sequence[int]) -> float:
    """1 / (1 + size / median of the pool): 0.5 for the median block, more for smaller ones."""
    middle = median(sizes) if sizes else 0
    return 0.5 if middle <= 0 else 1.0 / (1.0 + size / middle)


def ranked(
    candidates: Sequence[Candidate], similarity: Mapping[str, float], cosine: Cosine, config: Choosing,
    *, first: Collection[str] = (),
) -> tuple[tuple[str, LayerScore], ...]:  # fmt: skip
    """All candidates, the best first, each with its score at the moment it was picked. Unknown similarities count 0.

    ``first``: those come before all others. What is unlike everything would else come second to anything.
    """
    sizes = [one.bytes for one in candidates]
    left = {one.id: one for one in candidates}
    picked: list[tuple[str, LayerScore]] = []
    near = dict.fromkeys(left, 0.0)
    while left:
        scores = {
            name: _score(similarity.get(name, 0.0), near[name], one.trust, relative_size(one.bytes, sizes), config)
            for name, one in left.items()
        }
        some = [name for name in left if name in first] or left
        best = min(some, key=lambda name: (-round(scores[name].score, DIGITS), name))
        picked.append((best, scores[best]))
        del left[best]
        for name in left:
            near[name] = max(near[name], _clipped(cosine(name, best)))
    return tuple(picked)


def nearest(candidates: Sequence[Candidate], similarity: Mapping[str, float], most: int) -> frozenset[str]:
    """The most similar candidates, at most ``most`` that do not repeat each other, and what repeats them."""
    order = sorted(candidates, key=lambda one: (-round(similarity.get(one.id, 0.0), DIGITS), one.id))
    found, apart = list[Candidate](), 0
    for one in order:
        repeats = any(two.id in one.kin or one.id in two.kin for two in found)
        if repeats or apart < most:
            found.append(one)
            apart += not repeats
    return frozenset(one.id for one in found)


def _score(similarity: float, near: float, trust: float, size: float, config: Choosing) -> LayerScore:
    sim = _clipped(similarity)
    total = config.similarity * sim - config.diversity * near + config.trust * trust + config.size * size
    return LayerScore(similarity=sim, diversity=near, trust=trust, size=size, score=total / WHOLE)


def chosen(
    weights: Sequence[float], similarity: Sequence[Mapping[str, float]], candidates: Sequence[Candidate], *,
    cosine: Cosine, conflict: Cosine, config: Choosing, begun: Sequence[str] = (),
) -> Chosen:  # fmt: skip
    """The greedy set. ``similarity``: for each skill s* by id, missing = 0; ``conflict``: expected harm of two together, 0 to 1.

    ``begun``: ids that are in it already. A candidate whose kin is in it adds nothing and is passed over.
    """
    known = {one.id: one for one in candidates}
    sizes = [one.bytes for one in candidates]
    ids, gains = [one for one in begun if one in known], list[float]()
    gains += [0.0 for _ in ids]
    have = [max((_of(row, one) for one in ids), default=0.0) for row in similarity]
    while True:
        covered = sum(w * h for w, h in zip(weights, have, strict=True))
        if len(ids) >= config.layers:
            return Chosen(tuple(ids), tuple(gains), covered, "as many layers as there may be")
        if covered >= config.target - 1e-12:
            return Chosen(tuple(ids), tuple(gains), covered, "what is wanted is covered")
        best, gain = _next(weights, similarity, have, ids, known, sizes, cosine, conflict, config)
        if best is None or gain < config.least:
            return Chosen(tuple(ids), tuple(gains), covered, "no other layer adds enough")
        ids.append(best)
        gains.append(gain)
        have = [max(h, _of(row, best)) for h, row in zip(have, similarity, strict=True)]


def _next(
    weights: Sequence[float], similarity: Sequence[Mapping[str, float]], have: Sequence[float], ids: Sequence[str],
    known: Mapping[str, Candidate], sizes: Sequence[int], cosine: Cosine, conflict: Cosine, config: Choosing,
) -> tuple[str | None, float]:  # fmt: skip
    """The candidate that adds most, and how much."""
    gains: dict[str, float] = {}
    for name, one in known.items():
        if name in ids or any(two in one.kin or name in known[two].kin for two in ids):
            continue
        brings = [(w, _of(row, name), h) for w, h, row in zip(weights, have, similarity, strict=True)]
        more = sum(w * max(0.0, s - h) for w, s, h in brings)
        whole = sum(w * s for w, s, _ in brings)
        repeated = (whole - more) / whole if whole > 0 else 1.0
        redundant = repeated * max((_clipped(cosine(name, two)) for two in ids), default=0.0)
        harm = max((_clipped(max(conflict(name, two), conflict(two, name))) for two in ids), default=0.0)
        cost = 1.0 - relative_size(one.bytes, sizes)
        gains[name] = more - config.redundancy * redundant - config.mu * harm - config.nu * cost
    best = min(gains, key=lambda name: (-round(gains[name], DIGITS), name), default=None)
    return (None, 0.0) if best is None else (best, gains[best])


def plan_id(decided_by: Mapping[str, str]) -> str:
    """SHA-256 over the canonical JSON of everything that decides a plan."""
    return digest(dict(sorted(decided_by.items())))


def _of(row: Mapping[str, float], name: str) -> float:
    return _clipped(row.get(name, 0.0))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))
