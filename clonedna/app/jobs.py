"""Durable jobs: a DBOS workflow for each long thing, a step for each stage; nobody else knows DBOS.

A job's process may die at any moment: the next one goes on behind the last finished stage. Each job is its own DBOS executor, so
starting one process never picks up what another is still working on; a file lock, which dies with its process, keeps two from the same job.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from clonedna.app.minting import STAGES, Minting, Ordered
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.workspace import Workspace, now, space_errors
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import digest
from clonedna.core.errors import Cancelled, DnaError, Internal, JobNotFound
from clonedna.core.events import Emit, JobFailed, JobFinished, StageFinished, StageProgress, StageStarted
from clonedna.core.value import Value

APPLICATION_VERSION = "mint-1"
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

    def create(self, order: MintOrder) -> tuple[Workspace, bool]:
        """A job for ``order``, and whether it is an unfinished one of the same order that goes on."""
        wanted = digest(order)
        for view in self.views():
            workspace = Workspace(self.directory / view.id)
            if view.status == "interrupted" and digest(workspace.read("order.json", Ordered).order) == wanted:
                return workspace, True
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        workspace = Workspace(self.directory / f"mint-{stamp}-{secrets.token_hex(3)}")
        with space_errors(workspace.directory):
            workspace.directory.mkdir(parents=True)
        workspace.write("order.json", Ordered(order=order, created_at=now()))
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

    def views(self) -> list[JobView]:
        """All jobs, newest first."""
        if not self.directory.is_dir():
            return []
        names = sorted((p.name for p in self.directory.iterdir() if (p / "order.json").exists()), reverse=True)
        return [self.view(Workspace(self.directory / name)) for name in names]

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
        result = workspace.read("result.json", Result) if workspace.exists("result.json") else None
        return JobView(
            id=workspace.id, status=self._status(workspace, result), target=ordered.order.target,
            authors=tuple(str(a) for a in ordered.order.authors), created_at=ordered.created_at, done=tuple(done), doing=doing,
            percent=percent, block=str(result.block) if result and result.block else None, error=result.error if result else None,
        )  # fmt: skip

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
        """Ask the job to stop: the running process does at its next event; one that is not running will not start by itself."""
        workspace.write("cancel", {"at": now()})

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
            if workspace.exists("result.json"):
                before = workspace.read("result.json", Result)
                if before.block:
                    return before.block
                (workspace.directory / "result.json").unlink()
            (workspace.directory / "cancel").unlink(missing_ok=True)
            emit = workspace.emitter(listen)
            began = time.monotonic()
            try:
                reference = _Workflow(workspace, Minting(workspace, self.parts, emit)).finish(
                    self.directory / "workflows.sqlite"
                )
            except DnaError as error:
                self._failed(workspace, listen, error)
                raise
            emit(
                JobFinished(
                    block=str(reference),
                    status="rejected" if reference.status == "rejected" else "registered",
                    seconds=round(time.monotonic() - began, 2),
                )
            )
            workspace.write("result.json", Result(block=reference))
            workspace.clean()
            return reference

    @staticmethod
    def _failed(workspace: Workspace, listen: Emit, error: DnaError) -> None:
        failed = JobFailed(code=error.code, message=error.message, hint=error.hint)
        if not isinstance(error, Cancelled):
            workspace.write("result.json", Result(error=failed))
        listen(failed)


class _Workflow:
    """The DBOS side of one job: start, go on after a crash, fork after a failure, resume after a cancel."""

    def __init__(self, workspace: Workspace, minting: Minting) -> None:
        self.job, self.workspace, self.minting = workspace.id, workspace, minting
        self.failure: DnaError | None = None

    def finish(self, database: Path) -> BlockRef:
        from dbos import DBOS, SetWorkflowID

        DBOS(
            config={
                "name": "clone-dna", "system_database_url": f"sqlite:///{database}",
                "executor_id": self.job, "application_version": APPLICATION_VERSION,
                "log_level": "CRITICAL", "console_log_level": "CRITICAL",
            }  # type: ignore[typeddict-unknown-key]
        )  # fmt: skip
        try:

            @DBOS.step(name="stage")
            def stage(name: str) -> str:
                return self._stage(name)

            @DBOS.workflow(name="mint")
            def mint(stages: list[str]) -> dict[str, str]:
                return {name: stage(name) for name in stages}

            DBOS.launch()
            attempts = DBOS.list_workflows(workflow_id_prefix=self.job, load_input=False, load_output=False)
            latest = max(attempts, key=lambda attempt: attempt.created_at or 0) if attempts else None
            with SetWorkflowID(f"{self.job}.{len(attempts) + 1}"):
                if latest is None:
                    handle = DBOS.start_workflow(mint, list(STAGES))
                elif latest.status == "ERROR":
                    finished = [step for step in DBOS.list_workflow_steps(latest.workflow_id) if step["error"] is None]
                    handle = DBOS.fork_workflow(latest.workflow_id, len(finished) + 1)
                else:
                    handle = DBOS.retrieve_workflow(latest.workflow_id)
            digests: dict[str, str] = handle.get_result()
        except DnaError:
            raise
        except Exception as error:
            raise self.failure or Internal(f"the job's workflow failed: {error}", "try: dna jobs resume") from error
        finally:
            DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        self._check(digests)
        return self.workspace.read("stages/register.json", BlockRef)

    def _stage(self, name: str) -> str:
        try:
            return self.minting.run(name)
        except DnaError as error:
            self.failure = error
            raise
        except OSError as error:
            with space_errors(self.workspace.directory):
                raise
            raise Internal(f"stage {name}: {error}", "try: dna jobs resume") from error

    def _check(self, digests: dict[str, str]) -> None:
        """What the workflow remembers must be what stands in the workspace."""
        from clonedna.core.canonical import sha256

        for name, expected in digests.items():
            data = (self.workspace.directory / "stages" / f"{name}.json").read_bytes()
            if sha256(data) != expected:
                raise Internal(f"job {self.job}: the result of stage {name} was changed", "start the mint again")


def stop_now(message: str) -> None:
    """Leave the process at once, as a kill would: whole files only, and the job goes on behind its last finished stage."""
    os.write(2, message.encode())
    os._exit(130)
