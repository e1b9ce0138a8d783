"""Duplicates, forks and merges from sketches that are known, and from lineage."""

from __future__ import annotations

import numpy as np
import pytest

from clonedna.core.interference import WeightSketch
from clonedna.genomes.kin import independent, kin_sets, kinships

A, B, C, D, E = (letter * 64 for letter in "abcde")


def row(*parts: tuple[float, int]) -> WeightSketch:
    """A sum of directions that are all but at right angles, each drawn from its number."""
    total = sum(weight * np.random.default_rng(number).standard_normal(4096) for weight, number in parts)
    length = float(np.linalg.norm(total))
    return WeightSketch((total / (length or 1)).astype(np.float32), length)


def found(sketches: dict[str, WeightSketch], **known: object) -> list[tuple[str, tuple[str, ...], str, str]]:
    return [(kin.one, kin.of, kin.kind, kin.by) for kin in kinships(sketches, **known)]  # type: ignore[arg-type]


def test_strangers_are_no_kin() -> None:
    assert found({A: row((1, 1)), B: row((1, 2)), C: row((0.15, 1), (1, 3))}) == []


def test_a_copy_is_seen_whatever_its_scale_and_whatever_its_papers_say() -> None:
    assert found({A: row((1, 1)), B: row((0.3, 1))}) == [(B, (A,), "duplicate", "weights")]
    assert found({A: row((1, 1)), B: row((1, 1))}, digests={A: "x", B: "x"}) == [(B, (A,), "same", "id")]
    assert found({A: row((1, 1)), B: row((1, 1))}, ancestors={A: [B]}) == [(A, (B,), "duplicate", "both")]


def test_a_fork_is_of_what_it_came_from() -> None:
    assert found({A: row((1, 1)), B: row((1, 1), (0.7, 2))}) == [(B, (A,), "fork", "weights")]
    assert found({A: row((1, 1), (0.7, 2)), B: row((1, 1))}) == [(A, (B,), "fork", "weights")]
    assert found({A: row((1, 1)), B: row((1, 1), (0.7, 2))}, ancestors={A: [B]}) == [(A, (B,), "fork", "both")]


def test_lineage_is_believed_where_weights_went_far() -> None:
    assert found({A: row((1, 1)), B: row((1, 2))}, ancestors={B: [A, "f" * 64]}) == [(B, (A,), "fork", "lineage")]


def test_a_merge_is_found_with_all_its_parents_and_they_stay_apart() -> None:
    sketches = {A: row((1, 1)), B: row((1, 2)), C: row((1, 3)), D: row((0.5, 1), (0.4, 2)), E: row((1, 9))}
    (kin,) = kinships(sketches)
    assert (kin.one, kin.of, kin.kind) == (D, (A, B), "merge")
    assert kin.cosine == pytest.approx(1.0, abs=1e-3)
    sets = kin_sets([kin])
    assert sets[A] == sets[B] == {D}
    assert sets[D] == {A, B}
    (said,) = kinships(sketches, {D: [A, B]})
    assert said.by == "both"


def test_a_merge_of_three_and_a_merge_with_noise() -> None:
    three = {A: row((1, 1)), B: row((1, 2)), C: row((1, 3)), D: row((1, 1), (1, 2), (1, 3), (0.2, 8))}
    assert found(three) == [(D, (A, B, C), "merge", "weights")]


def test_only_one_of_kin_counts() -> None:
    kin = kinships({A: row((1, 1)), B: row((0.9, 1)), C: row((1, 2)), D: row((1, 1), (1, 2)), E: row((1, 5))})
    assert independent([B, A, C, D, E], kin) == ((B, C, E), {A: B, D: B})
    assert independent([D, A, B, C, E], kin) == ((D, E), {A: D, B: D, C: D})


def test_a_layer_that_changes_nothing_is_kin_to_nobody() -> None:
    zero = WeightSketch(np.zeros(4096, np.float32), 0.0)
    assert found({A: zero, B: zero, C: row((1, 1))}) == []
