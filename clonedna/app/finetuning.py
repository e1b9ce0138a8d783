"""Fine-tuning as a server offers it: jobs that mint a block from given pairs, in the background, beside serving on the same engine.

A job here is a mint like any other: the same stages, events, checkpoints, gate and signature; ``dna jobs`` shows it, too. What is
refused at once: a model that is not this server's base, no licence, files that are not there, hyperparameters that cannot be. What the
file's lines are is known when the job reads them. A block that the gate rejects is a job that failed, with the reasons.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import time
from datetime import datetime
from functools import partial
from typing import Any, Literal

from pydantic import Field, ValidationError

from clonedna.app.background import Background
from clonedna.app.job_values import JobView, Queued
from clonedna.app.jobs import Jobs
from clonedna.app.orders import given_order
from clonedna.app.parts import Parts
from clonedna.app.uploads import Upload, Uploads
from clonedna.app.workspace import Workspace
from clonedna.core.block import BlockRef, GivenFile, GivenPairs, MintOrder
from clonedna.core.canonical import strict_json
from clonedna.core.errors import DnaError, InputError, JobNotFound, LicenceUnknown, NotFound
from clonedna.core.events import JobFailed, JobFinished, Note, StageFinished, StageProgress, StageStarted
from clonedna.core.value import Value
from clonedna.core.work import Identity
from clonedna.mint.papers import slug
from clonedna.mint.values import Trained

NOTES = "tuning.json"
LEARNING_RATE = 1e-3
_JOB = re.compile(r"^mint-[0-9a-f-]{10,60}$")
Auto = Literal["auto"]
JobStatus = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]


class Hyperparameters(Value):
    """``batch_size`` in examples; ``learning_rate_multiplier`` multiplies our 0.001. ``auto``: 3 epochs, as many examples as make
    about 2,048 tokens, 1."""

    n_epochs: Auto | int = "auto"
    batch_size: Auto | int = "auto"
    learning_rate_multiplier: Auto | float = "auto"


class Person(Value):
    """Whose examples these are, and what may be done with them. Nothing of it is guessed: without a licence there is no job.

    ``name`` and ``email`` are the person's; ``handle`` is the block's name. ``consent``: ``self`` when this machine's git identity is
    that person, ``local-only`` otherwise (such a block can never be shared).
    """

    name: str | None = Field(default=None, min_length=1, max_length=200)
    email: str = Field(default="", max_length=200)
    handle: str | None = Field(default=None, min_length=1, max_length=64)
    licence: str = Field(default="", max_length=256)
    consent: Literal["local-only", "self"] = "local-only"


class TuningAsk(Value):
    """What a client asks for."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int = Field(ge=0, lt=2**31)
    metadata: dict[str, str] | None = None
    person: Person | None = None


class TuningJob(Value):
    """A job as a client sees it: what was asked, and how it stands. Times are seconds since 1970."""

    id: str
    asked: TuningAsk
    status: JobStatus
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    block: str | None
    trained_tokens: int | None
    result_files: tuple[str, ...]
    error: JobFailed | None
    error_param: str | None


class TuningEvent(Value):
    """One line of a job's log; ``data`` has a training step's figures."""

    id: str
    offset: int
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, int | float | None] | None = None


class _Results(Value):
    file: str


class FineTuning:
    """Jobs and files of one server, on the base that it serves. Its methods block: call them from worker threads."""

    def __init__(self, parts: Parts, base: str, jobs: Jobs, background: Background) -> None:
        self.parts, self.base, self.jobs, self._background = parts, base, jobs, background
        self.files = Uploads(parts.settings)

    def create(self, ask: TuningAsk) -> TuningJob:
        """A job for ``ask``, in the queue.

        Raises ``InputError`` (``param`` names the field), ``NotFound``, ``LicenceUnknown``, ``Overloaded``.
        """
        person = ask.person or _person_of(ask.metadata)
        order, files = self._order(ask, person)
        contents = {upload.sha256: self.files.content(upload) for upload in files}
        notes = {NOTES: ask.model_copy(update={"person": person})}
        with self.jobs.creating():
            self.jobs.refuse_full()
            workspace = self.jobs.put(order, files=contents, notes=notes, queued=Queued(base=self.base))
        self._background.look()
        return self._view(workspace)

    def list(self) -> list[TuningJob]:
        """All, newest first."""
        return [self._view(workspace) for workspace in self._mine()]

    def get(self, job_id: str) -> TuningJob:
        """Raises ``JobNotFound``."""
        return self._view(self._find(job_id))

    def cancel(self, job_id: str) -> TuningJob:
        """Stop a job at its next step. Raises ``InputError`` for one that has ended."""
        workspace = self._find(job_id)
        job = self._view(workspace)
        if job.status in ("succeeded", "failed", "cancelled"):
            raise InputError(f"job {job.id} has {job.status}", "only a job that waits or runs can be cancelled")
        self.jobs.cancel(workspace)
        return self._view(workspace)

    def resume(self, job_id: str) -> TuningJob:
        """Go on with a job that was cancelled or failed, from where it stopped. Raises ``InputError`` for any other."""
        workspace = self._find(job_id)
        job, result = self._view(workspace), self.jobs.result(workspace)
        if job.status not in ("cancelled", "failed") or (result and result.block) or workspace.running():
            raise InputError(f"job {job.id} is {job.status}", "only a job that was cancelled, or failed, can go on")
        self.jobs.again(workspace)
        self._background.look()
        return self._view(workspace)

    def events(self, job_id: str) -> list[TuningEvent]:
        """The job's log so far, oldest first, its end included."""
        workspace = self._find(job_id)
        found = [_event(workspace.id, *line) for line in workspace.events()]
        job = self._view(workspace)
        if job.status in ("failed", "cancelled"):
            text = f"{job.error.code}: {job.error.message}" if job.error else "the job was cancelled"
            last = found[-1] if found else None
            found.append(
                TuningEvent(
                    id=f"ftevent-{workspace.id}-end", offset=last.offset + 1 if last else 0,
                    created_at=job.finished_at or (last.created_at if last else job.created_at),
                    level="error" if job.error else "info", message=text,
                )
            )  # fmt: skip
        return found

    def _order(self, ask: TuningAsk, person: Person) -> tuple[MintOrder, list[Upload]]:
        self._check_model(ask.model)
        training = self._file(ask.training_file, "training_file")
        holdout = self._file(ask.validation_file, "validation_file") if ask.validation_file else None
        given = GivenPairs(
            training=_given(training), holdout=_given(holdout) if holdout else None, licence=person.licence
        )
        who = person.name or person.handle or ask.suffix or "unnamed"
        settings = ask.hyperparameters
        recipe: dict[str, Any] = {"seed": ask.seed}
        if settings.n_epochs != "auto":
            recipe["epochs"] = settings.n_epochs
        if settings.batch_size != "auto":
            if not 1 <= settings.batch_size <= 256:
                raise InputError(
                    f"batch_size {settings.batch_size}", "give 1 to 256", param="hyperparameters.batch_size"
                )
            recipe |= {"batch_examples": settings.batch_size, "batch_tokens": 2048 * settings.batch_size}
        if settings.learning_rate_multiplier != "auto":
            recipe["learning_rate"] = LEARNING_RATE * settings.learning_rate_multiplier
        try:
            return given_order(
                self.parts.settings, given=given, author=Identity(name=who, email=person.email), recipe=recipe,
                name=slug(person.handle or ask.suffix or who), base=self.base, consent=person.consent,
            ), [training, *([holdout] if holdout else [])]  # fmt: skip
        except LicenceUnknown as error:
            error.facts["param"] = "clone_dna.licence"
            raise
        except InputError as error:
            error.facts["param"] = "hyperparameters"
            raise

    def _check_model(self, model: str) -> None:
        base = self.parts.engine(self.base).base
        if model in (self.base, base.id):
            return
        try:
            known = self.parts.registry.resolve(model)
        except DnaError:
            raise NotFound(
                f"no model {model[:80]!r} to train on", f"give the base: {self.base}", param="model"
            ) from None
        raise InputError(
            f"{known.name}@{known.version} is a block, and continuing a block's training is not supported",
            f"train on its base: {self.base}", param="model",
        )  # fmt: skip

    def _file(self, file_id: str, param: str) -> Upload:
        upload = self.files.get(file_id, param=param)
        if upload.purpose != "fine-tune":
            raise InputError(f"{file_id} has the purpose {upload.purpose}", "upload it with fine-tune", param=param)
        return upload

    def _mine(self) -> list[Workspace]:
        return [workspace for workspace in self.jobs.workspaces() if workspace.exists(NOTES)]

    def _find(self, job_id: str) -> Workspace:
        workspace = Workspace(self.jobs.directory / job_id) if _JOB.match(job_id) else None
        if workspace is None or not (workspace.exists(NOTES) and workspace.exists("order.json")):
            raise JobNotFound(f"no fine-tuning job {job_id[:80]!r}", "list them with GET /v1/fine_tuning/jobs")
        return workspace

    def _view(self, workspace: Workspace) -> TuningJob:
        view, asked = self.jobs.view(workspace), workspace.read(NOTES, TuningAsk)
        result = self.jobs.result(workspace)
        rejected = result.block if result and result.block and result.block.status == "rejected" else None
        error = self._rejection(rejected) if rejected else view.error if view.status == "failed" else None
        status: JobStatus = "failed" if rejected else _status(view)
        lines = list(workspace.events())
        trained = [e.counts.get("tokens") for _, _, e in lines if isinstance(e, StageFinished) and e.stage == "train"]
        only_training = view.doing == "read" and asked.validation_file is None
        results = workspace.read("results.json", _Results).file if workspace.exists("results.json") else None
        return TuningJob(
            id=view.id, asked=asked, status=status, created_at=_seconds(view.created_at),
            finished_at=int((workspace.directory / "result.json").stat().st_mtime) if result else None,
            estimated_finish=_estimate(lines) if status == "running" and view.doing == "train" else None,
            block=view.block if status == "succeeded" else None, trained_tokens=int(trained[-1]) if trained and trained[-1] else None,
            result_files=(results,) if results and status == "succeeded" else (), error=error,
            error_param="training_file" if error and only_training else None,
        )  # fmt: skip

    def _rejection(self, block: BlockRef) -> JobFailed:
        reasons = next((m.gate.reasons for m in self.parts.registry.manifests() if m.id == block.id), ())
        return JobFailed(
            code="block_rejected", message=f"the gate rejected {block}: {'; '.join(reasons)}",
            hint=f"give more examples or more epochs; its evaluation: dna show {block.id[:12]}",
        )  # fmt: skip


def keep_results(parts: Parts, workspace: Workspace) -> None:
    """Before a fine-tuning job ends: its losses by epoch as a file that a client can fetch. For any other job, nothing."""
    if not workspace.exists(NOTES) or workspace.exists("results.json"):
        return
    trained = workspace.read("stages/train.json", Trained)
    rows = ["epoch,train_loss,valid_loss"]
    for i, loss in enumerate(trained.losses):
        checked = trained.validation_losses[i] if i < len(trained.validation_losses) else ""
        rows.append(f"{i + 1},{loss},{checked}")
    data = io.BytesIO(("\n".join(rows) + "\n").encode())
    kept = Uploads(parts.settings).put(data, f"{workspace.id}-losses.csv", "fine-tune-results")
    workspace.write("results.json", _Results(file=kept.id))


def background_of(parts: Parts, base: str, *, parallel: int | None = None, alone: bool = True) -> Background:
    """What carries out the jobs of a home, those of fine-tuning among them: a server's, or a worker's (not ``alone``)."""
    many = parts.settings.parallel_training if parallel is None else parallel
    jobs = Jobs(parts.settings, parts)
    return Background(jobs, base, parallel=many, alone=alone, ended=partial(keep_results, parts))


def random_seed() -> int:
    return secrets.randbelow(2**31)


def _given(upload: Upload) -> GivenFile:
    return GivenFile(sha256=upload.sha256, name=upload.filename, bytes=upload.bytes)


def _person_of(metadata: dict[str, str] | None) -> Person:
    """The ``clone_dna`` entry of a request's metadata: JSON, as metadata holds texts only. Raises ``InputError``."""
    text = (metadata or {}).get("clone_dna")
    if text is None:
        return Person()
    try:
        return Person.model_validate(strict_json(text))
    except (ValidationError, ValueError, RecursionError):
        raise InputError(
            "metadata.clone_dna is not the JSON object that it should be",
            json.dumps({"name": "Ada", "handle": "ada", "licence": "MIT", "consent": "local-only"}), param="metadata",
        ) from None  # fmt: skip


def _status(view: JobView) -> JobStatus:
    match view.status:
        case "finished":
            return "succeeded"
        case "failed" | "cancelled":
            return view.status
        case "interrupted" | "queued":
            return "queued"
        case "running":
            return "validating_files" if not view.done else "running"


def _seconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp())


def _estimate(lines: list[tuple[int, str, Any]]) -> int | None:
    for _, at, event in reversed(lines):
        if isinstance(event, StageProgress) and event.eta_seconds is not None:
            return max(int(time.time()), _seconds(at) + round(event.eta_seconds))
    return None


def _event(job: str, offset: int, at: str, event: Any) -> TuningEvent:
    level: Literal["info", "warn", "error"] = "info"
    data: dict[str, int | float | None] | None = None
    match event:
        case StageStarted():
            message = f"{event.stage}: started"
        case StageFinished():
            counts = ", ".join(f"{key} {value}" for key, value in event.counts.items())
            message = f"{event.stage}: finished in {event.seconds:.1f} s" + (f" ({counts})" if counts else "")
        case StageProgress():
            message = f"{event.stage}: {event.done} of {event.total} {event.unit}"
            if event.loss is not None:
                message += f", training loss {event.loss:.4f}"
                data = {"step": event.done, "total_steps": event.total, "train_loss": event.loss}
        case Note():
            message, level = event.text, "warn" if event.level == "warning" else "info"
        case JobFinished():
            message = f"{event.status}: {event.block}"
        case _:
            message, level = str(event), "error"
    return TuningEvent(
        id=f"ftevent-{job}-{offset}", offset=offset, created_at=_seconds(at), level=level, message=message, data=data
    )
