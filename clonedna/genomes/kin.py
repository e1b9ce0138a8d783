"""Which layers are the same thing twice: duplicates, forks and merges, recognised from weight sketches and from what manifests say.

Sketches are linear in the update, so a merge is a weighted sum of its parents' sketches, found greedily (orthogonal matching pursuit: Pati,
Rezaiifar & Krishnaprasad 1993). Lineage is believed where it names kin, and never where it does not: a copy that tells nothing is seen by
its weights. Where kin stand side by side one of them counts: neither a duplicate nor a fork nor a merge of what is there adds coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clonedna.core.interference import Kinship, WeightSketch

# Measured (docs/genomes.md): copies 1.000, layers that went on training .88 and above, layers of unlike work .19 and below; merges are told
# by the sum, since with one parent alone they may have any cosine from .37 to .91.
DUPLICATE, FORK, MERGE = 0.995, 0.45, 0.97
LEAST_PART = 0.05  # of a merge's length: what a parent must bring to be one
MOST_PARENTS = 8


def kinships(
    sketches: Mapping[str, WeightSketch],
    ancestors: Mapping[str, Sequence[str]] | None = None,
    digests: Mapping[str, str] | None = None,
) -> tuple[Kinship, ...]:
    """Everything that is kin among the blocks of ``sketches``, by id.

    ``ancestors``: of each block the ids that its lineage names, near and far; ``digests``: of its weights' file. Of two that repeat each
    other the one with the greater id is said to be of the other; a fork is of its ancestor, or of the shorter-normed where nobody says.
    """
    known, named, files = sorted(sketches), ancestors or {}, digests or {}
    pairs = {
        (other, one): kin
        for place, one in enumerate(known)
        for other in known[:place]
        if (kin := _two(other, one, sketches, named, files)) is not None
    }
    merges: list[Kinship] = []
    for one in known:
        same = {name for two, kin in pairs.items() if one in two and kin.kind in ("same", "duplicate") for name in two}
        parents, explained = _sum_of(one, [other for other in known if other != one and other not in same], sketches)
        if len(parents) > 1:
            told = set(parents) <= set(named.get(one, ()))
            merges.append(
                Kinship(one=one, of=parents, kind="merge", cosine=explained, by="both" if told else "weights")
            )
    merged = {frozenset((kin.one, parent)) for kin in merges for parent in kin.of}
    return (*(kin for two, kin in pairs.items() if frozenset(two) not in merged), *merges)


def _two(
    first: str,
    second: str,
    sketches: Mapping[str, WeightSketch],
    named: Mapping[str, Sequence[str]],
    files: Mapping[str, str],
) -> Kinship | None:
    """How two blocks are kin, if they are; ``first`` is the smaller id."""
    near = _cosine(sketches[first], sketches[second])
    child, parent = (first, second) if second in named.get(first, ()) else (second, first)
    told = parent in named.get(child, ())
    if files.get(first) is not None and files.get(first) == files.get(second):
        return Kinship(one=second, of=(first,), kind="same", cosine=near, by="id")
    if near is not None and near >= DUPLICATE:
        return Kinship(one=child, of=(parent,), kind="duplicate", cosine=near, by="both" if told else "weights")
    if not told and near is not None and near >= FORK:
        parent, child = sorted((first, second), key=lambda name: (sketches[name].norm, name))
        return Kinship(one=child, of=(parent,), kind="fork", cosine=near, by="weights")
    if told:
        return Kinship(
            one=child,
            of=(parent,),
            kind="fork",
            cosine=near,
            by="both" if near is not None and near >= FORK else "lineage",
        )
    return None


def _cosine(one: WeightSketch, other: WeightSketch) -> float | None:
    if one.norm <= 0 or other.norm <= 0:
        return None
    return round(float(np.clip(one.row.astype(np.float64) @ other.row.astype(np.float64), -1, 1)), 6)


def _sum_of(
    one: str, others: Sequence[str], sketches: Mapping[str, WeightSketch]
) -> tuple[tuple[str, ...], float | None]:
    """The blocks whose weighted sum ``one`` is (none: it is not one), and the cosine with that sum."""
    if sketches[one].norm <= 0:
        return (), None
    wanted = sketches[one].row.astype(np.float64)
    rows: dict[str, NDArray[np.float64]] = {
        name: sketches[name].row.astype(np.float64) for name in others if sketches[name].norm > 0
    }
    picked: list[str] = []
    left = wanted
    while rows.keys() - set(picked) and len(picked) < MOST_PARENTS:
        name = max(rows.keys() - set(picked), key=lambda key: (round(abs(float(rows[key] @ left)), 9), key))
        if abs(float(rows[name] @ left)) < LEAST_PART:
            break
        picked.append(name)
        matrix = np.stack([rows[key] for key in picked], 1)
        weights = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        left = wanted - matrix @ weights
        explained = float(np.sqrt(max(0.0, 1 - left @ left)))
        if explained >= MERGE:
            parts = {
                key: float(weight) for key, weight in zip(picked, weights, strict=True) if abs(weight) >= LEAST_PART
            }
            # A parent is its merge less the other parents, too; only what adds up is a merge.
            return (tuple(sorted(parts)), round(explained, 6)) if min(parts.values()) > 0 else ((), None)
    return (), None


def kin_sets(found: Sequence[Kinship]) -> dict[str, frozenset[str]]:
    """Of each block that has kin: all ids that are. A merge's parents are no kin of each other."""
    sets: dict[str, set[str]] = {}
    for kin in found:
        for other in kin.of:
            sets.setdefault(kin.one, set()).add(other)
            sets.setdefault(other, set()).add(kin.one)
    return {name: frozenset(of) for name, of in sets.items()}


def independent(ranked: Sequence[str], found: Sequence[Kinship]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Of blocks in the order of their rank those that count, and for each other the one that it repeats."""
    sets = kin_sets(found)
    kept: list[str] = []
    repeated: dict[str, str] = {}
    for name in ranked:
        first = next((other for other in kept if other in sets.get(name, ())), None)
        if first is None:
            kept.append(name)
        else:
            repeated[name] = first
    return tuple(kept), repeated
