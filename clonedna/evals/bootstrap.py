"""Bootstrap intervals for differences that are ratios of sums (nats a token), and for shares.

Spans of one file are not independent: whoever writes a file writes its spans alike. Where the files are known, an interval is taken over
spans and over whole files, and the wider of the two is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
MIN_CLUSTERS = 5


def paired_gain(
    base: Sequence[float], adapter: Sequence[float], tokens: Sequence[float], *, seed: int = 0,
    clusters: Sequence[str] | None = None,
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """Gain of ``adapter`` over ``base`` in nats a token, and its 95 % interval.

    The estimate is ``sum(base - adapter) / sum(tokens)`` over spans. The interval is the percentile bootstrap (Efron 1979) over
    spans: each resample draws spans with replacement and keeps both sides and the token count of a span together. With ``clusters``
    (each span's file), whole clusters are drawn as well (the cluster bootstrap, Davison and Hinkley 1997, 3.8) where there are at least
    five, and the wider interval is given. Shapes: sequences of equal length n >= 1; with n = 1 the interval has no width. Raises
    ``ValueError`` for unequal or empty input. ``tokens`` may be what else the ratio is over.
    """
    difference = np.asarray(base, dtype=np.float64) - np.asarray(adapter, dtype=np.float64)
    weight = np.asarray(tokens, dtype=np.float64)
    if not len(difference) or len(difference) != len(weight) or weight.sum() <= 0:
        raise ValueError("need as many base, adapter and token figures, and at least one token")
    interval = _percentiles(difference, weight, seed)
    if clusters is not None:
        if len(clusters) != len(difference):
            raise ValueError("need as many clusters as figures")
        names, place = np.unique(np.asarray(clusters), return_inverse=True)
        if len(names) >= MIN_CLUSTERS:
            differences = np.bincount(place, weights=difference).astype(np.float64)
            weights = np.bincount(place, weights=weight).astype(np.float64)
            interval = max(interval, _percentiles(differences, weights, seed), key=lambda ends: ends[1] - ends[0])
    return float(difference.sum() / weight.sum()), interval


def paired_share(first: Sequence[bool], second: Sequence[bool], *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Share of hits in ``first`` minus that in ``second``, of the same n >= 1 trials, and its 95 % percentile bootstrap interval."""
    return paired_gain([float(hit) for hit in first], [float(hit) for hit in second], [1] * len(first), seed=seed)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); of use where ``hits`` is 0 or n. ``n`` >= 1."""
    z = 1.959963984540054
    share, spread = hits / n, z * ((hits / n * (1 - hits / n) + z * z / (4 * n)) / n) ** 0.5
    middle, whole = share + z * z / (2 * n), 1 + z * z / n
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def _percentiles(difference: NDArray[np.float64], weight: NDArray[np.float64], seed: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).integers(0, len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.percentile(difference[draws].sum(axis=1) / weight[draws].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)
