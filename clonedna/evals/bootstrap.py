"""Paired bootstrap intervals for differences that are ratios of sums (nats a token)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 4000


def paired_gain(
    base: Sequence[float], adapter: Sequence[float], tokens: Sequence[int], *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Gain of ``adapter`` over ``base`` in nats a token, and its 95 % interval.

    The estimate is ``sum(base - adapter) / sum(tokens)`` over spans. The interval is the percentile bootstrap (Efron 1979) over
    spans: each resample draws spans with replacement and keeps both sides and the token count of a span together. Shapes: three
    sequences of equal length n >= 1; with n = 1 the interval has no width. Raises ``ValueError`` for unequal or empty input.
    """
    difference = np.asarray(base, dtype=np.float64) - np.asarray(adapter, dtype=np.float64)
    weight = np.asarray(tokens, dtype=np.float64)
    if not len(difference) or len(difference) != len(weight) or weight.sum() <= 0:
        raise ValueError("need as many base, adapter and token figures, and at least one token")
    draws = np.random.default_rng(seed).integers(0, len(difference), size=(RESAMPLES, len(difference)))
    resampled = difference[draws].sum(axis=1) / weight[draws].sum(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(difference.sum() / weight.sum()), (float(low), float(high))
