"""The conflict detector: a light for each ordered pair and module, from a note where the pair was measured, else from a calibrated phi.

Damage that a phi (or a ratio of norms) foretells is read off a card: a monotone fit (isotonic regression, pool adjacent violators: Barlow
et al. 1972) of damage that was measured. A card is fitted where blocks are used, from compatibility notes; until there are enough the
one that ships is used, which says what it was fitted on. What is measured is always believed before what is foretold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.errors import InputError
from clonedna.core.genome import CompatibilityNote, Composition
from clonedna.core.interference import ConflictCard, Curve, Light, ModuleConflict, Outcome, PairConflict, Pairwise
from clonedna.genomes.interference import STACK, by_module, cosine, norm_ratio, phi
from clonedna.genomes.rising import levels

FEWEST = 20  # outcomes of a fit
MOST_OUTCOMES = 20_000
SHOWN = 64  # modules of a pair


@cache
def default_card() -> ConflictCard:
    """The card that ships."""
    return ConflictCard.model_validate_json(files("clonedna.genomes").joinpath("data/conflicts.json").read_bytes())


def monotone(x: Sequence[float], y: Sequence[float]) -> Curve:
    """The non-decreasing curve nearest to the points in least squares, by its knots: a step's two ends."""
    knots = [(at, level.value) for level in levels(x, y) for at in dict.fromkeys((level.first, level.last))]
    return Curve(x=tuple(at for at, _ in knots), damage=tuple(round(value, 6) for _, value in knots))


def expected(curve: Curve, x: float) -> float:
    """Damage at ``x``: straight between knots, flat beyond the ends."""
    return float(np.interp(x, curve.x, curve.damage))


def fit(outcomes: Sequence[Outcome], fitted_on: str) -> ConflictCard:
    """A card from measured pairs. Raises ``InputError`` for fewer than 20, or more than 20,000."""
    if not FEWEST <= len(outcomes) <= MOST_OUTCOMES:
        raise InputError(
            f"{len(outcomes)} measured pairs; a card is fitted on {FEWEST} to {MOST_OUTCOMES}",
            "measure more pairs: dna genome conflicts --measure",
        )  # fmt: skip
    with_phi = [one for one in outcomes if one.phi is not None]
    by_phi = None
    if len(with_phi) >= FEWEST:
        by_phi = monotone([one.phi or 0.0 for one in with_phi], [one.damage for one in with_phi])
    by_norm = monotone([one.norm_ratio for one in outcomes], [one.damage for one in outcomes])
    return ConflictCard(phi=by_phi, norm_ratio=by_norm, fitted_on=fitted_on, n=len(outcomes))


def light_of(damage: float | None, card: ConflictCard) -> Light:
    """Green up to ``amber``, amber up to ``red``, red beyond; unknown for nothing."""
    if damage is None:
        return "unknown"
    return "green" if damage <= card.amber else "amber" if damage <= card.red else "red"


def noted(
    notes: Iterable[CompatibilityNote], source: str, target: str, *, base_fingerprint: str, composition: Composition = STACK,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Measure | None:  # fmt: skip
    """Retention of ``target`` beside ``source`` as a note has it for this base, composition and these weights (source's, target's)."""
    for note in notes:
        if (note.base_fingerprint, note.composition) != (base_fingerprint, composition):
            continue
        if (note.first, note.second, *note.weights) == (source, target, *weights):
            return note.retention[1]
        if (note.second, note.first, *note.weights) == (source, target, weights[1], weights[0]):
            return note.retention[0]
    return None


def judge(
    source: str,
    target: str,
    pair: Pairwise | None,
    card: ConflictCard,
    *,
    note: Measure | None = None,
    weight: float = 1.0,
) -> PairConflict:
    """The light of a pair. ``pair``: what its files say, if known; ``note``: target's measured retention; ``weight``: source's."""
    by_phi = not_available("the two blocks' files were not compared") if pair is None else phi(pair, weight=weight)
    by_norm = by_phi if pair is None else norm_ratio(pair, weight=weight)
    measured = 1 - note.value if note is not None and note.value is not None else None
    if measured is not None and note is not None:
        damage = Measure(
            value=measured, status="measured", n=note.n, split=note.split, how=f"1 - retention; {note.how}"
        )
        by, why = "note", f"measured on {note.n} examples: it loses {measured:.0%} of its gain"
    elif by_phi.value is not None and card.phi is not None:
        damage, why = _foretold(card, card.phi, by_phi.value, "phi")
        by = "phi"
    elif by_norm.value is not None:
        damage, why = _foretold(card, card.norm_ratio, by_norm.value, "the ratio of norms")
        by, why = "norm_ratio", f"{why}; {by_phi.how}" if by_phi.value is None else why
    else:
        damage, by, why = not_available(by_norm.how), "nothing", by_norm.how
    return PairConflict(
        source=source, target=target, phi=by_phi, norm_ratio=by_norm, cosine=None if pair is None else cosine(pair), damage=damage,
        light=light_of(damage.value, card), by=by, why=why, modules=() if pair is None else modules_of(pair, card, weight=weight),
    )  # fmt: skip


def _foretold(card: ConflictCard, curve: Curve, x: float, what: str) -> tuple[Measure, str]:
    value = expected(curve, x)
    how = f"from {what}, by a card fitted on {card.n} measured pairs"
    beyond = " (beyond what the card was fitted on)" if not curve.x[0] <= x <= curve.x[-1] else ""
    return Measure(
        value=value, status="estimated", n=card.n, how=how + beyond
    ), f"{what} is {x:.2f}: expected to lose {value:.0%}{beyond}"


def modules_of(pair: Pairwise, card: ConflictCard, *, weight: float = 1.0) -> tuple[ModuleConflict, ...]:
    """The modules of a pair, the worst first: the light that the whole pair would have if all modules were like this one."""
    curve = card.norm_ratio if pair.energies is None or card.phi is None else card.phi
    values = by_module(pair, weight=weight).items()
    found = [
        ModuleConflict(
            module=name, value=value, light="unknown" if value is None else light_of(expected(curve, value), card)
        )
        for name, value in values
    ]
    return tuple(sorted(found, key=lambda one: (-(one.value if one.value is not None else -1.0), one.module))[:SHOWN])


def outcomes_of(
    notes: Iterable[CompatibilityNote], pairs: Mapping[tuple[str, str], Pairwise], *, composition: Composition = STACK
) -> tuple[Outcome, ...]:
    """Measured pairs to fit a card on: each note of this composition at weights 1, both ways round, whose files are known."""
    found: list[Outcome] = []
    for note in notes:
        if note.composition != composition or note.weights != (1.0, 1.0):
            continue
        for source, target, kept in (
            (note.first, note.second, note.retention[1]),
            (note.second, note.first, note.retention[0]),
        ):
            pair = pairs.get((source, target))
            if pair is None or kept.value is None or (ratio := norm_ratio(pair).value) is None:
                continue
            found.append(Outcome(phi=phi(pair).value, norm_ratio=ratio, damage=1 - kept.value))
    return tuple(found)
