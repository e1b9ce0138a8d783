"""Choosing layers: the formula, ties, kin, and how near the greedy set comes to the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.genomes.planning import (
    Candidate,
    Choosing,
    Chosen,
    chosen,
    nearest,
    plan_id,
    ranked,
    relative_size,
    trust_prior,
)

NAMES = "abcdef"
shares = st.floats(0, 1).map(lambda one: round(one, 3))
rows = st.lists(st.dictionaries(st.sampled_from(NAMES), shares, max_size=6), min_size=1, max_size=4)


def zero(_: str, __: str) -> float:
    return 0.0


def one(name: str, size: int = 100, kin: str = "") -> Candidate:
    return Candidate(id=name, bytes=size, trust=0.5, kin=frozenset(kin))


def picked(
    weights: Sequence[float], similarity: Sequence[Mapping[str, float]], names: str = NAMES, **config: float
) -> Chosen:
    made = Choosing.model_validate(config)
    return chosen(weights, similarity, [one(name) for name in names], cosine=zero, conflict=zero, config=made)


def test_the_ranking_is_the_formula_over_its_greatest_value() -> None:
    found = dict(ranked([one("a"), one("b")], {"a": 0.8, "b": 0.4}, lambda *_: 0.5, Choosing()))
    assert list(found) == ["a", "b"]
    assert found["a"].score == pytest.approx((0.55 * 0.8 + 0.15 * 0.5 + 0.05 * 0.5) / 0.75)
    assert found["b"].score == pytest.approx((0.55 * 0.4 - 0.25 * 0.5 + 0.15 * 0.5 + 0.05 * 0.5) / 0.75)
    assert ranked([], {}, zero, Choosing()) == ()


def test_what_is_unlike_everything_does_not_come_second_to_anything() -> None:
    likes = {"a": 0.5, "b": 0.4, "c": 0.05}

    def cosine(x: str, y: str) -> float:
        return 0.0 if "c" in (x, y) else 0.9

    pool = [one(name) for name in "abc"]
    assert [name for name, _ in ranked(pool, likes, cosine, Choosing())] == ["a", "c", "b"]
    best = nearest(pool, likes, 2)
    assert best == {"a", "b"}
    assert [name for name, _ in ranked(pool, likes, cosine, Choosing(), first=best)] == ["a", "b", "c"]


def test_the_nearest_do_not_repeat_each_other() -> None:
    twin = Candidate(id="b", bytes=1000, trust=0.5, kin=frozenset("a"))
    assert nearest([one("a"), twin, one("c"), one("d")], {"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2}, 2) == {"a", "b", "c"}
    assert nearest([], {}, 2) == frozenset()


def test_a_perfect_trusted_tiny_layer_scores_one() -> None:
    best = Candidate(id="a", bytes=0, trust=1.0)
    ((_, score),) = ranked([best, Candidate(id="b", bytes=10**9, trust=0.0)], {"a": 1.0}, zero, Choosing())[:1]
    assert score.score == pytest.approx(1.0)


@given(rows, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_changes_anything(similarity: list[dict[str, float]], draw: object) -> None:
    weights = [1 / len(similarity)] * len(similarity)
    names = list(NAMES)
    draw.shuffle(names)  # type: ignore[attr-defined]
    assert picked(weights, similarity, "".join(names)) == picked(weights, similarity)
    pool = [one(name) for name in names]
    assert ranked(pool, similarity[0], zero, Choosing()) == ranked(pool[::-1], similarity[0], zero, Choosing())


@settings(max_examples=60)
@given(rows)
def test_the_greedy_set_is_near_the_best_one(similarity: list[dict[str, float]]) -> None:
    weights = [1 / len(similarity)] * len(similarity)
    found = picked(weights, similarity, redundancy=0, mu=0, nu=0, least=0, target=1, layers=2)
    most = max(_covered(weights, similarity, two) for two in combinations(NAMES, 2))
    assert found.covered >= (1 - 1 / 2.718282) * most - 1e-9  # Nemhauser, Wolsey & Fisher 1978


@given(rows)
def test_every_pick_adds_enough_and_coverage_is_what_it_says(similarity: list[dict[str, float]]) -> None:
    weights = [1 / len(similarity)] * len(similarity)
    found = picked(weights, similarity)
    assert all(gain >= 0.02 for gain in found.gains)
    assert found.covered == pytest.approx(_covered(weights, similarity, found.ids))
    assert len(set(found.ids)) == len(found.ids) <= 8


def test_kin_never_adds_coverage_either_way_round() -> None:
    similarity = [{"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}]
    for pool in ([one("a", kin="b"), one("b")], [one("a"), one("b", kin="a")]):
        found = chosen([0.5, 0.5], similarity, pool, cosine=zero, conflict=zero, config=Choosing())
        assert found.ids == ("a",)


def test_what_is_repeated_and_what_harms_counts_less() -> None:
    similarity = [{"a": 0.8, "b": 0.86}]
    assert picked([1.0], similarity, "ab", target=1).ids == ("b",)
    half = [{"a": 0.8}, {"b": 0.3}]
    pool = [one("a"), one("b")]
    alone = chosen([0.5, 0.5], half, pool, cosine=lambda *_: 1.0, conflict=zero, config=Choosing())
    assert alone.ids == ("a", "b")  # all that b brings is new, however alike the words are
    beside = chosen([0.5, 0.5], half, pool, cosine=zero, conflict=lambda *_: 1.0, config=Choosing(mu=0.2))
    assert beside.ids == ("a",)


def test_it_stops_where_it_should() -> None:
    assert picked([1.0], [{"a": 0.96, "b": 1.0}]).stopped == "what is wanted is covered"
    assert picked([1.0], [{}]) == Chosen((), (), 0.0, "no other layer adds enough")
    many = [{name: 0.5} for name in NAMES]
    assert len(picked([1 / 6] * 6, many, layers=3).ids) == 3


def test_priors_and_sizes() -> None:
    assert trust_prior(0, 0) == 0.5
    assert trust_prior(3, 0) > trust_prior(3, 2) > trust_prior(0, 2)
    assert relative_size(100, [50, 100, 200]) == 0.5
    assert relative_size(50, [50, 100, 200]) > 0.5
    assert relative_size(5, []) == 0.5


def test_the_plans_id_covers_every_entry_and_no_order() -> None:
    decided = {"request": "a", "seed": "0"}
    assert plan_id(decided) == plan_id(dict(reversed(decided.items())))
    assert plan_id(decided) != plan_id({**decided, "seed": "1"}) != plan_id({"request": "a"})


def _covered(weights: Sequence[float], similarity: Sequence[Mapping[str, float]], names: Sequence[str]) -> float:
    return sum(
        w * max((row.get(name, 0.0) for name in names), default=0.0) for w, row in zip(weights, similarity, strict=True)
    )
