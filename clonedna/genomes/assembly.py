"""From chosen layers to a manifest: weights, module map, what of the request is covered. Arithmetic on values; no file, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import Manifest, Measure, not_available
from clonedna.core.errors import InputError
from clonedna.core.genome import Composition, Gate, GenomeLayer, Similarity, SkillPlan
from clonedna.core.vectors import Vectors
from clonedna.genomes.exemplars import centroids
from clonedna.genomes.routing import routed

PLACES = 9
"""Digits of what was computed in floating point that stand in a manifest."""
A_GROUP = 16
"""Prompts that one centroid of a gate stands for."""


def layers_of(members: Sequence[tuple[Manifest, Sequence[str]]], composition: Composition) -> tuple[GenomeLayer, ...]:
    """The layers, in the order of the members, each with the skills that it is there for.

    Weights: 1 where one layer answers, or answers a request; 1 / K where K are laid together (their average, exactly).
    """
    weight = 1.0 / len(members) if composition.kind != "route" and len(members) > 1 else 1.0
    return tuple(
        GenomeLayer(
            id=m.id, name=m.name, version=m.version, weight=weight, skills=tuple(skills), license=m.license,
            consent_mode=m.consent_mode, rank=m.rank, alpha=m.alpha, target_modules=m.target_modules,
        )
        for m, skills in members
    )  # fmt: skip


def module_map(layers: Sequence[GenomeLayer]) -> dict[str, tuple[str, ...]]:
    """For each module that any layer changes, the ids of those that do, in their order."""
    names = sorted({module for layer in layers for module in layer.target_modules})
    return {name: tuple(layer.id for layer in layers if name in layer.target_modules) for name in names}


def centroid(rows: NDArray[np.float32]) -> tuple[float, ...]:
    """The mean of rows of length 1, itself of length 1 (all zeros where they cancel out)."""
    mean = rows.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return tuple(round(float(one), PLACES) for one in (mean / length if length > 1e-12 else mean * 0))


def rounded(measure: Measure) -> Measure:
    """The same with ``PLACES`` digits: what machines agree on."""
    if measure.value is None:
        return measure
    ci = measure.ci95 and (round(measure.ci95[0], PLACES), round(measure.ci95[1], PLACES))
    return measure.model_copy(update={"value": round(measure.value, PLACES), "ci95": ci})


def shared(similarity: Similarity) -> Similarity:
    """The same with ``PLACES`` digits."""
    ends = {
        name: round(one, PLACES) for name in ("value", "low", "high") if (one := getattr(similarity, name)) is not None
    }
    return similarity.model_copy(update=ends)


def uncovered(skills: Sequence[SkillPlan], covered: Mapping[str, str]) -> tuple[str, ...]:
    """Texts of the skills that neither a layer brings nor the base."""
    return tuple(one.skill.text for one in skills if one.route != "base-suffices" and one.skill.text not in covered)


def no_latency() -> Measure:
    """Why a manifest has none."""
    return not_available("wall time differs from run to run: it is in the result of the job that made this genome")


def gate_of(
    encoder: str,
    trained: Sequence[NDArray[np.float32]],
    held: Sequence[NDArray[np.float32]],
    general: NDArray[np.float32],
    *,
    hysteresis: float = 0.05,
) -> Gate:
    """What sends a request to a layer. ``trained``, ``held``: rows of each layer's prompts, that it learnt from and that it did not;
    ``general``: of prompts that are about none of them.

    Below the floor the base answers. It stops 95 of 100 general prompts, and lets 95 of 100 held-out ones pass where these two differ: a
    layer's own prompts are worded like what it was trained on, and a floor from them alone would stop whoever asks in other words.
    0 where nothing is held out. Raises ``InputError`` where no prompt has a vector.
    """
    middles = tuple(
        tuple(tuple(round(float(one), 6) for one in row) for row in centroids(rows, a_group=A_GROUP)) for rows in trained
    )  # fmt: skip
    if not any(middles):
        raise InputError("none of these layers' prompts has a vector", "compose them another way: --compose stack")
    every = np.concatenate([np.array(one, dtype=np.float64) for one in middles if one])
    own, other = np.concatenate(held).astype(np.float64), general.astype(np.float64)
    floor = 0.0
    if len(own):
        floor = float(np.percentile((own @ every.T).max(axis=1), 5))
        if len(other):
            floor = min(floor, float(np.percentile((other @ every.T).max(axis=1), 95)))
        floor = round(max(0.0, floor), 6)
    return Gate(encoder=encoder, dimension=trained[0].shape[1], centroids=middles, floor=floor, hysteresis=hysteresis)


def gated(gate: Gate, asked: Vectors) -> tuple[int | None, ...]:
    """For each row, asked by itself, the layer that answers it (``None``: the base). Raises as ``routed``."""
    return tuple(routed(gate, Vectors(asked.encoder, row[None])).layer for row in asked.rows)
