"""Of a person's pairs those that are of one skill: what a training for a gap is made of."""

from __future__ import annotations

from collections.abc import Iterable

from clonedna.app.parts import Parts
from clonedna.core.block import Recipe
from clonedna.core.errors import TooFewSpans
from clonedna.core.work import Pair, Refusal
from clonedna.mint.values import Taught

NEAR, SHARE = 0.25, 0.6
"""The nearest pair must have this cosine with a skill's words, or none is of the skill; others this share of the nearest one's."""


MOST_READ = 400
"""Characters of a task that are read."""


def floor_of(cosines: Iterable[float]) -> float:
    """From which cosine on a pair is of a skill; above 1 where none is."""
    best = max(cosines, default=0.0)
    return SHARE * best if best >= NEAR else 2.0


def focused(parts: Parts, taught: Taught, focus: str, recipe: Recipe) -> Taught:
    """The pairs whose task is near to ``focus``, in their order; of the hold-out at least the nearest ``min_holdout``.

    Raises ``TooFewSpans`` when fewer than half of ``min_spans`` are left to train on.
    """
    if not taught.pairs:
        return taught
    rows = parts.encoder.encode([pair.instruction[:MOST_READ] for pair in taught.pairs]).rows
    wanted = parts.encoder.encode([focus]).rows[0]
    cosines = {pair.id: float(row @ wanted) for pair, row in zip(taught.pairs, rows, strict=True)}
    floor = floor_of(cosines.values())
    kept = {pair.id for pair in taught.pairs if cosines[pair.id] >= floor}
    held = sorted(
        (pair for pair in taught.pairs if pair.split == "holdout"), key=lambda one: (-cosines[one.id], one.id)
    )
    kept |= {pair.id for pair in held[: recipe.min_holdout]}
    trained = sum(pair.split == "train" and pair.id in kept for pair in taught.pairs)
    if trained < recipe.min_spans // 2:
        raise TooFewSpans(
            f"{trained} pairs are near to {focus[:80]!r}; {recipe.min_spans // 2} are needed", "name a source that has more of it",
            found=trained, needed=recipe.min_spans // 2,
        )  # fmt: skip
    refusals = [_left(pair) for pair in taught.pairs if pair.id not in kept]
    return taught.model_copy(
        update={
            "pairs": tuple(pair for pair in taught.pairs if pair.id in kept),
            "refusals": (*taught.refusals, *refusals),
        }
    )


def _left(pair: Pair) -> Refusal:
    where = pair.provenance
    return Refusal(
        path=where.path,
        start=where.start,
        end=where.end,
        reason="not_of_the_skill",
        detail="not near to what is wanted",
    )
