"""Words that texts share with what is asked, rare words counting more. English endings do not matter."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from clonedna.core.words import asked_words, telling_words

LEAST_STEM = 3
_ENDINGS = ("ations", "ation", "ings", "ing", "ers", "er", "ies", "ed", "es", "s", "e", "y")


def stem(word: str) -> str:
    """``word`` without its English ending: ``parsers``, ``parsing`` and ``parse`` are one. Three letters or more are kept."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST_STEM:
            return word[: -len(ending)]
    return word


class Rarity:
    """How rare words are among texts: ``ln((1 + N) / (1 + n)) + 1``, n of N texts having the word (Sparck Jones 1972, smoothed)."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """``texts``: what each block says of itself, by its key."""
        # One string for all that have a word, and a tuple for each: a set would take six times the memory.
        self._having = {
            key: tuple({sys.intern(stem(word)) for word in telling_words(text)}) for key, text in texts.items()
        }
        self._count = Counter(word for one in self._having.values() for word in one)

    def of(self, word: str) -> float:
        return self._of(stem(word))

    def _of(self, stemmed: str) -> float:
        return math.log((1 + len(self._having)) / (1 + self._count[stemmed])) + 1

    def sharing(self, asked: Sequence[str]) -> Callable[[str], float]:
        """For a block's key the share of the words of a text that it has, rare words counting more; of several texts the mean.

        From 0 (no word, or no such block) to 1.
        """
        wanted = [{word: self._of(word) for word in map(stem, asked_words(text))} for text in asked]
        wholes = [math.fsum(weights.values()) for weights in wanted]

        def share(key: str) -> float:
            there, shares = self._having.get(key, ()), list[float]()
            for weights, whole in zip(wanted, wholes, strict=True):
                if shared := weights.keys() & there:
                    shares.append(math.fsum(map(weights.__getitem__, shared)) / whole)
            return math.fsum(shares) / len(wanted) if shares else 0.0

        return share
