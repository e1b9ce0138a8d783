"""The ranking of layers: what counts, that the order hangs on nothing else, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.genomes.ranking import Known, Ranked, Ranking, asked_parts, in_turn, stem, stems

WIDTH = 4
NONE = np.zeros((0, WIDTH), np.float32)


def unit(*values: float) -> np.ndarray:
    made = np.asarray([*values, *[0.0] * (WIDTH - len(values))], np.float32)
    return made / np.linalg.norm(made)


def layer(key: str, text: np.ndarray, *middles: np.ndarray, words: str = "") -> Known:
    return Known(key, text, np.stack(middles) if middles else NONE, stems([words]))


X, Y, Z = unit(1), unit(0, 1), unit(0, 0, 1)


def test_the_score_is_the_mean_of_text_exemplars_and_squared_words() -> None:
    ranking = Ranking([layer("a", X, X, Y, words="tree parser"), layer("b", Z)])
    share = (math.log(3 / 2) + 1) / (
        math.log(3 / 2) + 1 + math.log(3 / 1) + 1
    )  # one of two layers has "parser", none has "lexer"
    (first, second) = ranking.best(X, "a lexer and parsers", 5)
    assert first.key == "a"
    assert first.score == pytest.approx((1 + (1 + 0.5**0.5) / 2 + share**2) / 3, abs=1e-6)
    assert second == Ranked("b", 0.0)


def test_without_exemplars_the_text_stands_for_them() -> None:
    bare, same = Ranking([layer("a", X)]), Ranking([layer("a", X, X)])
    asked = unit(1, 1)
    assert bare.scores(asked, "words") == pytest.approx(same.scores(asked, "words"))


def test_its_own_words_and_vector_score_one_and_nothing_alike_scores_least() -> None:
    ranking = Ranking([layer("a", X, X, words="lsm tree compaction")])
    assert ranking.best(X, "LSM-tree compactions", 1) == (Ranked("a", 1.0),)
    assert ranking.best(-X, "something else", 1)[0].score == pytest.approx(-2 / 3, abs=1e-6)


def test_rare_words_count_more() -> None:
    ranking = Ranking(
        [layer("a", X, words="python lark"), layer("b", X, words="python web"), layer("c", X, words="python")]
    )
    lark, web, common = (ranking.overlaps(text)[0] for text in ("python lark", "python web", "python"))
    assert lark == common == 1
    assert web < 0.5


def test_words_that_say_nothing_count_nothing_where_there_are_others() -> None:
    ranking = Ranking([layer("a", X, words="parser")])
    assert ranking.overlaps("who can write me a parser?")[0] == 1
    assert ranking.overlaps("")[0] == 0
    assert ranking.overlaps("!?")[0] == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [("parsers", "parsing"), ("queries", "query"), ("optimise", "optimisation"), ("sensors", "sensor")],
)
def test_endings_are_taken_off(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_short_words_stay_whole() -> None:
    assert [stem(word) for word in ("go", "css", "dns", "bed", "c", "aes")] == ["go", "css", "dns", "bed", "c", "aes"]


def test_ties_go_by_key_and_differences_that_cannot_be_seen_are_none() -> None:
    near = unit(1, 1e-5)
    ranking = Ranking([layer("c", near), layer("b", X), layer("a", near)])
    assert [one.key for one in ranking.best(X, "x", 3)] == ["a", "b", "c"]


def test_among_and_most() -> None:
    ranking = Ranking([layer("a", X), layer("b", Y), layer("c", Z)])
    assert [one.key for one in ranking.best(X, "x", 2)] == ["a", "b"]
    assert [one.key for one in ranking.best(X, "x", 5, among={"c"})] == ["c"]
    assert ranking.best(X, "x", 5, among=()) == ranking.best(X, "x", 0) == ranking.best(X, "x", -1) == ()


def test_no_layers_at_all() -> None:
    assert Ranking([]).best(X, "anything", 5) == ()


def test_what_is_not_one_set_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Ranking([layer("a", X), layer("a", Y)])
    with pytest.raises(ValueError, match="width"):
        Ranking([layer("a", X), Known("b", np.ones(1, np.float32), NONE, frozenset())])


def test_middles_that_cancel_out_are_no_direction() -> None:
    scores = Ranking([layer("a", X, Y, -Y)]).scores(Y, "x")
    assert scores[0] == pytest.approx(1 / 6)  # the nearest middle alone


def test_skills_take_turns_and_nothing_comes_twice() -> None:
    first = [Ranked("a", 0.9), Ranked("b", 0.8), Ranked("c", 0.7)]
    second = [Ranked("b", 0.5), Ranked("d", 0.4)]
    assert [one.key for one in in_turn([first, second], 5)] == ["a", "b", "d", "c"]
    assert in_turn([first, second], 2) == (first[0], second[0])
    assert in_turn([], 5) == in_turn([[]], 5) == in_turn([first], 0) == ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rust async tcp server", ()),
        ("an OAuth server and also Argon2 hashing", ("an OAuth server", "Argon2 hashing")),
        (
            "Lower loops to IR. Fuzz the parser, then shrink crashes.",
            ("Lower loops to IR", "Fuzz the parser", "shrink crashes"),
        ),
        ("black and white", ()),
        ("one thing and one more and one more thing and one last thing", ()),
        ("", ()),
    ],
)
def test_what_is_joined_is_asked_for_as_a_whole_and_in_parts(text: str, parts: tuple[str, ...]) -> None:
    assert asked_parts(text) == (text, *parts)


def test_the_whole_answers_first_and_the_parts_take_turns() -> None:
    ranking = Ranking([layer("a", X), layer("b", Y), layer("c", Z)])
    found = ranking.answer(np.stack([unit(1, 0.5), Y, Z]), ("x y", "y", "z"), 3)
    assert [one.key for one in found] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="zip"):
        ranking.answer(np.stack([X, Y]), ("x",), 3)


rows = st.lists(st.floats(-1, 1, width=32), min_size=WIDTH, max_size=WIDTH).filter(
    lambda v: sum(x * x for x in v) > 1e-3
)
texts = st.lists(
    st.sampled_from(["tree", "parser", "queue", "kernel", "audio", "mesh", "graph", "lock"]), max_size=4
).map(" ".join)
pools = st.lists(st.tuples(rows, st.lists(rows, max_size=3), texts), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(pool=pools, asked=rows, text=texts, order=st.randoms(use_true_random=False))
def test_the_order_of_the_layers_changes_nothing(pool: list, asked: list[float], text: str, order: object) -> None:
    layers = [
        layer(f"k{n}", unit(*v), *(unit(*m) for m in middles), words=words)
        for n, (v, middles, words) in enumerate(pool)
    ]
    mixed = list(layers)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    found = Ranking(layers).best(unit(*asked), text, 10)
    assert found == Ranking(mixed).best(unit(*asked), text, 10)
    assert sorted(found, key=lambda one: (-one.score, one.key)) == list(found)
    assert all(-0.6667 <= one.score <= 1.000001 for one in found)


@settings(max_examples=60, deadline=None)
@given(pool=pools, asked=rows, text=texts)
def test_more_of_the_asked_words_never_lowers_a_layer(pool: list, asked: list[float], text: str) -> None:
    others = [layer(f"k{n}", unit(*v), words=words) for n, (v, _, words) in enumerate(pool)]
    without = Ranking([*others, layer("z", X, words="")]).scores(unit(*asked), text)[-1]
    having = Ranking([*others, layer("z", X, words=text)]).scores(unit(*asked), text)[-1]
    assert having >= without
