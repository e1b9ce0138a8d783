"""How far the adapter moves the base's modules, as measures: sizes of what it adds, never a likeness of shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from clonedna.core.block import DriftReport, Measure, not_available
from clonedna.core.seams import Engine

LayerDrift = Callable[[Engine, Path], Awaitable[DriftReport]]


def drift_measures(report: DriftReport | None) -> dict[str, Measure]:
    """``layer_drift``: |s B A|_F over |W|_F, both over all adapted modules; ``layer_drift.norm``: the first alone.

    ``how`` names the modules that moved most and least. A size says how much was changed, not whether for the better; it has no interval,
    since it is computed from the weights, not estimated from a sample.
    """
    names = ("layer_drift", "layer_drift.norm")
    if report is None:
        return dict.fromkeys(names, not_available("nothing that reads weights was lent"))
    n = len(report.modules)
    sized = sorted(report.modules, key=lambda one: (one.norm if one.relative is None else one.relative, one.module))
    told = "relative" if report.relative is not None else "absolute"
    ends = f"{told} size highest in {sized[-1].module}, lowest in {sized[0].module}"
    whole = Measure(value=report.norm, status="measured", n=n, how=f"|s B A|_F over all adapted modules; {ends}")
    if report.relative is None:
        return {
            "layer_drift": not_available("the engine does not hold the base's weights in the open"),
            "layer_drift.norm": whole,
        }
    how = f"|s B A|_F over |W|_F of all adapted modules, from the factors in fp64; {ends}"
    return {
        "layer_drift": Measure(value=report.relative, status="measured", n=n, how=how),
        "layer_drift.norm": whole,
    }
