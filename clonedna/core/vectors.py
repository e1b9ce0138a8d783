"""Vectors that carry which encoder made them, so that those of two encoders can never be compared by mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """One row of length 1 for each text, float32. ``encoder``: the name of the one that made them."""

    encoder: str
    rows: NDArray[np.float32]


class Hit(NamedTuple):
    """A key of an index, and how near it is: the mean of the cosines with what was asked."""

    key: str
    cosine: float
