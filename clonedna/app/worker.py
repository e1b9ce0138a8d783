"""A worker: a process that carries out the jobs of a home beside its server, on this machine or on another one that shares the home.

Workers need no server: what ``dna mint --queue`` orders, they do. Where several machines share the home, what DBOS keeps is in PostgreSQL:
a SQLite file on a network file system is refused, as its locks and its write-ahead log hold on one machine alone.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import anyio

from clonedna.app.finetuning import background_of
from clonedna.app.parts import Parts
from clonedna.core.errors import BadConfig

MOUNTS = Path("/proc/self/mountinfo")
SHARED = re.compile(
    r"^(nfs\d?|cifs|smb3|smbfs|9p|ceph|lustre|glusterfs|beegfs|afs|fuse\..*(sshfs|gluster|ceph|s3fs).*)$"
)
LOOK_SECONDS = 0.5


class Worker:
    """One worker over one home, for the jobs of one base."""

    def __init__(self, parts: Parts, base: str, *, parallel: int | None = None) -> None:
        self.parts, self.base = parts, base
        self.parallel = parallel or max(1, parts.settings.parallel_training)
        self._background = background_of(parts, base, parallel=self.parallel, alone=False)
        self._stopped = threading.Event()

    def heed(self) -> None:
        """In the main thread: TERM and INT stop it, the second of them at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stopped.is_set():
            os._exit(130)  # files are whole and jobs durable at any moment
        self.stop()

    def stop(self) -> None:
        """Take no more jobs, and have those that run stop soon."""
        self._stopped.set()
        self._background.stop()

    def run(self, ready: Callable[[], None] = lambda: None, *, until_empty: bool = False) -> int:
        """Take jobs until it is stopped, or (``until_empty``) nothing waits or runs here; gives how many jobs it worked on.

        Raises ``BadConfig`` for a shared home without PostgreSQL, ``UnknownBase``, ``Unavailable`` when the database does not answer.
        """
        refuse_shared(self.parts)
        self._background.open()
        try:
            ready()
            while not self._stopped.wait(LOOK_SECONDS):
                if until_empty and self._background.idle():
                    break
        finally:
            self._background.close()
            anyio.run(self.parts.close)
        return self._background.worked


def refuse_shared(parts: Parts) -> None:
    """Raises ``BadConfig`` where the home lies on a network file system and the jobs' database would be a file on it."""
    kind = filesystem(parts.settings.home)
    if SHARED.match(kind) and not parts.database.is_postgres:
        raise BadConfig(
            f"{parts.settings.home} is on a network file system ({kind}), where a SQLite database is not safe",
            "let machines share a PostgreSQL database: set DNA_DATABASE_URL (docs/jobs.md)",
        )


def filesystem(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that ``path`` is on (or will be), as Linux calls it; empty where that cannot be known."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    where = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        before, _, behind = line.partition(" - ")
        point = before.split(" ")[4].encode().decode("unicode_escape") if before.count(" ") >= 4 else ""
        inside = point == "/" or where == point or where.startswith(f"{point}/")
        if point and inside and len(point) >= len(best):
            best, kind = point, behind.split(" ")[0]
    return kind
