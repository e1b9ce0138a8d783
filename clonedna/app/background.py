"""Jobs beside a server, or in a worker: at most ``parallel`` at once in this process, the others wait in the order they came.

What waits is in ``jobs/queue/``, for every process of every machine that shares the home. Whoever gets a job's lock works on it, and a
process that dies lets go of its locks: another one, or the next one, goes on with its job. A job that could not even say how it failed
(a full disk, a database that is away) is tried again, later each time; where it can, it says so in its log. Times to wait are measured by
a clock that nobody moves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress

import anyio
import anyio.to_thread

from clonedna.app.figures import JobFigures
from clonedna.app.job_durable import Durable, Ended, nothing
from clonedna.app.job_values import Queued
from clonedna.app.jobs import Jobs
from clonedna.app.logs import about_job, heard, tell
from clonedna.app.workspace import Workspace, held
from clonedna.core.errors import DnaError, JobBusy
from clonedna.core.events import Emit, Note

NAME = "clone-dna-jobs"
LOOK_SECONDS = 1.0
LONGEST_PAUSE = 300.0
log = logging.getLogger(__name__)


class Background:
    """The jobs of one home whose base this process holds. Never two in a process, nor beside ``Jobs.run``: DBOS is one for a process (with
    ``parallel`` 0 it is not used)."""

    def __init__(self, jobs: Jobs, base: str, *, parallel: int, alone: bool = True, ended: Ended = nothing) -> None:
        """``alone``: refuse to run beside another one that is (servers are, workers not); ``ended``: as ``Durable`` has it."""
        self.jobs, self.base, self.parallel, self.alone = jobs, base, parallel, alone
        self.figures = JobFigures()
        self._durable = Durable(jobs.parts, NAME, ended=ended)
        self._open = ExitStack()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._working: dict[str, threading.Thread] = {}
        self.worked = 0  # jobs that were begun here
        self._pauses: dict[str, tuple[int, float]] = {}
        self._looking: threading.Thread | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """From here on jobs run; at the end they stop at a checkpoint, and go on at the next start. Raises as ``open``."""
        await anyio.to_thread.run_sync(self.open)
        try:
            yield
        finally:
            self.stop()  # at once, should the waiting below be cut short
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)

    def open(self) -> None:
        """Make what all jobs share, once, then begin. Raises ``JobBusy`` beside another server of this home, or where this process runs
        jobs already; ``Unavailable``."""
        parts = self.jobs.parts
        _ = parts.signer.key_id, parts.store, parts.registry, parts.consents
        parts.engine(self.base)
        self._durable.stopping.clear()
        with ExitStack() as stack:
            self.jobs.queue.mkdir(parents=True, exist_ok=True)
            if self.alone and not stack.enter_context(held(self.jobs.directory / "server.lock", wait=0)):
                raise JobBusy(
                    "another server runs the jobs of this home",
                    "stop it, give this one another DNA_HOME, or start a worker: dna worker",
                )
            if self.parallel:  # else workers do them
                stack.enter_context(self._durable.opened())
            self._adopt()
            self._open = stack.pop_all()
        self._looking = threading.Thread(target=self._look_for_ever, name="jobs", daemon=True)
        self._looking.start()

    def _adopt(self) -> None:
        """Fine-tuning jobs from before there was a queue are in it from now on."""
        for workspace in self.jobs.workspaces():
            if workspace.exists("tuning.json") and self.jobs.status(workspace) == "interrupted":
                order = self.jobs.ordered(workspace).order
                if order.kind == "mint":
                    workspace.write("queued.json", Queued(base=order.base))
                    self.jobs.enter(workspace)

    def look(self) -> None:
        """Something was put into the queue: look at once."""
        self._wake.set()

    def idle(self) -> bool:
        """Whether nothing runs here, and nothing waits that this process could take now."""
        return not self._working and not any(self._mine(one) for one in self.jobs.waiting())

    def stop(self) -> None:
        """Have all that runs stop soon; nothing new begins."""
        self._durable.stopping.set()
        self._wake.set()

    def close(self) -> None:
        """Stop what runs (training behind a checkpoint) and wait for that at most ``drain_seconds``; it goes on at the next start."""
        self.stop()
        deadline = time.monotonic() + self.jobs.settings.drain_seconds
        for thread in (self._looking, *list(self._working.values())):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._open.close()

    # In threads of its own.

    def _look_for_ever(self) -> None:
        while not self._durable.stopping.is_set():
            try:
                self._look_once()
            except Exception as error:  # a full disk, a file system that is away: the next look may find it there again
                tell(log, "warning", "queue_not_read", error=type(error).__name__)
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def _look_once(self) -> None:
        for workspace in self.jobs.waiting():
            with self._lock:
                if self._durable.stopping.is_set() or len(self._working) >= self.parallel:
                    return
                if workspace.id in self._working or self._paused(workspace.id):
                    continue
                if not self._mine(workspace):
                    continue
                thread = threading.Thread(target=self._attend, args=(workspace,), name=workspace.id, daemon=True)
                self._working[workspace.id] = thread
            thread.start()

    def _mine(self, workspace: Workspace) -> bool:
        """Whether the job is for this base, and nobody works on it as far as can be seen."""
        try:
            wanted = workspace.read("queued.json", Queued).base
        except DnaError:
            return False
        names = (self.base, self.jobs.parts.engine(self.base).base.id)
        return wanted in names and not workspace.running()

    def _paused(self, job: str) -> bool:
        return job in self._pauses and time.monotonic() < self._pauses[job][1]

    def _attend(self, workspace: Workspace) -> None:
        """Work on a job, if it is still to be done and nobody else got it."""
        try:
            with workspace.lock(wait=0), about_job(workspace.id):
                if self.jobs.result(workspace) is None and not workspace.exists("cancel"):
                    self._carry_out(workspace)
                result = self.jobs.result(workspace)
                if result is not None and result.well:
                    workspace.clean()  # whoever ended it may have been killed before
                if result is not None or workspace.exists("cancel"):
                    self.jobs.leave(workspace)
        except JobBusy:
            pass
        except Exception as error:
            self._pause(workspace.id)
            tell(log, "warning", "job_not_begun", job=workspace.id, error=type(error).__name__)
        finally:
            with self._lock:
                self._working.pop(workspace.id, None)
            self._wake.set()

    def _carry_out(self, workspace: Workspace) -> None:
        self.worked += 1
        listen = _listener(workspace, self.figures)
        try:
            self._durable.finish(workspace, listen)
            self._pauses.pop(workspace.id, None)
        except DnaError as error:  # what the job could not keep as its end is tried again
            if workspace.exists("cancel"):
                self._pauses.pop(workspace.id, None)
            elif self.jobs.result(workspace) is None and not self._durable.stopping.is_set():
                seconds = self._pause(workspace.id)
                tell(log, "warning", "job_tried_again", job=workspace.id, code=error.code)
                said = f"the job could not go on ({error.code}: {error.message}); it is tried again in {seconds:.0f} s"
                with suppress(DnaError, OSError):  # a full disk has no room for this either
                    workspace.emitter(listen, lambda: None)(Note(level="warning", text=said))

    def _pause(self, job: str) -> float:
        """Seconds until the job is tried again."""
        turns = self._pauses.get(job, (0, 0.0))[0] + 1
        seconds = min(LONGEST_PAUSE, 2.0**turns)
        self._pauses[job] = turns, time.monotonic() + seconds
        return seconds


def _listener(workspace: Workspace, figures: JobFigures) -> Emit:
    """Writes what the job says into this process's log; jobs speak in threads that do not know which one they are of."""

    def listen(event: object) -> None:
        figures.heard(workspace.id, event)
        with about_job(workspace.id):
            heard(event)

    return listen
