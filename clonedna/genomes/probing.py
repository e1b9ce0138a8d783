"""Measured similarity s*: what a layer brings on exemplars of a skill, as a share of the improvement that is wanted.

``s* = clip((B - T) / (B - P), 0, 1)`` with the loss in nats a completion token of the base B, through the layer T, and of a pass P.

What a pass is. A layer must be measured against something that does not depend on the layer, or a weak block would pass its own mark, and
not on the other candidates either, or the best of bad ones would. So P comes from what blocks that were minted for exactly their work reach
on their own held-out code (``Bar``): P is the base's loss less the *share* of it that three in four such specialists take away, or the loss
that the best quarter of them ends at, whichever is higher. So s* = 1 says: no worse than a training for this would usually be. A base that
is at that level already passes without any layer, unless a layer surely takes away a tenth of the share or more: then something is left to
want, and the level of other work does not count. A gain that somebody states replaces the share.

Exemplars are never from a block's training pairs: what overlaps is taken out for that block, and where less than eight are left it is not
measured. The base is measured beside the layers, piece by piece, and once more at the end: an engine that changed meanwhile is an error.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clonedna.core.block import Evaluation
from clonedna.core.errors import DnaError, InputError, TooLarge, Unavailable
from clonedna.core.genome import Similarity
from clonedna.core.model import Layer, Score
from clonedna.core.seams import Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.leakage import Overlaps
from clonedna.evals.likelihood import example_of, file_of

LEAST, MOST = 8, 32
MOST_BYTES = 40_000
MOST_LAYERS_PROBED = 16
PIECE = 8
RESAMPLES = 2000
LEVEL = 0.9
LEAST_SPECIALISTS = 2
LEAST_WANTED = 0.1
SAME = 1e-3
Floats = NDArray[np.float64]


class Specialist(Value):
    """What a block gained on its own held-out code: nats a token of the base and through the block (``nll.base``, ``nll.adapter``)."""

    base: float = Field(gt=0, allow_inf_nan=False)
    adapter: float = Field(gt=0, allow_inf_nan=False)


class Bar(Value):
    """What a pass is. ``gain``: the share of the base's loss that is to go; ``level``: nats a token at which nothing more is wanted.

    ``None``: not known. ``n``: specialists that it is of; ``how`` says whose.
    """

    gain: float | None = Field(default=None, gt=0, lt=1)
    level: float | None = Field(default=None, gt=0)
    n: int = 0
    how: str

    def pass_at(self, base: float) -> float:
        """Nats a token at which exemplars pass on which the base has ``base``. Raises ``ValueError`` when the bar is not known."""
        if self.gain is None:
            raise ValueError(self.how)
        return max(base * (1 - self.gain), self.level or 0.0)


@dataclass(frozen=True, slots=True)
class Probed:
    """A block to probe: its id, its files, and what it was trained on."""

    id: str
    directory: Path
    trained: Sequence[Pair] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """What came out. ``base_passes``: exemplars on which nothing is left to want (``None``: not measured). ``base``: its nats a token."""

    base_passes: bool | None
    base: float | None
    similarities: Mapping[str, Similarity] = field(default_factory=dict)
    exemplars: int = 0


def specialist_of(evaluation: Evaluation) -> Specialist | None:
    """From a block's ``eval.json``; ``None`` where it was not measured."""
    base, adapter = (evaluation.measures.get(name) for name in ("nll.base", "nll.adapter"))
    if base is None or adapter is None or base.value is None or adapter.value is None:
        return None
    if not (0 < base.value < 100 and 0 < adapter.value < 100):
        return None
    return Specialist(base=base.value, adapter=adapter.value)


def bar_of(
    specialists: Sequence[Specialist], *, stated: float | None = None, whose: str = "accepted blocks of this base"
) -> Bar:
    """The lower quartile of the specialists' gains, and the lower quartile of the losses that they end at.

    ``stated``: a share of the base's loss that somebody asks for instead. Two specialists at least: one would set its own mark.
    Those without a gain are no specialists and do not count. Quartiles of many cannot be moved far by a few that state what they like.
    """
    if stated is not None and not 0 < stated < 1:
        raise InputError("a wanted gain is a share of the base's loss, between 0 and 1", "give e.g. 0.05")
    real = [one for one in specialists if one.adapter < one.base]
    if stated is not None:
        return Bar(
            gain=stated,
            level=_lower_quartile([one.adapter for one in real]),
            n=len(real),
            how=f"a stated gain of {stated:g}",
        )
    if len(real) < LEAST_SPECIALISTS:
        return Bar(
            n=len(real), how=f"{len(real)} {whose} have a measured gain, and {LEAST_SPECIALISTS} are needed to say what a pass is"
        )  # fmt: skip
    return Bar(
        gain=_lower_quartile([1 - one.adapter / one.base for one in real]), level=_lower_quartile([one.adapter for one in real]),
        n=len(real), how=f"what three in four of {len(real)} {whose} gain on their own held-out code",
    )  # fmt: skip


def _lower_quartile(values: Sequence[float]) -> float | None:
    return statistics.quantiles(values, n=4, method="inclusive")[0] if len(values) >= LEAST_SPECIALISTS else None


def similarity_of(
    base: Sequence[Score], tuned: Sequence[Score], bar: Bar, *, seed: int = 0, clusters: Sequence[str] | None = None
) -> Similarity:
    """s* of a layer from both sides' scores of the same exemplars, with a 90 % percentile bootstrap (Efron 1979) over exemplars.

    ``clusters``: the file of each exemplar; where there are five or more, whole files are drawn as well and the wider interval is given.
    """
    if bar.gain is None:
        return Similarity(
            value=None, status="not_available", n=len(base), how=f"what a pass is, is not known: {bar.how}"
        )
    rows = _rows(base, tuned)
    value = float(_share(rows.sum(axis=0)[None], bar)[0])
    low, high = _interval(rows, bar, seed)
    groups = sorted(set(clusters)) if clusters is not None else []
    if clusters is not None and len(groups) >= 5:
        whole = np.stack([rows[[one == name for one in clusters]].sum(axis=0) for name in groups])
        low, high = max((low, high), _interval(whole, bar, seed), key=lambda ends: ends[1] - ends[0])
    return Similarity(
        value=value, low=min(low, value), high=max(high, value), status="measured", n=len(base),
        how=f"share of the wanted improvement on {len(base)} exemplars, 90 % bootstrap; a pass is {bar.how}",
    )  # fmt: skip


def base_passes(base: Sequence[Score], bar: Bar, *, seed: int = 0) -> bool:
    """Whether these exemplars leave nothing to want: in 19 of 20 resamples, less than a tenth of the wanted gain is above the level."""
    if bar.gain is None or bar.level is None:
        return False
    rows = _rows(base, base)
    drawn = rows[_draws(len(rows), seed)].sum(axis=1)
    losses = drawn[:, 0] / drawn[:, 2]
    return bool(np.mean(losses - bar.level < LEAST_WANTED * bar.gain * losses) >= 0.95)


def bar_here(
    bar: Bar, base: Sequence[Score], through: Sequence[tuple[Sequence[Score], Sequence[Score], Sequence[str]]], *, seed: int = 0
) -> tuple[Bar, bool | None]:  # fmt: skip
    """The bar as it counts on these exemplars, and whether the base passes (``None``: not known).

    ``through``: of each layer the base's scores, its own, and the files. Where one surely takes away a tenth of the wanted share, a base
    that is at the level of other work does not pass, and that level does not count.
    """
    if bar.gain is None or not base_passes(base, bar, seed=seed):
        return bar, None if bar.gain is None else False
    whole = bar.model_copy(update={"level": None})
    sure = (similarity_of(one, two, whole, seed=seed, clusters=files).low or 0.0 for one, two, files in through)
    return (whole, False) if max(sure, default=0.0) >= LEAST_WANTED else (bar, True)


def _rows(base: Sequence[Score], tuned: Sequence[Score]) -> Floats:
    """Nats of the base, nats through the layer, tokens. Raises ``InputError`` for what are no scores of the same exemplars."""
    if (
        not base
        or len(base) != len(tuned)
        or any(b.tokens != t.tokens or b.tokens < 1 for b, t in zip(base, tuned, strict=True))
    ):
        raise InputError(
            "both sides need scores of the same exemplars, of a token at least", "give exemplars with an answer"
        )
    return np.asarray([(b.nll, t.nll, b.tokens) for b, t in zip(base, tuned, strict=True)], dtype=np.float64)


def _share(sums: Floats, bar: Bar) -> Floats:
    """s* of each row of sums. Where less than a tenth of the wanted gain is above the level, that tenth is what is wanted."""
    base, tuned = sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2]
    gain = (bar.gain or 0.0) * base
    wanted = np.clip(base - (bar.level or 0.0), LEAST_WANTED * gain, gain)
    return np.clip((base - tuned) / wanted, 0, 1)


def _draws(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _interval(rows: Floats, bar: Bar, seed: int) -> tuple[float, float]:
    found = _share(rows[_draws(len(rows), seed)].sum(axis=1), bar)
    low, high = np.percentile(found, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


async def probe(
    engine: Engine, blocks: Sequence[Probed], exemplars: Sequence[Pair], bar: Bar, *, overlaps: Overlaps | None, seed: int = 0,
) -> Probe:  # fmt: skip
    """Measure up to 16 blocks on 8 to 32 exemplars, each beside the base. What was not loaded before is unloaded again.

    A block that cannot be loaded, or whose training pairs leave too few exemplars, is ``not_available`` with the reason; the others are not
    affected. Raises ``InputError`` (too few or too many, or nothing that compares pairs was lent), ``TooLarge``, ``Unavailable``
    (the engine changed its answers).
    """
    check_exemplars(exemplars)
    if len(blocks) > MOST_LAYERS_PROBED:
        raise InputError(f"{len(blocks)} blocks are too many to probe", f"give at most {MOST_LAYERS_PROBED}")
    if overlaps is None and any(one.trained for one in blocks):
        raise InputError("nothing that compares exemplars with training pairs was lent", "please report this")
    usable = {one.id: _usable(one, exemplars, overlaps) for one in blocks}
    before = {one.id for one in engine.status.adapters}
    adapters, failed = dict[str, str](), dict[str, str]()
    try:
        for one in blocks:
            if len(usable[one.id]) < LEAST:
                continue
            try:
                adapters[one.id] = (await engine.load(one.directory, owner="probe")).id
            except DnaError as error:
                failed[one.id] = f"it could not be loaded: {error.message}"
        base, through = await _scores(engine, exemplars, adapters)
    finally:
        with anyio.CancelScope(shield=True):
            for adapter in set(adapters.values()) - before:
                await engine.unload(adapter)
    sides = {
        name: ([base[i] for i in usable[name]], [scores[i] for i in usable[name]]) for name, scores in through.items()
    }
    files = {name: [file_of(exemplars[i]) for i in usable[name]] for name in through}
    bar, passes = bar_here(bar, base, [(*sides[name], files[name]) for name in sides], seed=seed)
    found: dict[str, Similarity] = {}
    for one in blocks:
        kept = usable[one.id]
        if one.id in sides:
            found[one.id] = similarity_of(*sides[one.id], bar, seed=seed, clusters=files[one.id])
            continue
        why = (
            failed.get(one.id)
            or f"{len(exemplars) - len(kept)} of {len(exemplars)} exemplars are in its training pairs"
        )
        found[one.id] = Similarity(value=None, status="not_available", n=len(kept), how=why[:500])
    loss = sum(one.nll for one in base) / sum(one.tokens for one in base)
    return Probe(base_passes=passes, base=loss, similarities=found, exemplars=len(exemplars))


async def _scores(
    engine: Engine, exemplars: Sequence[Pair], adapters: Mapping[str, str]
) -> tuple[list[Score], dict[str, list[Score]]]:
    """Of the base and of each adapter, piece by piece by turns; the seam gives one set of layers a pass, so each has its own."""
    examples = [example_of(pair) for pair in exemplars]
    base: list[Score] = []
    through: dict[str, list[Score]] = {name: [] for name in adapters}
    for start in range(0, len(examples), PIECE):
        some = examples[start : start + PIECE]
        base += await engine.nll(some)
        for name, adapter in adapters.items():
            through[name] += await engine.nll(some, [Layer(adapter=adapter)])
    again = await engine.nll(examples[:PIECE])
    if any(abs(a.nll - b.nll) > SAME * max(1.0, b.nll) for a, b in zip(again, base, strict=False)):
        raise Unavailable(
            "the base's answers changed while layers were measured", "try again; if it stays, restart the engine"
        )
    return base, through


def check_exemplars(exemplars: Sequence[Pair]) -> None:
    """Raises ``InputError`` for too few, too many, or the same answer twice, ``TooLarge`` for one that is too long."""
    if not LEAST <= len(exemplars) <= MOST:
        raise InputError(f"{len(exemplars)} exemplars were given", f"give from {LEAST} to {MOST}", param="exemplars")
    seen: set[str] = set()
    for number, pair in enumerate(exemplars, 1):
        if (fault := _fault(pair, seen, f"exemplar {number}")) is not None:
            raise fault


def _fault(pair: Pair, seen: set[str], name: str) -> DnaError | None:
    """What is wrong with one exemplar; its answer is remembered in ``seen``."""
    if len(pair.completion.encode("utf-8", "replace")) + len(pair.instruction.encode("utf-8", "replace")) > MOST_BYTES:
        return TooLarge(f"{name} has more than {MOST_BYTES} bytes", "give a shorter one")
    answer = " ".join(pair.completion.split())
    if not answer:
        return InputError(f"{name} has an empty answer", "give its answer, or leave it out", param="exemplars")
    if answer in seen:
        return InputError(
            f"{name} has the answer of one before it", "give different ones: each counts once", param="exemplars"
        )
    seen.add(answer)
    return None


def _usable(block: Probed, exemplars: Sequence[Pair], overlaps: Overlaps | None) -> list[int]:
    """Places of the exemplars that this block was not trained on."""
    if not block.trained or overlaps is None:
        return list(range(len(exemplars)))
    return [i for i, kind in enumerate(overlaps(exemplars, block.trained)) if not kind]
