"""Features of how code is written, and the distance between two bodies of code by them.

Texts are counted one by one from their syntax trees; the sums add up, so a profile is that of all texts together and texts can be
resampled. The scale of each feature is measured: the spread between people who wrote public packages (``data/style_scales.json``, made by
``tools/style_scales.py``), so that a distance of 1 is about how far apart two people are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from clonedna.core.style import StyleFeature, StyleProfile
from clonedna.core.work import Language
from clonedna.evals.style_lines import count_lines, dedented
from clonedna.evals.style_python import count_python
from clonedna.evals.style_script import count_script
from clonedna.evals.style_table import LEAST, features_of
from clonedna.evals.style_trees import Parse, Tally, read

FARTHEST = 3.0
"""A feature counts at most this many spreads, so that no single one decides a distance."""
LEAST_FEATURES = 8
"""Fewer features in common than this, and there is no distance."""
LEAST_SCALES = {"share": 0.02, "mean": 0.05, "spread": 0.05}
"""The smallest scale: of a share absolute, else relative to the people's mean. Where people hardly differ, noise would decide."""
LEAST_PEOPLE = 4
MAX_TEXT = 8_000

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Texts as counted. ``sums``: shape (texts, features of the table, 3) with number, sum, sum of squares. ``size``, ``broken``: bytes."""

    language: Language
    sums: Array
    size: int
    broken: int

    def profile(self) -> StyleProfile:
        """The features of all texts together."""
        rows = features_of(self.language)
        total = self.sums.sum(axis=0)
        found = values(self.language, total)
        return StyleProfile(
            language=self.language, texts=len(self.sums), bytes=self.size, broken=self.broken / self.size if self.size else 0.0,
            features=tuple(
                StyleFeature(name=row.name, value=None if np.isnan(value) else float(value), n=int(n))
                for row, value, n in zip(rows, found, total[:, 0], strict=True)
            ),
        )  # fmt: skip


def count(texts: Sequence[str], language: Language, parse: Parse) -> Counts | None:
    """``texts`` counted one by one; ``None`` for a language that is not parsed. A text longer than 8,000 characters is cut there."""
    rows = features_of(language)
    sums = np.zeros((len(texts), len(rows), 3))
    size = broken = 0
    for i, given in enumerate(texts):
        text = dedented(given[:MAX_TEXT])
        found = read(language, text, parse)
        if found is None:
            return None
        tally = Tally(language)
        count_lines(tally, text)
        (count_python if language == "python" else count_script)(tally, found)
        sums[i] = [tally.sums[row.name] for row in rows]
        size, broken = size + found.size, broken + found.broken
    return Counts(language, sums, size, broken) if rows else None


def features(texts: Sequence[str], language: Language, parse: Parse) -> StyleProfile | None:
    """The style of some texts (pieces of code, whole or not) in one language; ``None`` for a language that is not parsed."""
    counted = count(texts, language, parse)
    return counted.profile() if counted else None


def values(language: Language, sums: Array) -> Array:
    """Features from sums of shape (..., features, 3): shape (..., features), NaN where too few things were counted."""
    rows = features_of(language)
    n, total, squares = sums[..., 0], sums[..., 1], sums[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        spread = np.sqrt(np.maximum(squares / n - mean * mean, 0.0))
    is_spread = np.array([row.kind == "spread" for row in rows])
    least = np.array([LEAST[row.kind] for row in rows])
    return np.where(n >= least, np.where(is_spread, spread, mean), np.nan)


@cache
def reference(language: Language) -> dict[str, tuple[float, float, int]]:
    """Feature -> mean and spread (standard deviation) between people, and of how many people."""
    held = json.loads(files("clonedna.evals").joinpath("data/style_scales.json").read_text("utf-8"))
    found = held["languages"].get(language, {}).get("features", {})
    return {name: (one["mean"], one["spread"], one["people"]) for name, one in found.items()}


@cache
def scales(language: Language) -> tuple[float | None, ...]:
    """The scale of each feature of the table; ``None`` where fewer than four people were measured: such a feature is in no distance."""
    known = reference(language)
    found: list[float | None] = []
    for row in features_of(language):
        mean, spread, people = known.get(row.name, (0.0, 0.0, 0))
        least = LEAST_SCALES[row.kind] * (1.0 if row.kind == "share" else abs(mean))
        found.append(max(spread, least) if people >= LEAST_PEOPLE and max(spread, least) > 0 else None)
    return tuple(found)


def scale_source(language: Language) -> str:
    """Where the scales come from, in words."""
    held = json.loads(files("clonedna.evals").joinpath("data/style_scales.json").read_text("utf-8"))
    one = held["languages"].get(language)
    if one is None:
        return "no reference figures for this language"
    return f"spread between {one['people']} people who wrote {', '.join(one['packages'])}"


def differences(language: Language, one: Array, other: Array) -> Array:
    """``|one - other|`` in spreads between people, at most 3; NaN where either or the scale is missing. Shape (..., features)."""
    scale = np.array([np.nan if width is None else width for width in scales(language)])
    return np.minimum(np.abs(one - other) / scale, FARTHEST)


def distance(one: StyleProfile, other: StyleProfile) -> float | None:
    """Mean difference of the features that both have, in spreads between people; 0 for the same profile. ``None``: different languages, or
    fewer than eight features in common."""
    if one.language != other.language:
        return None
    sides = [np.array([np.nan if f.value is None else f.value for f in side.features]) for side in (one, other)]
    apart = differences(one.language, sides[0], sides[1])
    common = ~np.isnan(apart)
    return float(apart[common].mean()) if common.sum() >= LEAST_FEATURES else None
