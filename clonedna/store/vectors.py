"""An index of vectors in files: a cache that is made again from texts at any time, searched exactly.

    <directory>/<random>.vec   float32 rows that are mapped into memory, behind a header with their keys and a digest; never changed
               /lock           held by whoever adds or removes

A file is there whole or not at all. One that is damaged, or of another encoder, is put away with a line in the log, and what it held is
missing, as if it had never been added. Processes may share a directory: each looks at each search which files there are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clonedna.core.errors import InputError
from clonedna.core.vectors import Hit, Vectors
from clonedna.store.files import disk_errors, flock, replacing

log = logging.getLogger(__name__)

FORMAT = "dna-vectors/1"
MOST_FILES = 8  # then they become one
MOST_HEADER = 1 << 28
LOOKS = 5  # at a directory that others change meanwhile
_FILE = re.compile(r"[0-9a-f]{32}\.vec")
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    keys: tuple[str, ...]
    rows: Rows


class VectorFiles:
    """Fulfils ``core.seams.Index`` for the vectors of one encoder."""

    def __init__(self, directory: Path, encoder: str, dimension: int) -> None:
        """``directory`` is for this encoder alone; it is made when something is added."""
        self.encoder, self.dimension = encoder, dimension
        self._directory = directory
        self._lock = threading.RLock()
        self._segments: dict[str, _Segment] = {}
        self._places: dict[str, tuple[str, int]] = {}

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Keep a row for each key, in place of one that it has. Raises ``InputError`` (another encoder or size), ``NoSpace``."""
        rows = self._checked(vectors)
        if len(keys) != len(rows) or len(set(keys)) != len(keys):
            raise InputError(f"{len(keys)} keys for {len(rows)} vectors", "give one vector for each key, each key once")
        if not keys:
            return
        with self._writing():
            if len(self._segments) >= MOST_FILES or not self._places.keys().isdisjoint(keys):
                self._rewrite(drop=set(keys), more=(keys, rows))
            else:
                self._write(keys, rows)

    def remove(self, keys: Collection[str]) -> None:
        """Take them out, and their vectors off the disk; unknown keys are ignored."""
        if not self._directory.is_dir():
            return
        with self._writing():
            if not self._places.keys().isdisjoint(keys):
                self._rewrite(drop=set(keys))

    def keys(self) -> frozenset[str]:
        """All that it has."""
        with self._lock:
            self._look()
            return frozenset(self._places)

    def search(self, vectors: Vectors, most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The nearest by the mean of the cosines with all rows of ``vectors``, at most ``most``; of equals, by key. ``among``: only these.

        Raises ``InputError`` for vectors of another encoder.
        """
        asked = self._checked(vectors)
        if not len(asked) or most < 1:
            return ()
        with self._lock:
            self._look()
            segments, places = dict(self._segments), self._places
        # The mean of cosines with several rows is the product with their mean.
        wanted = np.ascontiguousarray(asked.mean(axis=0))
        # On one thread, without the matrix library: for one row its threads only wait for each other.
        scores = {name: np.einsum("ij,j->i", segment.rows, wanted) for name, segment in segments.items()}
        if among is None:
            keys, found = _whole(segments, places, scores)
        else:
            keys = [key for key in among if key in places]
            found = np.array([scores[places[key][0]][places[key][1]] for key in keys], dtype=np.float32)
        if len(keys) > most:
            least = np.partition(found, -most)[-most]
            kept = np.nonzero(found >= least)[0]
        else:
            kept = np.arange(len(keys))
        hits = sorted((Hit(keys[int(i)], float(found[i])) for i in kept), key=lambda hit: (-hit.cosine, hit.key))
        return tuple(hits[:most])

    def _checked(self, vectors: Vectors) -> Rows:
        if vectors.encoder != self.encoder:
            raise InputError(
                f"vectors of {vectors.encoder} beside those of {self.encoder}", "encode everything with one encoder"
            )
        rows = np.asarray(vectors.rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dimension or not np.isfinite(rows).all():
            raise InputError(f"vectors of shape {rows.shape}", f"rows of {self.dimension} finite numbers are needed")
        return rows

    @contextmanager
    def _writing(self) -> Generator[None]:
        with disk_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        with self._lock, flock(self._directory / "lock", fcntl.LOCK_EX):
            self._look()
            yield
            self._look()

    def _look(self) -> None:
        """Bring what is held to what is on the disk."""
        for _ in range(LOOKS):
            with disk_errors(self._directory):
                there = os.listdir(self._directory) if self._directory.is_dir() else []
            names = {name for name in there if _FILE.fullmatch(name)}
            if names == self._segments.keys():
                return
            held = {name: self._segments.get(name) or self._read(name) for name in sorted(names)}
            self._hold({name: segment for name, segment in held.items() if segment is not None})
        # Others write without a pause: what was there a moment ago is what is searched.

    def _hold(self, segments: dict[str, _Segment]) -> None:
        places: dict[str, tuple[str, int]] = {}
        for name, segment in segments.items():
            for at, key in enumerate(segment.keys):
                places.setdefault(key, (name, at))
        self._segments, self._places = segments, places

    def _read(self, name: str) -> _Segment | None:
        path = self._directory / name
        try:
            return _read_file(path, self.encoder, self.dimension)
        except FileNotFoundError:  # another process has just made one of several
            return None
        except (OSError, ValueError) as error:
            log.warning("the vectors in %s are made again: %s", name, error)
            path.unlink(missing_ok=True)
            return None

    def _write(self, keys: Sequence[str], rows: Rows) -> None:
        data = np.ascontiguousarray(rows, dtype="<f4").tobytes()
        header: dict[str, Any] = {
            "format": FORMAT, "encoder": self.encoder, "dimension": self.dimension, "keys": list(keys),
            "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-(len(raw) + 8) % 64)
        with replacing(self._directory / f"{uuid.uuid4().hex}.vec") as file:
            file.write(len(raw).to_bytes(8, "little") + raw + data)

    def _rewrite(self, drop: set[str], more: tuple[Sequence[str], Rows] | None = None) -> None:
        """One file of all that stays, and ``more``, in place of those there are."""
        old, keys, parts = tuple(self._segments), list[str](), list[Rows]()
        for name, segment in self._segments.items():
            stay = [at for at, key in enumerate(segment.keys) if key not in drop and self._places[key] == (name, at)]
            keys += (segment.keys[at] for at in stay)
            parts.append(segment.rows[stay])
        if more is not None:
            keys, parts = [*keys, *more[0]], [*parts, more[1]]
        if keys:
            self._write(keys, np.concatenate(parts))
        with disk_errors(self._directory):
            for name in old:
                (self._directory / name).unlink(missing_ok=True)


def forget(root: Path, keys: Collection[str]) -> None:
    """Take ``keys`` out of the indexes of every encoder under ``root``, and their vectors off the disk."""
    for directory in _children(root):
        for path in sorted(directory.glob("*.vec")):
            try:
                encoder, dimension = _named(path)
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


def _children(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _whole(
    segments: Mapping[str, _Segment], places: Mapping[str, tuple[str, int]], scores: Mapping[str, Rows]
) -> tuple[Sequence[str], Rows]:
    """Every key once, and its score."""
    if sum(len(segment.keys) for segment in segments.values()) == len(places):
        keys = [key for segment in segments.values() for key in segment.keys]
        return keys, np.concatenate(list(scores.values())) if scores else np.zeros(0, dtype=np.float32)
    return list(places), np.array([scores[name][at] for name, at in places.values()], dtype=np.float32)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file and where its rows begin. Raises ``ValueError``, ``OSError``."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError("it has no header")
        found = json.loads(file.read(length))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError("it is of another format")
    return found, 8 + length


def _named(path: Path) -> tuple[str, int]:
    header, _ = _header(path)
    encoder, dimension = header.get("encoder"), header.get("dimension")
    if not isinstance(encoder, str) or not isinstance(dimension, int):
        raise ValueError("it names no encoder")
    return encoder, dimension


def _read_file(path: Path, encoder: str, dimension: int) -> _Segment:
    header, start = _header(path)
    keys = header.get("keys")
    if (header.get("encoder"), header.get("dimension")) != (encoder, dimension):
        raise ValueError(f"it is of the encoder {str(header.get('encoder'))[:80]!r}")
    if not isinstance(keys, list) or not keys or not _texts(keys) or len(set(keys)) != len(keys):
        raise ValueError("its keys are damaged")
    if path.stat().st_size != start + 4 * dimension * len(keys):
        raise ValueError("it is cut, or longer than it says")
    rows = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(len(keys), dimension))
    if hashlib.sha256(rows.data).hexdigest() != header.get("sha256"):
        raise ValueError("its digest is another")
    return _Segment(tuple(keys), rows)


def _texts(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, str) for key in keys)
