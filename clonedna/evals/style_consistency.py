"""How even a person's code is in itself: the format's ``style_consistency``, of the person's own hold-out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.work import Language
from clonedna.evals.style import Array, count
from clonedna.evals.style_table import features_of
from clonedna.evals.style_trees import Parse

LEAST_TEXTS = 8
RESAMPLES = 250


def consistency(texts: Sequence[str], language: Language, parse: Parse, *, seed: int = 0) -> Measure:
    """How even a person's code is in itself, as the first version of the format had it, here of their own hold-out.

    Mean of four parts: the share of the dominant naming convention (snake_case or camelCase), and 1 / (1 + e^(6 (cv - 0.5))) of the
    coefficient of variation (standard deviation / mean, from text to text) of line length, comment density and function length.
    """
    counted = count(texts, language, parse)
    if counted is None or len(texts) < LEAST_TEXTS:
        return not_available(f"only {len(texts)} hold-out pairs in {language}; {LEAST_TEXTS} are needed")
    names = [row.name for row in features_of(language)]
    draws = np.random.default_rng(seed).integers(0, len(texts), size=(RESAMPLES, len(texts)))
    score = _consistency(counted.sums, names)
    if score is None:
        return not_available("too few names and functions in the hold-out")
    drawn = [one for draw in draws if (one := _consistency(counted.sums[draw], names)) is not None]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Measure(
        value=score, status="measured", n=len(texts), split="holdout", ci95=(float(low), float(high)),
        how="mean of naming dominance and 1/(1+e^(6(cv-0.5))) of line length, comment density, function length; the person's hold-out",
    )  # fmt: skip


def _consistency(sums: Array, names: list[str]) -> float | None:
    """The score of texts with these sums; ``None`` where no name of two words or fewer than two functions are there."""
    naming = sums[:, [names.index("name.function.snake"), names.index("name.variable.snake")]].sum(axis=(0, 1))
    parts: list[float] = []
    for name in ("line.length", "comment.density", "function.lines"):
        n, total = sums[:, names.index(name), 0], sums[:, names.index(name), 1]
        each = total[n > 0] / n[n > 0]
        if len(each) < 2:
            return None
        mean = float(each.mean())
        cv = float(each.std()) / mean if mean > 0 else 0.0
        parts.append(1 / (1 + float(np.exp(6 * (cv - 0.5)))))
    if naming[0] == 0:
        return None
    share = float(naming[1] / naming[0])
    return float(np.mean([max(share, 1 - share), *parts]))
