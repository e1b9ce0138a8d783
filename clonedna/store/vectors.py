"""An index of vectors in files: a cache that is made again from texts at any time, searched exactly, or over a graph where there are many.

    <directory>/<random>.vec     rows and their keys (vectors_file.py); never changed
               /<random>.graph   which rows lie near which (vectors_graph.py); made by ``settle`` from ``graph_from`` rows on
               /lock, building   held by whoever adds or removes, and by whoever builds a graph

A file is there whole or not at all. One that is damaged, or of another encoder, is put away with a line in the log, and what it held is
missing, as if it had never been added. Processes may share a directory: each looks at each search which files there are, so what one
removes the next search of any other does not find. What is removed leaves the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Collection, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from clonedna.core.errors import InputError
from clonedna.core.vectors import Hit, Vectors
from clonedna.store import vectors_narrow
from clonedna.store.files import disk_errors, flock
from clonedna.store.vectors_file import Rows, Segment, checked, named, read_segment, rows_in, write_segment
from clonedna.store.vectors_graph import Graph, faiss_there, header_of, read_graph, write_graph
from clonedna.store.vectors_narrow import Narrow
from clonedna.store.vectors_search import Held

log = logging.getLogger(__name__)

FULL = 1 << 14  # rows of a file that is not put together with others any more: what a removal writes again
MOST_FILES = 8  # that are not full; then the smallest become one
LOOKS = 5  # at a directory that others change meanwhile
GRAPH_FROM = 200_000
STALE = 0.2  # of the rows: so many that the graph does not know, or that are gone, and it is built again
FEW = 8  # fewer than one in so many: they are looked up one by one
_FILE = re.compile(r"[0-9a-f]{32}\.vec")
_GRAPH = re.compile(r"[0-9a-f]{32}\.graph")


class VectorFiles:
    """Fulfils ``core.seams.Index`` for the vectors of one encoder."""

    def __init__(self, directory: Path, encoder: str, dimension: int, *, graph_from: int = GRAPH_FROM) -> None:
        """``directory`` is for this encoder alone; it is made when something is added. ``graph_from``: rows from which on a graph helps."""
        self.encoder, self.dimension, self.graph_from = encoder, dimension, graph_from
        self._directory = directory
        self._lock = threading.RLock()
        self._segments: dict[str, Segment] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._keys: frozenset[str] | None = None
        self._twice: dict[str, list[int]] = {}  # rows of keys that stand in another file, too
        self._narrow: dict[str, Narrow] = {}
        self._graph: Graph | None = None
        self._graph_over: dict[str, Segment] | None = None  # the segments that it was last brought to
        self._graph_file = self._graph_held = ""  # the newest that is there, and the one that was read
        self._searches = 0

    # What changes it.

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Keep a row for each key, in place of one that it has. Raises ``InputError`` (another encoder or size), ``NoSpace``."""
        rows = checked(vectors, self.encoder, self.dimension)
        if len(keys) != len(rows) or len(set(keys)) != len(keys):
            raise InputError(f"{len(keys)} keys for {len(rows)} vectors", "give one vector for each key, each key once")
        if not keys:
            return
        with self._writing():
            if not self._places.keys().isdisjoint(keys):
                self._take_out(set(keys))
                self._look()
            self._put([*keys], rows)

    def remove(self, keys: Collection[str]) -> None:
        """Take them out, and their vectors off the disk; unknown keys are ignored."""
        if not self._directory.is_dir():
            return
        with self._writing():
            if not self._places.keys().isdisjoint(keys):
                self._take_out(set(keys))

    def settle(self) -> str:
        """Bring the graph to what is there; how it is searched from now on: ``exact``, ``graph``, or ``exact: `` and why not by a graph.

        Building takes minutes for hundreds of thousands of rows; others add, remove and search meanwhile. Raises ``NoSpace``.
        """
        with self._lock:
            self._look()
            segments, known = dict(self._segments), len(self._places)
            file = self._graph_file
        if known < self.graph_from:
            self._unlink([name for name in self._listed() if _GRAPH.fullmatch(name)])
            return "exact"
        if file and not self._stale(file, segments, known):
            return "graph"
        if not faiss_there():
            log.warning("%d vectors are searched exactly: FAISS is not installed (extra ann)", known)
            return "exact: FAISS is not installed (pip install 'clone-dna[ann]')"
        try:
            with flock(self._directory / "building", fcntl.LOCK_EX | fcntl.LOCK_NB):
                old = [name for name in self._listed() if _GRAPH.fullmatch(name)]
                write_graph(self._directory / f"{uuid.uuid4().hex}.graph", segments, self.encoder, self.dimension)
                self._unlink(old)
        except BlockingIOError:
            return "exact: another process builds the graph"
        with self._lock:
            self._look()
            self._load_graph()
        return "graph"

    # What asks it.

    def keys(self) -> frozenset[str]:
        """All that it has; the same object until something changes."""
        with self._lock:
            self._look()
            if self._keys is None:
                self._keys = frozenset(self._places)
            return self._keys

    def search(self, vectors: Vectors, most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The nearest by the mean of the cosines with all rows of ``vectors``, at most ``most``; of equals, by key. ``among``: only these.

        Exact, unless there is a graph: that may miss some. Raises ``InputError`` for vectors of another encoder.
        """
        asked = checked(vectors, self.encoder, self.dimension)
        if not len(asked) or most < 1:
            return ()
        with self._lock:
            self._look()
            self._searches += 1
            if self._searches > 1:  # who asks once does not wait until the graph is read
                self._load_graph()
                if self._graph is None and len(self._places) >= vectors_narrow.FROM:
                    self._narrow = vectors_narrow.narrowed(self._segments, self._narrow)
            narrow = {name: one for name, one in self._narrow.items() if name in self._segments}
            held, graph = Held(self._segments, self._places, self._twice, narrow), self._graph
        # The mean of cosines with several rows is the product with their mean.
        wanted = np.ascontiguousarray(asked.mean(axis=0))
        if among is not None and FEW * len(among) < len(held.places):
            return held.among(wanted, most, among)
        chosen = None if among is None else among if isinstance(among, Set) else frozenset(among)
        found = None if graph is None else held.by_graph(graph, wanted, most, chosen)
        return held.exact(wanted, most, chosen) if found is None else found

    @property
    def searched(self) -> str:
        """How a search is done now: ``exact`` or ``graph``; and ``exact: `` with the reason, where a graph should be there."""
        with self._lock:
            self._look()
            if len(self._places) < self.graph_from:
                return "exact"
            if not faiss_there():
                return "exact: FAISS is not installed (pip install 'clone-dna[ann]')"
            return "graph" if self._graph_file else "exact: there is no graph yet (dna reindex builds it)"

    # What is on the disk.

    @contextmanager
    def _writing(self) -> Generator[None]:
        with disk_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        with self._lock, flock(self._directory / "lock", fcntl.LOCK_EX):
            self._look()
            yield
            self._look()

    def _listed(self) -> list[str]:
        with disk_errors(self._directory):
            return os.listdir(self._directory) if self._directory.is_dir() else []

    def _look(self) -> None:
        """Bring what is held to what is on the disk."""
        for _ in range(LOOKS):
            there = self._listed()
            self._graph_file = max((name for name in there if _GRAPH.fullmatch(name)), default="")
            names = {name for name in there if _FILE.fullmatch(name)}
            if names == self._segments.keys():
                return
            held = {name: self._segments.get(name) or self._read(name) for name in sorted(names)}
            self._hold({name: segment for name, segment in held.items() if segment is not None})
        # Others write without a pause: what was there a moment ago is what is searched.

    def _hold(self, segments: dict[str, Segment]) -> None:
        """Searches that go on keep what they began with: nothing that they hold is changed."""
        before = {} if self._twice else self._segments
        places, twice = dict(self._places) if before else {}, dict[str, list[int]]()
        for name in before.keys() - segments.keys():
            for at, key in enumerate(before[name].keys):
                if places.get(key) == (name, at):
                    del places[key]
        for name in sorted(segments.keys() - before.keys()):
            for at, key in enumerate(segments[name].keys):
                if places.setdefault(key, (name, at)) != (name, at):
                    twice.setdefault(name, []).append(at)
        self._segments, self._places, self._twice, self._keys = segments, places, twice, None

    def _read(self, name: str) -> Segment | None:
        path = self._directory / name
        try:
            return read_segment(path, self.encoder, self.dimension)
        except FileNotFoundError:  # another process has just made one of several
            return None
        except (OSError, ValueError) as error:
            log.warning("the vectors in %s are made again: %s", name, error)
            path.unlink(missing_ok=True)
            return None

    def _put(self, keys: list[str], rows: Rows) -> None:
        """Write files of at most ``FULL`` rows; where there are many small ones, the smallest go into them."""
        small = sorted(
            (name for name, segment in self._segments.items() if len(segment.keys) < FULL),
            key=lambda name: len(self._segments[name].keys),
        )
        old = small[: MOST_FILES // 2] if len(small) >= MOST_FILES else []
        parts = [rows]
        for name in old:
            stay = self._staying(name, set())
            keys += (self._segments[name].keys[at] for at in stay)
            parts.append(self._segments[name].rows[stay])
        whole = np.concatenate(parts) if old else rows
        for start in range(0, len(keys), FULL):
            some = slice(start, start + FULL)
            write_segment(self._directory, self.encoder, self.dimension, keys[some], whole[some])
        self._unlink(old)

    def _take_out(self, drop: set[str]) -> None:
        """Write the files that have one of these keys again, without them."""
        touched = {self._places[key][0] for key in drop if key in self._places}
        touched |= {
            name for name, rows in self._twice.items() if any(self._segments[name].keys[at] in drop for at in rows)
        }
        for name in sorted(touched):
            segment, stay = self._segments[name], self._staying(name, drop)
            if stay:
                keys = [segment.keys[at] for at in stay]
                write_segment(self._directory, self.encoder, self.dimension, keys, segment.rows[stay], segment.origin)
            self._unlink([name])

    def _staying(self, name: str, drop: set[str]) -> list[int]:
        """The rows of a file that are not dropped, and that no other file has."""
        keys = self._segments[name].keys
        return [at for at, key in enumerate(keys) if key not in drop and self._places[key] == (name, at)]

    def _unlink(self, names: Collection[str]) -> None:
        with disk_errors(self._directory):
            for name in names:
                (self._directory / name).unlink(missing_ok=True)

    # The graph.

    def _stale(self, file: str, segments: Mapping[str, Segment], known: int) -> bool:
        try:
            covered, count = header_of(self._directory / file)
        except (OSError, ValueError, KeyError, TypeError):
            return True
        mine = sum(len(segment.keys) for segment in segments.values() if segment.origin in covered)
        return known - mine > STALE * known or count - mine > STALE * count

    def _load_graph(self) -> None:
        """Hold the graph for the segments that are held; one that is damaged is put away, and searches are exact until ``settle``."""
        if not self._graph_file:
            self._graph, self._graph_held = None, ""
            return
        if self._graph_file != self._graph_held:
            path, self._graph, self._graph_held = self._directory / self._graph_file, None, self._graph_file
            try:
                self._graph = read_graph(path, self._segments, self.encoder, self.dimension)
            except FileNotFoundError:
                self._graph_held = ""
            except ImportError:
                log.warning("%d vectors are searched exactly: FAISS is not installed (extra ann)", len(self._places))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("the graph %s is built again: %s", path.name, error)
                path.unlink(missing_ok=True)
                self._graph_file = self._graph_held = ""
        elif self._graph is not None and self._graph_over is not self._segments:
            self._graph = self._graph.following(self._segments)
        self._graph_over = self._segments


def forget(root: Path, keys: Collection[str]) -> None:
    """Take ``keys`` out of the indexes of every encoder under ``root``, and their vectors off the disk."""
    for directory in _children(root):
        for path in sorted(directory.glob("*.vec")):
            try:
                encoder, dimension = named(path)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)  # nobody can read it: it is made again
                continue
            VectorFiles(directory, encoder, dimension).remove(keys)
            break


def forget_all(root: Path) -> None:
    """Remove the indexes of every encoder under ``root``."""
    with disk_errors(root):
        for directory in _children(root):
            shutil.rmtree(directory, ignore_errors=True)


def counted(root: Path) -> tuple[int, bool]:
    """The most rows that one index anywhere below ``root`` has, as its files say, and whether a graph is beside them."""
    most, graph = 0, False
    for directory in sorted({path.parent for path in root.rglob("*.vec")}):
        rows = 0
        for path in directory.glob("*.vec"):
            with contextlib.suppress(OSError, ValueError):
                rows += rows_in(path)
        if rows > most:
            most, graph = rows, any(directory.glob("*.graph"))
    return most, graph


def _children(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
