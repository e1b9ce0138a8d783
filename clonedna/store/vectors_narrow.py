"""Half of each row, which says of most rows that they are too far: so an exact search of very many reads less.

Rows are turned into the directions in which the first of them differ most (their principal axes). With the first of these axes and the
length of what is left, no cosine is greater than ``part . asked_part + |left| |asked_left|`` (Cauchy and Schwarz). Rows whose bound is
below the cosines that are known already need not be looked at; all others are compared in full. Nothing is lost, whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clonedna.store.vectors_file import Rows, Segment

FROM = 50_000  # rows of an index, from which on it is worth the memory
LEAST_ROWS = 4096  # of a file
SAMPLE = 4096
SHARE = 2  # one axis in so many is kept
ROUNDING = 2e-5  # more than the sums of float32 may be off


@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """``axes`` [d, k], orthonormal; of a file its ``parts`` [n, k], and in ``left`` [n] the length of the rest of each row."""

    axes: Rows
    parts: Rows
    left: Rows

    def bounds(self, wanted: Rows) -> Rows:
        """What the product of each row with ``wanted`` cannot exceed."""
        mine = self.axes.T @ wanted
        left = float(np.sqrt(max(0.0, float(wanted @ wanted) - float(mine @ mine)))) + ROUNDING
        found = np.einsum("ij,j->i", self.parts, mine)
        found += self.left * np.float32(left)
        found += np.float32(ROUNDING)
        return found


def narrowed(segments: Mapping[str, Segment], before: Mapping[str, Narrow]) -> dict[str, Narrow]:
    """Of every file that is large enough; what is known of ``before`` is kept."""
    large = {name: segment for name, segment in segments.items() if len(segment.keys) >= LEAST_ROWS}
    made = {name: before[name] for name in large if name in before}
    axes = next((narrow.axes for narrow in before.values()), None)
    for name in sorted(large.keys() - made.keys()):
        rows = np.ascontiguousarray(large[name].rows, dtype=np.float32)
        axes = _axes(rows) if axes is None else axes
        parts = rows @ axes
        rest = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", parts, parts)
        made[name] = Narrow(axes, parts, np.sqrt(np.maximum(rest, 0)) + np.float32(ROUNDING))
    return made


def _axes(rows: Rows) -> Rows:
    step = max(1, len(rows) // SAMPLE)
    some: NDArray[np.float64] = rows[::step].astype(np.float64)
    _, directions = np.linalg.eigh(some.T @ some)  # the greatest come last
    return np.ascontiguousarray(directions[:, -max(1, rows.shape[1] // SHARE) :], dtype=np.float32)
