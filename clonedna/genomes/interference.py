"""Interference: what one layer does to another that it stands beside, predicted from what they are and measured on what they are for.

    phi_{j->i} = sqrt(sum_m E_{j|i,m} / sum_m E_{i|i,m}),   E_{j|i,m} = E|D_j h|^2 over what module m reads on i's examples

is the size of what j adds where i is at work, by the size of what i adds there; with all directions of ``h`` alike it is the ratio of the
norms, which is always known. Damage is measured: ``1 - retention``, with ``retention = (base - together) / (base - alone)`` of the summed
losses on examples that i was not trained on (``evals.retention``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clonedna.core.block import Measure, not_available
from clonedna.core.genome import CompatibilityNote, Composition
from clonedna.core.interference import InterferenceIndex, Pairwise
from clonedna.core.model import Example, Layer, Score
from clonedna.core.seams import Engine
from clonedna.evals.retention import retention

MEMBER_GATE, ROUTED_GATE, GUARD_GATE = 0.30, 0.10, 0.02
NO_COVARIANCE = "no covariances of the target's inputs: only the ratio of norms is known"
STACK = Composition(kind="stack", method="cat")


@dataclass(frozen=True, slots=True)
class Member:
    """A layer of a composition that is to be measured: its block's id, its adapter in the engine, its weight, its own examples, and the
    file of each."""

    id: str
    adapter: str
    weight: float
    examples: tuple[Example, ...]
    files: tuple[str, ...]


Apart = dict[str, tuple[Sequence[Score], Sequence[Score]]]
"""Of members by their ids: scores of their own examples through the base, and through the member alone."""


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


async def measure(
    engine: Engine, members: Sequence[Member], guard: Sequence[Example], *, routed: bool = False, seed: int = 0, by: Apart | None = None
) -> Measured:  # fmt: skip
    """Run every member's examples through the base, through it alone (at weight 1) and through all together; and ``guard``, which no member
    is about, through the base and through all. ``routed``: one member answers a request, so its examples go through it alone. ``by``: what
    members were seen to do apart, by id; whoever is not in it is measured and added.

    Raises ``NotFound`` for an adapter that is not loaded.
    """
    stack = [Layer(adapter=member.adapter, weight=member.weight) for member in members]
    kept, seen = dict[str, Measure](), {} if by is None else by
    for member, own in zip(members, stack, strict=True):
        if member.id not in seen:
            without = await engine.nll(member.examples)
            seen[member.id] = without, await engine.nll(member.examples, [Layer(adapter=member.adapter)])
        composed = await engine.nll(member.examples, [own] if routed else stack)
        kept[member.id] = retention(*seen[member.id], composed, member.files, seed=seed)
    rise = not_available("no guard examples were given")
    if guard and members:
        before = await engine.nll(guard)
        ways = [[one] for one in stack] if routed else [stack]  # of a router the worst that it could do
        rises = [guard_rise(before, await engine.nll(guard, way)) for way in ways]
        rise = max(rises, key=lambda one: -math.inf if one.value is None else one.value)
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
