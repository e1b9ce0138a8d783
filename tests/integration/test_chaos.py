"""Many clients that come, go, lag and give up, over adapters that come and go with too little memory, beside training.

Whatever they do: every token that anybody saw is the one of a request taken alone, only typed errors are met, nothing is held
afterwards, and the base was not written. ``TEST_CHAOS_SECONDS`` and ``TEST_CHAOS_SEED`` make it longer or another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch

from clonedna.core.errors import AdapterInvalid, DnaError, NotFound, Overloaded
from clonedna.core.model import Example, Layer, LoraSpec, SampleRequest
from clonedna.engine.adapters import write_adapter
from clonedna.engine.local import LocalEngine, open_engine
from tests.unit.engine import small

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("TEST_CHAOS_SECONDS", "8"))
SEED = int(os.environ.get("TEST_CHAOS_SEED", "1"))
ADAPTERS, READERS = 14, 16
RANKS = (2, 4, 8, 16)
SYSTEM = "You write short and plain code, you never explain it, and you name things after what they are. " * 2
EXAMPLES = [Example(text="def area(", completion=text) for text in small.SENTENCES]
MODULES = [
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("gate_proj", "up_proj", "down_proj"),
    ("down_proj",),
]


@dataclass(frozen=True)
class Ask:
    """A request whose layers are named by number, so that any engine can be asked it."""

    prompt: str
    layers: tuple[tuple[int, float], ...]
    options: tuple[tuple[str, float], ...]

    def request(self, ids: dict[int, str]) -> SampleRequest:
        layers = tuple(Layer(adapter=ids[number], weight=weight) for number, weight in self.layers)
        return SampleRequest(prompt=self.prompt, layers=layers, **dict(self.options))


@dataclass
class Seen:
    """What all clients met. ``tokens``: for each request, all beginnings that were streamed."""

    tokens: dict[Ask, set[tuple[int, ...]]] = field(default_factory=dict)
    scores: dict[tuple[tuple[int, float], ...], list[list[float]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def asks(draw: random.Random) -> list[Ask]:
    made: list[Ask] = []
    for i in range(60):
        blend = draw.sample(range(ADAPTERS), draw.choice((0, 1, 1, 1, 2, 3)))
        while sum(RANKS[number % 4] for number in blend) > 32:  # more than the slots' budget has room for
            blend.pop()
        layers = tuple((number, draw.choice((1.0, 0.5, 0.3))) for number in sorted(blend))
        prompt = (SYSTEM if draw.random() < 0.5 else "") + draw.choice(small.SENTENCES)
        options = {
            "max_tokens": draw.choice((1, 4, 12, 40)),
            "seed": i,
            "temperature": draw.choice((0.0, 0.8)),
            "ignore_eos": draw.random() < 0.3,
        }
        if draw.random() < 0.2:
            options |= {"repetition_penalty": 1.3, "top_p": 0.9}
        made.append(Ask(prompt, layers, tuple(options.items())))
    return made


def make_adapters(engine: LocalEngine, into: Path) -> list[Path]:
    made: list[Path] = []
    for i in range(ADAPTERS):
        draw = torch.Generator().manual_seed(i)
        rank = RANKS[i % 4]
        matrices = {
            name: (
                torch.randn(rank, inside, generator=draw) / inside**0.5,
                torch.randn(outside, rank, generator=draw) * 0.3,
            )
            for name, (inside, outside) in engine._model.shapes.items()
            if name.rpartition(".")[2] in MODULES[i % 3]
        }
        made.append(into / f"adapter-{i}")
        write_adapter(
            made[-1], matrices, rank=rank, alpha=rank, rslora=False, base=engine.base.id, fingerprint=engine.base.fingerprint
        )  # fmt: skip
    return made


class Chaos:
    """The clients of one engine. All draw from one seed; what the scheduler makes of it differs from run to run."""

    def __init__(self, engine: LocalEngine, paths: list[Path], ids: dict[int, str]) -> None:
        self.engine, self.paths, self.ids = engine, paths, ids
        self.seen = Seen()
        self.asks = asks(random.Random(SEED))
        self.until = time.monotonic() + SECONDS

    async def run(self) -> None:
        clients = [(self.reader, READERS), (self.librarian, 1), (self.trainer, 3), (self.measurer, 1)]
        async with asyncio.TaskGroup() as group:
            for number, (client, count) in enumerate(clients):
                for i in range(count):
                    group.create_task(self.repeat(client, random.Random(SEED * 1000 + number * 100 + i)))

    async def repeat(self, client, draw: random.Random) -> None:
        while time.monotonic() < self.until:
            try:
                async with asyncio.timeout(draw.choice((None, None, 0.002, 0.02, 0.3))):
                    await client(draw)
            except TimeoutError:
                self.seen.counts["given up"] += 1
            except (Overloaded, NotFound) as error:
                self.seen.counts[error.code] += 1
                await asyncio.sleep(0.01)
            except DnaError as error:
                self.seen.faults.append(f"{client.__name__}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.01)

    async def reader(self, draw: random.Random) -> None:
        ask = draw.choice(self.asks)
        leaves = draw.choice((None, None, None, 1, 5))
        lag = draw.choice((0.0, 0.0, 0.0, 0.02))
        tokens: list[int] = []
        stream = self.engine.sample(ask.request(self.ids))
        try:
            async for chunk in stream:
                if chunk.token is not None:
                    tokens.append(chunk.token)
                if chunk.finish is not None:
                    self.seen.counts[f"finish {chunk.finish}"] += 1
                    self.seen.counts["cached"] += bool(chunk.cached_tokens)
                    tokens.append(-1)  # the whole of it
                elif len(tokens) == leaves:
                    break
                if lag:
                    await asyncio.sleep(lag)
        finally:
            self.seen.tokens.setdefault(ask, set()).add(tuple(tokens))
            await stream.aclose()

    async def librarian(self, draw: random.Random) -> None:
        number = draw.randrange(ADAPTERS)
        if draw.random() < 0.4:
            await self.engine.unload(self.ids[number])
            await asyncio.sleep(draw.random() * 0.05)
        priority = draw.choice((0.1, 0.5, 0.85))
        info = await self.engine.load(self.paths[number], owner=draw.choice("abc"), priority=priority)
        if info.id != self.ids[number]:
            self.seen.faults.append(f"adapter {number} was {self.ids[number]}, is {info.id}")
        await asyncio.sleep(draw.random() * 0.05)

    async def trainer(self, draw: random.Random) -> None:
        trainer = await self.engine.train(
            LoraSpec(rank=draw.choice((2, 8)), seed=draw.randrange(9), clip=draw.choice((0.0, 1.0)))
        )
        try:
            for _ in range(draw.randint(1, 4)):
                await trainer.forward_backward(draw.sample(EXAMPLES, 3))
                await trainer.optim_step(draw.choice((1e-2, 1e-1)))
                self.seen.counts["training steps"] += 1
        finally:
            await trainer.close()

    async def measurer(self, draw: random.Random) -> None:
        layers = draw.choice(self.asks).layers
        scores = await self.engine.nll(EXAMPLES, [Layer(adapter=self.ids[n], weight=weight) for n, weight in layers])
        self.seen.scores.setdefault(layers, []).append([score.nll for score in scores])
        await asyncio.sleep(draw.random() * 0.05)


async def alone(engine: LocalEngine, ask: Ask, ids: dict[int, str]) -> tuple[int, ...]:
    return (*[chunk.token async for chunk in engine.sample(ask.request(ids)) if chunk.token is not None], -1)


async def quiet(engine: LocalEngine) -> None:
    """Until the owner has taken back what the last clients held."""
    for _ in range(500):
        status = engine.status
        if not (status.running or status.waiting or status.training or any(one.uses for one in status.adapters)):
            return
        await asyncio.sleep(0.01)


def test_whatever_clients_do_every_token_is_right_and_nothing_stays_held(tmp_path: Path) -> None:
    base = small.make_base(tmp_path / "base")
    engine = open_engine(
        str(base), threads=1, adapter_bytes=420_000, cache_bytes=3_000_000, prefix_bytes=1_000_000, max_waiting=12, duty=0.5
    )  # fmt: skip
    weights = {name: (p.data_ptr(), p._version) for name, p in engine._model.base.model.named_parameters()}
    assert engine.status.exact

    async def run() -> Seen:
        paths = make_adapters(engine, tmp_path)
        ids: dict[int, str] = {}
        for number, path in enumerate(paths):
            ids[number] = (await engine.load(path)).id
        chaos = Chaos(engine, paths, ids)
        before = psutil.Process().memory_info().rss
        await chaos.run()
        await quiet(engine)
        grown = psutil.Process().memory_info().rss - before
        status = engine.status
        print(f"\n{dict(chaos.seen.counts)} evictions {status.evictions}, swaps {status.swap}, RSS {grown >> 20:+} MiB")
        print(f"gap {status.gap}, beside training {status.gap_training}")
        assert chaos.seen.faults == []
        assert (status.running, status.waiting, status.training) == (0, 0, 0)
        assert [one.id for one in status.adapters if one.uses] == []
        assert engine._lanes.used == 0
        assert [pool.size for pool in engine._lanes._pools.values()] == [0] * len(engine._lanes._pools)
        assert [block.key for block in engine._stacks._blocks.values() if block.uses] == []
        assert status.adapter_bytes <= status.adapter_budget
        assert engine._stacks.bytes <= engine._stacks.budget
        assert status.cache_bytes <= status.cache_budget
        assert {name: (p.data_ptr(), p._version) for name, p in engine._model.base.model.named_parameters()} == weights
        assert all(p.grad is None for p in engine._model.base.model.parameters())
        assert grown < 300 << 20
        # It was a hard time, or the test shows little.
        assert status.evictions > 5
        assert chaos.seen.counts["cached"] > 5
        assert chaos.seen.counts["given up"] > 10
        assert chaos.seen.counts["training steps"] > 5
        # The engine still answers, as an engine does that saw nothing of this.
        await engine.unload(ids[0])
        with contextlib.suppress(NotFound):
            await alone(engine, Ask("x", ((0, 1.0),), ()), ids)
            raise AssertionError("an unloaded adapter answered")
        fresh = open_engine(str(base), threads=1, prefix_bytes=0)
        try:
            for path in paths:
                await fresh.load(path)
            for ask, streamed in chaos.seen.tokens.items():
                whole = await alone(fresh, ask, ids)
                wrong = [tokens for tokens in streamed if tokens != whole[: len(tokens)]]
                assert not wrong, (ask, whole, wrong)
            for layers, scores in chaos.seen.scores.items():
                wanted = await fresh.nll(EXAMPLES, [Layer(adapter=ids[n], weight=w) for n, w in layers])
                for got in scores:
                    assert got == pytest.approx([score.nll for score in wanted], rel=1e-5)
            for number, _ in chaos.asks[0].layers:
                await engine.load(paths[number])
            assert await alone(engine, chaos.asks[0], ids) == await alone(fresh, chaos.asks[0], ids)
        finally:
            await fresh.close()
        return chaos.seen

    seen = asyncio.run(run())
    asyncio.run(engine.close())
    assert sum(len(streamed) for streamed in seen.tokens.values()) > 50


def test_files_that_change_under_an_adapter_are_never_served_as_it(tmp_path: Path) -> None:
    """Out of memory and read again, or loaded again: never the old name with new weights, never new weights with old keys."""
    engine = open_engine(
        str(small.make_base(tmp_path / "base")), threads=1, adapter_bytes=200_000, prefix_bytes=1 << 20
    )
    request = SampleRequest(prompt=SYSTEM + "def area(", max_tokens=16, ignore_eos=True)

    async def tokens(id: str) -> tuple[list[int | None], int | None]:
        chunks = [c async for c in engine.sample(request.model_copy(update={"layers": (Layer(adapter=id),)}))]
        return [chunk.token for chunk in chunks[:-1]], chunks[-1].cached_tokens

    async def run() -> None:
        made = make_adapters(engine, tmp_path)
        place = made[0]
        first = await engine.load(place)
        told, _ = await tokens(first.id)
        again, cached = await tokens(first.id)
        assert again == told
        assert cached
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (place / name).write_bytes((made[4] / name).read_bytes())
        assert (await tokens(first.id))[0] == told  # still in memory
        for _ in range(3):
            for other in made[5:12]:
                with contextlib.suppress(Overloaded):
                    await engine.load(other)
        assert next(one.state for one in engine.status.adapters if one.id == first.id) == "disk"
        with pytest.raises(AdapterInvalid, match="changed"):
            await tokens(first.id)
        second = await engine.load(place)
        assert second.id != first.id
        changed, cached = await tokens(second.id)
        assert cached == 0
        assert changed != told
        fresh = await tokens((await engine.load(made[4])).id)
        assert changed == fresh[0]

    asyncio.run(run())
    asyncio.run(engine.close())
