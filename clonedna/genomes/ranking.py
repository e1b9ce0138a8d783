"""Which layers a text asks for, the likeliest first: by what they mean and by the words they share. Arithmetic alone.

A layer's score is the mean of three: the cosine of what is asked with the layer's text; with its exemplars (the mean of the nearest
middle's and that of all middles together); and the square of the share of the asked words that the layer has. The square, because one
word of a long sentence that stands somewhere says nothing, and all words of a short request say much. The three count alike: weights
that were fitted came out near each other (docs/genomes.md has what each part gives).
A text of two or three parts ("... and also ...") is asked for as a whole and part by part, the answers taking turns: the whole first, since
words out of their sentence say less than in it.

Ties go by ``(-score rounded to 6 digits, key)``: the same layers give the same order on any machine, in whatever order they are handed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clonedna.core.words import asked_words, telling_words

DIGITS = 6
LEAST_STEM = 3
MOST_PARTS = 3
_JOINT = re.compile(r"[;.]\s+|,?\s+(?:and also|and|plus|then)\s+", re.IGNORECASE)
_ENDINGS = ("ations", "ation", "ings", "ing", "ers", "er", "ies", "ed", "es", "s", "e", "y")
Rows = NDArray[np.float32]


class Ranked(NamedTuple):
    """A layer and its score: from about -0.67 (nothing alike) to 1 (the layer's own text, with all of its words)."""

    key: str
    score: float


class Known(NamedTuple):
    """A layer: its text's vector [d], the middles of its exemplars [k, d] (none: its text stands for them), and its ``stems``."""

    key: str
    text: Rows
    middles: Rows
    words: frozenset[str]


def stem(word: str) -> str:
    """``word`` without its English ending: ``parsers``, ``parsing`` and ``parse`` are one. Three letters or more are kept."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST_STEM:
            return word[: -len(ending)]
    return word


def stems(texts: Iterable[str]) -> frozenset[str]:
    """The words of a layer's text and exemplars, as ``Known`` wants them."""
    return frozenset(stem(word) for text in texts for word in telling_words(text))


class Ranking:
    """Layers that can be asked for. Never changes; threads may share it."""

    def __init__(self, layers: Sequence[Known]) -> None:
        """Vectors are of one encoder and of length 1. Raises ``ValueError`` for a key that is there twice, or vectors of unequal width."""
        found = sorted(layers, key=lambda one: one.key)
        self.keys = tuple(one.key for one in found)
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("a layer is there twice")
        if len({width for one in found for width in (one.text.shape[-1], one.middles.shape[-1])}) > 1:
            raise ValueError("vectors of unequal width")
        middles = [one.middles if len(one.middles) else one.text[None] for one in found]
        self._texts = np.stack([one.text for one in found]) if found else np.zeros((0, 0), np.float32)
        self._middles = np.concatenate(middles) if found else self._texts
        self._starts = np.cumsum([0, *(len(one) for one in middles[:-1])]) if found else np.zeros(0, np.intp)
        self._whole = np.stack([_direction(one) for one in middles]) if found else self._texts
        self._having = _having([one.words for one in found])

    def scores(self, asked: Rows, text: str) -> NDArray[np.float64]:
        """The score of each of ``keys`` for a text and its vector [d]."""
        if not self.keys:
            return np.zeros(0)
        nearest = np.maximum.reduceat(self._middles @ asked, self._starts).astype(np.float64)
        exemplars = (nearest + self._whole @ asked) / 2
        return (self._texts @ asked + exemplars + self.overlaps(text) ** 2) / 3

    def overlaps(self, text: str) -> NDArray[np.float64]:
        """For each of ``keys`` the share of the words of ``text`` that it has, 0 to 1, rare words counting more.

        A word counts ``ln((1 + N) / (1 + n)) + 1``, n of N layers having it (Sparck Jones 1972, smoothed).
        """
        found = np.zeros(len(self.keys))
        whole = 0.0
        for word in dict.fromkeys(map(stem, asked_words(text))):
            having = self._having.get(word, ())
            weight = math.log((1 + len(self.keys)) / (1 + len(having))) + 1
            whole += weight
            if len(having):
                found[having] += weight
        return found / whole if whole else found

    def best(self, asked: Rows, text: str, most: int, *, among: Collection[str] | None = None) -> tuple[Ranked, ...]:
        """The likeliest for a text and its vector [d], at most ``most``. ``among``: only these."""
        scores = np.round(self.scores(asked, text), DIGITS)
        order = np.argsort(-scores, kind="stable")  # keys are sorted: of equals, the first key comes first
        wanted = (i for i in order.tolist() if among is None or self.keys[i] in among)
        return tuple(Ranked(self.keys[i], float(scores[i])) for _, i in zip(range(max(0, most)), wanted, strict=False))

    def answer(self, asked: Rows, parts: Sequence[str], most: int) -> tuple[Ranked, ...]:
        """The likeliest for the ``asked_parts`` of a request and their vectors [n, d], at most ``most``. Raises ``ValueError``."""
        return in_turn([self.best(row, part, most) for row, part in zip(asked, parts, strict=True)], most)


def asked_parts(text: str) -> tuple[str, ...]:
    """What to ask for a text: itself, and its parts where it has two or three, joined by "and", "plus", "then", or apart by a full stop."""
    parts = [part for part in _JOINT.split(text.strip(" .")) if len(part.split()) > 1]
    return (text, *parts) if 2 <= len(parts) <= MOST_PARTS else (text,)


def in_turn(orders: Sequence[Sequence[Ranked]], most: int) -> tuple[Ranked, ...]:
    """The orders of several skills as one: the first of each, then the second of each; nothing twice, at most ``most``."""
    found: dict[str, Ranked] = {}
    for place in range(max(map(len, orders), default=0)):
        for order in orders:
            if place < len(order) and len(found) < most:
                found.setdefault(order[place].key, order[place])
    return tuple(found.values())


def _direction(rows: Rows) -> Rows:
    """The mean of rows at length 1; zeros where they cancel out."""
    mean = rows.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return (mean / length if length > 1e-9 else np.zeros_like(mean)).astype(np.float32)


def _having(words: Sequence[frozenset[str]]) -> dict[str, NDArray[np.intp]]:
    """For each word the places of the layers that have it."""
    places: dict[str, list[int]] = {}
    for place, one in enumerate(words):
        for word in one:
            places.setdefault(word, []).append(place)
    return {word: np.asarray(some, dtype=np.intp) for word, some in places.items()}
