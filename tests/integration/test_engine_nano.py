"""The bundled base under what it is for: many adapters behind one system prompt, and answers while adapters train."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest
import torch

from clonedna.core.model import Example, Layer, LoraSpec, SampleRequest, StepLoss
from clonedna.core.seams import Engine
from clonedna.engine.adapters import write_adapter
from clonedna.engine.local import LocalEngine, open_engine

pytestmark = pytest.mark.slow
ADAPTERS = 16
SYSTEM = (
    '"""Tools for small shapes. Every function here is plain, documented, and named after what it gives."""\n\nimport math\n'
    * 3
)
QUESTIONS = ["def area(", "def perimeter(", "class Circle:\n", "for shape in"]
JOBS = [
    (LoraSpec(rank=8, alpha=16, seed=1, clip=1.0), 2e-3),
    (LoraSpec(rank=4, alpha=8, seed=2, clip=0.1), 1e-2),
    (LoraSpec(rank=16, alpha=16, seed=3, clip=0.0, target_modules=("q_proj", "v_proj")), 5e-4),
]
BATCHES = [
    [Example(text="def area(", completion="width, height):\n    return width * height\n")] * 2,
    [
        Example(text="def half(", completion="x):\n    return x / 2\n"),
        Example(text="class A", completion=":\n    pass\n"),
    ],
    [Example(text="import ", completion="math\n\n\ndef root(x):\n    return math.sqrt(x)\n")],
]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = open_engine("nano", threads=1, prefix_bytes=64 << 20)
    yield engine
    anyio.run(engine.close)


@pytest.fixture(scope="module")
def paths(engine: LocalEngine, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made: list[Path] = []
    for i in range(ADAPTERS):
        draw = torch.Generator().manual_seed(i)
        matrices = {
            name: (torch.randn(8, inside, generator=draw) / inside**0.5, torch.randn(outside, 8, generator=draw) * 0.03)
            for name, (inside, outside) in engine._model.shapes.items()
        }
        made.append(tmp_path_factory.mktemp("adapters") / f"{i}")
        write_adapter(
            made[-1], matrices, rank=8, alpha=16, rslora=False, base=engine.base.id, fingerprint=engine.base.fingerprint
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def ids(engine: LocalEngine, paths: list[Path]) -> list[str]:
    async def load() -> list[str]:
        return [(await engine.load(path)).id for path in paths]

    return anyio.run(load)


def requests(ids: Sequence[str]) -> list[SampleRequest]:
    """One for each adapter, two through the base, four blends; half greedy, half drawn."""
    layers = [(Layer(adapter=id),) for id in ids] + [(), ()]
    layers += [(Layer(adapter=ids[0], weight=w), Layer(adapter=ids[1], weight=1 - w)) for w in (0.7, 0.3, 0.5, 0.2)]
    return [
        SampleRequest(
            prompt=SYSTEM + QUESTIONS[i % 4], layers=own, max_tokens=24, ignore_eos=True, seed=i, temperature=0.9 * (i % 2)
        )
        for i, own in enumerate(layers)
    ]  # fmt: skip


async def answer(engine: Engine, request: SampleRequest) -> tuple[list[int], int]:
    chunks = [chunk async for chunk in engine.sample(request)]
    return [chunk.token for chunk in chunks if chunk.token is not None], chunks[-1].cached_tokens or 0


async def together(engine: Engine, asked: Sequence[SampleRequest]) -> list[tuple[list[int], int]]:
    return await asyncio.gather(*(answer(engine, request) for request in asked))


def test_behind_one_system_prompt_every_adapter_says_what_it_says_without_kept_prompts(
    engine: LocalEngine, paths: list[Path], ids: list[str]
) -> None:
    plain = open_engine("nano", threads=1, prefix_bytes=0)

    async def run() -> None:
        for path in paths:
            await plain.load(path)
        asked = requests(ids)
        wanted = [await answer(plain, request) for request in asked]
        assert {cached for _, cached in wanted} == {0}
        first = await together(engine, asked)
        again = await together(engine, asked)
        for got in (first, again):
            assert [tokens for tokens, _ in got] == [tokens for tokens, _ in wanted]
        assert min(cached for _, cached in again) >= 64
        assert engine.status.prefix_hits >= 64 * len(asked)
        assert plain.status.prefix_hits == 0
        assert len({tuple(tokens) for tokens, _ in first}) > ADAPTERS  # the adapters do say different things
        # Other weights of the same blend have begun alike, and share nothing.
        blend = asked[-1].model_copy(
            update={"layers": (Layer(adapter=ids[0], weight=0.6), Layer(adapter=ids[1], weight=0.4))}
        )
        assert await answer(engine, blend) == ((await answer(plain, blend))[0], 0)

    try:
        anyio.run(run)
    finally:
        anyio.run(plain.close)


async def train(engine: LocalEngine, number: int, steps: int, ready: asyncio.Barrier | None = None) -> list[StepLoss]:
    spec, rate = JOBS[number]
    trainer = await engine.train(spec)
    losses: list[StepLoss] = []
    if ready is not None:
        await ready.wait()
    for step in range(steps):
        losses.append(await trainer.forward_backward(BATCHES[(step + number) % 3]))
        await trainer.optim_step(rate)
    await trainer.close()
    return losses


def test_answers_are_the_same_before_during_and_after_three_trainings(engine: LocalEngine, ids: list[str]) -> None:
    weights = {name: (p.data_ptr(), p._version) for name, p in engine._model.base.model.named_parameters()}

    async def run() -> None:
        asked = requests(ids)
        before = [tokens for tokens, _ in await together(engine, asked)]
        ready = asyncio.Barrier(len(JOBS))
        jobs = [asyncio.ensure_future(train(engine, number, 8, ready)) for number in range(len(JOBS))]
        rounds = 0
        while not all(job.done() for job in jobs):
            assert [tokens for tokens, _ in await together(engine, asked)] == before
            rounds += 1
        assert rounds > 0
        at_once = [await job for job in jobs]
        assert [tokens for tokens, _ in await together(engine, asked)] == before
        for number, losses in enumerate(at_once):
            alone = await train(engine, number, 8)
            assert losses[6].loss_sum < losses[0].loss_sum  # of the same batch
            assert [loss.tokens for loss in losses] == [loss.tokens for loss in alone]
            means = [loss.loss_sum / loss.tokens for loss in losses]
            assert means == pytest.approx([loss.loss_sum / loss.tokens for loss in alone], abs=1e-5)

    assert engine.status.exact
    asyncio.run(run())
    assert {name: (p.data_ptr(), p._version) for name, p in engine._model.base.model.named_parameters()} == weights
    assert all(p.grad is None and not p.requires_grad for p in engine._model.base.model.parameters())
    status = engine.status
    print(f"\ngap {status.gap}, beside training {status.gap_training}, first token {status.first_token}")
    assert status.gap.n > 0
    assert status.gap_training.n > 0
    assert status.training == 0
