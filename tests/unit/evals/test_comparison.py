"""Behaviour of two blocks: the probe set leaves out what was trained on, correlations are the textbook's, gains are each block's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.comparison import Angles, GroupSimilarity, WeightSimilarity
from clonedna.core.errors import InputError
from clonedna.core.events import silent
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example, Message, SampleChunk, SampleRequest, Score
from clonedna.core.work import Instruction, Pair, Split
from clonedna.evals.comparison import (
    Probe,
    Prompt,
    Side,
    behaviour,
    correlation,
    probe_set,
    prompts_of,
    side_by_side,
    weight_measures,
)
from clonedna.evals.forgetting import general_set
from clonedna.mint.instruct import make_pair
from clonedna.mint.overlap import overlaps
from tests.values import ADA, REPOSITORY, span

GENERAL = len(general_set())


def pair(number: int, split: Split = "holdout") -> Pair:
    one = span(number)
    instruction = Instruction(form="whole", text=f"Write {one.name}.", completion_start=one.start)
    return make_pair(one, instruction, split, REPOSITORY, ADA.name, "fake")


def pairs(numbers: Sequence[int], split: Split = "holdout") -> list[Pair]:
    return [pair(number, split) for number in numbers]


def adapter(engine: FakeEngine, texts: Sequence[str], directory: Path, rate: float = 0.01) -> str:
    async def work() -> str:
        trainer = FakeTrainer()
        await trainer.forward_backward([Example(text="", completion=text) for text in texts])
        await trainer.optim_step(rate)
        await trainer.save(directory)
        return (await engine.load(directory)).id

    return anyio.run(work)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    """One engine; one adapter that learnt Python, one that learnt shouting."""
    engine, folder = FakeEngine(), tmp_path_factory.mktemp("adapters")
    python = adapter(engine, [pair(i).completion for i in range(100, 120)], folder / "a")
    shouting = adapter(engine, ["WHAT A DAY! " * 20] * 20, folder / "b")
    return (
        Side(engine, python, pairs(range(10)), pairs(range(100, 120), "train")),
        Side(engine, shouting, pairs(range(10, 22)), pairs(range(200, 210), "train")),
    )


# The probe set.


def side(holdout: Sequence[Pair], trained: Sequence[Pair]) -> Side:
    return Side(FakeEngine(), "", holdout, trained)


def test_what_either_trained_on_is_left_out_and_what_is_twice_counts_once() -> None:
    a = side(pairs(range(10)), pairs([20, 21], "train"))
    b = side(pairs([*range(8, 14), 20]), pairs([0, 1, 30], "train"))
    probes, counts = probe_set(a, b, overlaps)
    assert counts.model_dump() == {
        "holdout_a": 8, "holdout_b": 4, "general": GENERAL, "trained": 3, "repeated": 2, "bounded": 0,
    }  # fmt: skip
    assert [p.pair.name for p in probes if p.of == "a" and p.pair] == [p.name for p in pairs(range(2, 10))]
    assert [p.pair.name for p in probes if p.of == "b" and p.pair] == [p.name for p in pairs(range(10, 14))]


def test_code_that_stands_inside_trained_code_is_left_out() -> None:
    held, other = pair(1), pair(2, "train")
    around = other.model_copy(update={"completion": other.completion + "\n" + held.completion})
    _, counts = probe_set(side([held], []), side([], [around]), overlaps)
    assert (counts.holdout_a, counts.trained) == (0, 1)


def test_the_set_is_bounded_and_drawn_with_the_seed() -> None:
    a, b = side(pairs(range(40)), []), side(pairs(range(50, 60)), [])
    probes, counts = probe_set(a, b, overlaps, most=16, seed=1)
    assert (counts.holdout_a, counts.holdout_b, counts.bounded) == (16, 10, 24)
    assert probe_set(a, b, overlaps, most=16, seed=1)[0] == probes
    assert probe_set(a, b, overlaps, most=16, seed=2)[0] != probes


# Correlations.

rows = st.integers(8, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-50, 50), min_size=n, max_size=n) for _ in range(2)])
)


def ranks(x: list[int]) -> list[float]:
    return [sum(other < one for other in x) + (sum(other == one for other in x) + 1) / 2 for one in x]


@settings(max_examples=15, deadline=None)
@given(rows, st.booleans())
def test_correlations_are_those_of_the_textbook(row: tuple[list[int], list[int]], ranked: bool) -> None:
    x, y = row
    found = correlation(np.asarray(x, float), np.asarray(y, float), [str(i) for i in range(len(x))], ranked=ranked)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found.status == "not_available"
        return
    one, other = (ranks(x), ranks(y)) if ranked else (x, y)
    assert found.value == pytest.approx(float(np.corrcoef(one, other)[0, 1]), abs=1e-9)
    if found.ci95 is not None:
        assert -1 <= found.ci95[0] <= found.ci95[1] <= 1


def test_the_same_gains_correlate_fully_and_opposite_ones_against() -> None:
    x = np.random.default_rng(0).normal(size=40)
    files = [f"file {i // 4}" for i in range(40)]
    for ranked in (False, True):
        same, against = (correlation(x, y, files, ranked=ranked) for y in (2 * x + 1, -x))
        assert (same.value, same.ci95) == (pytest.approx(1), pytest.approx((1, 1)))
        assert (against.value, against.ci95) == (pytest.approx(-1), pytest.approx((-1, -1)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, covered = np.random.default_rng(5), 0
    for trial in range(40):
        x = draw.normal(size=40)
        y = 0.6 * x + 0.8 * draw.normal(size=40)
        low, high = correlation(x, y, [str(i) for i in range(40)], ranked=False, seed=trial).ci95 or (0.0, 0.0)
        covered += low <= 0.6 <= high
    assert 0.82 <= covered / 40 <= 1


def test_spans_of_one_file_widen_the_interval() -> None:
    draw = np.random.default_rng(2)
    middle = np.repeat(draw.normal(size=(8, 2)), 10, axis=0)
    x, y = (middle + 0.05 * draw.normal(size=(80, 2))).T
    wide = correlation(x, y, [f"file {i // 10}" for i in range(80)], ranked=False).ci95 or (0, 0)
    narrow = correlation(x, y, [f"file {i}" for i in range(80)], ranked=False).ci95 or (0, 0)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


@pytest.mark.parametrize(
    ("x", "word"), [([1.0] * 20, "same on every span"), ([0.0] * 20, "same on every span"), ([1.0, 2.0], "2 spans")]
)
def test_what_does_not_vary_or_is_too_little_has_no_correlation(x: list[float], word: str) -> None:
    other = np.arange(len(x), dtype=float)
    found = correlation(np.asarray(x), other, ["f"] * len(x), ranked=True)
    assert (found.value, found.status) == (None, "not_available")
    assert word in found.how


# Behaviour.


def measured(a: Side, b: Side) -> tuple[dict[str, float | None], int]:
    probes, _ = probe_set(a, b, overlaps)

    async def work() -> tuple[dict[str, float | None], int]:
        measures, spans = await behaviour(a, b, probes, emit=silent)
        return {name: one.value for name, one in measures.items()}, len(spans)

    return anyio.run(work)


def test_gains_are_each_blocks_own(sides: tuple[Side, Side]) -> None:
    a, b = sides
    values, spans = measured(a, b)
    assert spans == 22 + GENERAL
    assert (values["gain.a.on_a"] or 0) > 0 > (values["gain.b.on_a"] or 0)
    for where in ("on_a", "on_b", "general"):
        assert values[f"gain.difference.{where}"] == pytest.approx(
            (values[f"gain.a.{where}"] or 0) - (values[f"gain.b.{where}"] or 0)
        )
    turned, _ = measured(b, a)
    assert turned["gain.b.on_b"] == pytest.approx(values["gain.a.on_a"])
    assert turned["behaviour.pearson"] == pytest.approx(values["behaviour.pearson"])


def test_a_block_behaves_like_itself(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    values, _ = measured(a, a)
    assert values["behaviour.pearson"] == pytest.approx(1)
    assert values["behaviour.spearman"] == pytest.approx(1)
    assert values["gain.difference.on_a"] == 0
    assert values["gain.a.on_b"] is None  # its hold-out is in the set already


def test_an_adapter_of_zeros_gains_nothing_and_correlates_with_nothing(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    a, _ = sides
    zero = Side(a.engine, adapter(a.engine, ["x"], tmp_path, rate=0.0), pairs(range(40, 50)), [])  # type: ignore[arg-type]
    values, _ = measured(a, zero)
    assert values["gain.b.on_b"] == 0
    assert values["behaviour.pearson"] is None
    assert values["behaviour.spearman"] is None


class Coarse(FakeEngine):
    """Another base: one token for two bytes, and a context of 400 bytes."""

    async def nll(self, examples: Sequence[Example], layers: Sequence[Any] = (), **more: Any) -> tuple[Score, ...]:
        found = await super().nll(examples, layers, **more)
        return tuple(Score(nll=s.nll, tokens=-(-s.tokens // 2), bytes=min(s.bytes, 400)) for s in found)


def test_over_two_bases_gains_are_bits_a_byte_of_what_both_scored(sides: tuple[Side, Side], tmp_path: Path) -> None:
    a, _ = sides
    other = Coarse()
    b = Side(other, adapter(other, [pair(i).completion for i in range(100, 120)], tmp_path), pairs(range(10, 22)), [])
    probes, _ = probe_set(a, b, overlaps)
    short = [p for p in probes if len(p.example.completion.encode()) <= 400]
    assert 22 < len(short) < len(probes)

    async def work() -> tuple[float, float, int]:
        measures, spans = await behaviour(a, b, probes, emit=silent)
        assert "bits a byte" in measures["gain.a.on_a"].how
        examples = [p.example for p in probes if p.of == "a"]
        nats = [sum(s.nll for s in await a.engine.nll(examples, layers)) for layers in ((), a.layers)]
        size = sum(len(e.completion.encode()) for e in examples)
        return (nats[0] - nats[1]) / math.log(2) / size, measures["gain.a.on_a"].value or 0, len(spans)

    wanted, got, spans = anyio.run(work)
    assert got == pytest.approx(wanted)
    assert spans == len(short)


# Prompts and answers.


def probes_of(a: int, b: int) -> list[Probe]:
    first = [Probe(p.id, "a", Example(completion=""), p) for p in pairs(range(a))]
    return first + [Probe(p.id, "b", Example(completion=""), p) for p in pairs(range(300, 300 + b))]


@pytest.mark.parametrize(
    ("have", "most", "got"),
    [
        ((20, 20), 8, (4, 4)),
        ((20, 20), 5, (3, 2)),
        ((2, 20), 8, (2, 6)),
        ((20, 1), 8, (7, 1)),
        ((3, 0), 8, (3, 0)),
        ((5, 5), 0, (0, 0)),
    ],
)
def test_prompts_are_halved_where_both_have_as_many(have: tuple[int, int], most: int, got: tuple[int, int]) -> None:
    found = prompts_of(probes_of(*have), most)
    assert tuple(sum(p.of == of for p in found) for of in ("a", "b")) == got
    assert all(p.reference and p.language == "python" for p in found)
    assert prompts_of(probes_of(*have), most) == found


def test_all_are_asked_the_same_with_the_same_seed(sides: tuple[Side, Side]) -> None:
    a, b = sides
    asked: list[SampleRequest] = []

    class Listening(FakeEngine):
        async def sample(self, request: SampleRequest):  # type: ignore[override]
            asked.append(request)
            yield SampleChunk(text=f"{[layer.adapter for layer in request.layers]} <b>&")
            yield SampleChunk(finish="stop", prompt_tokens=1, completion_tokens=2)

    engine = Listening()
    prompts = [Prompt("given", (Message(role="user", content=f"task {i}"),)) for i in range(3)]
    found = anyio.run(
        lambda: side_by_side(
            Side(engine, a.adapter, (), ()), Side(engine, b.adapter, (), ()), prompts, seed=7, emit=silent
        )
    )
    assert [one.prompt for one in found] == ["task 0", "task 1", "task 2"]
    assert found[0].a.text == f"['{a.adapter}'] <b>&"
    assert (found[0].base.text, found[0].base_b) == ("[] <b>&", None)
    for i in range(3):
        same = {(r.seed, r.max_tokens, r.temperature) for r in asked if r.messages[0].content == f"task {i}"}
        assert len(same) == 1
    assert len(asked) == 9


def test_an_engines_error_comes_out_as_it_is(sides: tuple[Side, Side]) -> None:
    class Broken(FakeEngine):
        async def sample(self, request: SampleRequest):  # type: ignore[override]
            raise InputError("no", "give up")
            yield SampleChunk()

    one = Side(Broken(), "x", (), ())
    with pytest.raises(InputError):
        anyio.run(
            lambda: side_by_side(one, one, [Prompt("given", (Message(role="user", content="x"),))], seed=0, emit=silent)
        )


def test_weights_that_have_no_direction_are_not_available() -> None:
    angles = Angles(n=4, mean=80.0, largest=89.0, overlap=0.1, by_chance=0.1)
    whole = GroupSimilarity(
        name="whole", modules=2, norm_a=1, norm_b=2, difference=2, cosine=0.25, columns=angles, rows=None
    )
    found = weight_measures(WeightSimilarity(whole=whole, groups=(), modules=()))
    assert (found["weights.cosine"].value, found["weights.angle.columns"].value) == (0.25, 80.0)
    assert found["weights.angle.rows"].status == "not_available"
    nothing = weight_measures(None, "the bases differ")
    assert {(m.value, m.how) for m in nothing.values()} == {(None, "the bases differ")}
