"""What blocks mean, as vectors: brought up to date when it is asked, from the catalogue's lines; a cache that is made again when lost.

Two indexes of one encoder: a row for each block's text, under its id; and rows for what stands beside it: the middles of its exemplars,
under ``id/1``, ``id/2``, ..., or ``id/0``, its text again, where it has none that may be used; what the names in its text mean, under
``id/m1``, ``id/m2``, ...; and what people may type who look for it, under ``id/q1``, ... Vectors are made here from texts, and never
taken from anybody.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from clonedna.app.queries_kept import MOST_QUERIES
from clonedna.core.errors import DnaError, Unavailable
from clonedna.core.seams import Encoder, Index
from clonedna.core.vectors import Hit, Near, Vectors
from clonedna.genomes.glossary import MOST_MEANINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

AT_ONCE = 256  # texts that one question waits for
EXEMPLARS_AT_ONCE = 4096  # ... and that one question for layers waits for, prompts counted
WAIT = 5.0  # seconds that one question waits while another's texts are encoded
BATCH = 64  # texts that are lost when a process is killed
MOST_CENTROIDS = 8
MOST_BESIDE = 1 + MOST_CENTROIDS + MOST_MEANINGS + MOST_QUERIES
ALONE = "/0"  # behind the id of a block without exemplars
Told = Callable[[int, int], None]
"""Blocks that are done, of so many."""


def unheard(done: int, total: int) -> None:
    """A ``Told`` that drops what it hears."""


class Lines(Protocol):
    """What is needed of the catalogue."""

    def state(self) -> tuple[int, int]: ...
    def meanings(self) -> dict[str, str]: ...
    def gone(self) -> frozenset[str]: ...


class Exemplars(Protocol):
    """What is known of blocks' exemplars."""

    def prompts(self, block_id: str) -> tuple[str, ...]:
        """The prompts that stand for a block; none where they may not be used, or there are none."""
        ...

    def middles(self, vectors: Vectors) -> Vectors:
        """The centroids of prompts' vectors, at most ``MOST_CENTROIDS``."""
        ...

    def meant(self, text: str) -> tuple[str, ...]:
        """What the names in a block's text mean, at most ``MOST_MEANINGS``."""
        ...

    def queries(self, block_id: str) -> tuple[str, ...]:
        """What people may type who look for it, at most ``MOST_QUERIES``; none where nobody wrote any."""
        ...

    def queried(self) -> frozenset[str]:
        """The blocks that have some."""
        ...

    def state(self) -> int:
        """Another number whenever some came or went."""
        ...


class Meanings:
    """Blocks by their meaning. Threads may share it."""

    def __init__(
        self,
        lines: Lines,
        encoder: Encoder,
        index: Index,
        centroids: Index | None = None,
        exemplars: Exemplars | None = None,
    ) -> None:
        """Without ``centroids`` and ``exemplars``, blocks are known by their texts alone."""
        self._lines, self._index = lines, index
        self._centroids, self._exemplars = centroids, exemplars
        self.encoder = encoder
        self.settles = False  # in a process that stays: what makes searches quick is made beside them
        self._settling: threading.Thread | None = None
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int], frozenset[str], int] | None = None
        self._snapshot: tuple[frozenset[str], frozenset[str], int, str] | None = None
        self._whole: tuple[tuple[int, int], frozenset[str], int, int] | None = None  # with its exemplars

    # Questions.

    def near(self, texts: Sequence[str], most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The blocks nearest to all ``texts``, by the mean of the cosines. Raises as ``refresh``."""
        self.refresh(AT_ONCE)
        return self._index.search(self.encoder.encode(texts), most, among=among)

    def nearest(
        self, asked: Sequence[Sequence[str]], most: int, *, among: Collection[str] | None = None
    ) -> tuple[tuple[Near, ...], ...]:
        """For each group of texts, all counting alike, the blocks nearest to them, at most ``most``, the best of text and centroids first;
        of equals, by id. ``among``: only these. Raises as ``refresh``."""
        self.complete(EXEMPLARS_AT_ONCE)
        texts = list(dict.fromkeys(text for some in asked for text in some))
        if not texts:
            return tuple(() for _ in asked)
        vectors = self.encoder.encode(texts)
        rows = dict(zip(texts, vectors.rows, strict=True))
        groups = [[rows[text] for text in some] for some in asked]
        return tuple(self._nearest(_stacked(vectors.encoder, some), most, among) if some else () for some in groups)

    def snapshot(self) -> str:
        """SHA-256 over what is searched: the encoder, all blocks and centroids, and what a teacher wrote. Equal twice: the same was
        searched. Raises as ``refresh``."""
        self.complete(EXEMPLARS_AT_ONCE)
        keys = self._index.keys(), self._centroids.keys() if self._centroids is not None else frozenset[str]()
        known, state = self._snapshot, self._exemplars.state() if self._exemplars else 0
        if known is not None and known[0] is keys[0] and known[1] is keys[1] and known[2] == state:
            return known[3]
        told = hashlib.sha256(f"{self.encoder.name} {self.encoder.dimension}".encode())
        if self._centroids is not None:
            told.update(f"\n{self._centroids.encoder}".encode())  # the glossary, too
        for some in keys:
            told.update("".join(f"\n{key}" for key in sorted(some)).encode() + b"\n")
        if self._exemplars is not None:
            for block_id in sorted(self._exemplars.queried() & keys[0]):
                told.update(json.dumps([block_id, self._exemplars.queries(block_id)]).encode())
        self._snapshot = (*keys, state, told.hexdigest())
        return told.hexdigest()

    # Keeping up.

    def refresh(self, most: int | None = None) -> int:
        """Encode the texts that are not in the index yet and take out what is no longer in the catalogue; gives how many were encoded.

        Raises ``Unavailable`` when more than ``most`` texts had to be encoded (that many are done then, and the next call goes on), or
        when another thread has been at it for ``WAIT`` seconds.
        """
        with self._alone(None if most is None else WAIT):
            return self._texts(most)

    def complete(self, most: int | None = None, told: Told = unheard) -> int:
        """As ``refresh``, with the exemplars; gives for how many blocks something was encoded. ``told`` hears how far it is."""
        with self._alone(None if most is None else WAIT):
            texts = self._texts(most)
            return max(texts, self._prompts(most, told))

    def learn(self, block_id: str) -> None:
        """Make the vectors of one block now."""
        with self._alone(None):
            text = self._lines.meanings().get(block_id)
            if text is not None and block_id not in self._lines.gone():
                self._index.add([block_id], self.encoder.encode([text]))
                if self._centroids is not None:
                    self._keep([self._made(block_id, text)])

    def settle(self) -> tuple[str, ...]:
        """Make now what makes searches of very many quick; how each index is searched from now on."""
        return tuple(index.settle() for index in (self._index, self._centroids) if index is not None)

    def _changed(self) -> None:
        """Something was encoded: in a process that stays, bring the indexes to it in a thread of their own."""
        if self.settles and (self._settling is None or not self._settling.is_alive()):
            self._settling = threading.Thread(target=self._settle, name="vectors", daemon=True)
            self._settling.start()

    def _settle(self) -> None:
        try:
            self.settle()
        except DnaError as error:  # a full disk: searches stay exact, and the next change tries again
            log.warning("the graph of vectors was not made: %s", error.code)

    def _texts(self, most: int | None) -> int:
        state, gone = self._lines.state(), self._lines.gone()
        if self._seen is not None and self._seen[:2] == (state, gone) and len(self._index.keys()) == self._seen[2]:
            return 0
        told, known = self._told(gone), self._index.keys()
        self._index.remove(known - told.keys())
        missing = [block_id for block_id in told if block_id not in known]
        now = missing[:most]
        for start in range(0, len(now), BATCH):
            some = now[start : start + BATCH]
            self._index.add(some, self.encoder.encode([told[block_id] for block_id in some]))
        if len(now) < len(missing):
            raise _waiting(len(missing) - len(now))
        self._seen = state, gone, len(told)
        if now:
            self._changed()
        return len(now)

    def _prompts(self, most: int | None, heard: Told) -> int:
        if self._centroids is None:
            return 0
        state, gone, lines = self._lines.state(), self._lines.gone(), self._exemplars.state() if self._exemplars else 0
        keys = self._centroids.keys()
        if self._whole is not None and self._whole == (state, gone, lines, len(keys)):
            return 0
        told = self._told(gone)
        late = (
            self._exemplars.queried() if self._exemplars else frozenset[str]()
        )  # some were written since a block was encoded
        self._centroids.remove(
            [key for key in keys if _block(key) not in told or (_query(key) and _block(key) not in late)]
        )
        known = {_block(key) for key in keys} - {one for one in late if f"{one}/q1" not in keys}
        missing, done, texts = [block_id for block_id in told if block_id not in known], 0, 0
        for some in self._batches(missing, told):
            if most is not None and texts > most:
                raise _waiting(len(missing) - done)
            self._keep(some)
            done, texts = done + len(some), texts + sum(count for _, _, count in some)
            heard(len(told) - len(missing) + done, len(told))
        self._whole = state, gone, lines, len(self._centroids.keys())
        if done:
            self._changed()
        return done

    def _batches(self, ids: Sequence[str], told: dict[str, str]) -> Iterator[list[tuple[list[str], Vectors, int]]]:
        """Rows of some blocks at a time, each time of about ``BATCH`` texts or more."""
        made: list[tuple[list[str], Vectors, int]] = []
        for block_id in ids:
            made.append(self._made(block_id, told[block_id]))
            if sum(count for _, _, count in made) >= BATCH:
                yield made
                made = []
        if made:
            yield made

    def _made(self, block_id: str, text: str) -> tuple[list[str], Vectors, int]:
        """Keys and rows of what stands beside one block's text, and how many texts were encoded for them."""
        import numpy as np  # not loaded by commands that ask nothing of it

        prompts, meant, queries, keys, rows = (), (), (), list[str](), list["NDArray[np.float32]"]()
        if self._exemplars is not None:
            prompts, meant = self._exemplars.prompts(block_id), self._exemplars.meant(text)
            queries = self._exemplars.queries(block_id)
        if prompts and self._exemplars is not None:
            rows.append(self._exemplars.middles(self.encoder.encode(prompts)).rows)
            keys = [f"{block_id}/{n}" for n in range(1, len(rows[0]) + 1)]
        told = (*meant, *queries) if keys else (text, *meant, *queries)
        keys = (keys or [f"{block_id}{ALONE}"]) + [f"{block_id}/m{n}" for n in range(1, len(meant) + 1)]
        keys += [f"{block_id}/q{n}" for n in range(1, len(queries) + 1)]
        if told:
            rows.append(self.encoder.encode(told).rows)
        return keys, Vectors(self.encoder.name, np.concatenate(rows)), len(prompts) + len(told)

    def _keep(self, made: Iterable[tuple[list[str], Vectors, int]]) -> None:
        import numpy as np  # not loaded by commands that ask nothing of it

        if self._centroids is not None:
            keys = [key for some, _, _ in made for key in some]
            rows = np.concatenate([vectors.rows for _, vectors, _ in made])
            self._centroids.add(keys, Vectors(self._centroids.encoder, rows))

    def _told(self, gone: frozenset[str]) -> dict[str, str]:
        """Of each block that counts, its text."""
        return {block_id: text for block_id, text in self._lines.meanings().items() if block_id not in gone}

    @contextmanager
    def _alone(self, wait: float | None) -> Generator[None]:
        if not self._lock.acquire(timeout=-1 if wait is None else wait):
            raise Unavailable("the meanings of blocks are being encoded", "ask again in a moment", retry_after=1)
        try:
            yield
        finally:
            self._lock.release()

    # One group of texts.

    def _nearest(self, asked: Vectors, most: int, among: Collection[str] | None) -> tuple[Near, ...]:
        texts = {hit.key: hit.cosine for hit in self._index.search(asked, most, among=among)}
        if self._centroids is None or most < 1:
            found = [Near(block_id, cosine, None) for block_id, cosine in texts.items()]
            return tuple(sorted(found, key=lambda near: (-near.best, near.id))[:most])
        best = self._best(asked, most, among)
        some = sorted({*texts, *best})
        texts = {hit.key: hit.cosine for hit in self._index.search(asked, len(some), among=some)}
        beside = {key for block_id in some for key in _keys(block_id)}
        middles, meant = _by_block(self._centroids.search(self._beside(asked), len(beside), among=beside))
        found = [
            Near(block_id, texts[block_id], middles.get(block_id), meant.get(block_id))
            for block_id in some
            if block_id in texts
        ]
        return tuple(sorted(found, key=lambda near: (-near.best, near.id))[:most])

    def _best(self, asked: Vectors, most: int, among: Collection[str] | None) -> dict[str, float]:
        """The blocks of the nearest rows beside texts: no fewer than ``most``, where there are so many."""
        assert self._centroids is not None
        keys = None if among is None else KeysOf(among)
        hits = self._centroids.search(self._beside(asked), MOST_BESIDE * most, among=keys)
        return dict.fromkeys((_block(hit.key) for hit in hits), 0.0)

    def _beside(self, asked: Vectors) -> Vectors:
        """``asked`` as the index of what stands beside texts names its encoder: with the glossary."""
        assert self._centroids is not None
        return Vectors(self._centroids.encoder, asked.rows)


class KeysOf(Set[str]):
    """Every key that what stands beside some blocks' texts may have; not written out unless it is asked for."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = ids if isinstance(ids, Set) else frozenset(ids)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _block(key) in self._ids

    def __iter__(self) -> Iterator[str]:
        return (key for block_id in self._ids for key in (f"{block_id}{ALONE}", *_keys(block_id)))

    def __len__(self) -> int:
        return len(self._ids) * MOST_BESIDE


def _keys(block_id: str) -> tuple[str, ...]:
    """Of middles, meanings and queries."""
    middles = (f"{block_id}/{n}" for n in range(1, MOST_CENTROIDS + 1))
    meant = (f"{block_id}/m{n}" for n in range(1, MOST_MEANINGS + 1))
    return (*middles, *meant, *(f"{block_id}/q{n}" for n in range(1, MOST_QUERIES + 1)))


def _query(key: str) -> bool:
    return key.partition("/")[2].startswith("q")


def _block(key: str) -> str:
    return key.partition("/")[0]


def _stacked(encoder: str, rows: Sequence[NDArray[np.float32]]) -> Vectors:
    import numpy as np  # not loaded by commands that ask nothing of it

    return Vectors(encoder, np.stack(rows))


def _by_block(hits: Iterable[Hit]) -> tuple[dict[str, float], dict[str, float]]:
    """The best of each block's middles, and of its meanings and queries."""
    middles, meant = dict[str, float](), dict[str, float]()
    for hit in hits:
        block_id, _, name = hit.key.partition("/")
        best = meant if name.startswith(("m", "q")) else middles
        best[block_id] = max(hit.cosine, best.get(block_id, -2.0))
    return middles, meant


def _waiting(count: int) -> Unavailable:
    return Unavailable(
        f"the meanings of {count} blocks are not encoded yet",
        "ask again in a moment, or make them all: dna reindex",
        retry_after=1,
    )
