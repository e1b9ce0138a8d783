"""A graph over many vectors, so that a search looks at some of them only: FAISS's HNSW (Malkov and Yashunin, arXiv:1603.09320).

The file holds which row lies near which, and digests of keys: no vectors, no keys. Vectors stay in the segments, where they are taken out
for good, and what the graph finds is compared with them exactly. So a graph can only leave something out; it never brings back what was
removed, and never says another cosine than a search without it would.

Distances along the graph are of the rows' first principal axes alone, half of them, at eight bits each: how much memory a search reads is
how long it takes. Of 300,000 vectors like MiniLM's (bench/index.py) the ten nearest to each of 100 questions were among the forty nearest
by those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clonedna.store.files import replacing
from clonedna.store.vectors_file import Rows, Segment

FORMAT = "dna-graph/2"
MOST_HEADER = 1 << 24
LINKS, BUILDING = 24, 100  # neighbours of a row, and candidates for them while the graph is built
SEARCHING = 200  # candidates of a search, at least
KEY_BYTES = 12
SAMPLE = 65_536  # rows that the axes and the eight-bit scale are fitted to
FAR = 2.0  # along every axis, where a row is gone: no row of length 1 reaches that, so nothing is nearer to it than to a row
LEAST_AXES = 128  # rows of no more numbers are kept whole
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """``index``: FAISS's, over the rows' parts along ``axes`` [d, k] at eight bits a number (``storage``). ``origins``: whose rows were in
    it, in order, and how many of each (``covered``: without how many); ``keys``: a digest for each row. ``places``: for each label the
    file, as its place in ``names``, and the row; -1 where it is gone.
    """

    index: Any
    storage: Any  # FAISS does not keep it alive
    axes: Rows
    origins: tuple[tuple[str, int], ...]
    keys: bytes
    names: tuple[str, ...]
    places: Labels
    covered: frozenset[str]

    def candidates(self, wanted: Rows, most: int) -> list[tuple[str, int]]:
        """At most ``most`` rows near ``wanted``, each with its file; those that are gone are left out."""
        faiss = import_module("faiss")
        parameters = faiss.SearchParametersHNSW(efSearch=max(SEARCHING, most))
        _, labels = self.index.search((wanted @ self.axes)[None], most, params=parameters)
        found = self.places[labels[0][labels[0] >= 0]]
        return [(self.names[at], row) for at, row in found.tolist() if at >= 0]

    def following(self, segments: Mapping[str, Segment]) -> Graph:
        """The same graph for the files that are there now."""
        mine = tuple(sorted(name for name, segment in segments.items() if segment.origin in self.covered))
        if mine == self.names:
            return self
        return replace(self, names=mine, places=_places(self.origins, self.keys, mine, segments, self))


def faiss_there() -> bool:
    """Whether FAISS is installed."""
    return find_spec("faiss") is not None


def write_graph(path: Path, segments: Mapping[str, Segment], encoder: str, dimension: int) -> None:
    """Build a graph over all rows of ``segments``, each under the name of its file, and write it. Takes minutes for hundreds of thousands.

    Raises ``NoSpace``, ``Unavailable``; ``ImportError`` without FAISS.
    """
    faiss = import_module("faiss")
    names = sorted(segments)
    sample = _sample([segments[name].rows for name in names])
    axes = _axes(sample)
    # Rows are of length 1: the nearest are those with the greatest cosine.
    index = faiss.IndexHNSWSQ(axes.shape[1], faiss.ScalarQuantizer.QT_8bit, LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = BUILDING
    index.train(sample @ axes)
    for name in names:
        index.add(np.ascontiguousarray(segments[name].rows, dtype=np.float32) @ axes)
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer, faiss.IO_FLAG_SKIP_STORAGE)
    links = faiss.vector_to_array(writer.data).tobytes()
    keys = b"".join(_short(key) for name in names for key in segments[name].keys)
    header: dict[str, Any] = {
        "format": FORMAT, "encoder": encoder, "dimension": dimension, "keys": len(keys),
        "segments": [[segments[name].origin, len(segments[name].keys)] for name in names],
        "sha256": hashlib.sha256(keys + links).hexdigest(),
    }  # fmt: skip
    raw = json.dumps(header, separators=(",", ":")).encode()
    with replacing(path) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.write(keys)
        file.write(links)


def read_graph(path: Path, segments: Mapping[str, Segment], encoder: str, dimension: int) -> Graph:
    """A graph for the rows of ``segments`` that were in it. Raises ``ValueError`` with what is wrong, ``OSError``, ``ImportError``."""
    faiss = import_module("faiss")
    origins, keys, links = _read(path, encoder, dimension)
    try:
        index = faiss.read_index(_reader(faiss, links), faiss.IO_FLAG_SKIP_STORAGE)
    except RuntimeError as error:
        raise ValueError(f"its links cannot be read: {error}") from error
    covered = {origin for origin, _ in origins}
    names = tuple(sorted(name for name, segment in segments.items() if segment.origin in covered))
    places = _places(origins, keys, names, segments)
    sample = _sample([segment.rows for segment in segments.values()])
    axes = _axes(sample)
    if index.d != axes.shape[1]:
        raise ValueError(f"its links are of {index.d} axes")
    storage = faiss.IndexScalarQuantizer(axes.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    storage.train(sample @ axes)
    start = 0
    for _, count in origins:
        mine = places[start : start + count]
        parts = _rows(mine, names, segments, dimension) @ axes
        parts[mine[:, 0] < 0] = FAR
        storage.add(parts)
        start += count
    if index.ntotal != start:
        raise ValueError("it has links for another number of rows")
    index.storage, index.own_fields = storage, False
    return Graph(index, storage, axes, tuple(origins), keys, names, places, frozenset(covered))


def header_of(path: Path) -> tuple[frozenset[str], int]:
    """Of a graph's file: the origins that it covers and how many rows it was built over. Raises ``ValueError``, ``OSError``."""
    header, _ = _header(path)
    return frozenset(str(origin) for origin, _ in header["segments"]), sum(
        int(count) for _, count in header["segments"]
    )


def _reader(faiss: Any, links: bytes) -> Any:
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(links, dtype=np.uint8), reader.data)
    return reader


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("segments"), list):
        raise ValueError("it is of another format")
    return header, 8 + length


def _read(path: Path, encoder: str, dimension: int) -> tuple[list[tuple[str, int]], bytes, bytes]:
    header, start = _header(path)
    if (header.get("encoder"), header.get("dimension")) != (encoder, dimension):
        raise ValueError(f"it is of the encoder {str(header.get('encoder'))[:80]!r}")
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    if hashlib.sha256(data).hexdigest() != header.get("sha256"):
        raise ValueError("its digest is another")
    origins = [(str(origin), int(count)) for origin, count in header["segments"]]
    length = KEY_BYTES * sum(count for _, count in origins)
    if header.get("keys") != length:
        raise ValueError("its keys are damaged")
    return origins, data[:length], data[length:]


def _places(
    origins: Sequence[tuple[str, int]], keys: bytes, names: Sequence[str], segments: Mapping[str, Segment],
    before: Graph | None = None,
) -> Labels:  # fmt: skip
    """Where the row of each label lies now. ``before``: where they lay; only what was written again since is looked up."""
    places = np.full((sum(count for _, count in origins), 2), -1, dtype=np.int64)
    there: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        there.setdefault(segments[name].origin, []).append(at)
    known = {} if before is None else {name: at for at, name in enumerate(before.names)}
    start = 0
    for origin, count in origins:
        labels = slice(start, start + count)
        files = there.get(origin, [])
        old = None if before is None else before.places[labels]
        if old is not None and len(files) == 1 and names[files[0]] in known:
            same = old[:, 0] == known[names[files[0]]]
            places[labels][same] = np.stack([np.full(same.sum(), files[0]), old[same, 1]], axis=1)
        elif files:
            mine = {keys[KEY_BYTES * label : KEY_BYTES * (label + 1)]: label for label in range(start, start + count)}
            for at in files:
                for row, key in enumerate(segments[names[at]].keys):
                    label = mine.get(_short(key))
                    if label is not None:
                        places[label] = at, row
        start += count
    return places


def _rows(places: Labels, names: Sequence[str], segments: Mapping[str, Segment], dimension: int) -> Rows:
    """The rows at ``places``; zeros where there is none any more."""
    rows = np.zeros((len(places), dimension), dtype=np.float32)
    for at in np.unique(places[:, 0]):
        if at >= 0:
            mine = places[:, 0] == at
            rows[mine] = segments[names[int(at)]].rows[places[mine, 1]]
    return rows


def _sample(parts: Sequence[Rows]) -> Rows:
    """Rows from all parts, evenly."""
    step = max(1, -(-sum(map(len, parts)) // SAMPLE))
    return np.concatenate([np.ascontiguousarray(part[::step], dtype=np.float32) for part in parts])


def _axes(sample: Rows) -> Rows:
    """[d, k]: the directions in which the rows are greatest, half of all; they are found again from what is there, and never kept."""
    dimension = sample.shape[1]
    wide = sample.astype(np.float64)
    _, directions = np.linalg.eigh(wide.T @ wide)  # the greatest come last
    return np.ascontiguousarray(directions[:, -(max(LEAST_AXES, dimension // 2)) :], dtype=np.float32)


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
