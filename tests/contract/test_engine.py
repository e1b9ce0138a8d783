"""What every engine promises, whatever is behind it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest
from safetensors.numpy import load_file

from clonedna.core.errors import AdapterInvalid, DnaError, InputError
from clonedna.core.model import Beside, Example, Guarded, Layer, LoraSpec, Message, Mixture, SampleChunk, SampleRequest
from clonedna.core.seams import Engine
from tests.contract.engines import GAPS, PARTS

TURN = (Message(role="user", content="write a loop"),)
EXAMPLES = [
    Example(messages=TURN, completion="for name in names:\n    print(name)\n"),
    Example(text="def area(", completion="width, height):\n    return width * height\n"),
    Example(messages=TURN, completion="größe = 'käse'\n"),
]


@pytest.fixture(params=PARTS, scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = PARTS[request.param](tmp_path_factory.mktemp(request.param))
    yield opened
    anyio.run(opened.close)


@pytest.fixture(autouse=True)
def _known_gaps(request: pytest.FixtureRequest) -> None:
    part = request.node.callspec.params["engine"]
    if request.node.originalname in GAPS[part]:
        request.applymarker(pytest.mark.xfail(reason=f"known gap of {part}", strict=True))


async def train(engine: Engine, directory: Path, steps: int = 6) -> None:
    trainer = await engine.train(LoraSpec(rank=4, alpha=8))
    for _ in range(steps):
        await trainer.forward_backward(EXAMPLES)
        await trainer.optim_step(1e-2)
    await trainer.save(directory)
    await trainer.close()


async def sampled(engine: Engine, **options: object) -> list[SampleChunk]:
    request = SampleRequest(**({"messages": TURN, "max_tokens": 10} | options))
    return [chunk async for chunk in engine.sample(request)]


def test_base_says_what_is_held(engine: Engine) -> None:
    assert len(engine.base.fingerprint) == 64
    assert engine.base.id
    assert "/" not in engine.base.id
    assert min(engine.base.parameters, engine.base.context, engine.base.vocabulary, engine.base.threads) > 0


def test_scores_are_finite_ordered_and_repeatable(engine: Engine) -> None:
    scores = anyio.run(engine.nll, EXAMPLES)
    assert [score.bytes for score in scores] == [len(example.completion.encode()) for example in EXAMPLES]
    assert all(score.tokens > 0 and 0 < score.nll < 1e6 for score in scores)
    assert anyio.run(engine.nll, EXAMPLES) == scores
    turned = anyio.run(engine.nll, EXAMPLES[::-1])[::-1]
    assert [s.tokens for s in turned] == [s.tokens for s in scores]
    assert [s.nll for s in turned] == pytest.approx([s.nll for s in scores], rel=1e-5)
    assert anyio.run(engine.nll, []) == ()


def test_training_lowers_the_loss_and_leaves_the_base_alone(engine: Engine) -> None:
    async def run() -> tuple[list[float], bool]:
        before = await engine.nll(EXAMPLES)
        trainer = await engine.train(LoraSpec(rank=4, alpha=8))
        losses: list[float] = []
        for _ in range(6):
            loss = await trainer.forward_backward(EXAMPLES)
            assert (
                loss.tokens == sum(score.tokens for score in loss.per_example) == sum(score.tokens for score in before)
            )
            assert loss.loss_sum == pytest.approx(sum(score.nll for score in loss.per_example))
            losses.append(loss.loss_sum)
            await trainer.optim_step(1e-2)
        now = sum(score.nll for score in await trainer.nll(EXAMPLES))
        await trainer.close()
        assert now < losses[0]
        return losses, await engine.nll(EXAMPLES) == before

    losses, untouched = anyio.run(run)
    assert losses[-1] < losses[0]
    assert untouched


def test_saved_and_loaded_an_adapter_is_what_was_trained(engine: Engine, tmp_path: Path) -> None:
    async def run() -> None:
        trainer = await engine.train(LoraSpec(rank=4, alpha=8))
        await trainer.forward_backward(EXAMPLES)
        await trainer.optim_step(1e-2)
        trained = await trainer.nll(EXAMPLES)
        await trainer.save(tmp_path)
        await trainer.close()
        info = await engine.load(tmp_path)
        loaded = await engine.nll(EXAMPLES, [Layer(adapter=info.id)])
        assert [score.nll for score in loaded] == pytest.approx([score.nll for score in trained], rel=1e-6)
        assert loaded != await engine.nll(EXAMPLES)

    anyio.run(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_same_files_have_the_same_id(engine: Engine, tmp_path: Path) -> None:
    anyio.run(train, engine, tmp_path)
    first, second = anyio.run(engine.load, tmp_path), anyio.run(engine.load, tmp_path)
    assert (first.id, first.digest) == (second.id, second.digest)
    assert first.bytes > 0


def test_a_layer_of_weight_zero_is_the_base(engine: Engine, tmp_path: Path) -> None:
    anyio.run(train, engine, tmp_path)
    info = anyio.run(engine.load, tmp_path)
    assert anyio.run(engine.nll, EXAMPLES, [Layer(adapter=info.id, weight=0.0)]) == anyio.run(engine.nll, EXAMPLES)


def test_a_mixture_of_one_adapter_is_that_adapter(engine: Engine, tmp_path: Path) -> None:
    anyio.run(train, engine, tmp_path)
    info = anyio.run(engine.load, tmp_path)
    layer = Layer(adapter=info.id, weight=0.5)
    alone = anyio.run(engine.nll, EXAMPLES, [layer])
    mixed = anyio.run(partial(engine.nll, mixture=Mixture(layers=(layer,), top_k=3)), EXAMPLES)
    assert [score.nll for score in mixed] == pytest.approx([score.nll for score in alone], rel=1e-4)
    assert mixed != anyio.run(engine.nll, EXAMPLES)
    with pytest.raises(InputError):
        anyio.run(partial(engine.nll, mixture=Mixture(layers=(layer,))), EXAMPLES, [layer])


def test_an_unloaded_adapter_is_gone_and_unloading_it_again_is_fine(engine: Engine, tmp_path: Path) -> None:
    anyio.run(train, engine, tmp_path)
    info = anyio.run(engine.load, tmp_path)
    anyio.run(engine.unload, info.id)
    anyio.run(engine.unload, info.id)
    with pytest.raises(DnaError, match=info.id):
        anyio.run(engine.nll, EXAMPLES, [Layer(adapter=info.id)])


def test_what_is_no_adapter_is_refused_with_a_hint(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid) as caught:
        anyio.run(engine.load, tmp_path)
    assert caught.value.hint


def test_a_sample_ends_with_reason_and_usage(engine: Engine) -> None:
    *body, last = anyio.run(sampled, engine)
    assert last.finish in ("stop", "length")
    assert last.completion_tokens == sum(chunk.token is not None for chunk in body) <= 10
    assert last.prompt_tokens
    assert all(chunk.finish is None for chunk in body)


def test_the_same_seed_gives_the_same_tokens(engine: Engine) -> None:
    first, again = (anyio.run(lambda: sampled(engine, temperature=1.0, seed=7)) for _ in range(2))
    other = anyio.run(lambda: sampled(engine, temperature=1.0, seed=8))
    assert first == again
    assert first != other


def test_greedy_ignores_the_seed(engine: Engine) -> None:
    assert anyio.run(lambda: sampled(engine, seed=1)) == anyio.run(lambda: sampled(engine, seed=2))


def test_a_prompt_s_limit_counts_its_tokens(engine: Engine) -> None:
    chunks = anyio.run(lambda: sampled(engine, messages=(), prompt="for name in names: print(name)", prompt_limit=3))
    assert chunks[-1].prompt_tokens == 3


def test_closing_a_sample_early_leaves_the_engine_well(engine: Engine) -> None:
    async def run() -> None:
        stream = engine.sample(SampleRequest(messages=TURN, max_tokens=1000))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert await engine.nll(EXAMPLES)

    anyio.run(run)


def test_what_is_observed_are_second_moments_over_all_examples_together(engine: Engine, tmp_path: Path) -> None:
    async def observed(examples: list[Example], name: str) -> dict[str, np.ndarray]:
        told = await engine.observe(examples, (), tmp_path / name)
        tensors = load_file(tmp_path / name / "covariance.safetensors")
        assert (told.tokens, told.examples) == (int(tensors["count"][0]), len(examples))
        assert told.base_fingerprint == engine.base.fingerprint
        assert told.exact == len(tensors) - 1 > 0
        assert told.bytes == (tmp_path / name / "covariance.safetensors").stat().st_size
        return tensors

    whole = anyio.run(observed, EXAMPLES, "whole")
    some, rest = anyio.run(observed, EXAMPLES[:1], "some"), anyio.run(observed, EXAMPLES[1:], "rest")
    parts = [(one.pop("count"), one) for one in (some, rest)]
    count = whole.pop("count")
    assert count == parts[0][0] + parts[1][0]
    for name, matrix in whole.items():
        together = sum(n * one[name].astype(np.float64) for n, one in parts) / count
        assert np.allclose(matrix, together, rtol=1e-4, atol=1e-6 * np.abs(matrix).max())
        assert np.allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix.astype(np.float64)).min() > -1e-5 * np.trace(matrix)
        assert matrix.trace() > 0


def test_observing_again_gives_the_same_bytes_and_leaves_no_trace(engine: Engine, tmp_path: Path) -> None:
    before = anyio.run(engine.nll, EXAMPLES)
    for name in ("a", "b"):
        anyio.run(engine.observe, EXAMPLES, (), tmp_path / name)
    first, again = ((tmp_path / name / "covariance.safetensors").read_bytes() for name in ("a", "b"))
    assert first == again
    assert anyio.run(engine.nll, EXAMPLES) == before


def test_nothing_to_observe_and_unknown_layers_are_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        anyio.run(engine.observe, [], (), tmp_path)
    with pytest.raises(DnaError, match="nobody"):
        anyio.run(engine.observe, EXAMPLES, [Layer(adapter="nobody")], tmp_path)
    assert not (tmp_path / "covariance.safetensors").exists()


def test_training_beside_a_guard_moves_what_is_guarded_less(engine: Engine, tmp_path: Path) -> None:
    other = Example(text="for", completion="r%n%p%r%")  # what follows these letters is other than what is learnt

    async def moved(name: str, beside: Beside | None) -> float:
        trainer = await engine.train(LoraSpec(rank=4, alpha=8), beside=beside)
        for _ in range(6):
            await trainer.forward_backward(EXAMPLES[:1])
            await trainer.optim_step(1e-2)
        await trainer.save(tmp_path / name)
        await trainer.close()
        info = await engine.load(tmp_path / name)
        before = await engine.nll([other])
        after = await engine.nll([other], [Layer(adapter=info.id)])
        return abs(after[0].nll - before[0].nll)

    guard = Beside(guard=(Guarded(examples=(other,)),), guard_weight=4.0)
    assert anyio.run(moved, "guarded", guard) < anyio.run(moved, "free", None)
    unknown = Guarded(examples=(other,), layers=(Layer(adapter="nobody"),))
    with pytest.raises(DnaError, match="nobody"):
        anyio.run(lambda: engine.train(LoraSpec(), beside=Beside(guard=(unknown,))))
