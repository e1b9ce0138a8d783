"""One file of vectors: float32 rows that are mapped into memory, behind a header with their keys and a digest. It is never changed.

    8 bytes: the header's length (little endian); the header (JSON, filled with blanks to a multiple of 64); the rows

``origin``: the file that these rows were first in; it stays when some of them are taken out, so that what was made of all can be used for
the rest.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clonedna.core.errors import InputError
from clonedna.core.vectors import Vectors
from clonedna.store.files import replacing

FORMAT = "dna-vectors/1"
MOST_HEADER = 1 << 28
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    keys: tuple[str, ...]
    rows: Rows
    origin: str


def checked(vectors: Vectors, encoder: str, dimension: int) -> Rows:
    """The rows, when they are of this encoder and size. Raises ``InputError``."""
    if vectors.encoder != encoder:
        raise InputError(
            f"vectors of {vectors.encoder} beside those of {encoder}", "encode everything with one encoder"
        )
    rows = np.asarray(vectors.rows, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension or not np.isfinite(rows).all():
        raise InputError(f"vectors of shape {rows.shape}", f"rows of {dimension} finite numbers are needed")
    return rows


def write_segment(
    directory: Path, encoder: str, dimension: int, keys: Sequence[str], rows: Rows, origin: str = ""
) -> None:
    """A new file of ``rows``, one for each key; without ``origin`` it is its own. Raises ``NoSpace``, ``Unavailable``."""
    name = uuid.uuid4().hex
    data = np.ascontiguousarray(rows, dtype="<f4")
    header: dict[str, Any] = {
        "format": FORMAT, "encoder": encoder, "dimension": dimension, "keys": list(keys), "origin": origin or name,
        "sha256": hashlib.sha256(data.data).hexdigest(),
    }  # fmt: skip
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + 8) % 64)
    with replacing(directory / f"{name}.vec") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.write(data.data)


def read_segment(path: Path, encoder: str, dimension: int) -> Segment:
    """The rows of a file, once their digest was seen to be right. Raises ``ValueError`` with what is wrong, ``OSError``."""
    header, start = _header(path)
    keys, origin = header.get("keys"), header.get("origin", path.stem)
    if (header.get("encoder"), header.get("dimension")) != (encoder, dimension):
        raise ValueError(f"it is of the encoder {str(header.get('encoder'))[:80]!r}")
    if (
        not isinstance(keys, list)
        or not keys
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(keys)
    ):
        raise ValueError("its keys are damaged")
    if path.stat().st_size != start + 4 * dimension * len(keys) or not isinstance(origin, str):
        raise ValueError("it is cut, or longer than it says")
    rows = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(len(keys), dimension))
    if hashlib.sha256(rows.data).hexdigest() != header.get("sha256"):
        raise ValueError("its digest is another")
    return Segment(tuple(keys), np.asarray(rows), origin)  # as plain rows: each look at a mapped array costs more


def named(path: Path) -> tuple[str, int]:
    """Whose vectors a file has: encoder and dimension. Raises ``ValueError``, ``OSError``."""
    header, _ = _header(path)
    encoder, dimension = header.get("encoder"), header.get("dimension")
    if not isinstance(encoder, str) or not isinstance(dimension, int):
        raise ValueError("it names no encoder")
    return encoder, dimension


def rows_in(path: Path) -> int:
    """How many rows a file has by its size; they are not read. Raises ``ValueError``, ``OSError``."""
    header, start = _header(path)
    if not isinstance(header.get("dimension"), int) or header["dimension"] < 1:
        raise ValueError("it names no size")
    return (path.stat().st_size - start) // (4 * header["dimension"])


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file and where its rows begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError("it has no header")
        found = json.loads(file.read(length))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError("it is of another format")
    return found, 8 + length
