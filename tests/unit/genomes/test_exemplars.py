"""What stands for a block beside its text: never what was held out, the same for the same pairs, and near to what it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.canonical import sha256
from clonedna.core.work import Pair, Provenance
from clonedna.genomes.exemplars import MOST_PROMPTS, centroids, digests, drawn, greatest, listed


def pair(told: str, split: str = "train") -> Pair:
    where = Provenance.model_construct()
    return Pair.model_construct(id=sha256(told)[:16], instruction=told, split=split, provenance=where)


def rows(count: int, groups: int, seed: int = 0, size: int = 16) -> np.ndarray:
    draw = np.random.default_rng(seed)
    middles = np.eye(size)[:groups]
    made = middles[np.arange(count) % groups] + 0.05 * draw.normal(size=(count, size))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_the_greatest_of_each_group_is_found_also_where_some_are_empty() -> None:
    row = np.array([[0.1, 0.4, 0.2, -0.5], [0.3, 0.0, 0.9, -1.0]], dtype=np.float32)
    assert greatest(row, [0, 2, 0, 1, 1, 0]).tolist() == np.array(
        [[-2, 0.4, -2, 0.2, -0.5, -2], [-2, 0.3, -2, 0.9, -1, -2]], dtype=np.float32
    ).tolist()  # fmt: skip
    assert greatest(row[0], [4]).tolist() == [np.float32(0.4)]
    assert greatest(np.zeros((3, 0), dtype=np.float32), [0, 0]).tolist() == [[-2, -2]] * 3
    assert greatest(np.zeros((2, 0), dtype=np.float32), []).shape == (2, 0)


def test_what_was_held_out_is_never_drawn() -> None:
    pairs = [
        pair("a"),
        pair("b"),
        pair("b", "holdout"),
        pair(" c "),
        pair("c", "validation"),
        pair("d", "holdout"),
        pair("  "),
    ]
    assert drawn(pairs) == ("a",)
    assert listed(pairs, None) == ("a",)
    assert listed(pairs, digests(["a", "b", "c", "d", "e"])) == ("a",)


def test_they_are_drawn_in_the_same_way_whatever_the_order() -> None:
    pairs = [pair(f"prompt {n}") for n in range(200)]
    made = drawn(pairs)
    assert made == drawn(pairs[::-1])
    assert len(made) == len(set(made)) == MOST_PROMPTS
    assert listed(pairs, digests(made)) == made
    assert digests(made) == tuple(sorted(digests(made)))


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (1, 1), (3, 3), (4, 4), (12, 4), (24, 6), (64, 8)])
def test_four_to_eight_and_fewer_of_few(count: int, wanted: int) -> None:
    made = centroids(rows(count, 16))
    assert made.shape == (wanted, 16)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def test_each_group_has_its_middle() -> None:
    made = centroids(rows(64, 8))
    near = np.abs(made @ np.eye(16, dtype=np.float32)[:8].T).argmax(axis=1)
    assert sorted(near.tolist()) == list(range(8))
    assert (np.abs(made @ np.eye(16, dtype=np.float32)[:8].T).max(axis=1) > 0.95).all()


def test_what_is_the_same_counts_once_and_nothing_counts_not() -> None:
    same = np.repeat(rows(1, 1), 9, axis=0)
    assert np.allclose(centroids(same), same[:1], atol=1e-6)
    assert centroids(np.zeros((5, 8), dtype=np.float32)).shape == (0, 8)


@given(st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_changes_nothing_and_every_row_has_one_near(count: int, seed: int) -> None:
    given_rows = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    given_rows /= np.linalg.norm(given_rows, axis=1, keepdims=True)
    made = centroids(given_rows)
    assert np.array_equal(made, centroids(given_rows[::-1]))
    assert np.isfinite(made).all()
    assert len(made) <= min(8, count)
