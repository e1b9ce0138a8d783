"""The jobs of one home: made, found, seen, followed, cancelled, and carried out in the foreground of this process.

A job is a directory (``clonedna.app.workspace``), and its directory is the truth: its order, its events, how it ended. One that a server or
a worker is to carry out also has ``queued.json`` and an empty file of its name in ``jobs/queue/``, which goes when the job ends. Ids hold
the moment they were given out, never twice and never going back, whatever the clock does: their order is the order of the jobs.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from clonedna.app.job_durable import Durable
from clonedna.app.job_values import ENDED, JobOrdered, JobView, Order, Queued, Result, Status, target_of
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.workspace import LOCK_SECONDS, Workspace, held, now, space_errors, write_atomic
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import digest
from clonedna.core.errors import Internal, JobNotFound, Overloaded, TimedOut
from clonedna.core.events import Emit, StageFinished, StageProgress, StageStarted
from clonedna.core.value import Value

CREATE_SECONDS = 30.0
FOLLOW_SECONDS = 0.3
BUSY_SECONDS = 30  # after which a full queue is worth asking again
_STAMP = "%Y%m%d-%H%M%S%f"
ID = re.compile(r"^[a-z]{1,20}-(?P<stamp>\d{8}-\d{9})-[0-9a-f]{6}$")


class Jobs:
    """All jobs of one home directory."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.settings, self.parts = settings, parts
        self.directory = settings.jobs_directory
        self.queue = self.directory / "queue"

    # Made.

    def create(
        self, order: Order, *, files: Mapping[str, Path] | None = None, notes: Mapping[str, Value] | None = None
    ) -> tuple[Workspace, bool]:
        """A job for ``order``, and whether it is an unfinished one of the same order that goes on.

        ``files``: the given files by their SHA-256; the job keeps copies. With ``notes`` (values to keep in the job's directory, by
        file name) the job is always a new one.
        """
        wanted = digest(order)
        for workspace in self.workspaces() if notes is None else ():
            if self.status(workspace) == "interrupted" and digest(self.ordered(workspace).order) == wanted:
                return workspace, True
        with self.creating():
            return self.put(order, files=files, notes=notes), False

    @contextmanager
    def creating(self) -> Generator[None]:
        """Held while a job is given its id, by one thread of one process at a time. Raises ``TimedOut``, ``NoSpace``."""
        with space_errors(self.queue):
            self.queue.mkdir(parents=True, exist_ok=True)
        with held(self.directory / "create.lock", wait=CREATE_SECONDS) as free:
            if not free:
                raise TimedOut(f"another process has been giving out jobs for {CREATE_SECONDS:g} s", "try again")
            yield

    def put(
        self, order: Order, *, files: Mapping[str, Path] | None = None, notes: Mapping[str, Value] | None = None,
        queued: Queued | None = None, job_id: str | None = None,
    ) -> Workspace:  # fmt: skip
        """A new job, while ``creating`` is held. ``queued``: for servers and workers, in its turn; ``job_id``: from ``next_id``."""
        workspace = Workspace(self.directory / (job_id or self.next_id(order.kind)))
        try:
            with space_errors(workspace.directory):
                workspace.directory.mkdir(parents=True, exist_ok=True)
            for name, path in (files or {}).items():
                write_atomic(workspace.directory / "given" / name, path.read_bytes())
            for name, value in (notes or {}).items():
                workspace.write(name, value)
            if queued is not None:
                workspace.write("queued.json", queued)
                self.enter(workspace)
            workspace.write("order.json", JobOrdered(order=order, created_at=now()))  # last: from here on it is a job
        except BaseException:
            shutil.rmtree(workspace.directory, ignore_errors=True)
            self.leave(workspace)
            raise
        return workspace

    def next_id(self, kind: str) -> str:
        """An id behind all others. Call it while ``creating`` is held."""
        stamps = [match["stamp"] for name in self._names() if (match := ID.match(name))]
        stamp = datetime.now(UTC).strftime(_STAMP)[:-3]
        if stamps and (last := max(stamps)) >= stamp:
            after = datetime.strptime(f"{last}000", _STAMP).replace(tzinfo=UTC) + timedelta(milliseconds=1)
            stamp = after.strftime(_STAMP)[:-3]
        return f"{kind}-{stamp}-{secrets.token_hex(3)}"

    # The queue.

    def enter(self, workspace: Workspace) -> None:
        """Let the job be seen by those who look for work. Raises ``NoSpace``."""
        with space_errors(self.queue):
            self.queue.mkdir(parents=True, exist_ok=True)
            (self.queue / workspace.id).touch()

    def leave(self, workspace: Workspace) -> None:
        """The job is not to be carried out any more, or not yet again."""
        (self.queue / workspace.id).unlink(missing_ok=True)

    def waiting(self) -> list[Workspace]:
        """Those in the queue, oldest first; some of them may run, or have ended a moment ago."""
        try:
            names = os.listdir(self.queue)
        except FileNotFoundError:
            return []
        found = sorted((name for name in names if ID.match(name)), key=_order)
        for name in found:
            if not (self.directory / name).exists():  # a job that somebody removed
                (self.queue / name).unlink(missing_ok=True)
        return [Workspace(self.directory / name) for name in found if (self.directory / name / "order.json").exists()]

    def refuse_full(self) -> None:
        """Raises ``Overloaded`` when as many jobs wait as may."""
        most = self.settings.max_waiting_jobs
        if sum(self.status(workspace) == "queued" for workspace in self.waiting()) >= most:
            raise Overloaded(
                f"{most} jobs are waiting already", "wait for some of them, or cancel them", retry_after=BUSY_SECONDS
            )

    # Found.

    def find(self, job_id: str | None) -> Workspace:
        """The job called ``job_id`` (a unique beginning is enough), or the latest unfinished one. Raises ``JobNotFound``."""
        if job_id is None:
            for workspace in self.workspaces():
                if self.status(workspace) not in ("finished", "running"):
                    return workspace
            raise JobNotFound("no unfinished job", "see all jobs with: dna jobs ls")
        chosen = [one.id for one in self.workspaces() if one.id == job_id or (job_id and one.id.startswith(job_id))]
        if job_id not in chosen and len(chosen) != 1:
            raise JobNotFound(f"{len(chosen) or 'no'} jobs match {job_id[:80]!r}", "see all jobs with: dna jobs ls")
        return Workspace(self.directory / (job_id if job_id in chosen else chosen[0]))

    def workspaces(self) -> list[Workspace]:
        """All jobs' directories, newest first."""
        names = sorted(self._names(), key=_order, reverse=True)
        return [Workspace(self.directory / name) for name in names if (self.directory / name / "order.json").exists()]

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.directory) if name not in ("queue", "keys")]
        except FileNotFoundError:
            return []

    # Seen.

    def views(self) -> list[JobView]:
        """All jobs, newest first."""
        return [self.view(workspace) for workspace in self.workspaces()]

    @staticmethod
    def ordered(workspace: Workspace) -> JobOrdered:
        """What was asked, and when."""
        return workspace.read("order.json", JobOrdered)

    def view(self, workspace: Workspace) -> JobView:
        """The job as it is now."""
        ordered = self.ordered(workspace)
        order, status = ordered.order, self.status(workspace)
        done: list[str] = []
        doing, percent = None, None
        for _, _, event in workspace.events():
            if isinstance(event, StageStarted):
                doing, percent = event.stage, None
            elif isinstance(event, StageProgress) and event.total:
                percent = round(100 * event.done / event.total, 1)
            elif isinstance(event, StageFinished):
                done, doing, percent = [s for s in done if s != event.stage] + [event.stage], None, None
        result = self.result(workspace)
        return JobView(
            id=workspace.id, kind=order.kind, status=status, target=target_of(order),
            authors=tuple(str(a) for a in order.authors) if isinstance(order, MintOrder) else (),
            created_at=ordered.created_at, done=tuple(done), doing=None if status == "finished" else doing, percent=percent,
            block=str(result.block) if result and result.block else None, error=result.error if result else None,
        )  # fmt: skip

    @staticmethod
    def result(workspace: Workspace) -> Result | None:
        """How the job ended; ``None`` while it has not."""
        return workspace.read("result.json", Result) if workspace.exists("result.json") else None

    def status(self, workspace: Workspace) -> Status:
        """How the job stands. ``queued`` goes on by itself where a server or worker runs, ``interrupted`` when somebody says so."""
        result = self.result(workspace)
        if result and result.well:
            return "finished"
        if workspace.running():
            return "running"
        if workspace.exists("cancel"):
            return "cancelled"
        if result:
            return "failed"
        return "queued" if workspace.exists("queued.json") else "interrupted"

    def follow(self, workspace: Workspace, *, wait: bool) -> Iterator[tuple[int, str, Any]]:
        """The job's events; with ``wait`` until it no longer runs or waits for its turn."""
        tail = workspace.tail()
        while True:
            open_still = self.status(workspace) in ("running", "queued")
            yield from tail.read()
            if not wait or not open_still:
                return
            time.sleep(FOLLOW_SECONDS)

    # Stopped, and gone on with.

    def cancel(self, workspace: Workspace) -> None:
        """Ask the job to stop: the running process does at its next step; one that is not running will not start by itself."""
        workspace.write("cancel", {"at": now()})

    def revive(self, workspace: Workspace) -> Result | None:
        """Take back a cancel and forget a failure, so that the job can go on; its result when there is nothing left to do.

        Call it while the job's lock is held, or is known to be free.
        """
        before = self.result(workspace)
        if before is not None and before.well:
            return before
        (workspace.directory / "result.json").unlink(missing_ok=True)
        (workspace.directory / "cancel").unlink(missing_ok=True)
        return None

    def again(self, workspace: Workspace) -> None:
        """Put a job of servers and workers back into the queue, whatever stopped it. Raises ``JobBusy`` while it runs, ``NoSpace``."""
        with workspace.lock(wait=LOCK_SECONDS):
            if self.revive(workspace) is None:
                self.enter(workspace)

    def run(self, workspace: Workspace, listen: Emit) -> BlockRef:
        """Run a mint to its end in this process, from where it stopped. Raises what the failing stage raised."""
        result = self.carry_out(workspace, listen)
        if result.block is None:
            raise Internal(f"job {workspace.id} ended without a block", "please report this")
        return result.block

    def carry_out(self, workspace: Workspace, listen: Emit) -> Result:
        """Run any job to its end in this process, from where it stopped. Raises what the failing stage raised, ``JobBusy``."""
        with workspace.lock():
            result = self.revive(workspace)
            if result is None:
                durable = Durable(self.parts, workspace.id)
                with durable.opened():
                    result = durable.finish(workspace, listen)
            self.leave(workspace)
            return result


def _order(job_id: str) -> tuple[str, str]:
    """What ids are sorted by: when they were given out."""
    match = ID.match(job_id)
    return (match["stamp"], job_id) if match else ("", job_id)


def stop_now(message: str) -> None:
    """Leave the process at once, as a kill would: whole files only, and the job goes on behind its last finished stage."""
    os.write(2, message.encode())
    os._exit(130)


__all__ = ["ENDED", "ID", "JobView", "Jobs", "Result", "stop_now"]
