"""Arrow against a slow reference in plain torch, token by token; and that nobody's tokens depend on their company."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from torch import Tensor

from clonedna.core.errors import DnaError, InputError
from clonedna.core.model import Example, Layer, Mixture, SampleRequest
from clonedna.engine.adapters import Adapter, read_adapter
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.engine.mixing import Mix, Mixer, prototypes_of
from clonedna.engine.shelf import Lease
from clonedna.engine.stacks import Stacks
from tests.unit.engine import small

WEIGHTS = (1.0, 0.7, -1.2)


@pytest.fixture(scope="module")
def paths(base: Path, adapter: Path, other_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ranks 4, 8 and 20, other modules; one scaled by the root of its rank."""
    folder = tmp_path_factory.mktemp("third") / "three"
    third = small.make_adapter(
        base, folder, seed=5, r=20, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "k_proj", "up_proj", "down_proj"]
    )  # fmt: skip
    return [adapter, other_adapter, third]


def files(engine: LocalEngine, paths: Sequence[Path]) -> list[Adapter]:
    return [read_adapter(path, engine._model.shapes, engine.base.fingerprint) for path in paths]


class Slow:
    """Arrow as it is written in the paper, on the model that transformers loads: every token and module by itself, in fp64."""

    def __init__(self, base: Path, adapters: Sequence[Adapter], weights: Sequence[float], top_k: int) -> None:
        self.model, self.top_k = small.plain_model(base), top_k
        for name, module in self.model.named_modules():
            experts: list[tuple[Tensor, Tensor]] = []
            for adapter, weight in zip(adapters, weights, strict=True):
                if name in adapter.matrices:
                    a, b = (matrix.double() for matrix in adapter.matrices[name])
                    delta = adapter.scale * b @ a
                    experts.append((torch.linalg.svd(delta).Vh[0], weight * delta))
            if experts:
                module.register_forward_hook(partial(self._add, experts))

    def _add(self, experts: list[tuple[Tensor, Tensor]], module: Any, given: tuple[Tensor], out: Tensor) -> Tensor:
        out = out.clone()
        for place, h in enumerate(given[0][0].double()):
            sizes = torch.tensor([float((prototype @ h).abs()) for prototype, _ in experts])
            best = sorted(range(len(experts)), key=lambda i: -float(sizes[i]))[: self.top_k]
            shares = torch.softmax(sizes[best], 0)
            out[0, place] += sum(share * (experts[i][1] @ h) for share, i in zip(shares, best, strict=True)).float()
        return out

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        return self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


@asynccontextmanager
async def loaded(engine: LocalEngine, paths: Sequence[Path]) -> AsyncIterator[list[str]]:
    yield [(await engine.load(path)).id for path in paths]


def mixture(ids: Sequence[str], top_k: int = 2, weights: Sequence[float] = WEIGHTS) -> Mixture:
    layers = tuple(Layer(adapter=name, weight=weight) for name, weight in zip(ids, weights, strict=False))
    return Mixture(layers=layers, top_k=top_k)


async def tokens(engine: LocalEngine, request: SampleRequest) -> list[int]:
    return [chunk.token async for chunk in engine.sample(request) if chunk.token is not None]


def test_prototypes_are_the_top_right_singular_vectors(engine: LocalEngine, paths: list[Path]) -> None:
    for adapter in files(engine, paths):
        made = prototypes_of(adapter)
        assert made.keys() == adapter.matrices.keys()
        for name, (a, b) in adapter.matrices.items():
            wanted = torch.linalg.svd(b.double() @ a.double()).Vh[0]
            assert float((made[name].double() @ wanted).abs()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_likelihoods_are_the_slow_references(
    top_k: int, base: Path, engine: LocalEngine, paths: list[Path], examples: list[Example]
) -> None:
    async def run() -> list[float]:
        async with loaded(engine, paths) as ids:
            return [s.nll for s in await engine.nll(examples[:4], mixture=mixture(ids, top_k))]

    slow = Slow(base, files(engine, paths), WEIGHTS, top_k)
    wanted: list[float] = []
    for row in engine._texts.rows(examples[:4]):
        chances = slow.logits(row.ids[:-1]).log_softmax(-1)
        wanted.append(-sum(float(chances[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))))
    assert anyio.run(run) == pytest.approx(wanted, rel=1e-4)


def test_greedy_tokens_are_the_slow_references(base: Path, engine: LocalEngine, paths: list[Path]) -> None:
    request = SampleRequest(prompt="def area(width, height):", max_tokens=12, ignore_eos=True)

    async def run() -> tuple[list[int], list[int]]:
        async with loaded(engine, paths) as ids:
            asked = request.model_copy(update={"mixture": mixture(ids)})
            return engine._texts.prompt(asked), await tokens(engine, asked)

    prompt, got = anyio.run(run)
    slow, ids = Slow(base, files(engine, paths), WEIGHTS, 2), list(prompt)
    for _ in got:
        logits = slow.logits(ids)[-1].clone()
        logits[list(engine._texts.stops)] = float("-inf")
        ids.append(int(logits.argmax()))
    assert got == ids[len(prompt) :]


def test_tokens_are_the_same_alone_and_in_company(engine: LocalEngine, paths: list[Path]) -> None:
    """Mixtures of both kinds, blends, single adapters and the base, of unlike lengths, in one batch and each alone."""

    async def run() -> None:
        assert engine.status.exact
        async with loaded(engine, paths) as ids:
            ways: list[dict[str, Any]] = [
                {}, {"mixture": mixture(ids)}, {"mixture": mixture(ids, 1)}, {"layers": (Layer(adapter=ids[0]),)},
                {"layers": tuple(Layer(adapter=name, weight=0.4) for name in ids)}, {"mixture": mixture(ids[:2])},
                {"mixture": mixture(ids)},
            ]  # fmt: skip
            prompts = ["for name in names:", "x", "class Stack:\n    def push(self, item):\n" * 5, "try:\n    value"]
            requests = [
                SampleRequest(prompt=prompts[i % 4] + " " * (i // 4), max_tokens=6 + i, ignore_eos=True, **ways[i % 7])
                for i in range(14)
            ]
            alone = [await tokens(engine, request) for request in requests]
            found: dict[int, list[int]] = {}

            async def ask(number: int) -> None:
                await anyio.sleep(0.003 * (number % 3))
                found[number] = await tokens(engine, requests[number])

            async with anyio.create_task_group() as group:
                for number in range(len(requests)):
                    group.start_soon(ask, number)
            assert [found[i] for i in range(len(requests))] == alone
            assert len({tuple(one[:6]) for one in alone[:4]}) > 1
            assert all(not block.uses for block in engine._stacks._blocks.values())

    anyio.run(run)


def test_a_mixture_never_finds_the_blends_prefix(engine: LocalEngine, paths: list[Path]) -> None:
    """The same adapters, weights and prompt, summed and mixed: neither goes on from what the other kept."""

    async def run() -> None:
        async with loaded(engine, paths) as ids:
            prompt, mixed = "value = int(text) " * 30, mixture(ids)
            for request in (
                SampleRequest(prompt=prompt, layers=mixed.layers, max_tokens=1),
                SampleRequest(prompt=prompt, mixture=mixed, max_tokens=1),
                SampleRequest(prompt=prompt, mixture=mixture(ids, 1), max_tokens=1),
            ):
                last = [chunk async for chunk in engine.sample(request)][-1]
                assert last.cached_tokens == 0
                again = [chunk async for chunk in engine.sample(request)][-1]
                assert again.cached_tokens

    anyio.run(run)


def test_layers_beside_a_mixture_are_refused(engine: LocalEngine, paths: list[Path], examples: list[Example]) -> None:
    async def run() -> None:
        async with loaded(engine, paths) as ids:
            request = SampleRequest(prompt="x", mixture=mixture(ids), layers=(Layer(adapter=ids[0]),))
            with pytest.raises(InputError):
                await tokens(engine, request)
            with pytest.raises(InputError):
                await engine.nll(examples, request.layers, mixture=request.mixture)
            assert all(not adapter.uses for adapter in engine.status.adapters)

    anyio.run(run)


@torch.inference_mode()
def test_only_the_chosen_adapters_are_computed(engine: LocalEngine, paths: list[Path]) -> None:
    """What the others hold is not even read: with NaN in their place, the result is the same."""
    adapters = files(engine, paths)
    stacks = Stacks(engine._model.shapes, "cpu", 1 << 30)
    mixer = Mixer(stacks, "cpu")
    parts = tuple((adapter, 1.0) for adapter in adapters)
    mix = mixer.use(Lease(tuple((a.info.id, 1.0) for a in adapters), parts, lambda: None), mixture(["x", "y", "z"], 1))
    name = "model.layers.0.self_attn.q_proj"
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    rows, each = torch.zeros(5, 64), torch.zeros(5, 64)
    assert isinstance(mix, Mix)
    sizes = torch.stack([prototypes_of(adapter)[name] @ x.t() for adapter in adapters]).abs()
    x = x[sizes.argmax(0) == 0]
    assert len(x)
    a, b = mix.blocks[0].stack.pair(name)
    for block in mix.blocks[1:]:
        a[block.position], b[block.position] = float("nan"), float("nan")
    mix.add_rows(name, x, rows[: len(x)])
    mix.add_each(name, x, each[: len(x)])
    low, high = adapters[0].matrices[name]
    wanted = adapters[0].scale * x @ low.t() @ high.t()
    assert torch.allclose(rows[: len(x)], wanted, atol=1e-5)
    assert torch.allclose(each[: len(x)], wanted, atol=1e-5)


def test_two_requests_of_one_mixture_share_it_and_the_last_gives_it_back(
    engine: LocalEngine, paths: list[Path]
) -> None:
    adapters = files(engine, paths)
    stacks = Stacks(engine._model.shapes, "cpu", 1 << 30)
    mixer = Mixer(stacks, "cpu")
    lease = Lease(tuple((a.info.id, 1.0) for a in adapters), tuple((a, 1.0) for a in adapters), lambda: None)
    asked = mixture(["x", "y", "z"])
    one, two = mixer.use(lease, asked), mixer.use(lease, asked)
    assert one is two
    mixer.leave(one)
    assert not stacks.drop(adapters[0].info.id)
    mixer.leave(two)
    assert stacks.drop(adapters[0].info.id)


def test_slots_that_do_not_suffice_are_given_back(engine: LocalEngine, paths: list[Path]) -> None:
    adapters = files(engine, paths)
    size = 4 * 32 * sum(inside + outside for inside, outside in engine._model.shapes.values())
    stacks = Stacks(engine._model.shapes, "cpu", 2 * size)
    mixer = Mixer(stacks, "cpu")
    lease = Lease(tuple((a.info.id, 1.0) for a in adapters), tuple((a, 1.0) for a in adapters), lambda: None)
    with pytest.raises(DnaError):
        mixer.use(lease, mixture(["x", "y", "z"]))
    assert all(not block.uses for block in stacks._blocks.values())


def test_an_engine_on_a_llama_base_too(tmp_path: Path, examples: list[Example]) -> None:
    base = small.make_base(tmp_path / "base", kind="llama", num_hidden_layers=2)
    paths = [small.make_adapter(base, tmp_path / str(i), seed=i, r=4 * i) for i in (1, 2)]
    engine = open_engine(str(base), threads=1)

    async def run() -> list[float]:
        try:
            async with loaded(engine, paths) as ids:
                return [s.nll for s in await engine.nll(examples[:2], mixture=mixture(ids, 1))]
        finally:
            await engine.close()

    slow = Slow(base, files(engine, paths), WEIGHTS[:2], 1)
    wanted: list[float] = []
    for row in engine._texts.rows(examples[:2]):
        chances = slow.logits(row.ids[:-1]).log_softmax(-1)
        wanted.append(-sum(float(chances[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))))
    assert anyio.run(run) == pytest.approx(wanted, rel=1e-4)
