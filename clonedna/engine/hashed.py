"""An encoder without weights: hashed n-grams of characters. It compares spelling, not meaning; for tests, and machines that cannot hold a
model. It stands in for no other: it is chosen by its name."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from clonedna.core.errors import InputError
from clonedna.core.vectors import Vectors
from clonedna.core.words import words

DIMENSION, LEAST, MOST = 512, 16, 4096


class HashedEncoder:
    """Fulfils ``core.seams.Encoder``. Every word's 3- to 5-grams fall into ``dimension`` places with a sign; their counts are damped."""

    max_tokens = 1024

    def __init__(self, dimension: int = DIMENSION) -> None:
        """Raises ``InputError`` for fewer than 16 or more than 4,096 places."""
        if not LEAST <= dimension <= MOST:
            raise InputError(
                f"a hashed encoder of {dimension} numbers",
                f"choose from {LEAST} to {MOST}, e.g. encoder = 'hashed:768'",
            )
        self.dimension = dimension
        self.name = "hashed-3-5@1" if dimension == DIMENSION else f"hashed-3-5-{dimension}@1"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """A row for each text; a text without words is all zeros, near to nothing."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            counts = Counter(gram for word in words(text, self.max_tokens) for gram in _grams(word))
            for gram, count in counts.items():
                number = _number(gram)
                row[(number >> 1) % self.dimension] += (1.0 if number & 1 else -1.0) * (1.0 + math.log(count))
            length = float(np.linalg.norm(row))
            if length > 0:
                row /= length
        return Vectors(self.name, rows)


@lru_cache(maxsize=4096)
def _grams(word: str) -> tuple[str, ...]:
    held = f"<{word}>"
    return (held, *(held[i : i + n] for n in (3, 4, 5) for i in range(len(held) - n + 1) if n < len(held)))


@lru_cache(maxsize=65_536)
def _number(gram: str) -> int:
    return int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
