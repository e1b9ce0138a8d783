"""One HTTP answer made of sampled choices, whole or as a stream of events.

Promises: the response's head is sent after every choice has given its first chunk, so an error has its own status; when the client goes
away, the time is up, or one choice fails, all choices' iterators are closed at once; a client that reads slowly slows its own choices
and no others (nothing is buffered here).
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Protocol, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from clonedna.app.blocks import Served
from clonedna.core.errors import DnaError, Internal, TimedOut, Unavailable
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.seams import Engine
from clonedna.server.errors import body, leaf

log = logging.getLogger(__name__)
Event = tuple[int, SampleChunk]


class Rendering(Protocol):
    """Turns chunks into what a route answers."""

    def add(self, index: int, chunk: SampleChunk) -> Sequence[BaseModel]:
        """The events of a stream that this chunk makes."""
        ...

    def whole(self) -> BaseModel:
        """The answer in one piece, when all choices have finished."""
        ...

    def last(self) -> Sequence[BaseModel]:
        """The events of a stream after all choices."""
        ...


class Watch(Protocol):
    """Who measures an answer."""

    def chunk(self, index: int, chunk: SampleChunk) -> None: ...
    def end(self) -> None: ...


@asynccontextmanager
async def sampling(engine: Engine, requests: Sequence[SampleRequest]) -> AsyncGenerator[AsyncIterator[Event]]:
    """Sample all requests side by side; entered when each has given its first chunk. Raises the first error as it is."""
    send, receive = anyio.create_memory_object_stream[Event]()
    ends = [send.clone() for _ in requests]
    start = _Start(len(requests))
    try:
        async with anyio.create_task_group() as group:
            send.close()
            for index, (request, end) in enumerate(zip(requests, ends, strict=True)):
                group.start_soon(_pump, engine, request, index, end, start)
            await start.ready.wait()
            start.go.set()
            async with aclosing(_events(start.firsts, receive)) as events:
                yield events
            group.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        raise leaf(error) from None
    finally:
        for end in (*ends, receive):
            end.close()


class _Start:
    """Where first chunks meet: ``ready`` when all are there, and nobody goes on before ``go``."""

    def __init__(self, wanted: int) -> None:
        self.firsts: list[Event] = []
        self.ready, self.go = anyio.Event(), anyio.Event()
        self._wanted = wanted

    async def meet(self, index: int, chunk: SampleChunk) -> None:
        self.firsts.append((index, chunk))
        if len(self.firsts) == self._wanted:
            self.ready.set()
        await self.go.wait()


async def _pump(
    engine: Engine, request: SampleRequest, index: int, send: MemoryObjectSendStream[Event], start: _Start
) -> None:
    # Engines' samples are async generators, which the seam's type does not say.
    stream = cast("AsyncGenerator[SampleChunk]", engine.sample(request))
    first = True
    async with send, aclosing(stream) as chunks:
        async for chunk in chunks:
            if chunk.finish == "cancelled":
                raise Unavailable("the engine stopped before the answer was complete", "ask again")
            if first:
                first = False
                await start.meet(index, chunk)
            else:
                await send.send((index, chunk))


async def _events(firsts: list[Event], receive: MemoryObjectReceiveStream[Event]) -> AsyncGenerator[Event]:
    for event in firsts:
        yield event
    async for event in receive:
        yield event


class Answer(Response):
    """Samples when it is sent. ``stream``: server-sent events that end with ``[DONE]``, else one JSON object."""

    def __init__(
        self, engine: Engine, requests: Sequence[SampleRequest], rendering: Rendering, *, served: Served, stream: bool,
        timeout: float, watch: Watch,
    ) -> None:  # fmt: skip
        super().__init__()
        self._engine, self._requests, self._rendering = engine, requests, rendering
        self._stream, self._timeout, self._watch = stream, timeout, watch
        self._head = {"x-served-by": label(served)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ``DnaError`` before the head is sent; a later error is the stream's last event."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_with_client, receive, group.cancel_scope)
                await (self._streamed(scope, send) if self._stream else self._whole(scope, receive, send))
                group.cancel_scope.cancel()
        except BaseExceptionGroup as error:
            raise leaf(error) from None
        finally:
            self._watch.end()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._in_time():
            async with sampling(self._engine, self._requests) as events:
                async for index, chunk in events:
                    self._watch.chunk(index, chunk)
                    self._rendering.add(index, chunk)
        content = self._rendering.whole().model_dump(mode="json", exclude_unset=True)
        await JSONResponse(content, headers=self._head)(scope, receive, send)

    async def _streamed(self, scope: Scope, send: Send) -> None:
        started = False
        try:
            with self._in_time():
                async with sampling(self._engine, self._requests) as events:
                    await send({"type": "http.response.start", "status": 200, "headers": self._stream_head()})
                    started = True
                    async for index, chunk in events:
                        self._watch.chunk(index, chunk)
                        for event in self._rendering.add(index, chunk):
                            await _event(send, event.model_dump_json(exclude_unset=True))
            for event in self._rendering.last():
                await _event(send, event.model_dump_json(exclude_unset=True))
        except Exception as error:
            if not started:
                raise
            # The head is out: the error can only be an event, as OpenAI's clients understand it.
            await _event(send, json.dumps(body(scope["path"], _told(error))))
        await _event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @contextmanager
    def _in_time(self) -> Generator[None]:
        try:
            with anyio.fail_after(self._timeout):
                yield
        except TimeoutError:
            message = f"the answer took longer than {self._timeout:g} s"
            raise TimedOut(message, "ask for fewer tokens, or raise request_timeout") from None

    def _stream_head(self) -> list[tuple[bytes, bytes]]:
        fields = {
            "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no", **self._head
        }  # fmt: skip
        return [(name.encode(), value.encode()) for name, value in fields.items()]


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _told(error: Exception) -> DnaError:
    if isinstance(error, DnaError):
        return error
    log.error("a stream failed", exc_info=error)
    return Internal("the server failed at this request", "its log says why; please report it")


def label(served: Served) -> str:
    """What answered, in one line: the base, the genome that was asked, each block; with the first digits of ids, and the weights."""
    genome = [f"genome:{served.genome.genome}#{served.genome.genome_id[:12]}"] if served.genome else []
    blocks = [f"{layer.block}#{layer.block_id[:12]}*{layer.weight:g}" for layer in served.layers]
    # A base's name comes from a folder: a header takes printable ASCII only.
    return "".join(c if " " <= c <= "~" else "?" for c in "+".join([served.base, *genome, *blocks]))


async def _event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": format_sse_event(data_str=data), "more_body": True})
