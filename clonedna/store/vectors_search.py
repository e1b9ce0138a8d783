"""Searching the rows of several files: exactly, among some keys only, or among what a graph proposes. All compare in the same way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clonedna.core.vectors import Hit
from clonedna.store.vectors_file import Rows, Segment
from clonedna.store.vectors_graph import Graph
from clonedna.store.vectors_narrow import Narrow

FEW = 4
WIDEST = 4096  # candidates of a graph; where too few of them may be told, all rows are looked at
Chosen = Collection[str] | None  # a set: asked for each candidate
Pool = list[tuple[str, NDArray[np.int64], Rows]]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What is searched: files by name; for each key its file and row; of each file the rows whose key counts elsewhere, and the bounds of
    large ones."""

    segments: Mapping[str, Segment]
    places: Mapping[str, tuple[str, int]]
    twice: Mapping[str, list[int]]
    narrow: Mapping[str, Narrow] = field(default_factory=dict[str, Narrow])

    def exact(
        self, wanted: Rows, most: int, chosen: Chosen = None, names: Iterable[str] | None = None
    ) -> tuple[Hit, ...]:
        """The nearest of all rows, or of those in the files ``names``; ``chosen``: only these keys."""
        mine = list(self.segments if names is None else names)
        total = sum(len(self.segments[name].keys) for name in mine)
        # No product with a row exceeds its bound; without one it is the product itself.
        bounds = {name: self._bounds(name, wanted) for name in mine}
        width = most if chosen is None else 4 * most
        while True:
            found = self._told(self._nearest(wanted, bounds, width), chosen)
            if chosen is None or len(found) >= most or width >= total:
                return best(found, most)
            width *= 8

    def among(self, wanted: Rows, most: int, keys: Iterable[str]) -> tuple[Hit, ...]:
        """The nearest of ``keys``; unknown ones are ignored. For few of them: no other row is read."""
        rows: dict[str, list[int]] = {}
        for key in keys:
            if (place := self.places.get(key)) is not None:
                rows.setdefault(place[0], []).append(place[1])
        found: Pool = []
        for name, some in rows.items():
            at = np.array(some)
            found.append((name, at, np.einsum("ij,j->i", self.segments[name].rows[at], wanted)))
        return best(self._told(found, None), most)

    def by_graph(self, graph: Graph, wanted: Rows, most: int, chosen: Chosen) -> tuple[Hit, ...] | None:
        """The nearest of what the graph proposes, and of all that it does not know. ``None``: it proposes too few that may be told."""
        width = 2 * most + 20
        while width <= min(WIDEST, len(graph.places)):
            found = self._few(wanted, graph.candidates(wanted, width), chosen)
            if len(found) >= most:
                unknown = [name for name, segment in self.segments.items() if segment.origin not in graph.covered]
                return best([*found, *self.exact(wanted, most, chosen, unknown)], most)
            width *= 8
        return None

    def _few(self, wanted: Rows, places: Sequence[tuple[str, int]], chosen: Chosen) -> list[Hit]:
        """These rows, as far as they are still there and chosen."""
        keys, rows = list[str](), list[Rows]()
        for place in places:
            segment = self.segments.get(place[0])
            if segment is not None:
                key = segment.keys[place[1]]
                if self.places.get(key) == place and (chosen is None or key in chosen):
                    keys.append(key)
                    rows.append(segment.rows[place[1]])
        if not keys:
            return []
        cosines = np.einsum("ij,j->i", np.array(rows), wanted)
        return [Hit(key, cosine) for key, cosine in zip(keys, cosines.tolist(), strict=True)]

    def _bounds(self, name: str, wanted: Rows) -> Rows:
        # On one thread, without the matrix library: for one row its threads only wait for each other.
        narrow = self.narrow.get(name)
        found = np.einsum("ij,j->i", self.segments[name].rows, wanted) if narrow is None else narrow.bounds(wanted)
        if name in self.twice:
            found[self.twice[name]] = -np.inf
        return found

    def _nearest(self, wanted: Rows, bounds: Mapping[str, Rows], width: int) -> Pool:
        """Rows among which are the ``width`` nearest, and all that are as near as the last of them, with their products."""
        pool = _top(bounds, width)
        if not self.narrow or not pool:
            return pool
        seeds = np.concatenate([self._products(wanted, name, rows, some) for name, rows, some in pool])
        least = -np.inf if len(seeds) < width else float(np.partition(seeds, -width)[-width])
        near: Pool = []
        for name, found in bounds.items():
            rows = np.flatnonzero(found >= least)
            near.append((name, rows, self._products(wanted, name, rows, found[rows])))
        return _cut(near, width)

    def _products(self, wanted: Rows, name: str, rows: NDArray[np.int64], bounds: Rows) -> Rows:
        if name not in self.narrow:
            return bounds
        whole = self.segments[name].rows
        if FEW * len(rows) > len(whole):  # to gather most of them takes longer than to read all
            return np.einsum("ij,j->i", whole, wanted)[rows]
        return np.einsum("ij,j->i", whole[rows], wanted)

    def _told(self, found: Iterable[tuple[str, NDArray[np.int64], Rows]], chosen: Chosen) -> list[Hit]:
        hits: list[Hit] = []
        for name, rows, cosines in found:
            keys = self.segments[name].keys
            for at, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
                key = keys[at]
                if self.places.get(key) == (name, at) and (chosen is None or key in chosen):
                    hits.append(Hit(key, cosine))
        return hits


def best(hits: Iterable[Hit], most: int) -> tuple[Hit, ...]:
    """The nearest ``most``; of equals, by key."""
    return tuple(sorted(hits, key=lambda hit: (-hit.cosine, hit.key))[:most])


def _top(scores: Mapping[str, Rows], width: int) -> Pool:
    """The ``width`` highest of all files together, and all that equal the last of them: file, rows, scores."""
    pool: Pool = []
    least, held = -np.inf, 0
    for name, found in scores.items():
        rows = np.flatnonzero(found >= least)
        pool.append((name, rows, found[rows]))
        held += len(rows)
        if held > 2 * width:
            pool = _cut(pool, width)
            least = min((float(some.min()) for _, _, some in pool if len(some)), default=least)
            held = sum(len(rows) for _, rows, _ in pool)
    return _cut(pool, width)


def _cut(pool: Pool, width: int) -> Pool:
    """The ``width`` highest of them, and all that equal the last of these."""
    if sum(len(rows) for _, rows, _ in pool) <= width:
        return pool
    least = np.partition(np.concatenate([some for _, _, some in pool]), -width)[-width]
    return [(name, rows[some >= least], some[some >= least]) for name, rows, some in pool]
