"""Interference: what one layer does to another that it stands beside, predicted from what they are and measured on what they are for.

    phi_{j->i} = sqrt(sum_m E_{j|i,m} / sum_m E_{i|i,m}),   E_{j|i,m} = E|D_j h|^2 over what module m reads on i's examples

is the size of what j adds where i is at work, by the size of what i adds there; with all directions of ``h`` alike it is the ratio of the
norms, which is always known. Damage is measured: ``1 - retention``, with ``retention = (base - together) / (base - alone)`` of the summed
losses on examples that i was not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.genome import CompatibilityNote, Composition
from clonedna.core.interference import InterferenceIndex, Pairwise
from clonedna.core.model import Example, Layer, Score
from clonedna.core.seams import Engine

MEMBER_GATE, ROUTED_GATE, GUARD_GATE = 0.30, 0.10, 0.02
DRAWS = 1000
NO_COVARIANCE = "no covariances of the target's inputs: only the ratio of norms is known"
STACK = Composition(kind="stack", method="cat")


@dataclass(frozen=True, slots=True)
class Member:
    """A layer of a composition that is to be measured: its block's id, its adapter in the engine, its weight, and its own examples."""

    id: str
    adapter: str
    weight: float
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of a composition: each member's retention, in their order, and the index."""

    retention: dict[str, Measure]
    index: InterferenceIndex


def phi(pair: Pairwise, *, weight: float = 1.0) -> Measure:
    """phi of source (at ``weight``) on target. ``not_available`` without covariances, and where target adds nothing."""
    if pair.energies is None:
        return not_available(NO_COVARIANCE)
    theirs, own = (math.fsum(pair_of[i] for pair_of in pair.energies.values()) for i in (0, 1))
    if own <= 0:
        return not_available("the target adds nothing on its own inputs")
    how = "sqrt(E|D_source h|^2 / E|D_target h|^2) over all modules, h on the target's examples"
    return Measure(value=abs(weight) * math.sqrt(theirs / own), status="measured", n=len(pair.energies), how=how)


def norm_ratio(pair: Pairwise, *, weight: float = 1.0) -> Measure:
    """``|D_source|_F / |D_target|_F`` over all modules. ``not_available`` where the target changes nothing."""
    theirs, own = (math.fsum(norms[i] ** 2 for norms in pair.norms.values()) for i in (0, 1))
    if own <= 0:
        return not_available("the target changes nothing")
    how = "|D_source| / |D_target| (Frobenius), over all modules"
    return Measure(value=abs(weight) * math.sqrt(theirs / own), status="measured", n=len(pair.norms), how=how)


def cosine(pair: Pairwise) -> float | None:
    """Of the two updates; ``None`` where one of them is zero."""
    theirs, own = (math.fsum(norms[i] ** 2 for norms in pair.norms.values()) for i in (0, 1))
    if theirs <= 0 or own <= 0:
        return None
    return max(-1.0, min(1.0, math.fsum(pair.inner.values()) / math.sqrt(theirs * own)))


def by_module(pair: Pairwise, *, weight: float = 1.0) -> dict[str, float | None]:
    """phi of each module, or its ratio of norms where there are no energies; ``None`` where the target adds nothing there."""
    if pair.energies is not None:
        squares: Iterable[tuple[str, tuple[float, float]]] = pair.energies.items()
    else:
        squares = ((name, (a * a, b * b)) for name, (a, b) in pair.norms.items())
    return {name: abs(weight) * math.sqrt(theirs / own) if own > 0 else None for name, (theirs, own) in squares}


def retention(
    base: Sequence[Score], alone: Sequence[Score], together: Sequence[Score], *, split: str, seed: int = 0
) -> Measure:
    """The share of its own gain that a layer keeps: of three measurements of the same examples, with a paired bootstrap's 95 % interval.

    ``not_available`` where the layer alone is not better than the base: there is nothing to keep.
    """
    sums = np.array([[score.nll for score in scores] for scores in (base, alone, together)])
    n = sums.shape[1]
    if not n:
        return not_available("it has no examples of its own to measure on")
    whole = _kept(sums.sum(1))
    if not math.isfinite(whole):
        return not_available("the layer alone is not better than the base on these examples")
    draws = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    kept = sorted(one for row in draws if math.isfinite(one := _kept(sums[:, row].sum(1))))
    interval = (
        (kept[int(0.025 * len(kept))], kept[math.ceil(0.975 * len(kept)) - 1]) if len(kept) > DRAWS // 2 else None
    )
    how = "(nll.base - nll.together) / (nll.base - nll.alone)"
    return Measure(value=whole, status="measured", n=n, split=split, how=how, ci95=interval)


def _kept(sums: np.ndarray) -> float:
    base, alone, together = (float(one) for one in sums)
    return (base - together) / (base - alone) if base - alone > 1e-9 * max(1.0, abs(base)) else math.nan


async def measure(
    engine: Engine, members: Sequence[Member], guard: Sequence[Example], *, routed: bool = False, split: str = "holdout", seed: int = 0
) -> Measured:  # fmt: skip
    """Run every member's examples through the base, through it alone (at weight 1) and through all together; and ``guard``, which no member
    is about, through the base and through all. ``routed``: one member answers a request, so its examples go through it alone.

    Raises ``NotFound`` for an adapter that is not loaded.
    """
    stack = [Layer(adapter=member.adapter, weight=member.weight) for member in members]
    kept: dict[str, Measure] = {}
    for member in members:
        base = await engine.nll(member.examples)
        alone = await engine.nll(member.examples, [Layer(adapter=member.adapter)])
        through = [Layer(adapter=member.adapter, weight=member.weight)] if routed else stack
        kept[member.id] = retention(base, alone, await engine.nll(member.examples, through), split=split, seed=seed)
    rise = not_available("no guard examples were given")
    if guard and members:
        if routed:  # the worst that a router could do
            rises = [guard_rise(await engine.nll(guard), await engine.nll(guard, [one])) for one in stack]
            rise = max(rises, key=lambda one: one.value or 0.0)
        else:
            rise = guard_rise(await engine.nll(guard), await engine.nll(guard, stack))
    return Measured(kept, index(list(kept.values()), rise, routed=routed))


def guard_rise(base: Sequence[Score], together: Sequence[Score]) -> Measure:
    """Relative rise of the mean loss: 0.02 means 2 % worse than the base, below zero better."""
    before, after = math.fsum(one.nll for one in base), math.fsum(one.nll for one in together)
    if before <= 0:
        return not_available("the guard examples have nothing to score")
    how = "(nll.together - nll.base) / nll.base on examples that no member is about"
    return Measure(value=after / before - 1, status="measured", n=len(base), split="guard", how=how)


def index(retentions: Sequence[Measure], guard: Measure, *, routed: bool = False) -> InterferenceIndex:
    """The index of a composition: what members lose of their own gain, on average and at worst, and what is lost elsewhere.

    A member that gains by its company does not make up for another's loss: losses below zero count 0. Gates: 0.30 for members (0.10 when
    one is chosen for each request), 0.02 elsewhere.
    """
    known = [one.value for one in retentions if one.value is not None]
    gate = ROUTED_GATE if routed else MEMBER_GATE
    member = worst = not_available("no member's retention is known")
    if known and len(known) == len(retentions):
        losses = [max(0.0, 1 - value) for value in known]
        member = Measure(
            value=math.fsum(losses) / len(losses), status="measured", n=len(losses), how="mean of max(0, 1 - retention)"
        )
        worst = Measure(value=max(losses), status="measured", n=len(losses), how="greatest of max(0, 1 - retention)")
    elif known:
        member = worst = not_available(f"the retention of {len(retentions) - len(known)} members is not known")
    values = member.value, guard.value
    passes = None if None in values else bool((values[0] or 0.0) <= gate and (values[1] or 0.0) <= GUARD_GATE)
    if passes is None and any(v is not None and v > limit for v, limit in zip(values, (gate, GUARD_GATE), strict=True)):
        passes = False
    return InterferenceIndex(
        member=member, worst=worst, guard=guard, member_gate=gate, guard_gate=GUARD_GATE, passes=passes
    )


def note_of(
    first: str, second: str, retentions: Mapping[str, Measure], weights: tuple[float, float], *, base_fingerprint: str,
    composition: Composition = STACK,
) -> CompatibilityNote:  # fmt: skip
    """What was seen of two blocks in one composition, under their ids in order."""
    if first > second:
        first, second, weights = second, first, (weights[1], weights[0])
    return CompatibilityNote(
        first=first, second=second, base_fingerprint=base_fingerprint, composition=composition, weights=weights,
        retention=(retentions[first], retentions[second]),
    )  # fmt: skip
