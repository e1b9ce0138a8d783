"""Which pairs stand among the training pairs as well: the same text, one inside the other, or nearly the same.

The mint takes such pairs out of training, the examination counts those that are left, and ``dna eval --pairs`` flags what it is given.
All three ask here, so that what is prevented is what is measured. Comparison is exact, by an inverted index over shingles of five words
(Broder 1997); the limits are those of the split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from clonedna.core.canonical import digest, sha256
from clonedna.core.work import Pair, Refusal
from clonedna.mint.divide import LEAK_SIMILAR
from clonedna.mint.sift import CONTAINED, MIN_SHINGLES, renaming, shingles
from clonedna.mint.values import Taught

Kind = Literal["", "exact", "contained", "near"]


def overlaps(pairs: Iterable[Pair], trained: Iterable[Pair]) -> tuple[Kind, ...]:
    """For each of ``pairs``, how it stands among ``trained``; ``""`` when it does not.

    ``exact``: the same answer but for blank space. ``contained``: 80 % of the shingles of the shorter answer stand in the other, or of
    this answer in what a training prompt shows. ``near``: Jaccard similarity of 0.7 or more, or the same words but for a renaming. Answers
    of fewer than 12 words and signs are only compared exactly. Of training pairs that were given in a file only those count whose prompt
    and answer are the same: answers of one form are what such files are made of.
    """
    index = _Index(trained)
    return tuple(index.kind(pair) for pair in pairs)


def apart(taught: Taught) -> Taught:
    """Without the training pairs that give held-out ones away; each is a refusal ``held_out_duplicate``.

    Spans were told apart before; this is about the answers that were cut out of them.
    """
    train = [pair for pair in taught.pairs if pair.split == "train"]
    held = [pair for pair in taught.pairs if pair.split != "train"]
    like = {pair.id for pair, kind in zip(train, overlaps(train, held), strict=True) if kind}
    # A held answer may stand in what a training prompt shows, which only the other direction sees.
    like |= {pair.id for pair in train if pair.id not in like and any(overlaps(held, [pair]))}
    if not like:
        return taught
    refusals = tuple(
        Refusal(
            path=pair.provenance.path, start=pair.provenance.start, end=pair.provenance.end, reason="held_out_duplicate",
            detail="its answer is like a held-out one",
        )
        for pair in train
        if pair.id in like
    )  # fmt: skip
    kept = tuple(pair for pair in taught.pairs if pair.id not in like)
    return taught.model_copy(update={"pairs": kept, "refusals": (*taught.refusals, *refusals)})


class _Index:
    """Training pairs by digest, by renamed digest and by shingle."""

    def __init__(self, trained: Iterable[Pair]) -> None:
        answers: list[frozenset[str]] = []
        self._exact: set[str] = set()
        self._renamed: set[str] = set()
        self._where: dict[str, list[int]] = defaultdict(list)
        self._shown: dict[str, list[int]] = defaultdict(list)
        for i, pair in enumerate(trained):
            self._exact.add(_mark(pair))
            answers.append(frozenset())
            if pair.form == "given":
                continue
            self._renamed.add(renaming(pair.completion))
            answers[i] = shingles(pair.completion)
            for shingle in answers[i]:
                self._where[shingle].append(i)
            for shingle in shingles(pair.instruction):
                self._shown[shingle].append(i)
        self._sizes: Sequence[int] = [len(words) for words in answers]

    def kind(self, pair: Pair) -> Kind:
        if {_mark(pair), _answer(pair)} & self._exact:
            return "exact"
        words = shingles(pair.completion)
        if len(words) < MIN_SHINGLES:
            return ""
        shared = Counter(i for shingle in words for i in self._where.get(shingle, ()))
        compared = [(n, self._sizes[i]) for i, n in shared.items() if self._sizes[i] >= MIN_SHINGLES]
        if any(n / (len(words) + size - n) >= LEAK_SIMILAR for n, size in compared):
            return "near"
        shown = Counter(i for shingle in words for i in self._shown.get(shingle, ()))
        if any(n >= CONTAINED * min(len(words), size) for n, size in compared) or any(
            n >= CONTAINED * len(words) for n in shown.values()
        ):
            return "contained"
        mark = renaming(pair.completion)
        return "near" if mark and mark in self._renamed else ""


def _mark(pair: Pair) -> str:
    if pair.form == "given":
        return digest([pair.messages, pair.tools, pair.completion])
    return _answer(pair)


def _answer(pair: Pair) -> str:
    return sha256("\n".join(line.rstrip() for line in pair.completion.strip().splitlines()))
