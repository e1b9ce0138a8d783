"""The graph over many vectors: what it finds is what an exact search finds, it never brings anything back, and it is built again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clonedna.core.vectors import Vectors
from clonedna.store import vectors as module
from clonedna.store import vectors_graph, vectors_narrow
from clonedna.store.vectors import VectorFiles

ROWS, SIZE = 3000, 32


def rows(count: int = ROWS, seed: int = 0) -> np.ndarray:
    """In clusters, as texts are: sixty topics and what is said of them."""
    draw = np.random.default_rng(seed)
    topics = draw.normal(size=(60, SIZE)) * np.linspace(1, 0.1, SIZE)
    made = topics[draw.integers(60, size=count)] + 0.15 * draw.normal(size=(count, SIZE))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def keys(count: int = ROWS) -> list[str]:
    return [f"k{n:05d}" for n in range(count)]


def asked(row: np.ndarray) -> Vectors:
    return Vectors("e@1", row[None])


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[VectorFiles, VectorFiles]:
    """With a graph, and without, over the same rows in several files."""
    monkeypatch.setattr(module, "FULL", 512)
    made = VectorFiles(tmp_path / "graph", "e@1", SIZE, graph_from=1000), VectorFiles(tmp_path / "exact", "e@1", SIZE)
    for index in made:
        index.add(keys(), Vectors("e@1", rows()))
    assert made[0].settle() == "graph"
    assert made[1].settle() == "exact"
    assert (made[0].searched, made[1].searched) == ("graph", "exact")
    return made


def recall(graph: VectorFiles, exact: VectorFiles, most: int = 10) -> float:
    found = 0
    for row in rows(40, seed=1):
        near, true = graph.search(asked(row), most), exact.search(asked(row), most)
        assert len(near) == most
        cosines = {hit.key: hit.cosine for hit in exact.search(asked(row), ROWS)}
        assert all(hit.cosine == cosines[hit.key] for hit in near)  # what it tells is what an exact search tells
        found += len({hit.key for hit in near} & {hit.key for hit in true})
    return found / (40 * most)


def test_it_finds_what_an_exact_search_finds(both: tuple[VectorFiles, VectorFiles]) -> None:
    assert recall(*both) >= 0.95
    assert both[0]._graph is not None


def test_what_was_removed_is_never_found_again(both: tuple[VectorFiles, VectorFiles]) -> None:
    graph, exact = both
    graph.search(asked(rows()[0]), 10)
    gone = [hit.key for row in rows(5, seed=2) for hit in exact.search(asked(row), 200)]
    for index in both:
        index.remove(gone)
    for row in rows(5, seed=2):
        assert not {hit.key for hit in graph.search(asked(row), 200)} & set(gone)
    assert recall(*both) >= 0.95
    (file,) = graph._directory.glob("*.graph")
    assert not any(key.encode() in file.read_bytes() for key in gone)
    assert rows()[int(gone[0][1:])].tobytes() not in file.read_bytes()


def test_what_was_added_since_is_found(both: tuple[VectorFiles, VectorFiles]) -> None:
    graph, exact = both
    graph.search(asked(rows()[0]), 10)
    more = rows(300, seed=3)
    for index in both:
        index.add([f"n{n:03d}" for n in range(300)], Vectors("e@1", more))
        index.add(["k00007"], asked(more[0]))  # a key that the graph knows, elsewhere
    assert [hit.key for hit in graph.search(asked(more[0]), 2)] == ["k00007", "n000"]
    assert all(graph.search(asked(row), 1) == exact.search(asked(row), 1) for row in more[:50])
    built = sorted(graph._directory.glob("*.graph"))
    assert graph.settle() == "graph"
    assert sorted(graph._directory.glob("*.graph")) == built  # a tenth is no reason to build it again
    graph.add([f"m{n:04d}" for n in range(1000)], Vectors("e@1", rows(1000, seed=4)))
    graph.settle()
    assert sorted(graph._directory.glob("*.graph")) != built


def test_among_few_and_among_many(both: tuple[VectorFiles, VectorFiles]) -> None:
    graph, exact = both
    graph.search(asked(rows()[0]), 1)
    for among in (keys()[5:9], keys()[:1500], keys()[::2], [], ["nobody"]):
        for row in rows(10, seed=5):
            near, true = graph.search(asked(row), 5, among=among), exact.search(asked(row), 5, among=among)
            assert len(near) == len(true)
            assert {hit.key for hit in near} <= set(among)
            assert near[:1] == true[:1]


def test_it_may_come_after_bounds_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_narrow, "FROM", 1000)
    monkeypatch.setattr(vectors_narrow, "LEAST_ROWS", 100)
    index = VectorFiles(tmp_path, "e@1", SIZE, graph_from=1000)
    index.add(keys(), Vectors("e@1", rows()))
    asked_rows = rows(10, seed=7)
    before = [index.search(asked(row), 5)[0] for row in asked_rows]
    assert index._narrow
    assert index.settle() == "graph"
    assert [index.search(asked(row), 5)[0] for row in asked_rows] == before
    assert len(index.search(asked(asked_rows[0]), ROWS)) == ROWS  # more than a graph proposes


def test_another_process_searches_it(both: tuple[VectorFiles, VectorFiles]) -> None:
    other = VectorFiles(both[0]._directory, "e@1", SIZE, graph_from=1000)
    row = rows(1, seed=6)[0]
    first = other.search(asked(row), 10)
    assert other._graph is None  # who asks once does not wait for it
    assert other.search(asked(row), 10) == first == both[1].search(asked(row), 10)
    assert other._graph is not None
    both[0].remove([first[0].key])
    assert first[0].key not in {hit.key for hit in other.search(asked(row), 10)}


@pytest.mark.parametrize("at", [3, 40, -1, "cut", "empty"])
def test_a_damaged_graph_is_put_away_and_built_again(
    both: tuple[VectorFiles, VectorFiles], at: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = both[0]._directory.glob("*.graph")
    data = bytearray(file.read_bytes())
    if isinstance(at, int):
        data[at] ^= 0xFF
    file.write_bytes({"cut": data[:-9], "empty": b""}.get(at, data))  # type: ignore[call-overload]
    other = VectorFiles(both[0]._directory, "e@1", SIZE, graph_from=1000)
    row = rows(1, seed=6)[0]
    for _ in range(3):
        assert other.search(asked(row), 10) == both[1].search(asked(row), 10)
    assert "is built again" in caplog.text
    assert not file.exists()
    assert other.settle() == "graph"
    assert recall(other, both[1]) >= 0.95


def test_without_faiss_it_is_exact_and_says_so(
    both: tuple[VectorFiles, VectorFiles], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "faiss_there", lambda: False)
    monkeypatch.setitem(sys.modules, "faiss", None)
    other = VectorFiles(both[0]._directory, "e@1", SIZE, graph_from=1000)
    row = rows(1, seed=6)[0]
    for _ in range(3):
        assert other.search(asked(row), 10) == both[1].search(asked(row), 10)
    assert "FAISS is not installed" in caplog.text
    assert "ann" in other.searched
    other.add([f"m{n:04d}" for n in range(2000)], Vectors("e@1", rows(2000, seed=4)))
    assert "ann" in other.settle()


def test_it_goes_when_there_are_few_again(both: tuple[VectorFiles, VectorFiles]) -> None:
    both[0].remove(keys()[:2500])
    assert both[0].settle() == "exact"
    assert not list(both[0]._directory.glob("*.graph"))
    assert both[0].search(asked(rows()[2999]), 1)[0].key == "k02999"


KILLED = """
import os, signal, sys
from pathlib import Path
from clonedna.store import vectors_graph, vectors_narrow
from clonedna.store.vectors import VectorFiles
import faiss
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
faiss.write_index = die
VectorFiles(Path(sys.argv[1]), "e@1", 32, graph_from=1000).settle()
"""


def test_a_kill_while_it_is_built_loses_nothing(both: tuple[VectorFiles, VectorFiles]) -> None:
    (file,) = both[0]._directory.glob("*.graph")
    file.unlink()
    done = subprocess.run([sys.executable, "-c", KILLED, str(both[0]._directory)], check=False, capture_output=True)
    assert done.returncode == -9
    other = VectorFiles(both[0]._directory, "e@1", SIZE, graph_from=1000)
    assert other.searched.startswith("exact: there is no graph yet")
    assert other.settle() == "graph"
    assert recall(other, both[1]) >= 0.95
    assert vectors_graph.header_of(next(both[0]._directory.glob("*.graph")))[1] == ROWS


def test_wide_rows_are_led_to_by_half_of_their_axes_and_gone_ones_stand_in_nobodys_way(tmp_path: Path) -> None:
    draw, wide = np.random.default_rng(3), 400
    topics = draw.normal(size=(60, wide)) * np.linspace(1, 0.1, wide)
    made = topics[draw.integers(60, size=ROWS)] + 0.3 * draw.normal(size=(ROWS, wide)) * np.linspace(1, 0.1, wide)
    whole = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    index = VectorFiles(tmp_path, "e@1", wide, graph_from=1000)
    index.add(keys(), Vectors("e@1", whole))
    assert index.settle() == "graph"
    index.remove(keys()[: ROWS // 6])
    graph = VectorFiles(tmp_path, "e@1", wide, graph_from=1000)  # as another process reads it
    questions = np.concatenate([whole[ROWS // 2 :: 100], -whole[ROWS // 2 :: 100]])  # near to some, and far from all
    found = 0
    for row in questions:
        graph.search(asked(row), 10)
        true = np.argsort(-(whole[ROWS // 6 :] @ row))[:10] + ROWS // 6
        found += len({hit.key for hit in graph.search(asked(row), 10)} & {keys()[at] for at in true})
    assert graph._graph is not None
    assert graph._graph.axes.shape == (wide, wide // 2)
    assert all(len(graph._graph.candidates(row, 40)) == 40 for row in questions), "none of them is gone"
    assert found >= 0.95 * 10 * len(questions)
