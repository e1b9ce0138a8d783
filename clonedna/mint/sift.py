"""The filter stage: what is too long for the recipe, and what stands there twice.

Near-duplicates are found by MinHash over 5-token shingles (Broder 1997; the `datasketch` LSH index) and settled by their exact Jaccard
similarity, so moved and copied code counts once; so does code that differs in its names alone. Across a split it also counts when the
one stands inside the other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from clonedna.core.canonical import sha256
from clonedna.core.work import Collection, Refusal, Span
from clonedna.mint.values import Sifted

if TYPE_CHECKING:  # it loads half of scipy, for commands that sift nothing, too
    from datasketch import MinHash

SIMILAR = 0.8
SHINGLE = 5
# 32 bands of 4 rows: two texts of similarity s become candidates with probability 1 - (1 - s^4)^32, at 0.7 that is 0.9999.
BANDS, ROWS = 32, 4
CONTAINED = 0.8
MIN_SHINGLES = 8  # of fewer, most stand in many texts
MIN_RENAMED = 40  # words: shorter code is often alike but for its names
BYTES_PER_TOKEN = 3
_WORD = re.compile(r"\w+|[^\w\s]")


def sift(collection: Collection, *, max_tokens: int) -> Sifted:
    """Drop spans over about ``max_tokens`` tokens (estimated at 3 bytes a token) and near-duplicates of an earlier one."""
    limit = max_tokens * BYTES_PER_TOKEN
    refusals = list(collection.refusals)
    fitting: list[Span] = []
    for span in collection.spans:
        if len(span.text.encode()) > limit:
            refusals.append(refuse(span, "too_long", f"over {limit} bytes, the recipe's length"))
        else:
            fitting.append(span)
    # Code as it is today comes before the history's hunks, so that of two near-identical texts today's stays.
    fitting.sort(key=lambda span: (span.kind == "hunk", span.path, span.start, span.commit))
    kept, doubles = without_near_duplicates(fitting)
    refusals.extend(refuse(span, "near_duplicate", f"of {other.path}:{other.start}") for span, other in doubles)
    return Sifted(repository=collection.repository, spans=tuple(kept), refusals=tuple(refusals))


def refuse(span: Span, reason: str, detail: str) -> Refusal:
    return Refusal(path=span.path, start=span.start, end=span.end, reason=reason, detail=detail)


def without_near_duplicates(
    spans: Sequence[Span], against: Iterable[Span] = (), *, similar: float = SIMILAR
) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """``spans`` without those that are like ``against`` or an earlier one: Jaccard similarity of shingles >= ``similar``, or the same
    words but for a renaming.

    Gives (kept, [(dropped, the one it is like)]).
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    known: list[tuple[Span, frozenset[str]]] = []
    renamed: dict[str, int] = {}

    def add(span: Span, words: frozenset[str], sketch: MinHash) -> None:
        index.insert(str(len(known)), sketch, check_duplication=False)
        if mark := renaming(span.text):
            renamed.setdefault(mark, len(known))
        known.append((span, words))

    for span in against:
        words = shingles(span.text)
        add(span, words, _sketch(words))
    kept: list[Span] = []
    dropped: list[tuple[Span, Span]] = []
    for span in spans:
        words = shingles(span.text)
        sketch = _sketch(words)
        near = sorted(int(str(key)) for key in index.query(sketch))
        like = next((i for i in near if similarity(words, known[i][1]) >= similar), renamed.get(renaming(span.text)))
        if like is not None:
            dropped.append((span, known[like][0]))
        else:
            kept.append(span)
            add(span, words, sketch)
    return kept, dropped


def without_contained(spans: Sequence[Span], held: Sequence[Span]) -> tuple[list[Span], list[tuple[Span, Span]]]:
    """``spans`` without those of which 80 % of the shingles stand in one of ``held``, or the other way round; what a hunk replaced
    counts, too.

    Exact, by an inverted index over ``held``. Gives (kept, [(dropped, the one)]).
    """
    sizes = [len(shingles(one.text)) for one in held]
    where: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(held):
        for shingle in shingles(one.text):
            where[shingle].append(i)
    kept: list[Span] = []
    dropped: list[tuple[Span, Span]] = []
    for span in spans:
        like = next(
            (i for text in (span.text, span.before or "") if (i := _inside(shingles(text), where, sizes)) is not None),
            None,
        )
        if like is None:
            kept.append(span)
        else:
            dropped.append((span, held[like]))
    return kept, dropped


def _inside(words: frozenset[str], where: dict[str, list[int]], sizes: Sequence[int]) -> int | None:
    shared = Counter(i for shingle in words for i in where.get(shingle, ()))
    fitting = [
        i for i, n in shared.items() if (least := min(len(words), sizes[i])) >= MIN_SHINGLES and n >= CONTAINED * least
    ]  # fmt: skip
    return min(fitting, default=None)


def shingles(text: str) -> frozenset[str]:
    """Every run of 5 words and signs; of a shorter text, the whole."""
    words = _WORD.findall(text)
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard: shared shingles over all of both."""
    return len(one & other) / len(one | other)


def renaming(text: str) -> str:
    """A digest that stays when names are exchanged one for one; empty for a text of fewer than 40 words and signs."""
    words = _WORD.findall(text)
    if len(words) < MIN_RENAMED:
        return ""
    names: dict[str, str] = {}
    return sha256(
        " ".join(
            names.setdefault(word, f"n{len(names)}") if word[0].isalpha() or word[0] == "_" else word for word in words
        )
    )


def _sketch(words: frozenset[str]) -> MinHash:
    sketch = _empty().copy()
    sketch.update_batch([shingle.encode() for shingle in words])
    return sketch


@cache
def _empty() -> MinHash:
    """Its permutations are drawn once: that takes as long as a span's own hashes."""
    from datasketch import MinHash

    return MinHash(num_perm=BANDS * ROWS, seed=1)
