"""What stands for a block beside its text: the middles of what it was trained to answer.

Prompts of its own training pairs, never one that is held out or validated on, are drawn by their digests, so that the same pairs always
give the same ones. Their vectors are put into four to eight groups by spherical k-means (Dhillon and Modha, Machine Learning 42, 2001),
fewer where there are few, from beginnings that hang on the vectors alone. Nothing is drawn by chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clonedna.core.canonical import sha256
from clonedna.core.seams import Encoder
from clonedna.core.work import Pair

MOST_PROMPTS = 64
LEAST_GROUPS, MOST_GROUPS = 4, 8
A_GROUP = 4  # prompts, from which on there are more groups than ``LEAST_GROUPS``
ROUNDS = 50
MOST_LETTERS = 4000
Rows = NDArray[np.float32]


def drawn(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """At most 64 prompts of training pairs, each once, by their digests. A prompt that a held-out or validation pair has, too, is none."""
    held = {_prompt(pair) for pair in pairs if pair.split != "train"}
    prompts = {_prompt(pair) for pair in pairs if pair.split == "train"} - held - {""}
    return tuple(sorted(prompts, key=sha256)[:MOST_PROMPTS])


def digests(prompts: Sequence[str]) -> tuple[str, ...]:
    """SHA-256 of each, which is what a block's manifest keeps of them."""
    return tuple(sha256(prompt) for prompt in prompts)


def listed(pairs: Sequence[Pair], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The prompts of ``pairs`` whose digests a manifest lists; ``None`` (it was made before it listed them): as ``drawn`` has them.

    What a manifest lists that is no training prompt is left out, whoever signed it.
    """
    if wanted is None:
        return drawn(pairs)
    held = {_prompt(pair) for pair in pairs if pair.split != "train"}
    found = {
        sha256(prompt): prompt for pair in pairs if pair.split == "train" and (prompt := _prompt(pair)) not in held
    }
    return tuple(found[digest] for digest in wanted[:MOST_PROMPTS] if digest in found)


def centroids(rows: Rows, *, a_group: int = A_GROUP) -> Rows:
    """The middles of groups of ``rows`` [n, d] (length 1 each): [k, d] of length 1, the largest group first.

    k is 4 to 8, one for ``a_group`` rows, at most the number of rows that differ; rows of zeros are left out.
    """
    points = np.unique(rows[np.linalg.norm(rows, axis=1) > 0].astype(np.float64), axis=0)
    if not len(points):
        return np.zeros((0, rows.shape[1]), dtype=np.float32)
    middles = _begin(points, min(len(points), max(LEAST_GROUPS, min(MOST_GROUPS, len(points) // a_group))))
    nearest = np.argmax(points @ middles.T, axis=1)
    for _ in range(ROUNDS):
        middles = _middles(points, nearest, middles)
        again = np.argmax(points @ middles.T, axis=1)
        if np.array_equal(again, nearest):
            break
        nearest = again
    sizes = np.bincount(nearest, minlength=len(middles))
    order = sorted(np.flatnonzero(sizes).tolist(), key=lambda group: (-int(sizes[group]), tuple(middles[group])))
    return middles[order].astype(np.float32)


def encoded(encoder: Encoder, groups: Sequence[Sequence[str]]) -> tuple[Rows, list[int]]:
    """The rows of all texts of all groups, side by side, and how many each group has."""
    return encoder.encode([text for some in groups for text in some]).rows, [len(some) for some in groups]


def greatest(cosines: Rows, sizes: Sequence[int]) -> Rows:
    """Of groups that lie side by side along the last axis, the greatest of each: [..., n]; -2, less than any cosine, of an empty one."""
    found = np.full((*cosines.shape[:-1], len(sizes)), -2, dtype=np.float32)
    some = np.flatnonzero(sizes)
    if len(some):
        starts = np.cumsum([0, *(sizes[i] for i in some[:-1])])
        found[..., some] = np.maximum.reduceat(cosines, starts, axis=-1)
    return found


def _begin(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The point nearest to the mean of all, then always the one that is farthest from those chosen."""
    chosen = [int(np.argmax(points @ points.mean(axis=0)))]
    near = points @ points[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(np.argmin(near)))
        near = np.maximum(near, points @ points[chosen[-1]])
    return points[chosen]


def _middles(
    points: NDArray[np.float64], nearest: NDArray[np.intp], before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of each group; one that is empty, or whose points are opposite to each other, stays where it was."""
    made = before.copy()
    for group in range(len(before)):
        total = points[nearest == group].sum(axis=0)
        length = float(np.linalg.norm(total))
        if length > 1e-9:
            made[group] = total / length
    return made


def _prompt(pair: Pair) -> str:
    return pair.instruction.strip()[:MOST_LETTERS]
