"""The engine as the benchmarks drive it: through its seam, from one event loop that lives as long as the benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from clonedna.core.model import Layer, SampleRequest
from clonedna.engine.local import LocalEngine, open_engine

T = TypeVar("T")


class Ours:
    """An open engine; its calls wait for their results. ``options`` are ``open_engine``'s."""

    def __init__(self, base: Path, threads: int, **options: Any) -> None:
        self.engine: LocalEngine = open_engine(str(base), threads=threads, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait(self.engine.close())
        self._runner.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def load(self, directories: Sequence[Path]) -> list[str]:
        return [self.wait(self.engine.load(directory)).id for directory in directories]

    def sample(self, requests: Sequence[SampleRequest]) -> list[list[int]]:
        """The tokens of each, all asked for at once."""
        return self.wait(sample(self.engine, requests))


async def sample(engine: LocalEngine, requests: Sequence[SampleRequest]) -> list[list[int]]:
    """The tokens of each request, all asked for at once. Raises what any of them raises."""
    tokens: list[list[int]] = [[] for _ in requests]

    async def one(i: int) -> None:
        async for chunk in engine.sample(requests[i]):
            if chunk.token is not None:
                tokens[i].append(chunk.token)

    async with anyio.create_task_group() as group:
        for i in range(len(requests)):
            group.start_soon(one, i)
    return tokens


def requests(
    prompts: Sequence[tuple[int, ...]], tokens: int, adapters: Sequence[str | None] = ()
) -> list[SampleRequest]:
    """Greedy, of exactly ``tokens`` tokens, each through its adapter (none: the base)."""
    through = adapters or [None] * len(prompts)
    return [
        SampleRequest(
            prompt=prompt, max_tokens=tokens, ignore_eos=True,
            layers=() if name is None else (Layer(adapter=name),),
        )
        for prompt, name in zip(prompts, through, strict=True)
    ]  # fmt: skip
