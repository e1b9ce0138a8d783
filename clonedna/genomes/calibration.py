"""Predicted similarity s*: what words and vectors say of a layer, on the scale of what probes measured.

A monotone logistic of the features (no feature that must help can hurt), then an isotonic curve on the measured outcomes, then an offset of
the domain that is shrunk by ``n / (n + 20)``. All of it is a calibration card: a value that can be read, compared, signed and shown. A card
holds for the encoder that its features came from, and for no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from clonedna.core.block import Envelope, Measure
from clonedna.core.canonical import digest, strict_json
from clonedna.core.errors import BadConfig, Corrupt
from clonedna.core.genome import Features, Similarity
from clonedna.core.value import Value

CARD_PAYLOAD = "application/vnd.clone-dna.calibration+json"
SHRINK = 20.0
LEAST_OUTCOMES, MOST_CARD = 50, 1_000_000
COLUMNS = ("text", "lift", "overlap", "margin", "z", "hubness", "closeness")
"""The logistic's inputs. All must help (weight >= 0) but ``hubness``, which must not (weight <= 0). ``lift``: how much nearer than its text
the best meaning of a name in it is; ``closeness``: 1 / (1 + links in the taxonomy), 0 where they are not known. A block's exemplars are in
``margin`` and ``z`` alone: whoever lies in the prompts that it signs lifts itself no further."""
SIGNS = (1, 1, 1, 1, 1, -1, 1)
V = TypeVar("V", bound=Value)
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Seven = tuple[Finite, Finite, Finite, Finite, Finite, Finite, Finite]
Share = Annotated[float, Field(ge=0, le=1)]


class Band(Value):
    """Up to this prediction, how far measured values were below and above it: the 5 % and 95 % quantile of held-out residuals."""

    upto: Share
    below: Annotated[float, Field(ge=-1, le=0)]
    above: Annotated[float, Field(ge=0, le=1)]


class Aim(Value):
    """A figure that was aimed at: ``measured`` on held-out domains, and whether it was reached."""

    name: str = Field(max_length=120)
    aim: str = Field(max_length=40)
    measured: Measure
    reached: bool


class Card(Value):
    """A calibration. ``centre``, ``scale``, ``weights`` and ``bias`` of the logistic over ``COLUMNS``; ``knots`` (its result, s*) of the
    curve.

    ``offsets`` by domain, shrunk already; ``domains``: outcomes of each. ``base``, ``base_fingerprint``: on which they were measured.
    ``gain`` and ``level``: what a pass was there (``genomes.probing.Bar``), where it was one for all. ``ece``: expected calibration error
    on domains that the fit had not seen; ``coverage``: the share of held-out outcomes inside their interval.
    """

    format: Literal["dna-calibration/1"] = "dna-calibration/1"
    encoder: str = Field(min_length=1, max_length=200)
    dimension: int = Field(ge=1, le=65536)
    columns: tuple[str, ...] = COLUMNS
    centre: Seven
    scale: Seven
    weights: Seven
    bias: Finite
    knots: tuple[tuple[Finite, Share], ...] = Field(min_length=1, max_length=64)
    offsets: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(default_factory=dict, max_length=1000)
    domains: dict[str, int] = Field(max_length=1000)
    bands: tuple[Band, ...] = Field(min_length=1, max_length=16)
    n: int = Field(ge=1)
    base: str
    base_fingerprint: str
    gain: float | None = Field(default=None, gt=0, lt=1)
    level: float | None = Field(default=None, gt=0)
    ece: Measure
    coverage: Measure
    aims: tuple[Aim, ...] = ()
    how: str = Field(max_length=2000)

    @model_validator(mode="after")
    def _holds_together(self) -> Card:
        if self.columns != COLUMNS:
            raise ValueError(f"its features are not {', '.join(COLUMNS)}")
        if any(weight * sign < 0 for weight, sign in zip(self.weights, SIGNS, strict=True)):
            raise ValueError("a weight has the wrong sign")
        if any(one <= 0 for one in self.scale):
            raise ValueError("a scale is not above zero")
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(self.knots)):
            raise ValueError("its curve falls")
        if self.bands[-1].upto != 1 or any(a.upto >= b.upto for a, b in pairwise(self.bands)):
            raise ValueError("its intervals do not reach from 0 to 1")
        return self

    @property
    def id(self) -> str:
        """SHA-256 over its canonical JSON: what a plan names."""
        return digest(self)


class SignedCard(Value):
    """A card, and the DSSE envelope over its canonical JSON. ``None``: the one that the program brings, which its package vouches for."""

    card: Card
    envelope: Envelope | None = None


def design(features: Features) -> tuple[float, ...]:
    """``features`` as ``COLUMNS``, within the bounds of what cosines and counts can mean."""
    text, meaning = features.text_cosine, features.meaning_cosine
    return (
        _within(text, -1, 1), 0.0 if meaning is None else _within(meaning - text, 0, 1), _within(features.overlap, 0, 1),
        _within(features.margin, -0.5, 0.5), _within(features.z, -3, 6), _within(features.hubness, -1, 1),
        0.0 if features.distance is None else 1 / (1 + max(0.0, features.distance)),
    )  # fmt: skip


def score(card: Card, features: Features) -> float:
    """The logistic's linear part. Never falls when a feature that must help rises."""
    total = card.bias
    for value, centre, scale, weight in zip(design(features), card.centre, card.scale, card.weights, strict=True):
        total += weight * (value - centre) / scale
    return total


def curve(knots: Sequence[tuple[float, float]], at: float) -> float:
    """Linear between knots, constant outside of them."""
    if at <= knots[0][0]:
        return knots[0][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        if at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return knots[-1][1]


def predict(card: Card, encoder: str, dimension: int, features: Features, *, domain: str = "") -> Similarity:
    """s* of one layer for one skill, predicted. ``domain``: the skill's; one that the card does not know has no offset.

    Raises ``BadConfig`` for features of another encoder than the card's.
    """
    check_encoder(card, encoder, dimension)
    value = _within(curve(card.knots, score(card, features)) + card.offsets.get(domain, 0.0), 0, 1)
    band = next(band for band in card.bands if value <= band.upto)
    return Similarity(
        value=value, low=_within(value + band.below, 0, 1), high=_within(value + band.above, 0, 1), status="predicted", n=card.n,
        how=f"calibration {card.id[:12]} of {card.n} measured outcomes; 90 % interval from held-out domains",
    )  # fmt: skip


def check_encoder(card: Card, encoder: str, dimension: int) -> None:
    """Raises ``BadConfig`` when the card was fitted from another encoder's vectors."""
    if (card.encoder, card.dimension) != (encoder, dimension):
        raise BadConfig(
            f"the calibration is for {card.encoder} ({card.dimension} numbers), and the encoder here is {encoder} ({dimension})",
            "refit it from your outcomes: dna genome recalibrate; or set encoder back",
            card=card.encoder, encoder=encoder,
        )  # fmt: skip


def read_card(data: bytes) -> Card:
    """Raises ``Corrupt`` for what is no card."""
    return _read(data, Card)


def read_signed(data: bytes) -> SignedCard:
    """Raises ``Corrupt`` for what is no signed card."""
    return _read(data, SignedCard)


def _read(data: bytes, kind: type[V]) -> V:
    try:
        if len(data) > MOST_CARD:
            raise ValueError(f"over {MOST_CARD} bytes")
        return kind.model_validate(strict_json(data))
    except (ValueError, ValidationError, RecursionError) as error:
        raise Corrupt(
            f"this is no calibration card: {str(error)[:300]}", "remove it, then: dna genome recalibrate"
        ) from error


@cache
def bundled() -> Mapping[str, Card]:
    """The cards that the program brings, by encoder. Raises ``Corrupt``."""
    folder = files("clonedna.genomes") / "data" / "calibration"
    there = folder.iterdir() if folder.is_dir() else ()
    found = [read_card(one.read_bytes()) for one in there if one.name.endswith(".json")]
    return {card.encoder: card for card in found}


def expected_error(predicted: Sequence[float], measured: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): over equal bins of the prediction, the sum of
    ``n_b / N |mean predicted - mean measured|``."""
    if not predicted or len(predicted) != len(measured):
        raise ValueError("need as many predictions as measurements, and at least one")
    held: dict[int, list[tuple[float, float]]] = {}
    for p, m in zip(predicted, measured, strict=True):
        held.setdefault(min(bins - 1, int(p * bins)), []).append((p, m))
    return math.fsum(abs(math.fsum(p - m for p, m in one)) for one in held.values()) / len(predicted)


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value)) if math.isfinite(value) else low
