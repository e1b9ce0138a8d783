"""``/api/v1/chat``: messages to blocks, the base and personas, two side by side, and the threads that are kept. Thin over ``app.chat``.

Threads hold what people wrote: they need the scope ``chat``, to read them too, and each token sees its own; one with ``admin`` sees all.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from clonedna.app.chat_values import ChatAsk, ChatReply, CompareAsk, Comparison, ModelName, Talker, ThreadDetail
from clonedna.app.service import Service
from clonedna.app.threads import Threads
from clonedna.core.chat import MOST_NAME, Gone, Thread, ThreadPage
from clonedna.core.value import Value
from clonedna.server.access import CHAT, owner
from clonedna.server.errors import OURS
from clonedna.server.following import Following, streamed
from clonedna.server.reading import Routes

ThreadId = Annotated[str, Path(pattern=r"^thread-[0-9a-f]{24}$")]
After = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200)]
CHATTED = "The answer. With `stream`, events: `start`, `text` for each piece, `end` with the answer; `error` for one that failed."
COMPARED = "Both answers. With `stream`, events `start` and `text` of sides `a` and `b`, `answer` as each ends, `end` with both."


class ChatBody(ChatAsk):
    """A message, and how it is answered. ``stream``: as server-sent events."""

    stream: bool = False


class CompareBody(CompareAsk):
    """A message to two sides. ``stream``: as server-sent events."""

    stream: bool = False


class ThreadOrder(Value):
    """A thread to begin, with who answers in it; neither: the base."""

    title: str = Field(default="", max_length=MOST_NAME)
    model: ModelName = ""
    persona: Talker | None = None


class NewTitle(Value):
    title: str = Field(min_length=1, max_length=MOST_NAME)


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/chat``."""
    made = Routes(prefix="/api/v1/chat", responses=OURS, tags=["chat"])
    _add_answers(made, service)
    _add_threads(made, service)
    return made


def _add_answers(made: APIRouter, service: Service) -> None:
    @made.post("", dependencies=[CHAT], responses=streamed(ChatReply, CHATTED))
    async def send_message(request: Request, body: ChatBody) -> Response:
        """Say something to a block, the base or a persona. The client that leaves ends the answer, unless it is `detached`."""
        ask = ChatAsk.model_validate(body.model_dump(exclude={"stream"}))
        return Following(service.chat.follow(ask, owner(request)), stream=body.stream)

    @made.post("/compare", dependencies=[CHAT], responses=streamed(Comparison, COMPARED))
    async def compare_answers(request: Request, body: CompareBody) -> Response:
        """Say the same to two sides, with the same seed: block and base, or block and block."""
        ask = CompareAsk.model_validate(body.model_dump(exclude={"stream"}))
        return Following(service.chat.compare(ask, owner(request)), stream=body.stream)


def _add_threads(made: APIRouter, service: Service) -> None:
    def threads(request: Request) -> Threads:
        return service.threads.of(owner(request))

    @made.post("/threads", dependencies=[CHAT], status_code=201)
    def create_thread(request: Request, order: ThreadOrder) -> Thread:
        """Begin a thread without a message."""
        return threads(request).create(model=order.model, persona=order.persona, title=order.title)

    @made.get("/threads", dependencies=[CHAT])
    def list_threads(request: Request, limit: Limit = 50, after: After = None) -> ThreadPage:
        """Threads, last used first."""
        return threads(request).list(limit=limit, after=after)

    @made.get("/threads/{thread}", dependencies=[CHAT])
    def show_thread(
        request: Request, thread: ThreadId, limit: Limit = 100, after: Annotated[int, Query(ge=0, le=1_000_000)] = 0
    ) -> ThreadDetail:
        """A thread with its messages behind number `after`. It can be read whatever became of its blocks."""
        return threads(request).show(thread, limit=limit, after=after)

    @made.patch("/threads/{thread}", dependencies=[CHAT])
    def rename_thread(request: Request, thread: ThreadId, title: NewTitle) -> Thread:
        """Give a thread another title."""
        return threads(request).rename(thread, title.title)

    @made.delete("/threads/{thread}", dependencies=[CHAT])
    def delete_thread(request: Request, thread: ThreadId) -> Gone:
        """Delete a thread with its messages."""
        return threads(request).delete(thread)
