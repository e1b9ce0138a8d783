"""A block that arrives piece by piece: written beside the store, bounded in bytes and in number, verified when it is whole.

``Arrival`` belongs to one sender: ``write`` what comes, ``finish`` at its end, and ``close`` in any case; nothing is left of it then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from clonedna.app.sharing import Sharing, Taken
from clonedna.app.staging import orphaned, staging
from clonedna.app.workspace import require_space, space_errors
from clonedna.core.errors import Corrupt, InputError, Overloaded, TooLarge

T = TypeVar("T")
AT_ONCE = 8
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")


def said_digest(header: str) -> str:
    """The hex SHA-256 in a ``Content-Digest`` (RFC 9530). Raises ``InputError`` when there is none in it, or more than one."""
    found = [match[1] for part in header.split(",") if (match := _DIGEST.fullmatch(part.strip()))]
    try:
        (one,) = found
        return base64.b64decode(one, validate=True).hex()
    except (ValueError, binascii.Error):
        raise InputError(
            "Content-Digest holds no SHA-256", "write it as sha-256=:BASE64: or leave it out", param="content-digest"
        ) from None


class Arrivals:
    """What comes to one home. From any thread."""

    def __init__(self, sharing: Sharing) -> None:
        self.sharing, self.settings = sharing, sharing.parts.settings
        for folder in orphaned(self.settings.home):  # what a killed server was taking
            shutil.rmtree(folder, ignore_errors=True)
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def begin(self, length: int | None, digest: str = "") -> Arrival:
        """``length`` in bytes, where it is known; ``digest``: ``Content-Digest``, or empty.

        Raises ``TooLarge``, ``NoSpace`` (the bytes, and unpacked once more), ``Overloaded``, ``InputError``.
        """
        said = said_digest(digest) if digest else ""
        self._check(length or 0)
        require_space(self.settings.home, self.settings.min_free_bytes + 2 * (length or 0))
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{AT_ONCE} blocks are arriving already", "send it again in a few seconds", retry_after=5)
        try:
            return Arrival(self, said)
        except BaseException:
            self._places.release()
            raise

    def _check(self, size: int) -> None:
        if size > self.settings.max_upload_bytes:
            raise TooLarge(
                f"the block has more than {self.settings.max_upload_bytes} bytes", "have max_upload_bytes raised there"
            )

    def done(self) -> None:
        self._places.release()


class Arrival:
    def __init__(self, arrivals: Arrivals, said: str) -> None:
        self._arrivals, self._said, self._hashed, self._size = arrivals, said, hashlib.sha256(), 0
        with ExitStack() as stack:
            folder: Path = stack.enter_context(staging(arrivals.settings.home))
            self._path = folder / "arriving.dna"
            with space_errors(self._path):
                self._file = stack.enter_context(self._path.open("xb"))
            self._open = stack.pop_all()

    def write(self, data: bytes) -> None:
        """Raises ``TooLarge``, ``NoSpace``."""
        self._size += len(data)
        self._arrivals._check(self._size)  # pyright: ignore[reportPrivateUsage]
        self._hashed.update(data)
        with space_errors(self._path):
            self._file.write(data)

    def finish(self) -> Taken:
        """Take the block that came. Raises as ``given``, and as ``Sharing.take``."""
        return self.given(self._arrivals.sharing.take)

    def given(self, take: Callable[[Path], T]) -> T:
        """What ``take`` makes of the file that came. Raises ``Corrupt`` when it is not what the digest said."""
        with space_errors(self._path):
            self._file.close()
        if self._said and self._said != self._hashed.hexdigest():
            raise Corrupt("what arrived is not what Content-Digest says", "send it again")
        return take(self._path)

    def close(self) -> None:
        """Remove what is left of it."""
        self._open.close()
        self._arrivals.done()
