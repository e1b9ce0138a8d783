"""Fits a calibration card from measured outcomes, and says how good it is on domains that the fit did not see.

The logistic is a fractional one (Papke & Wooldridge 1996: the log-likelihood of a share) with signed weights and a small ridge, by
projected gradient; the curve is isotonic regression (pool adjacent violators, Ayer et al. 1955). Everything is decided by the outcomes
alone: the same outcomes in any order give the same card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clonedna.core.block import Measure
from clonedna.core.canonical import canonical
from clonedna.core.errors import InputError
from clonedna.core.genome import Digest, Features, Share, Words
from clonedna.core.value import Value
from clonedna.genomes.calibration import (
    LEAST_OUTCOMES,
    SHRINK,
    SIGNS,
    Aim,
    Band,
    Card,
    Seven,
    design,
    expected_error,
    predict,
)
from clonedna.genomes.rising import Level, levels

MOST_OUTCOMES = 20_000
STEPS, SETTLED, RIDGE = 4000, 1e-8, 0.01
LEAST_BLOCK = 8  # outcomes that one knot of the curve stands for
FOLDS = 10
Floats = NDArray[np.float64]


class Outcome(Value):
    """One probe: what was wanted, the features that the layer had then, and the s* that was measured on ``n`` exemplars.

    ``domain``: the skill's, or empty. ``asked``: what an encoder read (none: ``skill``); ``block``: an id; ``features``: by ``encoder``.
    """

    skill: str = Field(min_length=1, max_length=200)
    asked: Words = ()
    node: str = Field(default="", max_length=120)
    domain: str = Field(default="", max_length=120)
    block: Digest
    features: Features
    encoder: str = Field(min_length=1, max_length=200)
    dimension: int = Field(ge=1, le=65536)
    base_fingerprint: str = Field(max_length=200)
    value: Share
    low: Share
    high: Share
    n: int = Field(ge=1, le=100_000)
    at: str = Field(max_length=40)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A card, and for each outcome (in the order given) what a fit that had not seen its domain predicts."""

    card: Card
    held_out: tuple[float, ...]


def fit(
    outcomes: Sequence[Outcome], *, base: str, how: str, gain: float | None = None, level: float | None = None,
    aims: Callable[[Sequence[float]], tuple[Aim, ...]] | None = None,
) -> Fitted:  # fmt: skip
    """The card of these outcomes, which are all of one encoder and one base.

    ``aims``: makes the card's aims from the held-out predictions. Raises ``InputError`` for fewer than 50, several encoders or bases, or
    measured values that are all the same.
    """
    _check(outcomes)
    order = sorted(range(len(outcomes)), key=lambda i: canonical(outcomes[i]))
    data = [outcomes[i] for i in order]
    placed = _held_out(data)
    predicted = [0.0] * len(outcomes)
    for place, i in enumerate(order):
        predicted[i] = placed[place]
    measured = [one.value for one in outcomes]
    bands = _bands(predicted, measured)
    first = outcomes[0]
    parts = _parts(data)
    inside = [_inside(bands, p, m) for p, m in zip(predicted, measured, strict=True)]
    folds = len(set(_folds(data)))
    split = f"held-out domains ({folds} parts)"
    card = Card(
        encoder=first.encoder, dimension=first.dimension, centre=parts.centre, scale=parts.scale, weights=parts.weights, bias=parts.bias,
        knots=parts.knots, offsets=parts.offsets, domains=dict(sorted(Counter(one.domain for one in data).items())), bands=bands,
        n=len(data), base=base, base_fingerprint=first.base_fingerprint, gain=gain, level=level,
        ece=Measure(
            value=_rounded(expected_error(predicted, measured)), status="measured", n=len(data), split=split,
            how="expected calibration error, ten equal bins; whole domains held out by turns",
        ),
        coverage=Measure(
            value=_rounded(sum(inside) / len(inside)), status="measured", n=len(data), split=split,
            how="share of measured values inside the 90 % interval; its widths are of the same held-out outcomes",
        ),
        aims=aims(predicted) if aims else (), how=how,
    )  # fmt: skip
    return Fitted(card=card, held_out=tuple(predicted))


@dataclass(frozen=True, slots=True)
class _Parts:
    centre: Seven
    scale: Seven
    weights: Seven
    bias: float
    knots: tuple[tuple[float, float], ...]
    offsets: dict[str, float]

    def value(self, outcome: Outcome) -> float:
        x = (np.asarray(design(outcome.features)) - np.asarray(self.centre)) / np.asarray(self.scale)
        at = float(np.clip(x @ np.asarray(self.weights) + self.bias, -1e6, 1e6))
        base = float(np.interp(at, [k for k, _ in self.knots], [y for _, y in self.knots]))
        return min(1.0, max(0.0, base + self.offsets.get(outcome.domain, 0.0)))


def _parts(outcomes: Sequence[Outcome]) -> _Parts:
    x = np.asarray([design(one.features) for one in outcomes], dtype=np.float64)
    y = np.asarray([one.value for one in outcomes], dtype=np.float64)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    weights, bias = _logistic((x - centre) / scale, y)
    at = (x - centre) / scale @ weights + bias
    knots = isotonic(at.tolist(), y.tolist())
    found = np.interp(at, [k for k, _ in knots], [v for _, v in knots])
    return _Parts(
        _seven(centre), _seven(np.maximum(scale, 1e-6)), _seven(weights), _rounded(bias), knots,
        _offsets([one.domain for one in outcomes], y - found),
    )  # fmt: skip


def _logistic(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Weights with the signs of ``COLUMNS``, and the bias, for standardised rows: projected gradient with a fixed step below 1 / L."""
    signs = np.asarray(SIGNS, dtype=np.float64)
    n, d = x.shape
    with_one = np.hstack([x * signs, np.ones((n, 1))])
    step = 1 / (0.25 * float(np.linalg.eigvalsh(with_one.T @ with_one / n)[-1]) + RIDGE)
    at, moved = np.zeros(d + 1), np.zeros(d + 1)
    ridge = np.append(np.full(d, RIDGE), 0.0)
    for turn in range(1, STEPS + 1):  # accelerated (Beck & Teboulle 2009)
        gradient = with_one.T @ (1 / (1 + np.exp(-np.clip(with_one @ moved, -50, 50))) - y) / n + ridge * moved
        after = moved - step * gradient
        after[:d] = np.maximum(after[:d], 0)
        moved = after + (turn - 1) / (turn + 2) * (after - at)
        done = float(np.abs(after - at).max()) < SETTLED
        at = after
        if done:
            break
    return at[:d] * signs, float(at[d])


def isotonic(at: Sequence[float], y: Sequence[float], least: int = LEAST_BLOCK) -> tuple[tuple[float, float], ...]:
    """The rising curve nearest to the points (least squares) as knots: the mean place and the mean value of each pooled block.

    Blocks of fewer than ``least`` points are joined with the one before them. Both coordinates rise from knot to knot.
    """
    kept: list[Level] = []
    for level in levels(at, y):
        if kept and (kept[-1].n < least or len(kept) >= 60):
            kept[-1] = kept[-1].with_next(level)
        else:
            kept.append(level)
    if len(kept) > 1 and kept[-1].n < least:
        kept[-2:] = [kept[-2].with_next(kept[-1])]
    return tuple(sorted({_rounded(one.place): _rounded(one.value) for one in kept}.items()))


def _offsets(domains: Sequence[str], left: Floats) -> dict[str, float]:
    """The mean residual of each domain times ``n / (n + 20)``; outcomes without a domain have none."""
    found: dict[str, float] = {}
    for domain in sorted(set(domains) - {""}):
        rows = left[[one == domain for one in domains]]
        found[domain] = _rounded(float(rows.mean()) * len(rows) / (len(rows) + SHRINK))
    return found


def _folds(outcomes: Sequence[Outcome]) -> list[int]:
    """A part for each outcome: whole domains where there are at least three, else whole skills."""
    domains = sorted({one.domain for one in outcomes if one.domain})
    groups = [one.domain or one.skill for one in outcomes] if len(domains) >= 3 else [one.skill for one in outcomes]
    number = {name: i % FOLDS if len(set(groups)) > FOLDS else i for i, name in enumerate(sorted(set(groups)))}
    return [number[group] for group in groups]


def _held_out(outcomes: Sequence[Outcome]) -> list[float]:
    folds = _folds(outcomes)
    found = [0.0] * len(outcomes)
    for fold in sorted(set(folds)):
        parts = _parts([one for one, its in zip(outcomes, folds, strict=True) if its != fold])
        for i, one in enumerate(outcomes):
            if folds[i] == fold:
                found[i] = parts.value(one)
    return found


def _bands(predicted: Sequence[float], measured: Sequence[float]) -> tuple[Band, ...]:
    """5 % and 95 % quantiles of held-out residuals, in up to four parts of the predictions with as many outcomes each."""
    p, left = np.asarray(predicted), np.asarray(measured) - np.asarray(predicted)
    ends = sorted({_rounded(float(one)) for one in np.quantile(p, [0.25, 0.5, 0.75])} - {1.0})
    bands: list[Band] = []
    low = -1.0
    for end in [*ends, 1.0]:
        rows = left[(p > low) & (p <= end)]
        if len(rows) < LEAST_BLOCK and end != 1.0:
            continue
        rows = rows if len(rows) >= LEAST_BLOCK else left
        below, above = (float(one) for one in np.quantile(rows, [0.05, 0.95]))
        bands.append(Band(upto=end, below=min(0.0, _rounded(below)), above=max(0.0, _rounded(above))))
        low = end
    return tuple(bands)


def _inside(bands: Sequence[Band], predicted: float, measured: float) -> bool:
    band = next(band for band in bands if predicted <= band.upto)
    return predicted + band.below - 1e-9 <= measured <= predicted + band.above + 1e-9


def _check(outcomes: Sequence[Outcome]) -> None:
    if not LEAST_OUTCOMES <= len(outcomes) <= MOST_OUTCOMES:
        raise InputError(
            f"there are {len(outcomes)} measured outcomes; from {LEAST_OUTCOMES} to {MOST_OUTCOMES} are needed",
            "each probed layer of a plan adds one: dna genome plan", found=len(outcomes),
        )  # fmt: skip
    for name in ("encoder", "dimension", "base_fingerprint"):
        if len({getattr(one, name) for one in outcomes}) > 1:
            raise InputError(f"these outcomes are of several kinds of {name}", "give those of one alone")
    if len({one.value for one in outcomes}) == 1:
        raise InputError(
            "all outcomes have the same value, so nothing can be learnt from them", "probe layers that do not fit, too"
        )
    if max(Counter(canonical(one) for one in outcomes).values()) > len(outcomes) // 2:
        raise InputError("most of these outcomes are one and the same", "give outcomes of different layers and skills")


def held_out_error(card: Card, outcomes: Sequence[Outcome]) -> float:
    """Expected calibration error of ``card`` on outcomes that it has not seen, all of its encoder. Raises ``BadConfig`` otherwise."""
    predicted = [
        predict(card, one.encoder, one.dimension, one.features, domain=one.domain).value or 0.0 for one in outcomes
    ]
    return expected_error(predicted, [one.value for one in outcomes])


def _seven(values: Floats) -> Seven:
    """One number for each of ``COLUMNS``."""
    text, lift, overlap, margin, z, hubness, closeness = (_rounded(one) for one in values)
    return text, lift, overlap, margin, z, hubness, closeness


def _rounded(value: float) -> float:
    """Nine digits behind the point: what a sum's order changes is not in a card."""
    return round(float(value), 9) + 0.0  # never a negative zero
