"""Measured similarity: the share of the wanted improvement on exemplars, through the Engine seam, with what may spoil it refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.block import Evaluation, Measure
from clonedna.core.errors import InputError, TooLarge, Unavailable
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example, Layer, Score
from clonedna.core.vectors import Near
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of
from clonedna.genomes.calibration import predict
from clonedna.genomes.features import features_of
from clonedna.genomes.fitting import fit
from clonedna.genomes.probing import (
    Bar,
    Probe,
    Probed,
    Specialist,
    bar_of,
    base_passes,
    check_exemplars,
    probe,
    similarity_of,
    specialist_of,
)
from clonedna.genomes.rarity import Rarity
from clonedna.genomes.routes import Thresholds, route_of
from clonedna.mint.overlap import overlaps
from tests.unit.genomes.test_calibration import DIMENSION, ENCODER, outcomes
from tests.values import pair

BAR = Bar(gain=0.2, level=0.1, n=9, how="nine made-up specialists")
losses = st.lists(st.tuples(st.floats(0.1, 8), st.floats(0.1, 8), st.integers(1, 400)), min_size=1, max_size=32)


def code(word: str, number: int) -> str:
    return f"def {word}_{number}():\n    return {word}{'abcdefgh'[number % 8] * 3} + '{word}' * {number * 7}\n"


def work(word: str, first: int, count: int) -> list[Pair]:
    return [pair(f"{word}-{n}", code(word, n)) for n in range(first, first + count)]


async def adapter(pairs: Sequence[Pair], folder: Path, rate: float = 5e-3) -> Path:
    """An adapter of the fake engine that counted the bigrams of these answers."""
    trainer = FakeTrainer()
    await trainer.forward_backward([example_of(one) for one in pairs])
    await trainer.optim_step(rate)
    await trainer.save(folder)
    return folder


OTHERS = [pair(f"other-{n}", f"%%{n} ZZ## QQ;; " * 9) for n in range(40)]


def scores(rows: Sequence[tuple[float, int]]) -> list[Score]:
    return [Score(nll=loss * tokens, tokens=tokens, bytes=tokens) for loss, tokens in rows]


@settings(max_examples=50, deadline=None)
@given(losses)
def test_similarity_is_the_formula_inside_its_interval(rows: list[tuple[float, float, int]]) -> None:
    base, tuned = scores([(b, n) for b, _, n in rows]), scores([(t, n) for _, t, n in rows])
    found = similarity_of(base, tuned, BAR)
    tokens = sum(n for *_, n in rows)
    b, t = sum(one.nll for one in base) / tokens, sum(one.nll for one in tuned) / tokens
    wanted = max(min(b - 0.1, 0.2 * b), 0.02 * b)
    assert found.value == pytest.approx(min(1.0, max(0.0, (b - t) / wanted)), abs=1e-9)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= (found.value or 0.0) <= found.high <= 1
    if 0.2 * b < b - 0.1:
        assert b - BAR.pass_at(b) == pytest.approx(wanted)


def test_the_interval_is_the_bootstrap_that_somebody_else_computes() -> None:
    draw = np.random.default_rng(5)
    tokens = draw.integers(20, 200, size=24)
    base, gains = draw.uniform(1.5, 3, 24) * tokens, draw.normal(0.25, 0.3, 24) * tokens
    rows = [Score(nll=float(b), tokens=int(n), bytes=1) for b, n in zip(base, tokens, strict=True)]
    tuned = [Score(nll=float(b - g), tokens=int(n), bytes=1) for b, g, n in zip(base, gains, tokens, strict=True)]
    found = similarity_of(rows, tuned, BAR, seed=3)
    resamples = []
    for _ in range(4000):
        at = draw.integers(0, 24, 24)
        resamples.append(np.clip(gains[at].sum() / (0.2 * base[at].sum()), 0, 1))
    low, high = np.percentile(resamples, [5, 95])
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_spans_of_one_file_are_drawn_together_too() -> None:
    base = scores([(2.0, 100)] * 20)
    tuned = scores([(1.7 if n // 4 % 2 else 2.0, 100) for n in range(20)])
    alone = similarity_of(base, tuned, BAR)
    files = similarity_of(base, tuned, BAR, clusters=[f"file-{n // 4}" for n in range(20)])
    assert (files.high or 0) - (files.low or 0) > (alone.high or 0) - (alone.low or 0)


def test_a_pass_is_what_three_in_four_specialists_reach() -> None:
    made = [Specialist(base=2.0, adapter=2.0 * (1 - gain)) for gain in (0.1, 0.2, 0.3, 0.4, 0.5)]
    bar = bar_of(made)
    assert bar.gain == pytest.approx(0.2)
    assert bar.level == pytest.approx(1.2)
    assert bar.pass_at(2.0) == pytest.approx(1.6)
    assert bar.pass_at(1.3) == pytest.approx(1.2)
    liar = Specialist(base=2.0, adapter=0.001)
    assert (bar_of([*made * 4, liar]).gain or 0) <= 0.2 + 1e-9
    assert bar_of([*made, Specialist(base=1.0, adapter=1.5)]).gain == bar.gain
    assert bar_of(made, stated=0.05).gain == 0.05


def test_too_few_specialists_say_nothing_and_nothing_is_measured_then() -> None:
    bar = bar_of([Specialist(base=2.0, adapter=1.0)])
    assert bar.gain is None
    found = similarity_of(scores([(2, 10)]), scores([(1, 10)]), bar)
    assert (found.value, found.status) == (None, "not_available")
    assert "1 accepted blocks" in found.how
    assert not base_passes(scores([(0.01, 10)] * 8), bar)
    with pytest.raises(InputError):
        bar_of([], stated=0.0)


def test_a_specialist_is_what_a_block_measured() -> None:
    measures = {
        name: Measure(value=value, status="measured", how="")
        for name, value in (("nll.base", 2.0), ("nll.adapter", 1.5))
    }
    assert specialist_of(Evaluation(measures=measures)) == Specialist(base=2.0, adapter=1.5)
    assert specialist_of(Evaluation(measures={})) is None
    wild = measures["nll.base"].model_copy(update={"value": 1e300})
    assert specialist_of(Evaluation(measures=measures | {"nll.base": wild})) is None


def run(
    folder: Path,
    exemplars: Sequence[Pair],
    *,
    engine: FakeEngine | None = None,
    trained: Sequence[Pair] = (),
    bar: Bar = BAR,
    of: Sequence[Pair] | None = None,
) -> Probe:
    """Probe the block that was trained on ``alpha`` and one that was trained on something else."""

    async def main() -> Probe:
        blocks = [
            Probed(id="right", directory=await adapter(of or work("alpha", 50, 40), folder / "right"), trained=trained),
            Probed(id="wrong", directory=await adapter(OTHERS, folder / "wrong")),
        ]
        return await probe(engine or FakeEngine(), blocks, exemplars, bar, overlaps=overlaps)

    return anyio.run(main)


def test_the_right_layer_measures_more_than_a_wrong_one_and_nothing_stays_loaded(tmp_path: Path) -> None:
    engine = FakeEngine()
    found = run(tmp_path, work("alpha", 0, 12), engine=engine)
    right, wrong = found.similarities["right"], found.similarities["wrong"]
    assert right.status == wrong.status == "measured"
    assert (right.value or 0) > 0.9 > (wrong.value or 0)
    assert found.exemplars == right.n == 12
    assert found.base_passes is False
    assert not engine.status.adapters


def test_the_base_passes_only_where_no_layer_surely_brings_more(tmp_path: Path) -> None:
    high = BAR.model_copy(update={"level": 50.0})  # other work ends far above what the base has here
    found = run(tmp_path / "a", work("alpha", 0, 12), bar=high)
    plain = run(tmp_path / "b", work("alpha", 0, 12), bar=BAR.model_copy(update={"level": None}))
    assert found.base_passes is False
    assert found.similarities == plain.similarities  # the level of other work does not count for any of them
    nobody = run(
        tmp_path / "c",
        work("alpha", 0, 12),
        bar=high,
        of=[pair(f"z-{n}", f"%%{n} ZZ## QQ;; " * 9) for n in range(40, 80)],
    )
    assert nobody.base_passes is True


def test_what_was_loaded_before_stays_loaded(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def load() -> str:
        return (await engine.load(await adapter(work("alpha", 50, 40), tmp_path / "right"))).id

    before = anyio.run(load)
    run(tmp_path, work("alpha", 0, 12), engine=engine)
    assert [one.id for one in engine.status.adapters] == [before]


def test_exemplars_from_training_pairs_are_taken_out_or_refused(tmp_path: Path) -> None:
    exemplars = work("alpha", 0, 12)
    some = run(tmp_path, exemplars, trained=exemplars[:3]).similarities["right"]
    assert (some.status, some.n) == ("measured", 9)
    most = run(tmp_path, exemplars, trained=exemplars[:6]).similarities["right"]
    assert (most.value, most.status) == (None, "not_available")
    assert "6 of 12 exemplars are in its training pairs" in most.how


def test_a_block_that_cannot_be_loaded_does_not_fail_the_others(tmp_path: Path) -> None:
    async def main() -> Probe:
        (tmp_path / "broken").mkdir()
        blocks = [
            Probed(id="broken", directory=tmp_path / "broken"),
            Probed(id="right", directory=await adapter(work("alpha", 50, 40), tmp_path / "right")),
        ]
        return await probe(FakeEngine(), blocks, work("alpha", 0, 8), BAR, overlaps=None)

    found = anyio.run(main).similarities
    assert found["broken"].status == "not_available"
    assert found["right"].status == "measured"


class Drifting(FakeEngine):
    """An engine whose base answers otherwise each time."""

    asked = 0

    async def nll(self, examples: Sequence[Example], layers: Sequence[Layer] = ()) -> tuple[Score, ...]:
        self.asked += 1
        return tuple(
            one.model_copy(update={"nll": one.nll * (1 + self.asked / 50)})
            for one in await super().nll(examples, layers)
        )


def test_an_engine_that_changes_meanwhile_is_an_error_and_is_left_clean(tmp_path: Path) -> None:
    engine = Drifting()
    with pytest.raises(Unavailable, match="changed while"):
        run(tmp_path, work("alpha", 0, 12), engine=engine)
    assert not engine.status.adapters


@pytest.mark.parametrize("count", [0, 7, 33])
def test_too_few_or_too_many_exemplars_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} exemplars"):
        check_exemplars(work("alpha", 0, count))


def test_bad_exemplars_are_refused() -> None:
    good = work("alpha", 0, 8)
    with pytest.raises(InputError, match="answer of one before"):
        check_exemplars([*good, pair("again", good[0].completion.replace("    ", "  "))])
    with pytest.raises(InputError, match="empty answer"):
        check_exemplars([*good, pair("empty", " \n")])
    with pytest.raises(TooLarge):
        check_exemplars([*good, pair("long", "x" * 50_000)])


def test_a_block_that_stuffs_every_word_is_predicted_and_does_not_win_the_probe(tmp_path: Path) -> None:
    """Through prediction, probe and route: the words win the first, likelihoods decide the last."""
    asked = "alpha arithmetic with tidy names"
    texts = {
        "right": "works on alpha, sums",
        "wrong": f"{asked}. {asked}. every language, every framework, http, sql, tables",
    }
    near = [Near("wrong", 0.78, None), Near("right", 0.41, None)]
    card = fit(outcomes(), base="fake", how="a test").card
    found = features_of([asked], near, Rarity(texts))
    predicted = {name: predict(card, ENCODER, DIMENSION, one) for name, one in found.items()}
    assert (predicted["wrong"].value or 0) > (predicted["right"].value or 0)
    measured = run(tmp_path, work("alpha", 0, 16))
    best = max(measured.similarities, key=lambda name: measured.similarities[name].value or 0)
    assert best == "right"
    routes = {
        name: route_of(one, Thresholds(), base_passes=measured.base_passes, trainable=True).route
        for name, one in measured.similarities.items()
    }
    assert routes == {"right": "use-as-is", "wrong": "scratch"}
    by_words = route_of(predicted["wrong"], Thresholds(), base_passes=None, trainable=True)
    assert by_words.route != "use-as-is"
    assert not by_words.verified
