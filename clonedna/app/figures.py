"""Figures of one home for those who watch a server: jobs by kind and state, how long they took, blocks, the database, the disk.

Promises: reading them costs a look at each job's directory and one query, at most every ``KEEP_SECONDS``, however often it is asked; how a
job ended is remembered. A database that does not answer is a figure (``blocks`` is ``None``), not an error. Nothing here names a person,
a target or a path.
"""

from __future__ import annotations

import shutil
import threading
import time
from bisect import bisect_left
from collections import Counter
from typing import Any

from clonedna.app.job_values import ENDED
from clonedna.app.jobs import Jobs
from clonedna.app.logs import STOPPED
from clonedna.app.workspace import Workspace
from clonedna.core.errors import DnaError
from clonedna.core.events import JobFailed, JobFinished, StageProgress
from clonedna.core.value import Value

KEEP_SECONDS = 5.0
BOUNDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
UNKNOWN = "unknown"


class Took(Value):
    """How long jobs of one kind took that ended well in this process: ``counts`` of those up to each of ``BOUNDS``, and beyond."""

    kind: str
    counts: tuple[int, ...]
    seconds: float


class JobCount(Value):
    """So many jobs of this kind are in this state."""

    kind: str
    status: str
    n: int


class Loss(Value):
    """The last loss of a training that runs in this process, in nats a token."""

    job: str
    loss: float


class Figures(Value):
    """One look. ``blocks`` by status; ``None`` while the database does not answer. Counters are since this process started."""

    jobs: tuple[JobCount, ...]
    ended: tuple[JobCount, ...]
    took: tuple[Took, ...]
    losses: tuple[Loss, ...]
    blocks: dict[str, int] | None
    database_errors: dict[str, int]
    disk_free: int


class JobFigures:
    """What jobs of this process said of themselves. Any thread may tell it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._counts: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._losses: dict[str, float] = {}

    def heard(self, job: str, event: object) -> None:
        """One event of a job."""
        kind = job.partition("-")[0]
        with self._lock:
            if isinstance(event, StageProgress):
                if event.loss is not None:
                    self._losses[job] = event.loss
            elif isinstance(event, JobFinished):
                self._losses.pop(job, None)
                self._ended[kind, event.status] += 1
                self._counts.setdefault(kind, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, event.seconds)] += 1
                self._seconds[kind] += event.seconds  # type: ignore[assignment]  # a counter adds any number
            elif isinstance(event, JobFailed):
                self._losses.pop(job, None)
                self._ended[kind, "stopped" if event.code in STOPPED else "failed"] += 1

    def read(self) -> tuple[tuple[JobCount, ...], tuple[Took, ...], tuple[Loss, ...]]:
        """How jobs ended, how long they took, and what trainings say now."""
        with self._lock:
            ended = tuple(JobCount(kind=kind, status=status, n=n) for (kind, status), n in sorted(self._ended.items()))
            took = tuple(
                Took(kind=k, counts=tuple(n), seconds=self._seconds[k]) for k, n in sorted(self._counts.items())
            )
            return ended, took, tuple(Loss(job=job, loss=loss) for job, loss in sorted(self._losses.items()))


class HomeFigures:
    """Reads one home's figures."""

    def __init__(self, jobs: Jobs, told: JobFigures) -> None:
        self._jobs, self._told = jobs, told
        self._lock = threading.Lock()
        self._kept: tuple[float, Figures] | None = None
        self._known: dict[str, tuple[int, str]] = {}

    def read(self) -> Figures:
        """The figures, not older than ``KEEP_SECONDS``. Blocks."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEEP_SECONDS:
                self._kept = time.monotonic(), self._look()
            return self._kept[1]

    def _look(self) -> Figures:
        parts: Any = self._jobs.parts
        ended, took, losses = self._told.read()
        return Figures(
            jobs=self._counted(), ended=ended, took=took, losses=losses, blocks=self._blocks(),
            database_errors=dict(parts.database.failures), disk_free=shutil.disk_usage(parts.settings.home).free,
        )  # fmt: skip

    def _blocks(self) -> dict[str, int] | None:
        registry: Any = self._jobs.parts.registry
        try:
            return registry.counts()
        except DnaError:
            return None

    def _counted(self) -> tuple[JobCount, ...]:
        found: Counter[tuple[str, str]] = Counter()
        known: dict[str, tuple[int, str]] = {}
        for workspace in self._jobs.workspaces():
            stamp, status = self._status(workspace)
            known[workspace.id] = stamp, status
            found[workspace.id.partition("-")[0], status] += 1
        self._known = known
        return tuple(JobCount(kind=kind, status=status, n=n) for (kind, status), n in sorted(found.items()))

    def _status(self, workspace: Workspace) -> tuple[int, str]:
        """How the job stands. One that ended is not looked at again until its directory changes: a resumed one's does."""
        try:
            stamp = workspace.directory.stat().st_mtime_ns
            before = self._known.get(workspace.id)
            if before is not None and before[0] == stamp and before[1] in ENDED:
                return before
            return stamp, self._jobs.status(workspace)
        except (OSError, DnaError):  # removed meanwhile, or damaged
            return 0, UNKNOWN
