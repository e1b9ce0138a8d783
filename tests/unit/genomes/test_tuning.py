"""The search over weights finds what is best where there is one, is bounded, and gives the same each time; the gate tells layers apart."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import InputError
from clonedna.core.vectors import Vectors
from clonedna.genomes.gating import fit_gate, shares
from clonedna.genomes.tuning import LARGEST, MOST, Tuned, tune


def search(best: Sequence[float], start: Sequence[float], most: int = MOST) -> tuple[Tuned, list[tuple[float, ...]]]:
    asked: list[tuple[float, ...]] = []

    async def loss(weights: tuple[float, ...]) -> float:
        asked.append(weights)
        return sum((w - b) ** 2 for w, b in zip(weights, best, strict=True))

    return anyio.run(lambda: tune(loss, start, most=most)), asked


points = st.lists(st.floats(0.1, 2.5), min_size=1, max_size=4)


@settings(deadline=None)
@given(points)
def test_it_never_ends_worse_than_it_began_and_asks_nothing_twice(best: list[float]) -> None:
    start = [1 / len(best)] * len(best)
    found, asked = search(best, start)
    again, _ = search(best, start)
    assert found == again
    assert found.loss <= found.before
    assert len(asked) == len(set(asked)) == found.measured <= MOST
    assert max(abs(w) for weights in asked for w in weights) <= LARGEST


def test_it_comes_near_the_best_weights() -> None:
    found, _ = search((0.9, 0.3), (0.5, 0.5))
    assert found.weights == pytest.approx((0.9, 0.3), rel=0.2)


def test_one_measurement_is_the_start_and_none_is_refused() -> None:
    found, asked = search((2.0,), (1.0,), most=1)
    assert (found.weights, asked) == ((1.0,), [(1.0,)])
    with pytest.raises(ValueError, match="weight"):
        search((), ())


def rows(seed: int, count: int) -> Vectors:
    """Vectors of length 1 around a direction of their own."""
    draw = np.random.default_rng(seed)
    made = np.eye(12)[seed] + 0.25 * draw.normal(size=(count, 12))
    return Vectors("e", (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32))


def joined(*counts: int) -> tuple[Vectors, list[int]]:
    found = [rows(seed, count).rows for seed, count in enumerate(counts)]
    return Vectors("e", np.vstack(found)), [seed for seed, count in enumerate(counts) for _ in range(count)]


def test_the_gate_tells_layers_apart_also_when_one_has_few_examples() -> None:
    vectors, labels = joined(40, 4, 20)
    gate = fit_gate(vectors, labels, 3)
    new = Vectors("e", np.vstack([rows(seed, 50).rows[40:] for seed in range(3)]))
    found = shares(gate, new)
    assert np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == np.repeat([0, 1, 2], 10)).mean() > 0.9
    assert fit_gate(vectors, labels, 3) == gate


def test_what_a_gate_cannot_be_asked() -> None:
    vectors, labels = joined(5, 5)
    gate = fit_gate(vectors, labels, 2)
    with pytest.raises(InputError, match="vectors of e"):
        shares(gate, Vectors("other", vectors.rows))
    with pytest.raises(InputError, match="every layer"):
        fit_gate(vectors, labels, 3)
