"""The owner: one thread, any event loop, no request that waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from clonedna.core.errors import Internal, Unavailable
from clonedna.core.model import Example, Message, SampleRequest
from clonedna.engine import owner as owner_module
from clonedna.engine.local import LocalEngine, open_engine

REQUEST = SampleRequest(messages=(Message(role="user", content="hello"),), max_tokens=12)


async def text(engine: LocalEngine) -> str:
    return "".join([chunk.text async for chunk in engine.sample(REQUEST)])


def test_several_event_loops_use_one_engine_after_and_beside_each_other(
    engine: LocalEngine, examples: list[Example]
) -> None:
    expected = anyio.run(engine.nll, examples), anyio.run(text, engine)
    with ThreadPoolExecutor(3) as pool:
        scores = [pool.submit(anyio.run, engine.nll, examples) for _ in range(3)]
        texts = [pool.submit(anyio.run, text, engine) for _ in range(3)]
        assert {future.result(60) for future in scores} == {expected[0]}
        assert {future.result(60) for future in texts} == {expected[1]}


def test_the_model_is_touched_by_one_thread(
    engine: LocalEngine, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    run = type(engine._model).run

    def watched(self, *arguments, **named):
        seen.add(threading.current_thread().name)
        return run(self, *arguments, **named)

    monkeypatch.setattr(type(engine._model), "run", watched)
    anyio.run(engine.nll, examples)
    anyio.run(text, engine)
    assert seen == {"engine-small-qwen2"}


def test_a_fault_belongs_to_the_work_that_made_it(engine: LocalEngine, examples: list[Example]) -> None:
    async def run() -> None:
        with pytest.raises(Internal, match="ZeroDivisionError"):
            await engine._owner.call(lambda payloads: [1 // 0], None)
        assert len(await engine.nll(examples)) == len(examples)

    anyio.run(run)


def test_work_that_nobody_waits_for_is_given_up_between_steps(engine: LocalEngine) -> None:
    steps: list[int] = []
    closed = threading.Event()

    def endless(payloads: list[None]) -> Generator[None, None, list[None]]:
        try:
            while True:
                steps.append(1)
                yield
        finally:
            closed.set()

    async def run() -> None:
        with anyio.move_on_after(0.05):
            await engine._owner.call(endless, None)

    anyio.run(run)
    assert closed.wait(10)
    assert steps


def test_jobs_of_one_kind_that_wait_together_are_done_together(engine: LocalEngine) -> None:
    groups: list[list[int]] = []
    gate = threading.Event()

    def block(payloads: list[None]) -> list[None]:
        gate.wait(10)
        return payloads

    def joined(payloads: list[int]) -> list[int]:
        groups.append(payloads)
        return [10 * payload for payload in payloads]

    async def run() -> list[int]:
        results: list[int] = []

        async def ask(payload: int, key: int | None) -> None:
            results.append(await engine._owner.call(joined, payload, key))

        async with anyio.create_task_group() as group:
            group.start_soon(engine._owner.call, block, None)
            for payload, key in ((1, 1), (2, 2), (3, 1), (4, None)):
                group.start_soon(ask, payload, key)
            await anyio.sleep(0.05)
            gate.set()
        return results

    assert sorted(anyio.run(run)) == [10, 20, 30, 40]
    assert groups == [[1, 2], [3], [4]]


def test_closing_cancels_what_runs_and_refuses_what_comes(base: Path) -> None:
    async def run() -> None:
        engine = open_engine(str(base), threads=1)
        stream = engine.sample(REQUEST.model_copy(update={"max_tokens": 1_000_000, "messages": (), "prompt": "a"}))
        first = await anext(stream)
        assert first.finish is None
        await engine.close()
        ends = [chunk async for chunk in stream]
        assert ends[-1].finish in ("cancelled", "length", "stop")
        assert not engine._owner._thread.is_alive()
        with pytest.raises(Unavailable, match="closed"):
            await engine.nll([])
        await engine.close()

    anyio.run(run)


def test_a_full_inbox_is_said_and_not_waited_for(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_module, "WAITING", 2)
    engine = open_engine(str(base), threads=1)
    gate = threading.Event()
    refused: list[Unavailable] = []

    def block(payloads: list[None]) -> list[None]:
        gate.wait(10)
        return payloads

    async def ask() -> None:
        try:
            await engine._owner.call(block, None)
        except Unavailable as error:
            refused.append(error)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.sleep(0.2)  # the owner is busy with it
            for _ in range(5):
                group.start_soon(ask)
            await anyio.sleep(0.05)
            gate.set()
        await engine.close()

    anyio.run(run)
    assert len(refused) == 3
    assert "2 requests waiting" in refused[0].message


def test_threads_are_recorded(base: Path) -> None:
    engine = open_engine(str(base), threads=1)
    assert engine.base.threads == 1
    anyio.run(engine.close)


def test_a_reader_that_lags_holds_up_only_itself(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clonedna.engine.sampling.BEHIND", 3)

    async def run() -> None:
        stream = engine.sample(REQUEST.model_copy(update={"max_tokens": 30}))
        chunks = [await anext(stream)]
        await anyio.sleep(0.1)
        assert engine._owner._sampler._running[0].stream.behind <= 3
        assert await text(engine)
        chunks += [chunk async for chunk in stream]
        assert sum(chunk.token is not None for chunk in chunks) == chunks[-1].completion_tokens

    anyio.run(run)
