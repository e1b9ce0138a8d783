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


class Near(NamedTuple):
    """A block, and how near it is to one text: the cosine with its text, the best with a centroid of its exemplars, if any, and the best
    with what a name in its text means, if any."""

    id: str
    text_cosine: float
    centroid_cosine: float | None
    meaning_cosine: float | None = None

    @property
    def best(self) -> float:
        """The greatest of them: what blocks are ordered by."""
        return max(one for one in self[1:] if one is not None)
