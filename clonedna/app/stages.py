"""Stages of a use case: told as events (when each began, and when it ended with what came out), and given up when they should stop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

from clonedna.core.errors import Interrupted
from clonedna.core.events import Emit, StageFinished, StageStarted

LOOK_SECONDS = 0.2  # between two looks at whether a waiting stage should stop
T = TypeVar("T")


@contextmanager
def told(emit: Emit, stage: str) -> Generator[dict[str, Any]]:
    """Tell when ``stage`` begins and ends; what is put into the dict goes with the end. A stage that fails is not told to have ended."""
    began = time.monotonic()
    emit(StageStarted(stage=stage))
    counts: dict[str, Any] = {}
    yield counts
    emit(StageFinished(stage=stage, seconds=round(time.monotonic() - began, 3), counts=counts))


async def watched(work: Callable[[], Awaitable[T]], stopped: Callable[[], None]) -> T:
    """``work``, given up soon after it should stop: ``stopped`` raises ``Interrupted`` then. Raises what ``work`` raises."""
    ended: list[T] = []
    failed: list[Exception] = []

    async def watch() -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            try:
                stopped()
            except Interrupted as error:
                failed.append(error)
                group.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            ended.append(await work())
        except Exception as error:  # raised below, not as a group
            failed.append(error)
        group.cancel_scope.cancel()
    if ended:
        return ended[0]
    raise failed[-1]
