"""A search that reads half of each row finds what one finds that reads all, whatever the rows and the question are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.vectors import Vectors
from clonedna.store import vectors_narrow
from clonedna.store.vectors import VectorFiles
from clonedna.store.vectors_file import Segment
from clonedna.store.vectors_narrow import narrowed
from clonedna.store.vectors_search import Held

SIZE = 24


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def rows(kind: str, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    if kind == "same":
        return np.repeat(unit(draw.normal(size=(1, SIZE))), count, axis=0)
    if kind == "axes":
        return np.eye(SIZE, dtype=np.float32)[draw.integers(SIZE, size=count)]
    if kind == "zeros":
        return np.zeros((count, SIZE), dtype=np.float32)
    spread = np.linspace(1, 0.02, SIZE) if kind == "narrow" else np.ones(SIZE)
    return unit(draw.normal(size=(count, SIZE)) * spread)


def held(parts: list[np.ndarray], *, narrow: bool) -> Held:
    names = [f"f{n}" for n in range(len(parts))]
    segments = {
        name: Segment(tuple(f"{name}-{at:04d}" for at in range(len(part))), part, name)
        for name, part in zip(names, parts, strict=True)
    }
    places = {key: (name, at) for name, segment in segments.items() for at, key in enumerate(segment.keys)}
    return Held(segments, places, {}, narrowed(segments, {}) if narrow else {})


@given(
    kinds=st.lists(st.sampled_from(["same", "axes", "zeros", "narrow", "round"]), min_size=1, max_size=3),
    question=st.sampled_from(["axes", "narrow", "round", "zeros"]), most=st.integers(1, 30), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost(kinds: list[str], question: str, most: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_narrow, "LEAST_ROWS", 50)
        parts = [
            rows(kind, 40 + 60 * number, seed + number) for number, kind in enumerate(kinds)
        ]  # the first file is too small
        wanted = rows(question, 1, seed + 7)[0]
        for chosen in (None, frozenset(f"f0-{at:04d}" for at in range(0, 40, 3))):
            whole, less = (held(parts, narrow=one).exact(wanted, most, chosen) for one in (False, True))
            assert less == whole


def test_bounds_hold() -> None:
    for kind in ("narrow", "round", "axes"):
        made = rows(kind, 5000, 3)
        (narrow,) = narrowed({"a": Segment(tuple(map(str, range(5000))), made, "a")}, {}).values()
        for asked in rows("round", 20, 4):
            assert (narrow.bounds(asked) >= made.astype(np.float64) @ asked).all()


def test_an_index_uses_it_from_its_second_search_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_narrow, "FROM", 5000)
    index, keys = VectorFiles(tmp_path, "e@1", SIZE), [f"{n:05d}" for n in range(6000)]
    index.add(keys, Vectors("e@1", rows("narrow", 6000, 1)))
    asked = [Vectors("e@1", row[None]) for row in rows("narrow", 10, 2)]
    first = [VectorFiles(tmp_path, "e@1", SIZE).search(one, 20) for one in asked]  # each is its first
    assert [index.search(one, 20) for one in asked] == first
    assert index._narrow
    index.remove([first[0][0].key])
    assert index.search(asked[0], 19) == first[0][1:]
