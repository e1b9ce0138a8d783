"""Sampling as instruments need it: many prompts at a time, the texts of tokens, and no token more than a question needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from clonedna.core.model import SampleRequest
from clonedna.core.seams import Engine

AT_ONCE = 32

Enough = Callable[[list[str]], bool]


async def ask_all(
    engine: Engine,
    requests: Sequence[SampleRequest],
    enough: Sequence[Enough | None] | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> list[list[str]]:
    """The texts of each answer's tokens, in the order of ``requests``; 32 run at a time.

    An answer whose ``enough`` says so is not sampled on. ``tell`` hears how many are done.
    """
    found: dict[int, list[str]] = {}

    async def ask(i: int) -> None:
        found[i] = await _pieces(engine, requests[i], enough[i] if enough is not None else None)

    for start in range(0, len(requests), AT_ONCE):
        async with anyio.create_task_group() as group:
            for i in range(start, min(len(requests), start + AT_ONCE)):
                group.start_soon(ask, i)
        tell(len(found))
    return [found[i] for i in range(len(requests))]


async def _pieces(engine: Engine, request: SampleRequest, enough: Enough | None) -> list[str]:
    stream: Any = engine.sample(request)
    pieces: list[str] = []
    try:
        async for chunk in stream:
            if chunk.token is not None:
                pieces.append(chunk.text)
                if enough is not None and enough(pieces):
                    break
            elif chunk.text and pieces:
                pieces[-1] += chunk.text  # what was held back of the last token's text
    finally:
        await stream.aclose()
    return pieces
