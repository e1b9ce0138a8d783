"""Durable jobs: a DBOS workflow for each long thing, a step for each stage; nobody else knows DBOS.

A job's process may die at any moment: the next one goes on behind the last finished stage, and inside a training behind its last
checkpoint. Two ways to run one: ``Jobs.run`` in the foreground of this process, and ``Background``, several at once beside a server.

Each foreground job is a DBOS application and executor of its own, all jobs of a server are one; so no process ever picks up what belongs
to another. A file lock, which dies with its process, keeps two from the same job. An attempt that ended without a result is followed
by a new one, which takes over the digests of the stages that are finished.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from clonedna.app.minting import Minting, Ordered, stages_of
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.workspace import Workspace, now, space_errors, write_atomic
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import digest, sha256
from clonedna.core.errors import DnaError, Internal, Interrupted, JobBusy, JobNotFound
from clonedna.core.events import Emit, JobFailed, JobFinished, StageFinished, StageProgress, StageStarted, silent
from clonedna.core.value import Value

if TYPE_CHECKING:
    from dbos import WorkflowHandle

STAGES_VERSION = "mint-2"  # changes when what the stages leave does: an older attempt is then not taken over
SERVER = "clone-dna-server"
QUEUE = "training"
POLL_SECONDS = 0.5
Status = Literal["running", "interrupted", "finished", "failed", "cancelled"]


class Result(Value):
    """How a job ended. ``block`` where it made one; ``error`` otherwise."""

    block: BlockRef | None = None
    error: JobFailed | None = None


class JobView(Value):
    """A job as faces show it; ``done`` and ``doing`` are stages, ``percent`` is of the stage that is being done."""

    id: str
    status: Status
    target: str
    authors: tuple[str, ...]
    created_at: str
    done: tuple[str, ...]
    doing: str | None
    percent: float | None
    block: str | None
    error: JobFailed | None


class Jobs:
    """All jobs of one home directory."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.settings, self.parts = settings, parts
        self.directory = settings.jobs_directory

    def create(
        self, order: MintOrder, *, files: Mapping[str, Path] | None = None, notes: Mapping[str, Value] | None = None
    ) -> tuple[Workspace, bool]:
        """A job for ``order``, and whether it is an unfinished one of the same order that goes on.

        ``files``: the given files by their SHA-256; the job keeps copies. With ``notes`` (values to keep in the job's directory, by
        file name) the job is always a new one.
        """
        wanted = digest(order)
        for view in self.views() if notes is None else ():
            workspace = Workspace(self.directory / view.id)
            if view.status == "interrupted" and digest(workspace.read("order.json", Ordered).order) == wanted:
                return workspace, True
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S%f")[:-3]
        workspace = Workspace(self.directory / f"mint-{stamp}-{secrets.token_hex(3)}")
        with space_errors(workspace.directory):
            workspace.directory.mkdir(parents=True)
        for name, path in (files or {}).items():
            write_atomic(workspace.directory / "given" / name, path.read_bytes())
        for name, value in (notes or {}).items():
            workspace.write(name, value)
        workspace.write("order.json", Ordered(order=order, created_at=now()))  # last: from here on it is a job
        return workspace, False

    def find(self, job_id: str | None) -> Workspace:
        """The job called ``job_id`` (a unique beginning is enough), or the latest unfinished one. Raises ``JobNotFound``."""
        views = self.views()
        if job_id is None:
            open_jobs = [view for view in views if view.status not in ("finished", "running")]
            if not open_jobs:
                raise JobNotFound("no unfinished job", "see all jobs with: dna jobs ls")
            return Workspace(self.directory / open_jobs[0].id)
        chosen = [view.id for view in views if view.id == job_id or view.id.startswith(job_id)]
        if job_id not in chosen and len(chosen) != 1:
            raise JobNotFound(f"{len(chosen) or 'no'} jobs match {job_id!r}", "see all jobs with: dna jobs ls")
        return Workspace(self.directory / (job_id if job_id in chosen else chosen[0]))

    def workspaces(self) -> list[Workspace]:
        """All jobs' directories, newest first."""
        if not self.directory.is_dir():
            return []
        names = sorted((p.name for p in self.directory.iterdir() if (p / "order.json").exists()), reverse=True)
        return [Workspace(self.directory / name) for name in names]

    def views(self) -> list[JobView]:
        """All jobs, newest first."""
        return [self.view(workspace) for workspace in self.workspaces()]

    def view(self, workspace: Workspace) -> JobView:
        ordered = workspace.read("order.json", Ordered)
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
            id=workspace.id, status=self._status(workspace, result), target=ordered.order.target,
            authors=tuple(str(a) for a in ordered.order.authors), created_at=ordered.created_at, done=tuple(done), doing=doing,
            percent=percent, block=str(result.block) if result and result.block else None, error=result.error if result else None,
        )  # fmt: skip

    @staticmethod
    def result(workspace: Workspace) -> Result | None:
        """How the job ended; ``None`` while it has not."""
        return workspace.read("result.json", Result) if workspace.exists("result.json") else None

    @staticmethod
    def _status(workspace: Workspace, result: Result | None) -> Status:
        if result and result.block:
            return "finished"
        if workspace.running():
            return "running"
        if workspace.exists("cancel"):
            return "cancelled"
        return "failed" if result else "interrupted"

    def cancel(self, workspace: Workspace) -> None:
        """Ask the job to stop: the running process does at its next step; one that is not running will not start by itself."""
        workspace.write("cancel", {"at": now()})

    def revive(self, workspace: Workspace) -> BlockRef | None:
        """Take back a cancel and forget a failure, so that the job can go on; the block when there is nothing left to do."""
        before = self.result(workspace)
        if before is not None and before.block:
            return before.block
        (workspace.directory / "result.json").unlink(missing_ok=True)
        (workspace.directory / "cancel").unlink(missing_ok=True)
        return None

    def follow(self, workspace: Workspace, *, wait: bool) -> Iterator[tuple[int, str, Any]]:
        """The job's events; with ``wait`` until it no longer runs."""
        seen = 0
        while True:
            running = workspace.running()
            for offset, at, event in workspace.events(seen):
                seen = offset + 1
                yield offset, at, event
            if not wait or not running:
                return
            time.sleep(0.3)

    def run(self, workspace: Workspace, listen: Emit) -> BlockRef:
        """Run the job to its end in this process, from where it stopped. Raises what the failing stage raised."""
        with workspace.lock():
            done = self.revive(workspace)
            if done is not None:
                return done
            durable = _Durable(self, workspace.id, listen)
            with durable.opened():
                return durable.finish(workspace)


class Background:
    """Jobs inside a server: at most ``parallel`` at once, the others wait in the order they came; all go on at the next start.

    Only for one process of a home at a time, and never beside ``Jobs.run`` in the same process: DBOS is one for a process.
    """

    def __init__(self, jobs: Jobs, *, parallel: int, ended: Callable[[Workspace], None] = lambda _: None) -> None:
        """``ended`` is called when a job has its block, before that is told; doing it twice must be as doing it once."""
        self.jobs = jobs
        self._durable = _Durable(jobs, SERVER, silent, parallel=parallel, ended=ended)
        self._open = ExitStack()

    def open(self, mine: Callable[[Workspace], bool]) -> None:
        """Start, and take up every job of ``mine`` that has neither ended nor was cancelled. Raises ``JobBusy`` beside another server."""
        self._durable.mine = mine
        with ExitStack() as stack:
            stack.enter_context(_server_lock(self.jobs.directory))
            stack.enter_context(self._durable.opened())
            for workspace in reversed(self.jobs.workspaces()):
                if mine(workspace) and self.jobs.view(workspace).status == "interrupted":
                    self._durable.take_up(workspace)
            self._open = stack.pop_all()

    def submit(self, workspace: Workspace) -> None:
        """Queue a job that is new, or was revived."""
        self._durable.take_up(workspace)

    def stop(self) -> None:
        """Have all that runs stop soon; nothing new begins."""
        self._durable.stopping.set()

    def close(self, timeout: float) -> None:
        """Stop what runs (training behind a checkpoint) and wait for that at most ``timeout`` seconds; it goes on at the next start."""
        self._durable.stop(timeout)
        self._open.close()


@contextmanager
def _server_lock(directory: Path) -> Generator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "server.lock").open("a") as handle:
        _take(handle)
        yield


def _take(handle: IO[str]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise JobBusy(
            "another server runs the jobs of this home", "stop it, or give this one another DNA_HOME"
        ) from None


class _Durable:
    """DBOS of this process, under one name: a foreground job's own (``parallel`` 0: its caller holds the job's lock), or the server's."""

    def __init__(
        self,
        jobs: Jobs,
        name: str,
        listen: Emit,
        *,
        parallel: int = 0,
        ended: Callable[[Workspace], None] = lambda _: None,
    ) -> None:
        self.jobs, self.name, self.listen, self.parallel, self.ended = jobs, name, listen, parallel, ended
        self.mine: Callable[[Workspace], bool] = lambda _: True
        self.version = f"{STAGES_VERSION}.{name}"  # DBOS wants another one for each application
        self._failures: dict[str, DnaError] = {}
        self._running: dict[str, Minting] = {}
        self.stopping = threading.Event()
        self._mint: Callable[[str, dict[str, str], list[str]], dict[str, str]] = self._work
        self._step: Callable[[str, str], str] = self._stage

    @contextmanager
    def opened(self) -> Generator[None]:
        from dbos import DBOS

        DBOS(
            config={
                "name": self.name, "system_database_url": f"sqlite:///{self.jobs.directory / 'workflows.sqlite'}",
                "executor_id": self.name, "application_version": self.version,
                "log_level": "CRITICAL", "console_log_level": "CRITICAL",
            }  # type: ignore[typeddict-unknown-key]
        )  # fmt: skip
        try:

            @DBOS.step(name="stage")
            def stage(job: str, name: str) -> str:
                return self._stage(job, name)

            @DBOS.workflow(name="mint")
            def mint(job: str, done: dict[str, str], stages: list[str]) -> dict[str, str]:
                return self._work(job, done, stages)

            self._step, self._mint = stage, mint
            DBOS.launch()
            if self.parallel:
                DBOS.register_queue(
                    QUEUE,
                    worker_concurrency=self.parallel,
                    polling_interval_sec=POLL_SECONDS,
                    on_conflict="always_update",
                )
            yield
        finally:
            DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)

    def take_up(self, workspace: Workspace) -> WorkflowHandle[dict[str, str]]:
        """Have the job worked on from where it stopped; gives the workflow that does."""
        from dbos import DBOS, SetWorkflowID

        # [] = of every application: a server's job may have been continued in the foreground, and the other way round.
        attempts = DBOS.list_workflows(workflow_id_prefix=f"{workspace.id}.", load_output=False, application_name=[])
        latest = max(attempts, key=lambda attempt: attempt.created_at or 0) if attempts else None
        if latest is not None and latest.status in ("PENDING", "ENQUEUED"):
            if latest.app_version == self.version:
                return DBOS.retrieve_workflow(latest.workflow_id)  # recovered at launch, or waiting in the queue
            DBOS.cancel_workflow(latest.workflow_id)
        stages = list(stages_of(workspace.read("order.json", Ordered).order))
        done = _finished(latest, stages) if latest is not None and _same_stages(latest) else {}
        arguments = workspace.id, done, [name for name in stages if name not in done]
        with SetWorkflowID(f"{workspace.id}.{len(attempts) + 1}"):
            if self.parallel:
                return DBOS.enqueue_workflow(QUEUE, self._mint, *arguments)
            return DBOS.start_workflow(self._mint, *arguments)

    def finish(self, workspace: Workspace) -> BlockRef:
        """Take the job up and wait for its end. Raises what it raised."""
        try:
            self.take_up(workspace).get_result()
        except Exception as error:
            raise self._failures.get(workspace.id) or Internal(
                f"the job's workflow failed: {error}", "try: dna jobs resume"
            ) from error
        return _block(workspace)

    def stop(self, timeout: float) -> None:
        """Have all running jobs stop, and wait for that."""
        self.stopping.set()
        deadline = time.monotonic() + timeout
        while self._running and time.monotonic() < deadline:
            time.sleep(0.05)

    # In the threads of DBOS.

    def _work(self, job: str, done: dict[str, str], stages: list[str]) -> dict[str, str]:
        """The workflow: ``stages`` behind those that are ``done``; gives the digests of all their values."""
        workspace = Workspace(self.jobs.directory / job)
        if not self.mine(workspace):
            raise Interrupted(f"job {job} is not for this server", "it goes on when one with its base starts")
        with workspace.lock() if self.parallel else nullcontext():  # JobBusy: another process says how it ends
            return self._held(workspace, done, stages)

    def _held(self, workspace: Workspace, done: dict[str, str], stages: list[str]) -> dict[str, str]:
        def stopped() -> None:
            if self.stopping.is_set():
                raise Interrupted(f"job {workspace.id} was stopped", "it goes on when the server starts again")
            workspace.stopped()

        before = self.jobs.result(workspace)
        if before is not None and before.block:  # killed behind its very last line
            workspace.clean()
            return done
        began = time.monotonic()
        try:
            emit = workspace.emitter(self.listen, stopped)
            self._running[workspace.id] = Minting(workspace, self.jobs.parts, emit, stopped)
            digests = done | {name: self._step(workspace.id, name) for name in stages}
            _check(workspace, digests)
            reference = workspace.read("stages/register.json", BlockRef)
            status: Literal["rejected", "registered"] = "rejected" if reference.status == "rejected" else "registered"
            self.ended(workspace)
            emit(JobFinished(block=str(reference), status=status, seconds=round(time.monotonic() - began, 2)))
            workspace.write("result.json", Result(block=reference))
            workspace.clean()
            return digests
        except DnaError as error:
            self._failed(workspace, error)
            raise
        except Exception as error:  # a fault of ours: nobody may wait for this job
            self._failed(workspace, failure := Internal(f"{type(error).__name__}: {error}", "please report this"))
            raise failure from error
        finally:
            self._running.pop(workspace.id, None)

    def _stage(self, job: str, name: str) -> str:
        """The step: one stage; gives its value's digest."""
        workspace = Workspace(self.jobs.directory / job)
        try:
            return self._running[job].run(name)
        except OSError as error:
            with space_errors(workspace.directory):
                raise
            raise Internal(f"stage {name}: {error}", "try: dna jobs resume") from error

    def _failed(self, workspace: Workspace, error: DnaError) -> None:
        self._failures[workspace.id] = error
        failed = JobFailed(code=error.code, message=error.message, hint=error.hint)
        # What a stopping server's parts answer is no failure of the job.
        if not isinstance(error, Interrupted) and not self.stopping.is_set():
            workspace.write("result.json", Result(error=failed))
        self.listen(failed)


def _same_stages(attempt: Any) -> bool:
    return str(attempt.app_version).startswith(f"{STAGES_VERSION}.")


def _finished(attempt: Any, stages: list[str]) -> dict[str, str]:
    """Digests of the stages that an attempt found finished or finished itself."""
    from dbos import DBOS

    _, done, todo = attempt.input["args"]
    steps = [step for step in DBOS.list_workflow_steps(attempt.workflow_id) if step["function_name"] == "stage"]
    ended = [step["output"] for step in steps if step["error"] is None]
    digests = done | dict(zip(todo, ended, strict=False))
    return {name: digests[name] for name in stages if name in digests}


def _check(workspace: Workspace, digests: Mapping[str, str]) -> None:
    """What the workflow remembers must be what stands in the workspace."""
    for name, expected in digests.items():
        if sha256((workspace.directory / "stages" / f"{name}.json").read_bytes()) != expected:
            raise Internal(f"job {workspace.id}: the result of stage {name} was changed", "start the mint again")


def _block(workspace: Workspace) -> BlockRef:
    result = workspace.read("result.json", Result)
    if result.block is None:
        raise Internal(f"job {workspace.id} ended without a block", "please report this")
    return result.block


def stop_now(message: str) -> None:
    """Leave the process at once, as a kill would: whole files only, and the job goes on behind its last finished stage."""
    os.write(2, message.encode())
    os._exit(130)
