"""What similarity is predicted from: each number is what it says it is, and no block gets one from nowhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.vectors import Near
from clonedna.genomes.calibration import design
from clonedna.genomes.features import POOL, features_of, hubness, neighbours
from clonedna.genomes.rarity import Rarity

TEXTS = {"a": "python http client", "b": "rust parser", "c": "python tables in a terminal"}
cosines = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=30)


def rows(values: list[float]) -> list[Near]:
    return [Near(f"{i:03d}", value, None) for i, value in enumerate(values)]


@given(cosines)
def test_the_margin_is_what_is_between_a_block_and_the_best_of_the_others(values: list[float]) -> None:
    found = features_of(["x"], rows(values), Rarity({}))
    for i, one in enumerate(values):
        others = values[:i] + values[i + 1 :]
        # No words and no exemplars: two thirds of what blocks are ordered by are the cosine.
        assert found[f"{i:03d}"].margin == pytest.approx((one - max(others)) * 2 / 3 if others else 0.0)


@given(cosines)
def test_z_has_no_mean_and_spread_one_over_the_pool(values: list[float]) -> None:
    z = [one.z for one in features_of(["x"], rows(values), Rarity({})).values()]
    if len(values) < 5 or max(values) - min(values) < 1e-6:
        assert all(abs(one) < 10 for one in z)
        assert len(values) >= 5 or not any(z)
        return
    assert sum(z) / len(z) == pytest.approx(0, abs=1e-6)
    assert math.sqrt(sum(one * one for one in z) / len(z)) == pytest.approx(1)


def test_z_is_of_the_nearest_alone_however_many_are_handed_in() -> None:
    values = [1 - i / 200 for i in range(120)]
    first, every = (features_of(["x"], rows(some), Rarity({})) for some in (values[:POOL], values))
    assert [every[name].z for name in first] == [one.z for one in first.values()]


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=20))
def test_what_a_block_was_trained_on_changes_what_is_predicted_of_none(values: list[tuple[float, float]]) -> None:
    alone = features_of(["x"], rows([text for text, _ in values]), Rarity({}))
    near = [Near(f"{i:03d}", text, prompts) for i, (text, prompts) in enumerate(values)]
    beside = features_of(["x"], near, Rarity({}))
    assert {name: design(one) for name, one in beside.items()} == {name: design(one) for name, one in alone.items()}


def test_distance_and_hubs_are_those_of_the_block() -> None:
    links = {"a": 2.0}
    found = features_of(["http"], rows([0.5]), Rarity({"000": "http"}), hubs={"000": 0.3}, distance=links.get)
    assert found["000"].overlap == 1
    assert found["000"].hubness == 0.3
    assert found["000"].distance is None
    near = [Near("a", 0.2, 0.9)]
    found = features_of(["http"], near, Rarity(TEXTS), distance=links.get)
    assert (found["a"].distance, found["a"].centroid_cosine, found["a"].text_cosine) == (2.0, 0.9, 0.2)


def test_a_hub_is_near_more_questions_than_chance_says() -> None:
    asked = [[Near("hub", 0.9, None), Near(f"other{i}", 0.1, None)] for i in range(10)]
    assert neighbours(20) == 2
    found = hubness(asked, 20)
    assert found["hub"] == pytest.approx(1 - 2 / 20)
    assert found["other3"] == pytest.approx(0.1 - 2 / 20)
    assert neighbours(3) == 1
    assert hubness([], 20) == {}
