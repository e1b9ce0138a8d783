"""Sampling: reproducible, the same alone and in company, streamed exactly, stopped and cancelled cleanly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import torch

from clonedna.core.errors import InputError, Internal, NotFound
from clonedna.core.model import Example, Layer, Message, SampleChunk, SampleRequest
from clonedna.engine.choosing import choose
from clonedna.engine.local import LocalEngine
from tests.unit.engine import small


async def chunks_of(engine: LocalEngine, request: SampleRequest) -> list[SampleChunk]:
    return [chunk async for chunk in engine.sample(request)]


async def together(engine: LocalEngine, requests: Sequence[SampleRequest]) -> list[list[SampleChunk]]:
    results: list[list[SampleChunk]] = [[] for _ in requests]

    async def one(i: int) -> None:
        results[i] = await chunks_of(engine, requests[i])

    async with anyio.create_task_group() as group:
        for i in range(len(requests)):
            group.start_soon(one, i)
    return results


def asked(i: int, **options: object) -> SampleRequest:
    fields = {"messages": (Message(role="user", content=f"write number {i} " * (i + 1)),), "max_tokens": 24} | options
    return SampleRequest(**fields)


def computed(chunks: list[SampleChunk]) -> list[SampleChunk]:
    """All but how much of the prompt was kept from before."""
    return [chunk.model_copy(update={"cached_tokens": None}) for chunk in chunks]


def greedy(base: Path, engine: LocalEngine, request: SampleRequest, adapter: Path | None) -> list[int]:
    """The same by transformers' own ``generate`` with PEFT."""
    ids = torch.tensor([engine._texts.prompt(request)])
    model = small.plain_model(base) if adapter is None else small.with_adapter(base, adapter)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return [token for token in out[0, ids.shape[1] :].tolist() if token not in (0, 2)]


@pytest.mark.parametrize("tuned", [False, True])
def test_greedy_tokens_are_those_of_transformers_generate(
    engine: LocalEngine, base: Path, adapter: Path, tuned: bool
) -> None:
    layers = (Layer(adapter=anyio.run(engine.load, adapter).id),) if tuned else ()
    request = asked(1, layers=layers, max_tokens=40)
    chunks = anyio.run(chunks_of, engine, request)
    assert [chunk.token for chunk in chunks[:-1]] == greedy(base, engine, request, adapter if tuned else None)


def test_each_request_gets_the_same_tokens_and_logprobs_alone_and_in_company(
    engine: LocalEngine, adapter: Path, other_adapter: Path
) -> None:
    """To the last bit: greedy and drawn, through the base, two adapters and a blend, of different lengths, 33 at a time."""
    assert engine.status.exact
    one, two = (anyio.run(engine.load, path).id for path in (adapter, other_adapter))
    paths = (
        (),
        (Layer(adapter=one),),
        (Layer(adapter=two),),
        (Layer(adapter=one, weight=0.7), Layer(adapter=two, weight=0.3)),
    )
    requests = [
        asked(
            i % 5,
            layers=paths[i % 4],
            temperature=(i % 3) * 0.6,
            top_p=0.9,
            seed=i,
            logprobs=True,
            max_tokens=5 + 3 * (i % 14),
        )
        for i in range(33)
    ]
    company = [computed(chunks) for chunks in anyio.run(together, engine, requests)]
    assert company == [computed(anyio.run(chunks_of, engine, request)) for request in requests]
    assert len({tuple(chunk.token for chunk in chunks) for chunks in company}) > 10


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(engine: LocalEngine) -> None:
    hot = [asked(0, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (anyio.run(chunks_of, engine, request) for request in hot)
    assert first == again
    assert [c.token for c in first] != [c.token for c in other]


def test_streamed_text_is_the_text_of_all_tokens(engine: LocalEngine) -> None:
    for seed in range(6):
        chunks = anyio.run(chunks_of, engine, asked(0, temperature=1.5, seed=seed, max_tokens=50))
        tokens = [chunk.token for chunk in chunks if chunk.token is not None]
        assert "".join(chunk.text for chunk in chunks) == engine._texts.decode(tokens)
        assert chunks[-1].finish in ("stop", "length")
        assert chunks[-1].completion_tokens == len(tokens)
        assert chunks[-1].prompt_tokens == len(engine._texts.prompt(asked(0)))
        assert all(chunk.finish is None for chunk in chunks[:-1])


def test_logprobs_are_the_model_s(engine: LocalEngine, base: Path) -> None:
    request = asked(2, logprobs=True, temperature=0.9, top_p=0.5, seed=4, max_tokens=8)
    chunks = anyio.run(chunks_of, engine, request)[:-1]
    prompt = engine._texts.prompt(request)
    with torch.inference_mode():
        logits = small.plain_model(base)(input_ids=torch.tensor([[*prompt, *[c.token for c in chunks]]])).logits[0]
    wanted = logits[len(prompt) - 1 : -1].log_softmax(-1)
    for i, chunk in enumerate(chunks):
        assert chunk.logprob is not None
        assert chunk.logprob.logprob == pytest.approx(float(wanted[i, chunk.token]), abs=1e-4)


def test_a_stop_string_ends_the_text_before_it(engine: LocalEngine) -> None:
    whole = "".join(c.text for c in anyio.run(chunks_of, engine, asked(3, temperature=1.0, seed=1, max_tokens=40)))
    stop = whole[20:24]
    chunks = anyio.run(chunks_of, engine, asked(3, temperature=1.0, seed=1, max_tokens=40, stop=("never-there", stop)))
    assert "".join(c.text for c in chunks) == whole[: whole.find(stop)]
    assert chunks[-1].finish == "stop"


def test_the_end_of_turn_ends_a_completion_and_is_no_part_of_it(engine: LocalEngine) -> None:
    """At a high temperature one of the two end tokens comes soon."""
    requests = [asked(0, temperature=9.0, seed=seed, max_tokens=120) for seed in range(16)]
    ended = [chunks for chunks in anyio.run(together, engine, requests) if chunks[-1].finish == "stop"]
    assert ended
    assert all(chunk.token not in (0, 2) for chunks in ended for chunk in chunks)


def test_a_completion_ends_with_the_context(engine: LocalEngine) -> None:
    chunks = anyio.run(chunks_of, engine, SampleRequest(prompt="a b c " * 200, max_tokens=1000, temperature=0.3))
    usage = chunks[-1]
    assert usage.prompt_tokens == 128
    assert usage.finish == "stop" or usage.prompt_tokens + usage.completion_tokens == 256


def test_a_request_that_cannot_be_served_fails_alone(engine: LocalEngine) -> None:
    with pytest.raises(NotFound):
        anyio.run(chunks_of, engine, asked(0, layers=(Layer(adapter="gone"),)))
    with pytest.raises(InputError):
        anyio.run(chunks_of, engine, SampleRequest())
    assert anyio.run(chunks_of, engine, asked(0))[-1].finish


def test_a_fault_reaches_those_it_concerns_and_the_owner_goes_on(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(engine._model), "logits", lambda self, hidden: 1 / 0)
        with pytest.raises(Internal, match="ZeroDivisionError"):
            anyio.run(chunks_of, engine, asked(0))
    assert anyio.run(chunks_of, engine, asked(0))[-1].finish


def test_closing_the_iterator_cancels_the_request_and_frees_its_adapter(engine: LocalEngine, adapter: Path) -> None:
    async def use() -> None:
        info = await engine.load(adapter)
        stream = engine.sample(asked(0, max_tokens=100_000, layers=(Layer(adapter=info.id),), stop=("never",)))
        await anext(stream)
        await engine.unload(info.id)
        assert info.id in engine._stacks.adapters()  # still in use
        await stream.aclose()  # type: ignore[attr-defined]
        with anyio.fail_after(30):
            while info.id in engine._stacks.adapters():  # noqa: ASYNC110 - the owner's thread tells nobody
                await anyio.sleep(0.01)

    anyio.run(use)
    assert not engine._owner._sampler.busy
    assert engine.status.running == engine._lanes.used == 0


def test_an_adapter_in_use_is_freed_only_when_its_last_request_ends(engine: LocalEngine, adapter: Path) -> None:
    async def use() -> tuple[list[SampleChunk], list[SampleChunk]]:
        info = await engine.load(adapter)
        request = asked(0, max_tokens=60, layers=(Layer(adapter=info.id),))
        undisturbed = await chunks_of(engine, request)
        stream = engine.sample(request)
        first = await anext(stream)
        await engine.unload(info.id)
        with pytest.raises(NotFound):
            await engine.nll([Example(text="a", completion="b")], [Layer(adapter=info.id)])
        return undisturbed, [first, *[chunk async for chunk in stream]]

    undisturbed, unloaded = anyio.run(use)
    assert undisturbed == unloaded


def test_a_long_measurement_does_not_hold_up_a_sample(engine: LocalEngine) -> None:
    async def use() -> list[str]:
        order: list[str] = []
        examples = [Example(text="a " * 90, completion="b " * 90)] * 120  # several hundred tokens each: many steps

        async def measure() -> None:
            await engine.nll(examples)
            order.append("measured")

        async def sample() -> None:
            await chunks_of(engine, asked(0, max_tokens=5))
            order.append("sampled")

        async with anyio.create_task_group() as group:
            group.start_soon(measure)
            await anyio.sleep(0.01)
            group.start_soon(sample)
        return order

    assert anyio.run(use) == ["sampled", "measured"]


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))
    drawn = {
        top_p: {
            choose(logits, SampleRequest(temperature=1.0, top_p=top_p), torch.Generator().manual_seed(s))
            for s in range(200)
        }
        for top_p in (0.4, 0.6, 0.8, 1.0)
    }
    assert drawn == {0.4: {1}, 0.6: {1, 3}, 0.8: {1, 2, 3}, 1.0: {0, 1, 2, 3}}


def test_draws_follow_the_probabilities() -> None:
    logits, generator = torch.log(torch.tensor([0.2, 0.8])), torch.Generator().manual_seed(0)
    request = SampleRequest(temperature=1.0)
    share = sum(choose(logits, request, generator) for _ in range(4000)) / 4000
    assert abs(share - 0.8) < 0.03  # five standard deviations
    assert choose(logits, SampleRequest(temperature=0.0), generator) == 1
