"""``/api/v1/jobs``: every long thing, ordered, watched and stopped. A job depends on no connection: whoever ordered it may leave.

Events come as server-sent events, each with its offset in the job's log as its id, so a client that comes back with ``Last-Event-ID``
misses none and hears none twice. The last one is called ``end`` and holds the job as it ended; a stream that ends without it is to be
asked for again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from clonedna.app.job_asks import Ask
from clonedna.app.job_desk import KEY_SECONDS, MOST_EVENTS, MOST_PAGE, PAGE, JobDesk, Watching
from clonedna.app.job_values import EventPage, JobPage, JobResult, JobView, Kind, Status
from clonedna.app.service import Service
from clonedna.core.errors import InputError, Overloaded
from clonedna.server.access import MINT
from clonedna.server.errors import OURS
from clonedna.server.reading import Routes

PREFIX = "/api/v1/jobs"
HEARTBEAT_SECONDS = 15.0
LOOK_SECONDS = 0.5
MOST_STREAMS = 100
JobId = Annotated[
    str, Path(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$", description="A job's id, or a beginning of it.")
]
Cursor = Annotated[str | None, Query(max_length=64, pattern=r"^[a-z0-9-]+$", description="The `next` of a page.")]
Offset = Annotated[int | None, Query(ge=-1, le=2**53, description="JSON: the events behind this offset; -1 for all.")]
LastId = Annotated[str | None, Query(max_length=20, description="As the header of this name.")]
LastIdHeader = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=20, description="Go on behind this event.")
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", max_length=255,
        description=f"The same key with the same body gives the same job, for {KEY_SECONDS // 3600} hours.",
    ),
]  # fmt: skip
_EVENT: dict[str, Any] = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/jobs``."""
    made = Routes(prefix=PREFIX, responses=OURS, tags=["jobs"])
    _add_orders(made, service.desk)
    _add_questions(made, service.desk)
    _add_events(made, service.desk)
    return made


def _add_orders(made: APIRouter, desk: JobDesk) -> None:
    @made.post("", dependencies=[MINT], status_code=202)
    def start_job(request: Request, response: Response, ask: Annotated[Ask, Body()], key: Key = None) -> JobView:
        """Order a job: `mint`, `evaluate`, `identity`, `compare`, `merge`, `genome` or `bench`.

        It is kept before it is answered, waits for its turn, and goes on after a restart of the server. `Location` says where it is.
        """
        who = request.state.who
        view, _ = desk.start(ask, key=key, owner=f"{who.kind}:{who.id}", paths="admin" in request.state.scopes)
        request.state.about = view.id
        response.headers["Location"] = f"{PREFIX}/{view.id}"
        return view

    @made.delete("/{job_id}", dependencies=[MINT], status_code=202)
    def cancel_job(job_id: JobId) -> JobView:
        """Stop a job at its next step, or keep it from beginning. Again, or once it has ended, this changes nothing."""
        return desk.cancel(job_id)

    @made.post("/{job_id}/resume", dependencies=[MINT], status_code=202)
    def resume_job(job_id: JobId) -> JobView:
        """Go on with a job that was cancelled or failed, behind its last finished stage. One that runs or waits does so anyway."""
        return desk.resume(job_id)


def _add_questions(made: APIRouter, desk: JobDesk) -> None:
    @made.get("", dependencies=[MINT])
    def list_jobs(
        after: Cursor = None, limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = PAGE, status: Status | None = None,
        kind: Kind | None = None,
    ) -> JobPage:  # fmt: skip
        """Jobs, newest first, a page at a time; of one status or kind where that is asked."""
        return desk.list(after=after, limit=limit, status=status, kind=kind)

    @made.get("/{job_id}", dependencies=[MINT])
    def show_job(job_id: JobId) -> JobView:
        """One job: what it is to do, how it stands, the stages it has done."""
        return desk.get(job_id)

    @made.get("/{job_id}/result", dependencies=[MINT])
    def job_result(job_id: JobId) -> JobResult:
        """What a job that ended well gives: its block, or the value that it found. 404 while there is none."""
        return desk.result(job_id)


def _add_events(made: APIRouter, desk: JobDesk) -> None:
    streams = _Streams()

    @made.get("/{job_id}/events", dependencies=[MINT], response_model=EventPage, responses=STREAMED)
    async def job_events(
        request: Request, job_id: JobId, after: Offset = None, limit: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = MOST_EVENTS,
        last_id: LastIdHeader = None, last_event_id: LastId = None,
    ) -> Any:  # fmt: skip
        """What a job said and says, as server-sent events until it ends; with `after`, as JSON, what there is by now.

        Each event's id is its offset. `Last-Event-ID` (header or query) goes on behind it. A stream that is quiet sends a comment every
        15 seconds. The last event is called `end` and holds the job.
        """
        if after is not None:
            return await anyio.to_thread.run_sync(lambda: desk.events(job_id, after=after, limit=limit))
        behind = _offset(last_id or last_event_id)
        watching = await anyio.to_thread.run_sync(lambda: desk.watch(job_id, after=behind))
        streams.refuse_full()
        return StreamingResponse(
            streams.counted(_told(request, watching)), media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )  # fmt: skip


def _offset(text: str | None) -> int:
    """The offset that an event's id is. Raises ``InputError``."""
    if not text:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InputError(
            "Last-Event-ID is no id of an event here", "send the id of the last event that came", param="Last-Event-ID"
        )
    return int(text)


class _Streams:
    """How many streams are open: each holds one of the server's places for requests."""

    def __init__(self) -> None:
        self._open = 0

    def refuse_full(self) -> None:
        """Raises ``Overloaded``."""
        if self._open >= MOST_STREAMS:
            raise Overloaded(
                f"{self._open} clients follow jobs already", "ask for the events as JSON, with after=", retry_after=5
            )

    async def counted(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        self._open += 1
        try:
            async for event in events:
                yield event
        finally:
            self._open -= 1
            await events.aclose()


async def _told(request: Request, watching: Watching) -> AsyncGenerator[bytes]:
    """The events behind those that are known, until the job says nothing more by itself, or the server stops."""
    quiet = time.monotonic()
    yield format_sse_event(comment=f"job {watching.id}")
    while True:
        events, ended = await anyio.to_thread.run_sync(watching.look)
        for event in events:
            yield format_sse_event(data_str=event.model_dump_json(), id=str(event.offset))
        if ended is not None:
            yield format_sse_event(data_str=ended.model_dump_json(), event="end")
            return
        if request.app.state.traffic.draining:
            return
        if events:
            quiet = time.monotonic()
        elif time.monotonic() - quiet >= HEARTBEAT_SECONDS:
            quiet = time.monotonic()
            yield format_sse_event(comment="still here")
        await anyio.sleep(LOOK_SECONDS)
