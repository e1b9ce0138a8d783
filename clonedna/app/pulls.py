"""A file on its way here from another machine, kept in pieces until it is whole, so that what was killed goes on where it stopped.

    pulls/<digest of where and what>/part    the bytes that came
                                    /state   what they are bytes of: the sender's tag and the whole size

One process at a time works on one of them. Bytes of two representations are never mixed: another tag starts anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from clonedna.app.workspace import space_errors, write_atomic
from clonedna.core.canonical import canonical, digest, strict_json
from clonedna.core.errors import BadAnswer, JobBusy
from clonedna.core.value import Value

FOLDER = "pulls"


class PullState(Value):
    """``url`` and ``what``: where it comes from; ``tag`` is empty where the sender names none: then it cannot go on."""

    url: str
    what: str
    tag: str = ""
    size: int = Field(default=0, ge=0)


class Pull:
    """Make one with ``pulling``. ``path``: the file, whole when ``have`` is ``size``."""

    def __init__(self, folder: Path, state: PullState) -> None:
        self._folder, self._state, self.path = folder, state, folder / "part"

    @property
    def have(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def size(self) -> int:
        return self._state.size

    @property
    def tag(self) -> str:
        return self._state.tag

    def start(self, tag: str, size: int) -> None:
        """Nothing is here yet of a file of ``size`` bytes, which the sender calls ``tag``. Raises ``NoSpace``."""
        self.path.unlink(missing_ok=True)
        self._state = self._state.model_copy(update={"tag": tag, "size": size})
        write_atomic(self._folder / "state", canonical(self._state))

    def write(self, place: int, data: bytes) -> None:
        """Put ``data`` at ``place``, which is at most ``have``. Raises ``NoSpace``; ``BadAnswer`` for more than there is."""
        if place + len(data) > self.size:
            raise BadAnswer("more bytes came than were announced", "try again")
        with space_errors(self.path), self.path.open("r+b" if self.path.exists() else "x+b", buffering=0) as file:
            file.seek(place)
            file.write(data)

    def forget(self) -> None:
        """Remove what came."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def pulling(home: Path, url: str, what: str) -> Generator[Pull]:
    """The pull of ``what`` from ``url``, as far as it came. Raises ``JobBusy`` while another process is at it, ``NoSpace``."""
    folder = home / FOLDER / digest([url, what])
    with space_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobBusy(f"another process pulls {what[:80]} from there", "wait until it is done") from None
        pull = Pull(folder, _state(folder, url, what))
        try:
            yield pull
        finally:
            if not pull.have:
                pull.forget()
    finally:
        os.close(handle)


def _state(folder: Path, url: str, what: str) -> PullState:
    """A state that cannot be read is as none: it starts anew."""
    try:
        found = PullState.model_validate(strict_json((folder / "state").read_bytes()))
    except (OSError, ValueError):
        return PullState(url=url, what=what)
    return found if (found.url, found.what) == (url, what) else PullState(url=url, what=what)
