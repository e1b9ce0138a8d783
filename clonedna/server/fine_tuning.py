"""``/v1/files`` and ``/v1/fine_tuning/jobs`` as OpenAI has them, over ``app.finetuning``.

Ours beside it: ``clone_dna`` (in the body, or as JSON in the metadata) says whose examples these are and under which licence. Fields that
would change what is trained and are not supported are an error, never ignored. Routes that block run in worker threads.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from clonedna.app.finetuning import (
    Auto,
    FineTuning,
    Hyperparameters,
    JobStatus,
    Person,
    TuningAsk,
    TuningEvent,
    TuningJob,
    random_seed,
)
from clonedna.app.settings import Settings
from clonedna.app.uploads import Upload
from clonedna.core.errors import InputError, NotFound
from clonedna.server.access import MINT, READ
from clonedna.server.errors import V1
from clonedna.server.reading import Routes

T = TypeVar("T", Upload, TuningJob, TuningEvent)
FORM_OVERHEAD = 64 * 1024
STREAM_SECONDS = 0.5
FILES = "/files"
ENDED = ("succeeded", "failed", "cancelled")
Limit = Annotated[int, Query(ge=1, le=100)]
Epochs = Annotated[int, Field(strict=True, ge=1, le=100)]
Batch = Annotated[int, Field(strict=True, ge=1, le=256)]
Multiplier = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HyperparametersAsk(Ask):
    n_epochs: Auto | Epochs | None = None
    batch_size: Auto | Batch | None = None
    learning_rate_multiplier: Auto | Multiplier | None = None


class SupervisedAsk(Ask):
    hyperparameters: HyperparametersAsk | None = None


class MethodAsk(Ask):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedAsk | None = None
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class JobAsk(Ask):
    """A fine-tuning job to make. ``model`` is the server's base."""

    model: str = Field(min_length=1, max_length=200)
    training_file: str = Field(min_length=1, max_length=100)
    validation_file: str | None = Field(default=None, max_length=100)
    hyperparameters: HyperparametersAsk | None = None
    method: MethodAsk | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
    clone_dna: Person | None = None

    def tuning(self) -> TuningAsk:
        """What it asks of us. Raises ``InputError`` for what is not supported."""
        if self.integrations:
            raise InputError("integrations are not supported", "leave them out", param="integrations")
        method = self.method
        if method is not None and (method.type != "supervised" or method.dpo or method.reinforcement):
            raise InputError(f"the method {method.type} is not supported", "use supervised", param="method")
        given = (method.supervised.hyperparameters if method and method.supervised else None) or self.hyperparameters
        return TuningAsk(
            model=self.model, training_file=self.training_file, validation_file=self.validation_file or None,
            hyperparameters=Hyperparameters.model_validate(given.model_dump(exclude_none=True) if given else {}),
            suffix=self.suffix, seed=random_seed() if self.seed is None else self.seed, metadata=self.metadata,
            person=self.clone_dna,
        )  # fmt: skip


class FileReply(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"]
    status: Literal["processed"] = "processed"


class FileGone(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileReply]
    has_more: bool
    first_id: str | None
    last_id: str | None


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class Supervised(BaseModel):
    hyperparameters: Hyperparameters


class Method(BaseModel):
    type: Literal["supervised"] = "supervised"
    supervised: Supervised


class JobReply(BaseModel):
    """``fine_tuned_model`` is the block: what to give as ``model`` in a chat."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str = "local"
    status: JobStatus
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: Hyperparameters
    method: Method
    seed: int
    user_provided_suffix: str | None
    integrations: list[Any] = []
    metadata: dict[str, str] | None
    error: JobError | None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobReply]
    has_more: bool


class EventReply(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, int | float | None] | None


class EventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventReply]
    has_more: bool


class CheckpointList(BaseModel):
    """Always empty: our checkpoints are for going on, and none of them is a model of its own."""

    object: Literal["list"] = "list"
    data: list[Any] = []
    has_more: bool = False
    first_id: None = None
    last_id: None = None


def upload_bytes(settings: Settings) -> int:
    """The largest body that an upload may have."""
    return settings.max_upload_bytes + FORM_OVERHEAD


def larger(settings: Settings) -> dict[str, int]:
    """Paths that take larger bodies than others, as ``create_app`` wants them."""
    return {f"/v1{FILES}": upload_bytes(settings)}


def router(tuning: FineTuning) -> APIRouter:
    """Routes under ``/v1``."""
    made = Routes(prefix="/v1", responses=V1)
    _add_files(made, tuning)
    _add_jobs(made, tuning)
    _add_log(made, tuning)
    return made


def _add_files(made: APIRouter, tuning: FineTuning) -> None:
    files = tuning.files
    form = {
        "type": "object", "required": ["file", "purpose"],
        "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": ["fine-tune"]}},
    }  # fmt: skip

    @made.post(
        FILES,
        max_body_size=upload_bytes(tuning.parts.settings),
        dependencies=[MINT],
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}},
    )
    async def create_file(request: Request) -> FileReply:
        """Upload a JSONL file of examples (purpose ``fine-tune``)."""
        sent = await _form(request)
        try:
            file, purpose = sent.get("file"), sent.get("purpose")
            if not isinstance(file, UploadFile):
                raise InputError("no file was sent", "send it as the form's field file", param="file")
            if purpose != "fine-tune":
                raise InputError(f"purpose {str(purpose)[:40]!r} is not supported", "use fine-tune", param="purpose")
            kept = await anyio.to_thread.run_sync(files.put, file.file, file.filename or "file", "fine-tune")
        finally:
            await sent.close()
        return _file(kept)

    @made.get("/files", dependencies=[READ])
    def list_files(
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        purpose: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> FileList:
        """Newest first, or oldest first."""
        found = [one for one in files.list() if purpose in (None, one.purpose)]
        page, more = _page(found if order == "desc" else found[::-1], after, limit)
        data = [_file(one) for one in page]
        return FileList(
            data=data, has_more=more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
        )

    @made.get("/files/{file_id}", dependencies=[READ])
    def retrieve_file(file_id: str) -> FileReply:
        """One file: its name, size and purpose, not what is in it."""
        return _file(files.get(file_id))

    @made.get("/files/{file_id}/content", dependencies=[READ], response_class=Response)
    def file_content(file_id: str) -> Response:
        """The file's bytes."""
        upload = files.get(file_id)
        kind = "text/csv" if upload.purpose == "fine-tune-results" else "application/jsonl"
        headers = {"X-Content-Type-Options": "nosniff"}
        return FileResponse(files.content(upload), media_type=kind, filename=upload.filename, headers=headers)

    @made.delete("/files/{file_id}", dependencies=[MINT])
    def delete_file(file_id: str) -> FileGone:
        """Forget a file. Jobs made from it keep their copies until they end."""
        return FileGone(id=files.delete(file_id).id)


def _add_jobs(made: APIRouter, tuning: FineTuning) -> None:
    privileged = [MINT]

    @made.post("/fine_tuning/jobs", dependencies=privileged)
    def create_job(ask: JobAsk) -> JobReply:
        """Train a block on a file of examples, in the background."""
        return _job(tuning.create(ask.tuning()))

    @made.get("/fine_tuning/jobs", dependencies=[READ])
    def list_jobs(request: Request, after: str | None = None, limit: Limit = 20) -> JobList:
        """Newest first; ``metadata[key]=value`` lists only those that have it."""
        wanted = {k[9:-1]: v for k, v in request.query_params.items() if k.startswith("metadata[") and k.endswith("]")}
        found = [one for one in tuning.list() if wanted.items() <= (one.asked.metadata or {}).items()]
        page, more = _page(found, after, limit)
        return JobList(data=[_job(one) for one in page], has_more=more)

    @made.get("/fine_tuning/jobs/{job_id}", dependencies=[READ])
    def retrieve_job(job_id: str) -> JobReply:
        """One job: what was asked, and how it stands."""
        return _job(tuning.get(job_id))

    @made.post("/fine_tuning/jobs/{job_id}/cancel", dependencies=privileged)
    def cancel_job(job_id: str) -> JobReply:
        """Stop a job at its next step, behind a checkpoint."""
        return _job(tuning.cancel(job_id))

    @made.post("/fine_tuning/jobs/{job_id}/resume", dependencies=privileged)
    def resume_job(job_id: str) -> JobReply:
        """Go on with a job that was cancelled, or failed."""
        return _job(tuning.resume(job_id))


def _add_log(made: APIRouter, tuning: FineTuning) -> None:
    event: dict[str, Any] = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
    described: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": event}}}}

    @made.get("/fine_tuning/jobs/{job_id}/events", dependencies=[READ], response_model=EventList, responses=described)
    def list_events(job_id: str, after: str | None = None, limit: Limit = 20, stream: bool = False) -> Any:
        """Newest first; with ``stream``, server-sent events from the first on until the job ends."""
        found = tuning.events(job_id)
        if stream:
            return StreamingResponse(
                _stream(tuning, job_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        page, more = _page(found[::-1], after, limit)
        return EventList(data=[_event(one) for one in page], has_more=more)

    @made.get("/fine_tuning/jobs/{job_id}/checkpoints", dependencies=[READ])
    def list_checkpoints(job_id: str) -> CheckpointList:
        """Always empty: a job keeps its checkpoints to itself, and ends in one block."""
        tuning.get(job_id)
        return CheckpointList()


async def _stream(tuning: FineTuning, job_id: str) -> AsyncGenerator[str]:
    seen, quiet = -1, time.monotonic()
    while True:
        job = await anyio.to_thread.run_sync(tuning.get, job_id)
        for event in await anyio.to_thread.run_sync(tuning.events, job_id):
            if event.offset > seen:
                seen, quiet = event.offset, time.monotonic()
                yield f"id: {event.offset}\ndata: {_event(event).model_dump_json()}\n\n"
        if job.status in ENDED:
            yield "data: [DONE]\n\n"
            return
        if time.monotonic() - quiet > 15:
            quiet = time.monotonic()
            yield ": still here\n\n"
        await anyio.sleep(STREAM_SECONDS)


async def _form(request: Request) -> FormData:
    """The request's form: one file, spooled to disk; the route's ``max_body_size`` bounds it. Raises ``InputError``."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InputError("a file is sent as multipart/form-data", "send the fields file and purpose", param="file")
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=8, max_part_size=4096)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InputError(
            f"the form cannot be read: {error.message}", "send the fields file and purpose", param="file"
        ) from None


def _page(found: list[T], after: str | None, limit: int) -> tuple[list[T], bool]:
    """At most ``limit`` of them behind the one called ``after``, and whether there are more. Raises ``NotFound``."""
    if after is not None:
        places = [i for i, one in enumerate(found) if one.id == after]
        if not places:
            raise NotFound(f"nothing here is called {after[:80]!r}", "give the last id of a page", param="after")
        found = found[places[0] + 1 :]
    return found[:limit], len(found) > limit


def _file(one: Upload) -> FileReply:
    return FileReply(id=one.id, bytes=one.bytes, created_at=one.created_at, filename=one.filename, purpose=one.purpose)


def _job(one: TuningJob) -> JobReply:
    asked, error = one.asked, one.error
    return JobReply(
        id=one.id, created_at=one.created_at, finished_at=one.finished_at, estimated_finish=one.estimated_finish, model=asked.model,
        fine_tuned_model=one.block, status=one.status, training_file=asked.training_file, validation_file=asked.validation_file,
        result_files=list(one.result_files), trained_tokens=one.trained_tokens, hyperparameters=asked.hyperparameters,
        method=Method(supervised=Supervised(hyperparameters=asked.hyperparameters)), seed=asked.seed,
        user_provided_suffix=asked.suffix, metadata=asked.metadata,
        error=JobError(code=error.code, message=error.message, param=one.error_param) if error else None,
    )  # fmt: skip


def _event(one: TuningEvent) -> EventReply:
    return EventReply(
        id=one.id, created_at=one.created_at, level=one.level, message=one.message, data=one.data,
        type="metrics" if one.data else "message",
    )  # fmt: skip
