"""How much of the hold-out was trained on after all: a block examined on its training data is flagged, not praised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from clonedna.core.block import Measure, not_available
from clonedna.core.work import Pair

Overlaps = Callable[[Iterable[Pair], Iterable[Pair]], Sequence[str]]
KINDS = ("exact", "contained", "near")


def leakage(holdout: Sequence[Pair], trained: Sequence[Pair], overlaps: Overlaps | None) -> dict[str, Measure]:
    """``leakage``: the share of hold-out pairs that are also in the training pairs, exactly, contained, or nearly.

    ``overlaps`` says for each pair how it stands among the others (``exact``, ``contained``, ``near``, or empty). A count, so it has no
    interval. It cannot see code that was in the base's own training.
    """
    if overlaps is None:
        return {"leakage": not_available("nothing that compares pairs was lent")}
    found = Counter(kind for kind in overlaps(holdout, trained) if kind)
    told = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if found[kind]) or "none"
    return {
        "leakage": Measure(
            value=found.total() / len(holdout), status="measured", n=len(holdout), split="holdout",
            how=f"share of hold-out pairs that are also in the {len(trained)} training pairs: {told}",
        )
    }  # fmt: skip
