"""From layers to a manifest: weights, modules, centroids, gates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import InputError
from clonedna.core.genome import Composition
from clonedna.core.vectors import Vectors
from clonedna.genomes.assembly import centroid, gate_of, gated, layers_of, module_map
from tests.genomes import layer
from tests.unit.store.making import manifest


def rows(seed: int, n: int, dimension: int = 8) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    made = np.random.default_rng(seed).normal(size=(n, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_weights_by_composition() -> None:
    made = [(manifest({}, "k", name=name), ["python"]) for name in ("ada", "bob")]
    route, stack = Composition(kind="route", method="gate"), Composition(kind="stack", method="cat")
    assert [one.weight for one in layers_of(made, route)] == [1.0, 1.0]
    assert [one.weight for one in layers_of(made, stack)] == [0.5, 0.5]
    assert [one.weight for one in layers_of(made[:1], stack)] == [1.0]


def test_the_module_map_names_who_changes_what() -> None:
    two = [layer("ada", target_modules=("q_proj",)), layer("bob", target_modules=("q_proj", "v_proj"))]
    assert module_map(two) == {"q_proj": (two[0].id, two[1].id), "v_proj": (two[1].id,)}


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 200))
def test_a_gate_s_centroids_are_few_of_length_one_and_always_the_same(seed: int, n: int) -> None:
    x = rows(seed, n)
    gate = gate_of("e@1", [x], [x[:0]], x[:0])
    assert gate == gate_of("e@1", [x[::-1]], [x[:0]], x[:0])
    (found,) = gate.centroids
    assert len(found) == min(n, max(4, min(8, n // 16)))
    assert np.allclose(np.linalg.norm(np.array(found), axis=1), 1, atol=1e-4)


def test_prompts_without_a_vector_make_no_gate() -> None:
    nothing = np.zeros((3, 8), dtype=np.float32)
    with pytest.raises(InputError, match="none of these layers' prompts"):
        gate_of("e@1", [nothing, nothing], [nothing, nothing], nothing)


def test_a_gate_sends_to_the_nearest_and_what_is_far_to_the_base() -> None:
    axis = np.eye(8, dtype=np.float32)
    gate = gate_of("e@1", [axis[:1].repeat(20, 0), axis[1:2].repeat(20, 0)], [axis[:1], axis[1:2]], axis[:0])
    assert gated(gate, Vectors("e@1", axis[:3])) == (0, 1, None)
    assert gate.floor == pytest.approx(1.0)
    empty = gate_of("e@1", [axis[:1], axis[1:2]], [axis[:0], axis[:0]], axis[2:3])
    assert empty.floor == 0.0


def test_other_words_pass_where_what_is_about_nothing_is_far() -> None:
    axis = np.eye(8, dtype=np.float32)
    between = ((axis[0] + axis[2]) / np.sqrt(2))[None]
    own = [axis[:1].repeat(20, 0)], [axis[:1].repeat(20, 0)]
    assert gated(gate_of("e@1", *own, axis[:0]), Vectors("e@1", between)) == (None,)
    assert gated(gate_of("e@1", *own, axis[3:4].repeat(20, 0)), Vectors("e@1", between)) == (0,)
    near = gate_of("e@1", *own, between.repeat(20, 0))  # what is about nothing is as near: it decides
    assert near.floor == pytest.approx(0.5**0.5, abs=1e-5)
    assert gate_of("e@1", [axis[:1]], [between], axis[:1].repeat(20, 0)).floor == pytest.approx(0.5**0.5, abs=1e-5)


def test_a_centroid_has_length_one_or_is_nothing() -> None:
    assert np.linalg.norm(centroid(rows(1, 3))) == pytest.approx(1.0, abs=1e-6)
    assert set(centroid(np.array([[1, 0], [-1, 0]], dtype=np.float32))) == {0.0}
