"""The chat of this machine for a caller without an event loop: the same methods as a server's chat has in ``clonedna.client``.

The loop runs in a thread of its own while this is entered. A caller that stops in the middle (Ctrl-C, too) ends the answer, and what was
said until then is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from clonedna.app.chat import Chat
from clonedna.app.chat_values import ChatAsk, ChatEvent, CompareAsk, CompareEvent
from clonedna.app.parts import Parts
from clonedna.app.speakers import OwnSpeakers
from clonedna.app.teams import Teams
from clonedna.app.threads import Threads

E = TypeVar("E")


class ChatHere:
    """Use it in ``with``; the engines that it opened are closed at the end."""

    def __init__(self, parts: Parts, *, base: str | None = None, unsafe: bool = False) -> None:
        """``base``, ``unsafe``: as ``OwnSpeakers``."""
        threads = Threads(parts)
        speakers = OwnSpeakers(parts, base=base, unsafe=unsafe)
        self._parts, self._chat = parts, Chat(parts, speakers, threads, Teams(parts, threads))
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> ChatHere:
        self._portal = self._stack.enter_context(start_blocking_portal())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._portal is not None:
                self._portal.call(self._parts.close)

    def stream(self, ask: ChatAsk) -> Generator[ChatEvent]:
        """As ``Chat.stream``."""
        return self._steps(self._chat.stream(ask))

    def compare(self, ask: CompareAsk) -> Generator[CompareEvent]:
        """As ``Chat.compare``."""
        return self._steps(self._chat.compare(ask))

    def _steps(self, events: AsyncGenerator[E]) -> Generator[E]:
        assert self._portal is not None, "use it in with"
        lock = anyio.Lock()  # a step that is being cancelled ends before the generator is closed

        async def step() -> E | None:
            async with lock:
                return await anext(events, None)

        async def close() -> None:
            async with lock:
                await events.aclose()

        try:
            while True:
                running = self._portal.start_task_soon(step)
                try:
                    event = running.result()
                except BaseException:
                    running.cancel()
                    raise
                if event is None:
                    return
                yield event
        finally:
            self._portal.call(close)
