"""The pairs of a block that fit a question best, to be shown beside it: the person's own code, found by words (BM25).

Promises: only pairs of that block, with split ``train``. What was held out stays out of every prompt: the block's numbers were measured on
it, and a block that has been shown the answers could never be examined again. Only where the block's consent, and the pair's own licence,
allow serving, looked at anew for each question. The file of pairs is checked against the block's manifest before it is read. Indexes are
kept in memory by block id, the last used ones, bounded in number and in pairs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from clonedna.app.blocks import ServedLayer
from clonedna.app.orders import spdx
from clonedna.app.papers import consent_of, signed_pairs_of
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord
from clonedna.core.errors import DnaError
from clonedna.core.value import Value
from clonedna.core.words import telling_words
from clonedna.core.work import Pair

if TYPE_CHECKING:
    from bm25s import BM25

TOP = 3
MOST_CHARACTERS = 1_200
MOST_TASK = 400
MOST_INDEXES = 16
MOST_PAIRS = 20_000


class Shown(Value):
    """A pair as it is shown: the whole first lines of its task and of its code that fit."""

    id: str
    task: str
    code: str
    language: str


@dataclass(frozen=True, slots=True)
class _Index:
    pairs: tuple[Pair, ...]
    scores: BM25 | None
    consent: ConsentRecord


class Retrieval:
    """Finds pairs of blocks that were verified already. Its methods read the disk: call them from worker threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, layers: Sequence[ServedLayer], question: str, *, most: int = MOST_CHARACTERS) -> tuple[Shown, ...]:
        """At most ``TOP`` pairs, the best first, of at most ``most`` characters altogether. Several blocks of a blend take turns, the one
        with most weight first.

        Raises ``BlockCorrupt`` and what the store and the consents raise.
        """
        words = telling_words(question)
        heaviest = sorted((one for one in layers if one.weight > 0), key=lambda one: -one.weight)
        ranked = [self._ranked(one.block_id, words) for one in heaviest]
        turns = [pair for turn in zip_longest(*ranked) for pair in turn if pair is not None]
        shown: list[Shown] = []
        for pair in turns[:TOP]:
            one = _cut(pair, most - sum(len(before.task) + len(before.code) for before in shown))
            shown += [one] if one else []
        return tuple(shown)

    def _ranked(self, block_id: str, words: list[str]) -> list[Pair]:
        index = self._index(block_id)
        try:
            self._parts.store.path(block_id)  # refuses one that was revoked since its index was made
            self._parts.consents.check(index.consent, "serve")
        except DnaError:
            with self._lock:
                self._indexes.pop(block_id, None)
            raise
        known = [word for word in words if index.scores is not None and word in index.scores.vocab_dict]
        if index.scores is None or not known:
            return []
        scores = index.scores.get_scores(known)
        best = sorted(range(len(index.pairs)), key=lambda i: (-float(scores[i]), i))[:TOP]
        return [index.pairs[i] for i in best if scores[i] > 0]

    def _index(self, block_id: str) -> _Index:
        with self._lock:
            known = self._indexes.get(block_id)
            if known is not None:
                self._indexes.move_to_end(block_id)
                return known
        made = self._made(block_id)
        with self._lock:
            self._indexes[block_id] = made
            while len(self._indexes) > 1 and (
                len(self._indexes) > MOST_INDEXES or sum(len(one.pairs) for one in self._indexes.values()) > MOST_PAIRS
            ):
                self._indexes.popitem(last=False)
        return made

    def _made(self, block_id: str) -> _Index:
        manifest = self._parts.registry.resolve(block_id, unsafe=True)
        path = self._parts.store.path(manifest.id)
        consent = consent_of(path)
        pairs = signed_pairs_of(path, manifest)
        usable = [pair for pair in pairs if pair.split == "train" and _may_be_shown(pair.provenance.licence)]
        return _Index(pairs=tuple(usable[:MOST_PAIRS]), scores=_scores(usable[:MOST_PAIRS]), consent=consent)


def _scores(pairs: Sequence[Pair]) -> BM25 | None:
    documents = [telling_words(f"{pair.instruction}\n{pair.name}\n{pair.completion}") for pair in pairs]
    if not any(documents):
        return None
    from bm25s import BM25

    made = BM25(method="lucene", backend="numpy")
    made.index(documents, show_progress=False)
    return made


@lru_cache(maxsize=1024)
def _may_be_shown(licence: str) -> bool:
    """Whether a pair's licence is one that is known; what may be minted at all was decided by the mint."""
    try:
        spdx(licence)
    except DnaError:
        return False
    return True


def _cut(pair: Pair, room: int) -> Shown | None:
    """The pair in at most ``room`` characters, in whole lines; ``None`` where not even one line of its code fits."""
    task = _lines(pair.instruction.strip(), MOST_TASK) or " ".join(pair.instruction.split())[:MOST_TASK]
    code = _lines(pair.completion.strip("\n"), room - len(task))
    return Shown(id=pair.id, task=task, code=code, language=pair.language) if task and code.strip() else None


def _lines(text: str, most: int) -> str:
    """The first whole lines of at most ``most`` characters."""
    if len(text) <= most:
        return text
    return text[: max(0, most) + 1].rpartition("\n")[0].rstrip()
