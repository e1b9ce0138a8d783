"""Retention: the share of what a layer gains alone on its own held-out pairs that a composition still gains there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clonedna.core.block import Measure, not_available
from clonedna.core.model import Score
from clonedna.evals.bootstrap import MIN_CLUSTERS, paired_gain

HOW = "(nll.base - nll.composed) / (nll.base - nll.alone) on the member's own held-out pairs"


def gain(base: Sequence[Score], through: Sequence[Score], files: Sequence[str], *, seed: int = 0) -> Measure:
    """``sum(base - through) / sum(tokens)``, nats a token, with its 95 % interval over pairs and over ``files`` (each pair's).

    ``not_available`` for no pairs.
    """
    if not base:
        return not_available("no held-out pairs are left")
    value, interval = paired_gain(
        [one.nll for one in base], [one.nll for one in through], [one.tokens for one in base], seed=seed, clusters=files
    )  # fmt: skip
    how = f"nll.base - nll.through, nats a token; {_over(files)}"
    return Measure(value=value, status="measured", n=len(base), split="holdout", how=how, ci95=interval)


def retention(
    base: Sequence[Score], alone: Sequence[Score], composed: Sequence[Score], files: Sequence[str], *, seed: int = 0
) -> Measure:
    """Of three measurements of the same pairs: a ratio of sums, both resampled together (1 = all of its gain is kept, 0 = none).

    ``not_available`` where the layer alone does not gain with certainty (its interval holds zero): there is nothing to keep a share of.
    """
    own = gain(base, alone, files, seed=seed)
    if own.value is None or own.ci95 is None:
        return own
    if own.ci95[0] <= 0:
        return not_available(
            f"alone it gains nothing that is certain: {own.value:+.4f} [{own.ci95[0]:+.4f}, {own.ci95[1]:+.4f}] nats a token"
        )
    gains = [before.nll - after.nll for before, after in zip(base, alone, strict=True)]
    value, interval = paired_gain(
        [one.nll for one in base], [one.nll for one in composed], gains, seed=seed, clusters=files
    )
    return Measure(
        value=value, status="measured", n=len(base), split="holdout", how=f"{HOW}; {_over(files)}", ci95=interval
    )


def together(retentions: Sequence[Measure]) -> tuple[Measure, Measure]:
    """Mean and worst over the members whose retention is known. ``not_available`` where none is."""
    known = [one.value for one in retentions if one.value is not None]
    if not known:
        none = not_available("no member's retention is known")
        return none, none
    of = f"over {len(known)} of {len(retentions)} members"
    mean = Measure(value=math.fsum(known) / len(known), status="measured", n=len(known), how=f"mean retention {of}")
    return mean, Measure(value=min(known), status="measured", n=len(known), how=f"lowest retention {of}")


def _over(files: Sequence[str]) -> str:
    count = len(set(files))
    return (
        f"95 % paired bootstrap over pairs{f' and over {count} files, the wider one' if count >= MIN_CLUSTERS else ''}"
    )
