"""In which order layers answer what is asked: by what they mean and by the words that they share. Arithmetic alone.

How alike a layer is to what is asked is the mean of three: the cosine with the layer's text; the cosine with the nearest of what stands
beside it, the middles of its exemplars and what the names in its text mean (genomes/glossary.py); and the square of the share of the asked
words that its text and those meanings have. The square, because one word of a long sentence that stands somewhere says nothing, and all
words of a short request say much. The three count alike: weights that were fitted came out near each other (docs/genomes.md has what each
part gives).

Ties go by ``(-likeness rounded to 6 digits, key)``: the same layers give the same order on any machine, however they are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clonedna.core.genome import Features

DIGITS = 6


class Ranked(NamedTuple):
    """A layer and its score."""

    key: str
    score: float


def likeness(text: float, exemplars: float | None, meaning: float | None, overlap: float) -> float:
    """From -0.67 (nothing alike) to 1 (the layer's own text, with all of its words). Two cosines, and the share of words, 0 to 1.

    ``exemplars``: ``None`` where a layer has none; its text stands for them. ``meaning``: of the nearest name in its text, if any is known.
    """
    beside = text if exemplars is None else exemplars
    return (text + (beside if meaning is None else max(beside, meaning)) + overlap**2) / 3


def alike(features: Features) -> float:
    """``likeness`` of a block, by its features."""
    return likeness(features.text_cosine, features.centroid_cosine, features.meaning_cosine, features.overlap)


def in_order(found: Mapping[str, float]) -> tuple[Ranked, ...]:
    """Scores by key as an order, the greatest first, of equals the first key."""
    rounded = {key: round(score, DIGITS) for key, score in found.items()}
    return tuple(Ranked(key, rounded[key]) for key in sorted(rounded, key=lambda key: (-rounded[key], key)))


def in_turn(orders: Sequence[Sequence[Ranked]], most: int) -> tuple[Ranked, ...]:
    """The orders of several skills as one: the first of each, then the second of each; nothing twice, at most ``most``."""
    found: dict[str, Ranked] = {}
    for place in range(max(map(len, orders), default=0)):
        for order in orders:
            if place < len(order) and len(found) < most:
                found.setdefault(order[place].key, order[place])
    return tuple(found.values())
