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
    """A block, and how near it is to one text: the cosine with its text, and the best with a centroid of its exemplars, if any."""

    id: str
    text_cosine: float
    centroid_cosine: float | None

    @property
    def best(self) -> float:
        """The greater of the two: what blocks are ordered by."""
        return self.text_cosine if self.centroid_cosine is None else max(self.text_cosine, self.centroid_cosine)
