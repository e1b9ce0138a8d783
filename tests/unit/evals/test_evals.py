"""Measures come from the terms, can fail, and say what they are."""

from __future__ import annotations

import math
from pathlib import Path

import anyio
import numpy as np
import pytest

from clonedna.core.block import EvalSpan
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example
from clonedna.core.work import Instruction
from clonedna.evals.bootstrap import paired_gain
from clonedna.evals.forgetting import forgetting
from clonedna.evals.likelihood import example_of, likelihood_measures
from clonedna.evals.memorisation import memorisation
from clonedna.mint.instruct import make_pair
from tests.values import REPOSITORY, span


def test_gain_is_the_ratio_of_sums() -> None:
    gain, (low, high) = paired_gain([30.0, 10.0], [20.0, 12.0], [10, 6])
    assert gain == pytest.approx((10 - 2) / 16)
    assert low <= gain <= high


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    covered = 0
    for trial in range(120):
        tokens = draw.integers(40, 200, size=40)
        gains = draw.normal(0.1, 0.3, size=40) * tokens
        _, (low, high) = paired_gain(gains, np.zeros(40), tokens.tolist(), seed=trial)
        covered += low <= 0.1 <= high
    assert 0.86 <= covered / 120 <= 1.0


@pytest.mark.parametrize("case", [([], [], []), ([1.0], [1.0, 2.0], [1]), ([1.0], [1.0], [0])])
def test_nothing_is_measured_on_nothing(case: tuple[list[float], list[float], list[int]]) -> None:
    with pytest.raises(ValueError, match=r"need as many|broadcast"):
        paired_gain(*case)


def test_likelihood_measures_agree_with_each_other() -> None:
    spans = [EvalSpan(pair=str(i), tokens=10 + i, bytes=40, base=30.0 + i, adapter=25.0) for i in range(9)]
    m = likelihood_measures(spans)
    base, tuned, delta = (m[name].value or 0 for name in ("nll.base", "nll.adapter", "nll.delta"))
    assert delta == pytest.approx(base - tuned)
    assert m["perplexity_reduction_ratio"].value == pytest.approx(math.exp(base) / math.exp(tuned))
    assert m["bits_per_byte.base"].value == pytest.approx(sum(s.base for s in spans) / math.log(2) / 360)
    assert all(measure.status == "measured" and measure.n == 9 and measure.split == "holdout" for measure in m.values())


def trained_on(texts: list[str], directory: Path, rate: float = 1.0) -> FakeEngine:
    engine = FakeEngine()

    async def work() -> str:
        trainer = FakeTrainer()
        await trainer.forward_backward([Example(text="", completion=text) for text in texts])
        await trainer.optim_step(rate)
        await trainer.save(directory)
        return (await engine.load(directory)).id

    engine.adapter_id = anyio.run(work)  # type: ignore[attr-defined]
    return engine


def never(text: str) -> str | None:
    return None


def test_forgetting_is_above_zero_for_an_adapter_that_hurts(tmp_path: Path) -> None:
    engine = trained_on(["~~~~" * 50], tmp_path)
    rows = [
        ("code", Example(text="", completion="~a~b~c~d")),
        ("prose", Example(text="", completion="words and words")),
    ]
    measures = anyio.run(lambda: forgetting(engine, engine.adapter_id, rows))  # type: ignore[attr-defined]
    assert (measures["forgetting.code"].value or 0) > 0
    assert measures["forgetting"].n == 2
    assert set(measures) == {"forgetting", "forgetting.code", "forgetting.prose"}


def test_memorisation_finds_a_parrot_and_no_parrot_in_the_base(tmp_path: Path) -> None:
    text = "abcdefghij" * 60  # a bigram table can repeat this word for word
    engine = trained_on([text], tmp_path)
    pair = make_pair(
        span(1, text=text + "\n", start=1, end=1),
        Instruction(form="whole", text="t", completion_start=1),
        "train",
        REPOSITORY,
        "Ada",
        "t",
    )
    measures = anyio.run(lambda: memorisation(engine, engine.adapter_id, [pair] * 3, secret_in=never))  # type: ignore[attr-defined]
    assert measures["memorisation.rate"].value == 1.0
    assert measures["memorisation.base"].value == 0.0
    assert measures["memorisation.excess"].value == 1.0


def test_memorisation_of_short_code_is_not_available(tmp_path: Path) -> None:
    engine = trained_on(["ab"], tmp_path)
    pair = make_pair(
        span(1, text="a\nb\n", start=1, end=2),
        Instruction(form="whole", text="t", completion_start=1),
        "train",
        REPOSITORY,
        "Ada",
        "t",
    )
    measures = anyio.run(lambda: memorisation(engine, engine.adapter_id, [pair], secret_in=never))  # type: ignore[attr-defined]
    assert {m.status for m in measures.values()} == {"not_available"}


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_last_line_end_is_no_part_of_an_answer(end: str) -> None:
    made = make_pair(
        span(1, text=f"a\n\nb\n{end}", start=1, end=4),
        Instruction(form="whole", text="t", completion_start=1),
        "train",
        REPOSITORY,
        "Ada",
        "t",
    )
    assert made.completion == f"a\n\nb\n{end}"
    assert example_of(made).completion == ("a\n\nb\n" if end else "a\n\nb")
