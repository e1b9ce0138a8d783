"""The order of layers: what counts, that it hangs on nothing else, and how several skills share one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.genome import Features
from clonedna.genomes.ranking import Ranked, alike, in_order, in_turn, likeness

cosines, shares = st.floats(-1, 1), st.floats(0, 1)


def test_text_exemplars_and_squared_words_count_alike() -> None:
    assert likeness(0.6, 0.3, None, 0.5) == pytest.approx((0.6 + 0.3 + 0.25) / 3)
    assert likeness(1, 1, None, 1) == 1
    assert likeness(-1, -1, None, 0) == pytest.approx(-2 / 3)


def test_without_exemplars_the_text_stands_for_them() -> None:
    assert likeness(0.6, None, None, 0.5) == likeness(0.6, 0.6, None, 0.5)
    assert alike(Features(text_cosine=0.6, overlap=0.5)) == likeness(0.6, None, None, 0.5)
    assert alike(Features(text_cosine=0.6, centroid_cosine=0.1, overlap=0.5)) == likeness(0.6, 0.1, None, 0.5)


def test_the_nearer_of_exemplars_and_meanings_counts() -> None:
    assert likeness(0.6, 0.3, 0.4, 0.5) == likeness(0.6, 0.4, None, 0.5)
    assert likeness(0.6, 0.3, 0.1, 0.5) == likeness(0.6, 0.3, None, 0.5)
    assert likeness(0.6, None, 0.9, 0.5) == likeness(0.6, 0.9, None, 0.5)
    assert likeness(0.6, None, 0.2, 0.5) == likeness(0.6, None, None, 0.5)
    assert alike(Features(text_cosine=0.6, centroid_cosine=0.1, meaning_cosine=0.7)) == likeness(0.6, 0.7, None, 0)


@given(cosines, cosines, shares, st.floats(0, 1))
def test_more_of_anything_never_makes_less_alike(text: float, exemplars: float, overlap: float, more: float) -> None:
    least = likeness(text, exemplars, None, overlap)
    assert likeness(min(1, text + more), exemplars, None, overlap) >= least
    assert likeness(text, min(1, exemplars + more), None, overlap) >= least
    assert likeness(text, exemplars, None, min(1, overlap + more)) >= least
    assert likeness(text, exemplars, more, overlap) >= least


def test_ties_go_by_key_and_differences_that_cannot_be_seen_are_none() -> None:
    found = in_order({"c": 0.5, "b": 0.5 + 1e-8, "d": 0.6, "a": 0.5 - 1e-8})
    assert [one.key for one in found] == ["d", "a", "b", "c"]
    assert found[1].score == 0.5
    assert in_order({}) == ()


@given(st.dictionaries(st.text(max_size=3), cosines, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_the_layers_changes_nothing(scores: dict[str, float], random) -> None:
    mixed = list(scores.items())
    random.shuffle(mixed)
    found = in_order(scores)
    assert found == in_order(dict(mixed))
    assert {one.key for one in found} == set(scores)
    assert all(a.score >= b.score for a, b in pairwise(found))


def test_skills_take_turns_and_nothing_comes_twice() -> None:
    first = [Ranked("a", 0.9), Ranked("b", 0.8), Ranked("c", 0.7)]
    second = [Ranked("b", 0.5), Ranked("d", 0.4)]
    assert [one.key for one in in_turn([first, second], 5)] == ["a", "b", "d", "c"]
    assert in_turn([first, second], 2) == (first[0], second[0])
    assert in_turn([], 5) == in_turn([[]], 5) == in_turn([first], 0) == ()
