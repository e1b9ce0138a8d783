"""An answer made of events: as server-sent events, each with an id and its name, or as the JSON of the last one.

Promises: the head is sent with the first event, so an error before it has its own status; where that takes longer than ``HEAD_SECONDS`` the
head is sent all the same. A stream that is quiet for ``HEARTBEAT_SECONDS`` says so with a comment. An error after the head is an event
called ``error``, with the JSON that a response would have. When the client leaves, the events are closed at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from clonedna.core.errors import DnaError, Internal
from clonedna.server.errors import body, leaf

log = logging.getLogger(__name__)
HEAD_SECONDS = 5.0
HEARTBEAT_SECONDS = 15.0
HEAD = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Named(Protocol):
    """An event: a value with a name."""

    name: ClassVar[str]

    def model_dump_json(self) -> str: ...


class Following(Response):
    """Runs ``events`` when it is sent. Not ``stream``: the answer is the ``reply`` of the last event."""

    def __init__(self, events: AsyncGenerator[Any], *, stream: bool) -> None:
        super().__init__()
        self._events, self._stream = events, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ``DnaError`` before the head is sent."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_with_client, receive, group.cancel_scope)
                there, here = anyio.create_memory_object_stream[Named]()
                told = _Told(scope["path"], send)
                group.start_soon(self._pump, there, told)
                async with here:
                    await (told.all(here) if self._stream else _whole(here, told, scope, receive, send))
                group.cancel_scope.cancel()
        except BaseExceptionGroup as error:
            raise leaf(error) from None

    async def _pump(self, there: MemoryObjectSendStream[Named], told: _Told) -> None:
        """The events run in one task from their beginning to their end."""
        async with there, aclosing(self._events) as events:
            try:
                async for event in events:
                    await there.send(event)
            except DnaError as error:
                told.error = error
            except Exception as error:
                log.error("a stream failed", exc_info=error)
                told.error = Internal("the server failed at this request", "its log says why; please report it")


class _Told:
    """What was sent so far. ``error``: why there is nothing more."""

    def __init__(self, path: str, send: Send) -> None:
        self._path, self._send = path, send
        self._started, self._count = False, 0
        self.error: DnaError | None = None

    async def all(self, events: MemoryObjectReceiveStream[Named]) -> None:
        """Every event as it comes, until there are no more."""
        patience = HEAD_SECONDS
        while True:
            event: Named | None = None
            with anyio.move_on_after(patience) as scope:
                try:
                    event = await events.receive()
                except anyio.EndOfStream:
                    break
            patience = HEARTBEAT_SECONDS
            if event is not None:
                await self._event(event.name, event.model_dump_json())
            elif scope.cancelled_caught:
                await self._comment()
        if self.error is not None:
            if not self._started:
                raise self.error
            await self._event("error", json.dumps(body(self._path, self.error), ensure_ascii=False))
        await self._head()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self, name: str, data: str) -> None:
        await self._head()
        self._count += 1
        # JSON holds no line ends, so an event's data is one line.
        await self._body(format_sse_event(data_str=data, event=name, id=str(self._count)))

    async def _comment(self) -> None:
        await self._head()
        await self._body(format_sse_event(comment="still here"))

    async def _head(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(HEAD)})

    async def _body(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def _whole(
    events: MemoryObjectReceiveStream[Named], told: _Told, scope: Scope, receive: Receive, send: Send
) -> None:
    last: Any = None
    async for event in events:
        last = event
    if told.error is not None:
        raise told.error
    reply: BaseModel = last.reply
    await JSONResponse(reply.model_dump(mode="json"))(scope, receive, send)


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


# One server-sent event, as readers of the description see it: what is described is each event, not the text of all.
EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"}, "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}  # fmt: skip


def streamed(whole: type[BaseModel], about: str) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers with JSON, or, asked for a stream, with events."""
    return {200: {"model": whole, "description": about, "content": {"text/event-stream": {"schema": EVENT}}}}
