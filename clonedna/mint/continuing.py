"""A version that continues another: what of a person's new work is new to the block, what is held out of it, what is trained on again.

Promises, over any number of versions: what one of them held out is in no later one's training, exactly, contained or nearly the same;
what an earlier one was trained on is in no later one's hold-out. All is decided before anything is generated. The new hold-out is of
the files that were written last: a block is asked about what comes after it, and nothing it learns from was written later.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from clonedna.core.block import Recipe
from clonedna.core.errors import TooFewSpans
from clonedna.core.value import Value
from clonedna.core.work import Pair, Refusal, Repository, Span
from clonedna.mint.divide import LEAK_SIMILAR, divide
from clonedna.mint.overlap import overlaps
from clonedna.mint.sift import refuse, without_contained, without_near_duplicates
from clonedna.mint.values import Divided, Sifted, Taught

REPLAY_RATIO = 1.0
HINT = "mint again when there is more, or give the author's other identities with --author"


class Earlier(Value):
    """A version before: its id, ``name@version``, and all its pairs."""

    id: str
    reference: str
    pairs: tuple[Pair, ...]


class Heritage(Value):
    """What a new version has from those before it. ``versions``: the one that it continues first, then those that that one continues.

    ``repository``: what that one was read from (``None`` where it does not matter: a layer that is refined); ``identity_digest``,
    ``licence``: whose work it is and what it is under. ``gone``: ids of versions that are no longer on this machine; what they held out
    stands in the pairs of those after them, what they were trained on only as far as it was trained on again.
    """

    repository: Repository | None
    identity_digest: str
    licence: str
    versions: tuple[Earlier, ...]
    gone: tuple[str, ...] = ()

    @property
    def parent(self) -> Earlier:
        return self.versions[0]

    @property
    def known(self) -> tuple[Pair, ...]:
        """Every pair of every version, once."""
        return tuple({pair.id: pair for version in reversed(self.versions) for pair in version.pairs}.values())

    @property
    def held_out(self) -> tuple[Pair, ...]:
        """What the versions before held out, each pair with the version whose hold-out it is (``ancestor``)."""
        held = {
            pair.id: named(pair, version.id)
            for version in reversed(self.versions)
            for pair in version.pairs
            if pair.split == "holdout"
        }
        return tuple(held.values())


def named(pair: Pair, version: str) -> Pair:
    """``pair`` of ``version``, with the version that it was first a part of."""
    return pair if pair.ancestor else pair.model_copy(update={"ancestor": version})


def only_new(sifted: Sifted, heritage: Heritage) -> Sifted:
    """Without what a version before has already: the same text, one inside the other, nearly the same, or the same but for names.

    The lines that a change replaced are not asked about: to change old code is new work.
    """
    known = [as_span(pair) for pair in heritage.known]
    marks = {span.sha256 for span in known}
    by_place = {_place(span): span for span in sifted.spans}
    asked = [span.model_copy(update={"before": None}) for span in sifted.spans if span.sha256 not in marks]
    apart, like = without_near_duplicates(asked, against=known, similar=LEAK_SIMILAR)
    kept, inside = without_contained(apart, known)
    refusals = [refuse(span, "not_new", "the same text") for span in sifted.spans if span.sha256 in marks]
    refusals += [refuse(span, "not_new", f"like {other.path}:{other.start}") for span, other in (*like, *inside)]
    return sifted.model_copy(
        update={
            "spans": tuple(by_place[_place(span)] for span in kept),
            "refusals": (*sifted.refusals, *refusals),
        }
    )


def divide_new(sifted: Sifted, recipe: Recipe, heritage: Heritage, author: str) -> Divided:
    """As ``divide``, of new work alone: the latest files are held out, and nothing that is like any earlier hold-out is trained on.

    Raises ``TooFewSpans`` that says how much new work there is and how much is needed.
    """
    if not sifted.spans:
        raise nothing_new(heritage, author)
    held = [as_span(pair) for pair in heritage.held_out]
    try:
        return divide(sifted, recipe, held=held, latest=True)
    except TooFewSpans as error:
        found = error.facts.get("found", len(sifted.spans))
        raise TooFewSpans(
            f"{found} usable new spans by {author} since {_since(heritage)}; {recipe.min_spans} are needed",
            HINT, found=found, needed=recipe.min_spans,
        ) from error  # fmt: skip


def nothing_new(heritage: Heritage, author: str) -> TooFewSpans:
    """The error for no new work at all."""
    return TooFewSpans(
        f"nothing new: {author} wrote nothing since {_since(heritage)} that {heritage.parent.reference} does not have",
        HINT, found=0,
    )  # fmt: skip


def with_inherited(taught: Taught, recipe: Recipe, heritage: Heritage) -> Taught:
    """The new pairs, then what is trained on again and what stays held out.

    ``recipe.replay_ratio`` x the new training pairs are drawn, with the recipe's seed, from the training pairs of the version that is
    continued (experience replay, Rolnick et al. 2019); it has its own parent's among them. New pairs whose answer a version before has
    are refused as ``not_new``. Raises ``TooFewSpans`` when that leaves none to train on or none held out.
    """
    old = overlaps(taught.pairs, heritage.known)
    fresh = [pair for pair, kind in zip(taught.pairs, old, strict=True) if not kind]
    splits = [pair.split for pair in fresh]
    if "train" not in splits or "holdout" not in splits:
        raise nothing_new(heritage, taught.pairs[0].provenance.author if taught.pairs else "the author")
    refusals = [
        Refusal(
            path=pair.provenance.path, start=pair.provenance.start, end=pair.provenance.end, reason="not_new",
            detail="its answer is in a version before",
        )
        for pair, kind in zip(taught.pairs, old, strict=True)
        if kind
    ]  # fmt: skip
    again = replayed(heritage.parent, round(recipe.replay_ratio * splits.count("train")), recipe.seed)
    return taught.model_copy(
        update={"pairs": (*fresh, *again, *heritage.held_out), "refusals": (*taught.refusals, *refusals)}
    )


def replayed(parent: Earlier, wanted: int, seed: int) -> tuple[Pair, ...]:
    """At most ``wanted`` of the training pairs of ``parent``, drawn with ``seed``, in their order."""
    pairs = [named(pair, parent.id) for pair in parent.pairs if pair.split == "train"]
    draw = random.Random(f"{seed}:replay")  # noqa: S311 - a seeded draw, no secret
    chosen = set(draw.sample(range(len(pairs)), min(wanted, len(pairs))))
    return tuple(pair for i, pair in enumerate(pairs) if i in chosen)


def own_holdout(pairs: Iterable[Pair], ancestor: str = "") -> tuple[Pair, ...]:
    """The hold-out of one version among a block's pairs; the block's own without ``ancestor``."""
    return tuple(pair for pair in pairs if pair.split == "holdout" and pair.ancestor == ancestor)


def as_span(pair: Pair) -> Span:
    """A pair's answer as a span, to be compared with others."""
    origin = pair.provenance
    return Span(
        path=origin.path, language=pair.language, kind=pair.kind, name=pair.name, start=origin.start, end=origin.end,
        text=pair.completion, sha256=origin.sha256, blob=origin.blob, commit=origin.commit, owned=1.0, licence=origin.licence,
        repository=origin.repository, url=origin.url,
    )  # fmt: skip


def _place(span: Span) -> tuple[str, str, int, int, str, str]:
    return span.url, span.path, span.start, span.end, span.commit, span.kind


def _since(heritage: Heritage) -> str:
    if heritage.repository is None:
        return f"{heritage.parent.reference} was made"
    day = heritage.repository.committed_at[:10]
    return f"commit {heritage.repository.commit[:12]}" + (f" of {day}" if day else "")
