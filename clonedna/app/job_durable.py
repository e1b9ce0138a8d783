"""DBOS, which nobody else knows: a workflow for each attempt at a job, a step for each of its stages.

A process may die at any moment; the next attempt takes over the digests of the stages that earlier ones finished, as DBOS has them. DBOS
itself never starts anything again, and its queues are not used: who may work on a job is decided by the job's lock, which the caller of
``finish`` holds. So no two processes, on one machine or several, ever work on one job, and none picks up what another one works on.

Its tables are in ``jobs/workflows.sqlite``, or in the schema ``dna_jobs`` of the PostgreSQL database that ``database_url`` names.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from clonedna.app.job_values import JobOrdered, Result
from clonedna.app.job_work import Work, ended, stages_of, work_of
from clonedna.app.parts import Parts
from clonedna.app.workspace import Workspace, space_errors
from clonedna.core.canonical import sha256
from clonedna.core.errors import DnaError, Internal, Interrupted, JobBusy, NoSpace, Unavailable
from clonedna.core.events import Emit, JobFailed, JobFinished

STAGES_VERSION = "mint-2"  # changes when what the stages leave does: an older attempt is then not taken over
POLL_SECONDS = 0.1
SCHEMA = "dna_jobs"
POOL = 5  # connections to PostgreSQL
OPEN = ("PENDING", "ENQUEUED", "DELAYED")
Ended = Callable[[Workspace], None]
_ONE = threading.Lock()  # a second DBOS in a process would be the first one, and its end the end of both


def nothing(_: Workspace) -> None:
    """An ``Ended`` that does nothing."""


class Durable:
    """DBOS of this process, under one name; there is one in a process at a time.

    ``ended`` is called when a job ends well, before that is told; doing it twice must be as doing it once.
    """

    def __init__(self, parts: Parts, name: str, *, ended: Ended = nothing) -> None:
        self.parts, self.name, self.ended = parts, name, ended
        self.version = f"{STAGES_VERSION}.{name}"  # DBOS wants another one for each application
        self.stopping = threading.Event()
        self._failures: dict[str, DnaError] = {}
        self._listening: dict[str, Emit] = {}
        self._working: dict[str, Work] = {}
        self._workflow: Callable[[str, dict[str, str], list[str]], dict[str, str]] = self._attempt
        self._step: Callable[[str, str], str] = self._stage

    @contextmanager
    def opened(self) -> Generator[None]:
        """DBOS, launched. Raises ``JobBusy`` where this process has one already, ``Unavailable`` when its database cannot be used, and what
        the catalogue's database raises."""
        from dbos import DBOS

        if not _ONE.acquire(blocking=False):
            raise JobBusy("this process runs jobs already", "run these in a process of their own")
        try:
            DBOS(config=self._config())  # type: ignore[arg-type]

            @DBOS.step(name="stage")
            def stage(job: str, name: str) -> str:
                return self._stage(job, name)

            @DBOS.workflow(name="mint")
            def mint(job: str, done: dict[str, str], stages: list[str]) -> dict[str, str]:
                return self._attempt(job, done, stages)

            self._step, self._workflow = stage, mint
            with database_errors():
                DBOS.launch()
            yield
        finally:
            try:
                DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
            finally:
                _ONE.release()

    def _config(self) -> dict[str, Any]:
        settings = self.parts.settings
        config: dict[str, Any] = {
            # An executor of its own: at its launch DBOS would take up what was pending under its name, without asking for the lock.
            "name": self.name, "executor_id": f"{self.name}-{secrets.token_hex(8)}", "application_version": self.version,
            "log_level": "CRITICAL", "console_log_level": "CRITICAL",
            # Its listener sleeps so long at a time, and is waited for at the end.
            "notification_listener_polling_interval_sec": POLL_SECONDS,
        }  # fmt: skip
        if self.parts.database.is_postgres and settings.database_url is not None:
            _ = self.parts.database.engine  # says what is wrong with the address, where DBOS would only fail
            shared = {"system_database_url": settings.database_url.get_secret_value(), "sys_db_pool_size": POOL}
            return config | shared | {"dbos_system_schema": SCHEMA}
        return config | {"system_database_url": f"sqlite:///{settings.jobs_directory / 'workflows.sqlite'}"}

    def finish(self, workspace: Workspace, listen: Emit) -> Result:
        """Carry the job out from where it stopped; the caller holds its lock. Raises what the failing stage raised."""
        self._listening[workspace.id] = listen
        self._failures.pop(workspace.id, None)
        try:
            with database_errors():
                self._take_up(workspace).get_result()
        except DnaError as error:
            raise self._failures.get(workspace.id, error) from error
        except Exception as error:
            raise self._failures.get(workspace.id) or Internal(
                f"the job's workflow failed: {error}", "try: dna jobs resume"
            ) from error
        finally:
            self._listening.pop(workspace.id, None)
            self._failures.pop(workspace.id, None)
        return workspace.read("result.json", Result)

    def _take_up(self, workspace: Workspace) -> Any:
        """A new attempt, behind what earlier ones finished; those that seem to go on are of dead processes, for the lock is held."""
        from dbos import DBOS, SetWorkflowID

        # [] = of every application: a server's job may have been continued in the foreground, and the other way round.
        attempts = DBOS.list_workflows(workflow_id_prefix=f"{workspace.id}.", load_output=False, application_name=[])
        latest = max(attempts, key=_number, default=None)  # by number: clocks may have been moved
        for attempt in attempts:
            if attempt.status in OPEN:
                DBOS.cancel_workflow(attempt.workflow_id)
        stages = list(stages_of(workspace.read("order.json", JobOrdered).order))
        done = _finished(latest, stages) if latest is not None and _same_stages(latest) else {}
        if not all((workspace.directory / "stages" / f"{name}.json").is_file() for name in done):
            done = {}  # what was finished is not here any more
        with SetWorkflowID(f"{workspace.id}.{_number(latest) + 1 if latest is not None else 1}"):
            return DBOS.start_workflow(self._workflow, workspace.id, done, [one for one in stages if one not in done])

    def stop(self, timeout: float) -> None:
        """Have all running jobs stop, and wait for that."""
        self.stopping.set()
        deadline = time.monotonic() + timeout
        while self._working and time.monotonic() < deadline:
            time.sleep(0.05)

    # In the threads of DBOS.

    def _workspace(self, job: str) -> Workspace:
        return Workspace(self.parts.settings.jobs_directory / job)

    def _attempt(self, job: str, done: dict[str, str], stages: list[str]) -> dict[str, str]:
        """The workflow: ``stages`` behind those that are ``done``; gives the digests of all their values."""
        workspace, listen = self._workspace(job), self._listening[job]

        def stopped() -> None:
            if self.stopping.is_set():
                raise Interrupted(f"job {job} was stopped", "it goes on when the server or worker starts again")
            workspace.stopped()

        before = workspace.read("result.json", Result) if workspace.exists("result.json") else None
        if before is not None and before.well:  # killed behind its very last line
            workspace.clean()
            return done
        began = time.monotonic()
        try:
            emit = workspace.emitter(listen, stopped)
            self._working[job] = work_of(workspace, self.parts, emit, stopped)
            digests = done | {name: self._step(job, name) for name in stages}
            self._end(workspace, digests, emit, began)
            return digests
        except SQLAlchemyError as error:  # of DBOS: no fault of the job, which can go on
            raise _told(error) from error
        except DnaError as error:
            self._failed(workspace, error, listen)
            raise
        except Exception as error:  # a fault of ours: nobody may wait for this job
            self._failed(
                workspace, failure := Internal(f"{type(error).__name__}: {error}", "please report this"), listen
            )
            raise failure from error
        finally:
            self._working.pop(job, None)

    def _end(self, workspace: Workspace, digests: Mapping[str, str], emit: Emit, began: float) -> None:
        _check(workspace, digests)
        result, status = ended(workspace, workspace.read("order.json", JobOrdered).order)
        self.ended(workspace)
        block, seconds = str(result.block) if result.block else "", round(time.monotonic() - began, 2)
        emit(JobFinished(block=block, status=status, seconds=seconds))
        workspace.write("result.json", result)
        workspace.clean()

    def _stage(self, job: str, name: str) -> str:
        """The step: one stage; gives its value's digest."""
        try:
            return self._working[job].run(name)
        except OSError as error:
            with space_errors(self._workspace(job).directory):
                raise
            raise Internal(f"stage {name}: {error}", "try: dna jobs resume") from error

    def _failed(self, workspace: Workspace, error: DnaError, listen: Emit) -> None:
        self._failures[workspace.id] = error
        failed = JobFailed(code=error.code, message=error.message, hint=error.hint)
        # What a stopping server's parts answer is no failure of the job.
        if not isinstance(error, Interrupted) and not self.stopping.is_set():
            with suppress(NoSpace):  # then it has not ended, and is tried again
                workspace.write("result.json", Result(error=failed))
        listen(failed)


@contextmanager
def database_errors() -> Generator[None]:
    """What DBOS's database says as ours. Raises ``NoSpace``, ``Unavailable``."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _told(error) from error


def _told(error: SQLAlchemyError) -> DnaError:
    first = str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200]
    return Unavailable(f"the jobs' database cannot be used: {first}", "see that it answers, then: dna jobs resume")


def _number(attempt: Any) -> int:
    """Which attempt at its job this is."""
    last = str(attempt.workflow_id).rpartition(".")[2]
    return int(last) if last.isdigit() else 0


def _same_stages(attempt: Any) -> bool:
    return str(attempt.app_version).startswith(f"{STAGES_VERSION}.")


def _finished(attempt: Any, stages: list[str]) -> dict[str, str]:
    """Digests of the stages that an attempt found finished or finished itself."""
    from dbos import DBOS

    _, done, todo = attempt.input["args"]
    steps = [step for step in DBOS.list_workflow_steps(attempt.workflow_id) if step["function_name"] == "stage"]
    well = [step["output"] for step in steps if step["error"] is None]
    digests = done | dict(zip(todo, well, strict=False))
    return {name: digests[name] for name in stages if name in digests}


def _check(workspace: Workspace, digests: Mapping[str, str]) -> None:
    """What the workflow remembers must be what stands in the workspace."""
    for name, expected in digests.items():
        if sha256((workspace.directory / "stages" / f"{name}.json").read_bytes()) != expected:
            raise Internal(f"job {workspace.id}: the result of stage {name} was changed", "start the job again")
