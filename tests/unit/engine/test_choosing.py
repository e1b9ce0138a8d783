"""The next token against formulas written down here, and draws against their distribution."""

from __future__ import annotations

import math
from collections import Counter

import anyio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clonedna.core.model import SampleRequest
from clonedna.engine.choosing import changed, choose, is_plain, logprob_of
from clonedna.engine.local import LocalEngine

TOKENS = 12
# On a grid: two that differ in their last bits alone may fall to either side of a bound.
LOGITS = st.lists(st.integers(-800, 800).map(lambda n: n / 100), min_size=TOKENS, max_size=TOKENS, unique=True)


def ask(**options: object) -> SampleRequest:
    return SampleRequest(prompt="x", **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    LOGITS, st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=6), st.lists(st.integers(0, TOKENS - 1), max_size=9),
    st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 3), st.dictionaries(st.integers(0, TOKENS + 2), st.floats(-100, 100), max_size=3),
    st.booleans(),
)  # fmt: skip
def test_penalties_and_bias_are_their_formulas(
    values: list[float], prompt: list[int], made: list[int], presence: float, frequency: float, repetition: float, bias: dict[int, float],
    ignore: bool,
) -> None:  # fmt: skip
    request = ask(
        presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition, logit_bias=tuple(bias.items()),
        ignore_eos=ignore,
    )  # fmt: skip
    logits = torch.tensor(values, dtype=torch.float64)
    counts = Counter(made)
    got = changed(logits, request, prompt, counts, (3, 5))
    assert logits.tolist() == values, "the model's own logits are still needed"
    for token, value in enumerate(values):
        wanted = value + bias.get(token, 0.0)
        if token in prompt or token in made:
            wanted = wanted / repetition if wanted > 0 else wanted * repetition
        wanted -= counts[token] * frequency + (counts[token] > 0) * presence
        if ignore and token in (3, 5):
            wanted = -math.inf
        assert float(got[token]) == pytest.approx(wanted, abs=1e-9)


def test_without_penalties_nothing_is_copied() -> None:
    logits = torch.randn(TOKENS)
    assert changed(logits, ask(), [1], Counter([2]), (0,)) is logits
    assert is_plain(ask())
    assert not is_plain(ask(temperature=0.1))
    assert not is_plain(ask(logit_bias=((1, 2.0),)))


def distribution(values: list[float], request: SampleRequest) -> list[float]:
    """Temperature, top-k, min-p, nucleus, by their definitions."""
    weights = [math.exp((value - max(values)) / request.temperature) for value in values]
    total = math.fsum(weights)
    probabilities = [weight / total for weight in weights]
    ranked = sorted(range(len(values)), key=lambda token: -probabilities[token])
    if request.top_k:
        ranked = ranked[: request.top_k]
    ranked = [token for token in ranked if probabilities[token] >= request.min_p * probabilities[ranked[0]]]
    whole = math.fsum(probabilities[token] for token in ranked)
    nucleus: list[int] = []
    for token in ranked:
        if math.fsum(probabilities[t] for t in nucleus) >= request.top_p * whole:
            break
        nucleus.append(token)
    kept = math.fsum(probabilities[token] for token in nucleus)
    return [probabilities[token] / kept if token in nucleus else 0.0 for token in range(len(values))]


class Points:
    """Stands for ``torch.rand``: evenly spaced numbers, so that a histogram is exact to one draw."""

    def __init__(self, count: int) -> None:
        self._points = iter([(i + 0.5) / count for i in range(count)])

    def __call__(self, *_: object, **__: object) -> Tensor:
        return torch.tensor(next(self._points), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    LOGITS, st.floats(0.2, 3), st.integers(0, TOKENS + 1), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([0.1, 0.5, 0.9, 1.0])
)  # fmt: skip
def test_draws_are_of_the_kept_tokens_in_their_proportions(
    values: list[float], temperature: float, top_k: int, min_p: float, top_p: float
) -> None:
    request = ask(temperature=temperature, top_k=top_k, min_p=min_p, top_p=top_p)
    wanted, count = distribution(values, request), 60
    logits = torch.tensor(values, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", Points(count))
        drawn = Counter(choose(logits, request, seeded()) for _ in range(count))
    told = [(token, drawn[token] / count, wanted[token]) for token in range(TOKENS)]
    assert [one for one in told if abs(one[1] - one[2]) > 1.01 / count] == []


@settings(max_examples=10, deadline=None)
@given(LOGITS, st.integers(0, 2**40))
def test_the_same_seed_draws_the_same(values: list[float], seed: int) -> None:
    request = ask(temperature=1.3, top_p=0.95)
    logits = torch.tensor(values)
    first, again = ([choose(logits, request, g) for _ in range(20)] for g in (seeded(seed), seeded(seed)))
    assert first == again


def test_the_greatest_is_taken_at_no_temperature_and_at_the_narrowest_settings() -> None:
    logits = torch.randn(TOKENS)
    best = int(logits.argmax())
    for options in (
        {},
        {"temperature": 2.0, "top_k": 1},
        {"temperature": 2.0, "min_p": 1.0},
        {"temperature": 2.0, "top_p": 1e-9},
    ):
        assert {choose(logits, ask(**options), seeded(i)) for i in range(20)} == {best}


def test_what_a_grammar_forbids_is_never_drawn() -> None:
    logits = torch.full((TOKENS,), float("-inf"))
    logits[[2, 7]] = torch.tensor([0.0, 1.0])
    drawn = Counter(choose(logits, ask(temperature=5.0), seeded(i)) for i in range(200))
    assert set(drawn) == {2, 7}


def test_logprobs_are_of_the_whole_softmax_the_likeliest_first(engine: LocalEngine) -> None:
    logits = torch.randn(engine.base.vocabulary)
    wanted = torch.log_softmax(logits, 0)
    told = logprob_of(logits, 7, 3, engine._texts)
    assert told.logprob == pytest.approx(float(wanted[7]))
    assert [one.logprob for one in told.top] == sorted(wanted.tolist(), reverse=True)[:3]
    assert [one.token for one in told.top] == wanted.argsort(descending=True)[:3].tolist()
    assert logprob_of(logits, 7, 0, engine._texts).top == ()


async def tokens(engine: LocalEngine, **options: object) -> list[int | None]:
    chunks = [chunk async for chunk in engine.sample(SampleRequest(prompt="for name in", **options))]
    return [chunk.token for chunk in chunks[:-1]]


def test_bias_penalties_and_ignored_ends_reach_the_engine_s_tokens(engine: LocalEngine) -> None:
    async def run() -> None:
        assert set(await tokens(engine, max_tokens=9, logit_bias=((11, 100.0),))) == {11}
        once = await tokens(engine, max_tokens=40, presence_penalty=2.0, repetition_penalty=10.0, ignore_eos=True)
        plain = await tokens(engine, max_tokens=40, ignore_eos=True)
        assert len(plain) == len(once) == 40
        assert len(set(once)) > len(set(plain))
        ends = tuple((stop, 100.0) for stop in engine._texts.stops)
        assert await tokens(engine, max_tokens=9, logit_bias=ends) == []
        ignored = await tokens(engine, max_tokens=9, logit_bias=ends, ignore_eos=True)
        assert len(ignored) == 9
        assert not set(ignored) & engine._texts.stops

    anyio.run(run)
