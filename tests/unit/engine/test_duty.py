"""The owner's time: its shares between work and requests, and that nothing is left of callers who gave up."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.core.errors import InputError, Internal, NoMemory, Overloaded
from clonedna.core.model import Example, Layer, LoraSpec, SampleRequest
from clonedna.engine import sampling as sampling_module
from clonedna.engine import training as training_module
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.engine.owner import Owner

LONG = SampleRequest(prompt="def area(", max_tokens=200, ignore_eos=True)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Requests:
    """Stands for the sampler: always or never busy, each step takes a second of the clock."""

    def __init__(self, clock: Clock, *, busy: bool) -> None:
        self.clock, self.busy, self.lagging = clock, busy, False
        self.steps = 0
        self.spent = 0.0

    def step(self) -> None:
        self.steps += 1
        self.spent += 1.0
        self.clock.now += 1.0

    def stop(self, error: Exception | None = None) -> None:
        self.busy = False


def shares(monkeypatch: pytest.MonkeyPatch, duty: float, takes: float, *, busy: bool = True) -> tuple[float, float]:
    """Seconds that work and requests got until 300 steps of work, each taking ``takes``, were done."""
    clock = Clock()
    monkeypatch.setattr("clonedna.engine.owner.time", clock)
    requests = Requests(clock, busy=busy)
    owner = Owner(requests, lambda: 1, lambda: None, threads=1, name="duty", duty=duty)  # type: ignore[arg-type]
    spent = [0.0]

    def work(payloads: list[None]) -> Generator[None, None, list[tuple[float, float]]]:
        began = requests.spent
        for _ in range(300):
            clock.now += takes
            spent[0] += takes
            yield
        return [(spent[0], requests.spent - began) for _ in payloads]

    async def run() -> Any:
        return await owner.call(work, None)

    try:
        return anyio.run(run)
    finally:
        monkeypatch.undo()
        assert owner.close(10)


@pytest.mark.parametrize("duty", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("takes", [1.0, 7.0, 0.25])
def test_work_and_requests_get_their_shares(monkeypatch: pytest.MonkeyPatch, duty: float, takes: float) -> None:
    """As far as whole steps allow: a round is a step of work and as many of the requests as the rest of its share takes."""
    work, requests = shares(monkeypatch, duty, takes)
    a_round = max(1, -(-takes * (1 - duty) / duty // 1))
    assert work / (work + requests) == pytest.approx(takes / (takes + a_round), rel=0.02)
    assert work / (work + requests) <= duty + 0.02


def test_without_requests_work_has_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares(monkeypatch, 0.1, 1.0, busy=False) == (300.0, 0.0)


@pytest.mark.parametrize("duty", [0.0, -0.1, 1.5])
def test_what_is_no_share_is_refused(base: Path, duty: float) -> None:
    with pytest.raises(InputError):
        open_engine(str(base), threads=1, duty=duty)


async def consume(engine: LocalEngine, request: SampleRequest) -> None:
    async for _ in engine.sample(request):
        pass


async def settled(engine: LocalEngine) -> None:
    for _ in range(300):
        status = engine.status
        if not (status.running or status.waiting or status.training or any(one.uses for one in status.adapters)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still held: {engine.status}")


@pytest.mark.parametrize("what", ["sample", "nll"])
def test_a_caller_who_gives_up_while_the_disk_is_read_holds_nothing(
    engine: LocalEngine, adapter: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """asyncio's own cancelling, which does not wait for the worker's thread."""
    gate = threading.Event()
    lease = engine._shelf.lease

    def slow(layers: list[Layer]) -> Any:
        held = lease(layers)
        gate.wait(10)
        return held

    monkeypatch.setattr(engine._shelf, "lease", slow)

    async def run() -> None:
        layers = (Layer(adapter=(await engine.load(adapter)).id),)
        if what == "sample":
            stream = engine.sample(LONG.model_copy(update={"layers": layers}))
            task = asyncio.ensure_future(anext(stream))
        else:
            task = asyncio.ensure_future(engine.nll(examples, layers))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await asyncio.sleep(0.05)
        await settled(engine)

    asyncio.run(run())


def test_a_trainer_is_closed_also_by_who_is_cancelled_or_forgets_it(engine: LocalEngine) -> None:
    async def train() -> None:
        trainer = await engine.train(LoraSpec(rank=2))
        try:
            await asyncio.sleep(60)
        finally:
            await trainer.close()

    async def run() -> None:
        blocked = threading.Event()

        def block(payloads: list[None]) -> list[None]:
            blocked.wait(10)
            return payloads

        task = asyncio.ensure_future(train())
        for _ in range(300):
            if engine.status.training:
                break
            await asyncio.sleep(0.01)
        busy = asyncio.ensure_future(engine._owner.call(block, None))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        task.cancel()  # and again, while it waits for the owner to close it
        with pytest.raises(asyncio.CancelledError):
            await task
        blocked.set()
        await busy
        await settled(engine)
        await engine.train(LoraSpec(rank=2))
        gc.collect()
        await settled(engine)

    asyncio.run(run())


def test_no_room_for_a_lane_fails_that_request_alone(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    take = engine._lanes.take

    def full(tokens: int) -> Any:
        if tokens > 150:
            raise RuntimeError("not enough memory")
        return take(tokens)

    monkeypatch.setattr(engine._lanes, "take", full)

    async def run() -> None:
        short = LONG.model_copy(update={"max_tokens": 5})
        with pytest.raises(Internal, match="not enough memory"):
            _ = [chunk async for chunk in engine.sample(LONG)]
        assert len([chunk async for chunk in engine.sample(short)]) == 6
        await settled(engine)

    anyio.run(run)
    assert engine._lanes.used == 0


def test_unloading_while_others_run_moves_lanes(engine: LocalEngine, adapter: Path) -> None:
    """Taking back is done in the middle of other work, too."""

    async def run() -> None:
        layers = (Layer(adapter=(await engine.load(adapter)).id),)
        alone = [chunk.token async for chunk in engine.sample(LONG)]
        for _ in range(3):
            left = engine.sample(LONG.model_copy(update={"layers": layers}))
            await anext(left)
            stays = engine.sample(LONG)
            tokens = [(await anext(stays)).token]
            await left.aclose()
            await engine.unload(layers[0].adapter)
            assert [*tokens, *[chunk.token async for chunk in stays]] == alone
            await engine.load(adapter)
        await settled(engine)

    anyio.run(run)


def test_an_example_that_is_too_long_to_train_on_fails_its_own_batch_before_it_begins(
    engine: LocalEngine, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "STEP_TOKENS", 100)
    monkeypatch.setattr(training_module, "activation_bytes", lambda *_: 1 << 60)

    async def run() -> None:
        trainer = await engine.train(LoraSpec(rank=2, seed=1))
        try:
            long = Example(text="a", completion="x = 1\n" * 60)
            with pytest.raises(NoMemory, match="training example"):
                await trainer.forward_backward([*examples[:2], long])
            assert trainer._trained is not None
            assert all(matrix.grad is None for matrix in trainer._trained.parameters)
            with pytest.raises(InputError, match="no gradient"):
                await trainer.optim_step(1e-3)
        finally:
            await trainer.close()

    with monkeypatch.context() as patch:
        patch.setattr(training_module, "training_bytes", lambda *_: 0)
        anyio.run(run)


def test_status_may_be_asked_from_any_thread_at_any_time(engine: LocalEngine, adapter: Path) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        while not done.is_set():
            try:
                assert engine.status.adapter_budget > 0
            except BaseException as error:
                failures.append(error)

    async def run() -> None:
        info = await engine.load(adapter)
        async with anyio.create_task_group() as group:
            for i in range(12):
                layers = (Layer(adapter=info.id, weight=1 + i / 10),) if i % 2 else ()
                group.start_soon(consume, engine, LONG.model_copy(update={"layers": layers, "max_tokens": 30}))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        anyio.run(run)
    finally:
        done.set()
        thread.join(10)
    assert failures == []


def test_a_request_waits_for_a_place_and_the_next_ones_behind_it(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "RUNNING", 2)
    most: list[int] = []

    async def one(i: int, order: list[int]) -> None:
        async for chunk in engine.sample(LONG.model_copy(update={"max_tokens": 10, "seed": i})):
            most.append(engine.status.running)
            if chunk.finish is not None:
                order.append(i)

    async def run() -> list[int]:
        order: list[int] = []
        async with anyio.create_task_group() as group:
            for i in range(8):
                group.start_soon(one, i, order)
                await anyio.sleep(0.01)
        return order

    order = anyio.run(run)
    assert sorted(order) == list(range(8))
    assert max(most) <= 2
    assert order[0] in (0, 1)


@pytest.mark.parametrize("waiting", [0, 4])
def test_no_more_wait_than_may_however_many_come_at_once(
    base: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setattr(sampling_module, "RUNNING", 2)
    engine = open_engine(str(base), threads=1, max_waiting=waiting)
    refused: list[Overloaded] = []
    most: list[int] = []

    async def one() -> None:
        try:
            async for _ in engine.sample(LONG.model_copy(update={"max_tokens": 20})):
                most.append(engine.status.waiting)
        except Overloaded as error:
            refused.append(error)

    async def run() -> None:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(40):
                    group.start_soon(one)
        await engine.close()

    anyio.run(run)
    assert len(refused) == 2 * (40 - 2 - waiting)
    assert max(most) <= waiting
    assert all(isinstance(error.facts["retry_after"], int) for error in refused)
