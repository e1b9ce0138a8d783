"""What blocks mean, as vectors: brought up to date when it is asked, from the catalogue's lines; a cache that is made again when lost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

from clonedna.core.errors import Unavailable
from clonedna.core.seams import Encoder, Index
from clonedna.core.vectors import Hit, Near, Vectors

AT_ONCE = 256  # texts that one question waits for
WAIT = 5.0  # seconds that one question waits while another's texts are encoded
BATCH = 64  # texts that are lost when a process is killed


class Lines(Protocol):
    """What is needed of the catalogue."""

    def state(self) -> tuple[int, int]: ...
    def meanings(self) -> dict[str, str]: ...


class Meanings:
    """Blocks by their meaning. Threads may share it."""

    def __init__(self, lines: Lines, encoder: Encoder, index: Index) -> None:
        self._lines, self._index = lines, index
        self.encoder = encoder
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None

    def near(self, texts: Sequence[str], most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The blocks nearest to all ``texts``, by the mean of the cosines. Raises as ``refresh``."""
        self.refresh(AT_ONCE)
        return self._index.search(self.encoder.encode(texts), most, among=among)

    def nearest(
        self, texts: Sequence[str], most: int, *, among: Collection[str] | None = None
    ) -> tuple[tuple[Near, ...], ...]:
        """For each text the blocks nearest to it, at most ``most``, the best of text and centroids first; of equals, by id. ``among``: only
        these. Raises as ``refresh``."""
        self.refresh(AT_ONCE)
        asked = self.encoder.encode(texts)
        return tuple(self._nearest(Vectors(asked.encoder, row[None]), most, among) for row in asked.rows)

    def _nearest(self, asked: Vectors, most: int, among: Collection[str] | None) -> tuple[Near, ...]:
        found = [Near(hit.key, hit.cosine, None) for hit in self._index.search(asked, most, among=among)]
        return tuple(sorted(found, key=lambda near: (-near.best, near.id))[:most])

    def snapshot(self) -> str:
        """SHA-256 over what is searched: the encoder and all blocks. Equal twice: the same was searched. Raises as ``refresh``."""
        self.refresh(AT_ONCE)
        told = hashlib.sha256(f"{self.encoder.name} {self.encoder.dimension}".encode())
        for key in sorted(self._index.keys()):
            told.update(f"\n{key}".encode())
        return told.hexdigest()

    @contextmanager
    def _alone(self, wait: float | None) -> Generator[None]:
        if not self._lock.acquire(timeout=-1 if wait is None else wait):
            raise Unavailable("the meanings of blocks are being encoded", "ask again in a moment", retry_after=1)
        try:
            yield
        finally:
            self._lock.release()

    def refresh(self, most: int | None = None) -> int:
        """Encode what is not in the index yet and take out what is no longer in the catalogue; gives how many were encoded.

        Raises ``Unavailable`` when more than ``most`` texts had to be encoded (that many are done then, and the next call goes on), or
        when another thread has been at it for ``WAIT`` seconds.
        """
        with self._alone(None if most is None else WAIT):
            state = self._lines.state()
            if state == self._seen and len(self._index.keys()) == state[0]:
                return 0
            told, known = self._lines.meanings(), self._index.keys()
            self._index.remove(known - told.keys())
            missing = [block_id for block_id in told if block_id not in known]
            now = missing[:most]
            for start in range(0, len(now), BATCH):
                some = now[start : start + BATCH]
                self._index.add(some, self.encoder.encode([told[block_id] for block_id in some]))
            if len(now) < len(missing):
                raise Unavailable(
                    f"the meanings of {len(missing) - len(now)} blocks are not encoded yet",
                    "ask again in a moment, or make them all: dna reindex", retry_after=1,
                )  # fmt: skip
            self._seen = state
            return len(now)
