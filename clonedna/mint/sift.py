"""The filter stage: what is too long for the recipe, and what stands there twice.

Near-duplicates are found by MinHash over 5-token shingles (Broder 1997; the `datasketch` LSH index), so moved and copied code counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from datasketch import MinHash, MinHashLSH

from clonedna.core.work import Collection, Refusal, Span
from clonedna.mint.values import Sifted

SIMILAR = 0.8
SHINGLE = 5
PERMUTATIONS = 64
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
    """``spans`` without those whose shingles are about as similar (Jaccard >= ``similar``) to ``against`` or to an earlier span.

    Gives (kept, [(dropped, the one it is like)]).
    """
    index = MinHashLSH(threshold=similar, num_perm=PERMUTATIONS)
    known: dict[str, Span] = {}

    def add(span: Span, sketch: MinHash) -> None:
        key = str(len(known))
        known[key] = span
        index.insert(key, sketch, check_duplication=False)

    for span in against:
        add(span, _sketch(span.text))
    kept: list[Span] = []
    dropped: list[tuple[Span, Span]] = []
    for span in spans:
        sketch = _sketch(span.text)
        like = sorted(int(str(key)) for key in index.query(sketch))
        if like:
            dropped.append((span, known[str(like[0])]))
        else:
            kept.append(span)
            add(span, sketch)
    return kept, dropped


def _sketch(text: str) -> MinHash:
    words = _WORD.findall(text)
    shingles = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
    return sketch
