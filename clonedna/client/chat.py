"""The chat and the threads of a server: what ``app.chat_here`` and ``app.threads`` do for those of this machine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clonedna.app.chat_values import (
    ChatAsk,
    ChatEvent,
    ChatReply,
    CompareAsk,
    Compared,
    CompareEvent,
    Comparison,
    Finished,
    Piece,
    SideDone,
    Started,
    ThreadDetail,
)
from clonedna.client.blocks import segment
from clonedna.client.wire import Wire
from clonedna.core.chat import Gone, Thread, ThreadPage
from clonedna.core.errors import BadAnswer

CHAT = "/api/v1/chat"
THREADS = f"{CHAT}/threads"
E = TypeVar("E", bound=BaseModel)


class RemoteChat:
    """Conversations on a server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __enter__(self) -> RemoteChat:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: the client owns the connection."""

    def send(self, ask: ChatAsk) -> ChatReply:
        """The whole answer, however long it takes. Raises as ``Chat.stream``."""
        return _last(self.stream(ask), Finished).reply

    def stream(self, ask: ChatAsk) -> Generator[ChatEvent]:
        """As ``Chat.stream``. Closing it ends the answer on the server, unless it is ``detached``."""
        kinds: dict[str, type[ChatEvent]] = {"start": Started, "text": Piece, "end": Finished}
        return told(self._wire, CHAT, ask, kinds.get)

    def comparison(self, ask: CompareAsk) -> Comparison:
        """Both whole answers. Raises as ``Chat.compare``."""
        return _last(self.compare(ask), Compared).reply

    def compare(self, ask: CompareAsk) -> Generator[CompareEvent]:
        """As ``Chat.compare``."""
        kinds: dict[str, type[CompareEvent]] = {"start": Started, "text": Piece, "answer": SideDone, "end": Compared}
        return told(self._wire, f"{CHAT}/compare", ask, kinds.get)


class RemoteThreads:
    """The threads of a server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, *, model: str = "", persona: str | None = None, title: str = "") -> Thread:
        return self._wire.post(THREADS, Thread, {"model": model, "persona": persona, "title": title})

    def list(self, *, limit: int = 50, after: str | None = None, team: str | None = None) -> ThreadPage:
        """Last used first; ``team``: with its personas."""
        path = THREADS if team is None else f"/api/v1/teams/{segment(team)}/threads"
        return self._wire.get(path, ThreadPage, query={"limit": limit, "after": after})

    def show(self, thread: str, *, limit: int = 100, after: int = 0) -> ThreadDetail:
        return self._wire.get(f"{THREADS}/{segment(thread)}", ThreadDetail, query={"limit": limit, "after": after})

    def rename(self, thread: str, title: str) -> Thread:
        return self._wire.ask("PATCH", f"{THREADS}/{segment(thread)}", Thread, body={"title": title})

    def delete(self, thread: str) -> Gone:
        return self._wire.delete(f"{THREADS}/{segment(thread)}", Gone)


def _last(events: Generator[BaseModel], kind: type[E]) -> E:
    """The event that ends a stream. Raises ``BadAnswer`` for one that ends without it."""
    with closing(events):
        for event in events:
            if isinstance(event, kind):
                return event
    raise BadAnswer("the answer ended without its last event", "ask again; see the server's log")


def told(wire: Wire, path: str, ask: BaseModel, kind_of: Callable[[str], type[E] | None]) -> Generator[E]:
    """The events that answer ``ask`` (which has a field ``stream``), each as the value that its name stands for.

    Raises the server's error, before the stream or in it, and ``BadAnswer``.
    """
    body: dict[str, Any] = ask.model_dump(mode="json") | {"stream": True}
    with closing(wire.said(path, body)) as events:
        for event in events:
            kind = kind_of(event.event)
            if kind is None:
                continue  # an event of a newer server
            try:
                yield kind.model_validate_json(event.data)
            except ValidationError as error:
                raise BadAnswer(
                    f"an event {event.event[:40]!r} cannot be read", "use a clone-dna of the server's version"
                ) from error
