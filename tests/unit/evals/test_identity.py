"""Identity: the arithmetic of who explains whom, and that it can say no."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.events import StageProgress, silent
from clonedna.core.fakes import FakeEngine
from clonedna.core.model import Layer
from clonedna.core.work import Pair, Provenance
from clonedna.evals.identity import Held, Identified, Person, gain_over_control, identify, score_all

Gain = list[list[float]]


def people(count: int) -> list[Person]:
    return [Person(name=f"Person {i}", handle=f"person-{i}", own=(i,)) for i in range(count)]


def world(gain: Gain, *, files: int = 5, spans: int = 3, noise: float = 0.0, seed: int = 0) -> list[Held]:
    """``gain[i][j]``: nats a token of block i on person j, the same in every file but for ``noise``."""
    draw = random.Random(seed)
    held: list[Held] = []
    for j in range(len(gain[0])):
        for f in range(files):
            of_file = [draw.gauss(0, noise) if noise else 0.0 for _ in gain]
            for s in range(spans):
                tokens = draw.randint(5, 40)
                blocks = tuple(3.0 * tokens - (row[j] + n) * tokens for row, n in zip(gain, of_file, strict=True))
                held.append(
                    Held(pair=f"{j}.{f}.{s}", person=j, file=f"f{f}", tokens=tokens, base=3.0 * tokens, blocks=blocks)
                )
    return held


def diagonal(count: int, own: float = 0.2, other: float = -0.02) -> Gain:
    return [[own if i == j else other for j in range(count)] for i in range(count)]


def found(gain: Gain, **options: float) -> Identified:
    names = [f"block-{i}" for i in range(len(gain))]
    return identify(names, people(len(gain)), world(gain, **options))  # type: ignore[arg-type]


def test_the_matrix_is_the_gain_in_nats_a_token() -> None:
    result = found([[0.2, -0.1, 0.0], [0.05, 0.1, 0.0], [0.0, 0.0, 0.3]])
    for row, expected in zip(result.matrix, [[0.2, -0.1, 0.0], [0.05, 0.1, 0.0], [0.0, 0.0, 0.3]], strict=True):
        assert row == pytest.approx(expected, abs=1e-9)
    first = result.people[0]
    assert (first.best, first.rank, first.runner_up, first.n_spans, first.n_files) == (0, 1, 1, 15, 5)
    assert first.gain.value == pytest.approx(0.2)
    assert first.margin.value == pytest.approx(0.15)
    assert result.measures["identification.mrr"].value == 1.0


def test_four_blocks_that_explain_their_own_are_identity_and_three_cannot_be() -> None:
    four, three = found(diagonal(4)), found(diagonal(3))
    assert four.verdict.kind == "identity"
    assert four.measures["identification.p_files"].value == pytest.approx(1 / 24)
    assert four.measures["identification.people"].value == four.measures["identification.files"].value == 1.0
    assert four.chance["identification.files"] == 0.25
    assert three.verdict.kind == "suggestive"
    assert "once in 6" in three.verdict.text


def test_a_block_that_is_good_at_everything_is_nobodys() -> None:
    result = found([[0.3] * 4, [0.1] * 4, [0.2] * 4, [0.0] * 4], noise=0.01)
    assert result.measures["identification.people"].value == 0.25
    assert result.verdict.kind == "none"
    assert result.verdict.text.startswith("no identity: ")
    assert [one.rank for one in result.people] == [1, 3, 2, 4]


def test_ties_are_no_wins() -> None:
    result = found([[0.0] * 4] * 4)  # four adapters of zeros: exactly the base
    assert all(value == 0 for row in result.matrix for value in row)
    assert all(one.best is None for one in result.people)
    for what in ("people", "files", "spans"):
        assert result.measures[f"identification.{what}"].value == 0
    assert result.measures["identification.p_files"].value == 1.0
    assert result.measures["identification.mrr"].value == 0.25  # the last place of four
    assert result.verdict.kind == "none"


def test_luck_is_seldom_taken_for_identity() -> None:
    """Blocks that know nothing of anybody, each as good at some people as it happens to be: an error rate, not one lucky draw."""
    kinds: list[str] = []
    for seed in range(40):
        draw = random.Random(f"luck:{seed}")
        gain = [[draw.gauss(0, 0.05) for _ in range(5)] for _ in range(5)]
        kinds.append(found(gain, noise=0.03, seed=seed, files=6, spans=1).verdict.kind)
    assert kinds.count("identity") <= 5  # 5 % of 40 are 2; by a binomial of that rate 5 are exceeded once in 70
    assert kinds.count("none") >= 20


def test_all_of_a_few_files_is_not_taken_for_certain() -> None:
    one, *_ = found(diagonal(4), files=3).people
    assert one.files.value == one.spans.value == 1.0
    assert one.files.ci95 == one.spans.ci95 == pytest.approx((0.4385, 1.0), abs=1e-3)  # Wilson's for 3 of 3


def test_few_files_are_said_and_not_counted() -> None:
    result = found(diagonal(4), files=2)
    assert result.verdict.kind == "not_available"
    assert result.measures["identification.files"].value is None
    assert result.measures["identification.people"].value == 1.0
    assert result.measures["identification.people"].ci95 is None
    assert "2 held-out files are left, 3 are needed" in result.people[0].files.how
    assert result.people[0].gain.ci95 is None


def test_a_person_without_a_hold_out_is_no_column_of_figures() -> None:
    held = [one for one in world(diagonal(4)) if one.person != 2]
    result = identify([f"b{i}" for i in range(4)], people(4), held)
    assert [row[2] for row in result.matrix] == [None] * 4
    assert result.people[2].gain.status == "not_available"
    assert result.measures["identification.people"].n == 3
    assert identify(["a", "b"], people(2), []).verdict.kind == "not_available"


def test_two_blocks_of_one_person_are_both_their_own() -> None:
    gain = [[0.2, 0.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.2]]
    who = [
        Person(name="A", handle="a", own=(0, 1)), Person(name="B", handle="b", own=(2,)), Person(name="C", handle="c", own=(3,))
    ]  # fmt: skip
    result = identify(["a@1", "a@2", "b", "c"], who, world(gain))
    assert (result.people[0].best, result.people[0].runner_up) == (1, 2)
    assert result.people[0].gain.value == pytest.approx(0.25)
    assert result.chance["identification.people"] == pytest.approx((2 + 1 + 1) / 12)
    assert result.measures["identification.people"].value == 1.0


def test_what_cannot_be_compared_is_refused() -> None:
    for names, who in ((["a"], people(1)), (["a", "b"], people(1)), (["a", "b"], people(3))):
        with pytest.raises(ValueError, match="two blocks at least"):
            identify(names, who, [])
    with pytest.raises(ValueError, match="under every block"):
        identify(["a", "b", "c"], people(3), world(diagonal(2)))


@pytest.mark.parametrize(("k", "own"), [(2, 1), (5, 1), (5, 2), (7, 6)])
def test_chance_of_the_reciprocal_rank_is_that_of_all_orders(k: int, own: int) -> None:
    import itertools

    who = [Person(name="A", handle="a", own=tuple(range(own)))]
    who += [Person(name=str(i), handle=str(i), own=(i,)) for i in range(own, k)]
    held = [one for one in world([[float(i)] for i in range(k)]) if one.person == 0]
    result = identify([str(i) for i in range(k)], who, held)
    orders = itertools.permutations(range(k))
    expected = [1 / (1 + min(places[i] for i in range(own))) for places in orders]
    assert result.chance["identification.mrr"] == pytest.approx(sum(expected) / len(expected))


gains = st.lists(
    st.lists(st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 3)), min_size=4, max_size=4),
    min_size=4,
    max_size=4,
)


@settings(max_examples=12, deadline=None)
@given(gain=gains, order=st.permutations(range(4)))
def test_the_order_of_blocks_changes_nothing_but_the_order_of_rows(gain: Gain, order: Sequence[int]) -> None:
    held, who, names = world(gain, noise=0.1), people(4), [f"b{i}" for i in range(4)]
    straight = identify(names, who, held)
    moved = identify(
        [names[i] for i in order],
        [one.model_copy(update={"own": tuple(order.index(i) for i in one.own)}) for one in who],
        [one.model_copy(update={"blocks": tuple(one.blocks[i] for i in order)}) for one in held],
    )
    assert moved.matrix == tuple(straight.matrix[i] for i in order)
    assert moved.intervals == tuple(straight.intervals[i] for i in order)
    assert moved.measures == straight.measures
    assert [one.margin for one in moved.people] == [one.margin for one in straight.people]


@settings(max_examples=12, deadline=None)
@given(gain=gains, order=st.permutations(range(4)))
def test_the_order_of_people_and_of_spans_changes_nothing(gain: Gain, order: Sequence[int]) -> None:
    held, who, names = world(gain, noise=0.1), people(4), [f"b{i}" for i in range(4)]
    straight = identify(names, who, held)
    mixed = [one.model_copy(update={"person": order.index(one.person)}) for one in held]
    random.Random(1).shuffle(mixed)
    moved = identify(names, [who[i] for i in order], mixed)
    for row, before in zip(moved.matrix, straight.matrix, strict=True):
        assert row == pytest.approx([before[i] for i in order])  # sums in another order
    for name, measure in moved.measures.items():
        assert measure.value == pytest.approx(straight.measures[name].value)
        assert measure.ci95 == pytest.approx(straight.measures[name].ci95)


@settings(max_examples=12, deadline=None)
@given(gain=gains, column=st.integers(0, 3), shift=st.floats(-2, 2, allow_nan=False))
def test_what_all_blocks_gain_alike_on_a_person_changes_no_winner(gain: Gain, column: int, shift: float) -> None:
    """Topic words, a project's idiom, the language: whatever every block has learned of a person's code tells nobody apart."""
    held, names = world(gain, noise=0.1), [f"b{i}" for i in range(4)]
    lifted = [
        one.model_copy(update={"blocks": tuple(b - shift * one.tokens for b in one.blocks)}) if one.person == column else one
        for one in held
    ]  # fmt: skip
    before, after = identify(names, people(4), held), identify(names, people(4), lifted)
    assert [one.best for one in before.people] == [one.best for one in after.people]
    for name in ("people", "files", "spans", "mrr", "p_files"):
        assert after.measures[f"identification.{name}"] == before.measures[f"identification.{name}"]
    assert after.people[column].margin.value == pytest.approx(before.people[column].margin.value, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(gain=gains, own=st.floats(0.5, 2))
def test_a_stronger_own_block_never_identifies_fewer(gain: Gain, own: float) -> None:
    before = found(gain, noise=0.1)
    after = found([[g + own * (i == j) for j, g in enumerate(row)] for i, row in enumerate(gain)], noise=0.1)
    for name in ("people", "files", "spans", "mrr"):
        low, high = (one.measures[f"identification.{name}"].value or 0 for one in (before, after))
        assert high >= low


@settings(max_examples=12, deadline=None)
@given(gain=gains)
def test_shares_lie_within_their_intervals_and_p_values_within_their_range(gain: Gain) -> None:
    result = found(gain, noise=0.2)
    for name in ("files", "spans"):
        measure = result.measures[f"identification.{name}"]
        assert measure.value is not None
        assert measure.ci95 is not None
        assert 0 <= measure.ci95[0] <= measure.value <= measure.ci95[1] <= 1
    for name in ("p_people", "p_files"):
        assert 1 / math.factorial(4) <= (result.measures[f"identification.{name}"].value or 0) <= 1


def test_gain_over_a_control_is_per_token_and_wants_files_for_an_interval() -> None:
    tokens, files = [10, 20, 30, 40], ["a", "b", "c", "a"]
    measure = gain_over_control([20.0, 40.0, 60.0, 80.0], [18.0, 36.0, 54.0, 72.0], tokens, files)
    assert measure.value == pytest.approx(0.2)
    assert measure.ci95 == pytest.approx((0.2, 0.2))
    few = gain_over_control([20.0, 40.0], [18.0, 36.0], [10, 20], ["a", "b"])
    assert (few.value, few.ci95) == (pytest.approx(0.2), None)
    assert "2 of 3 files" in few.how
    assert gain_over_control([], [], [], []).status == "not_available"


def pair(number: int, completion: str) -> Pair:
    where = Provenance(
        repository="r", url="u", commit="c", path="p", blob="b", start=1, end=2, sha256="s", licence="MIT", author="A"
    )  # fmt: skip
    return Pair(
        id=str(number), form="whole", instruction="write it", completion=completion, split="holdout", kind="function", name="f",
        language="python", teacher="t", provenance=where,
    )  # fmt: skip


@pytest.mark.anyio
async def test_all_blocks_and_the_base_are_scored_on_all_pairs_by_one_engine(tmp_path: object) -> None:
    from pathlib import Path

    engine, adapters = FakeEngine(), list[str]()
    pairs = [pair(i, f"def f{i}():\n    return {i}\n") for i in range(150)]
    for n in range(3):
        from clonedna.core.model import Example, LoraSpec

        trainer = await engine.train(LoraSpec())
        await trainer.forward_backward([Example(text="", completion="def f" * (n + 1))])
        await trainer.optim_step(0.001)
        await trainer.save(Path(str(tmp_path)) / str(n))
        adapters.append((await engine.load(Path(str(tmp_path)) / str(n))).id)
    said: list[StageProgress] = []
    scores = await score_all(engine, pairs, adapters, emit=lambda event: said.append(event))  # type: ignore[arg-type]
    assert [len(row) for row in scores] == [150] * 4
    assert (said[-1].done, said[-1].total) == (600, 600)
    from clonedna.evals.likelihood import example_of

    alone = await engine.nll([example_of(one) for one in pairs], [Layer(adapter=adapters[1])])
    assert scores[2] == alone
    assert await score_all(engine, [], adapters, emit=silent) == ((),) * 4


def test_the_same_figures_give_the_same_result() -> None:
    assert anyio.run(_twice) == 1


async def _twice() -> int:
    return len({found(diagonal(4), noise=0.1).model_dump_json() for _ in range(2)})
