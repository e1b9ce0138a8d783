"""What every ``Index`` must do."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import InputError
from clonedna.core.fakes import FakeIndex
from clonedna.core.seams import Index
from clonedna.core.vectors import Vectors
from clonedna.store.database import Database
from clonedna.store.vectors import VectorFiles
from clonedna.store.vectors_pg import PgVectors
from tests.databases import SKIPPED
from tests.postgres.cluster import VARIABLE, Cluster, Missing

DIMENSION = 8


class Settled(VectorFiles):
    """Has a graph from the first row on, and searches it from the first search on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "e@1", DIMENSION, graph_from=1)

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        super().add(keys, vectors)
        self.settle()


@pytest.fixture(scope="module")
def pgvector() -> Generator[Database | None]:
    """A database of a PostgreSQL that has pgvector, while tests of a PostgreSQL are run."""
    if not os.environ.get(VARIABLE):
        yield None
        return
    try:
        server = Cluster(extension="vector")
    except Missing as reason:
        pytest.skip(str(reason))
    yield Database(server.new())
    server.remove()


PARTS: dict[str, Callable[[Path], Index]] = {
    "files": lambda path: VectorFiles(path / "vectors", "e@1", DIMENSION),
    "graph": lambda path: Settled(path / "vectors"),
    "fake": lambda path: FakeIndex("e@1", DIMENSION),
}


def vectors(*places: int, encoder: str = "e@1") -> Vectors:
    """Rows that point along the axes."""
    return Vectors(encoder, np.eye(DIMENSION, dtype=np.float32)[list(places)])


@pytest.fixture(params=[*PARTS, "pgvector"])
def index(request: pytest.FixtureRequest, tmp_path: Path, pgvector: Database | None) -> Index:
    if request.param != "pgvector":
        return PARTS[request.param](tmp_path)
    if pgvector is None:
        pytest.skip(SKIPPED)
    return PgVectors(pgvector, str(tmp_path), "e@1", DIMENSION)


def test_an_empty_one_finds_nothing(index: Index) -> None:
    assert index.search(vectors(0), 5) == ()
    assert index.keys() == frozenset()
    index.remove(["nobody"])


def test_the_nearest_come_first(index: Index) -> None:
    index.add(["a", "b", "c"], vectors(0, 1, 2))
    near = Vectors("e@1", np.array([[0.8, 0.6, 0, 0, 0, 0, 0, 0]], dtype=np.float32))
    assert [hit.key for hit in index.search(near, 2)] == ["a", "b"]
    assert index.search(near, 1)[0].cosine == pytest.approx(0.8)
    assert index.search(near, 0) == ()


def test_of_equals_the_key_decides(index: Index) -> None:
    index.add(["d", "b"], vectors(0, 0))
    index.add(["a", "c"], vectors(0, 0))
    assert [hit.key for hit in index.search(vectors(0), 3)] == ["a", "b", "c"]


def test_several_rows_are_asked_by_their_mean_cosine(index: Index) -> None:
    index.add(["a", "b"], vectors(0, 5))
    assert [hit.cosine for hit in index.search(vectors(0, 1), 2)] == pytest.approx([0.5, 0.0])


def test_a_key_has_its_newest_vector(index: Index) -> None:
    index.add(["a", "b"], vectors(0, 1))
    index.add(["a"], vectors(3))
    assert index.search(vectors(3), 1)[0].key == "a"
    assert {hit.key: hit.cosine for hit in index.search(vectors(0), 5)} == {"a": 0.0, "b": 0.0}


def test_what_was_removed_is_not_found(index: Index) -> None:
    index.add(["a", "b"], vectors(0, 1))
    index.remove(["a", "nobody"])
    assert index.keys() == {"b"}
    assert [hit.key for hit in index.search(vectors(0), 5)] == ["b"]


def test_only_those_asked_among_are_found(index: Index) -> None:
    index.add(["a", "b", "c"], vectors(0, 1, 0))
    assert [hit.key for hit in index.search(vectors(0), 5, among=["b", "c", "nobody"])] == ["c", "b"]
    assert index.search(vectors(0), 5, among=[]) == ()


def test_another_encoders_vectors_are_refused(index: Index) -> None:
    index.add(["a"], vectors(0))
    for call in (
        lambda: index.add(["b"], vectors(1, encoder="f@1")),
        lambda: index.search(vectors(1, encoder="f@1"), 1),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.hint
    assert index.keys() == {"a"}


def test_settling_changes_nothing_that_is_found(index: Index) -> None:
    assert index.settle()
    index.add(["a", "b", "c"], vectors(0, 1, 0))
    before = index.search(vectors(0, 1), 5)
    assert index.settle()
    assert index.search(vectors(0, 1), 5) == before
    index.remove(["a"])
    assert index.settle()
    assert [hit.key for hit in index.search(vectors(0), 5)] == ["c", "b"]


def test_what_does_not_fit_is_refused(index: Index) -> None:
    wrong = [
        (["a", "b"], vectors(0)),
        (["a", "a"], vectors(0, 1)),
        (["a"], Vectors("e@1", np.zeros((1, DIMENSION + 1), dtype=np.float32))),
        (["a"], Vectors("e@1", np.full((1, DIMENSION), np.nan, dtype=np.float32))),
    ]
    for keys, given_vectors in wrong:
        with pytest.raises(InputError):
            index.add(keys, given_vectors)
    assert index.keys() == frozenset()


STEPS = st.lists(
    st.tuples(
        st.booleans(), st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), st.integers(0, 7)
    ),
    max_size=24,
)


@given(steps=STEPS)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("part", ["files", "graph"])
def test_files_and_fake_say_the_same(
    part: str, steps: list[tuple[bool, list[str], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    one, other = PARTS[part](tmp_path_factory.mktemp("index")), FakeIndex("e@1", DIMENSION)
    for add, keys, place in steps:
        for index in (one, other):
            if add:
                index.add(keys, vectors(*((place + n) % DIMENSION for n in range(len(keys)))))
            else:
                index.remove(keys)
    assert one.keys() == other.keys()
    for most in (1, 5):
        assert one.search(vectors(0, 3), most) == other.search(vectors(0, 3), most)
    few = ["a", "b", "c", "nobody"]
    assert one.search(vectors(2), 2, among=few) == other.search(vectors(2), 2, among=few)
