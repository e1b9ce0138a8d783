"""How alike two adapters of one base are as what they add to it: ``D = s B A`` in each module, with ``s`` the adapter's own scale.

Everything is computed from the factors in fp64; no ``D`` is formed. With ``D' = s' B' A'``:

    <D, D'> = s s' tr((B^T B')(A' A^T))                      two matrices of r x r'
    |D - D'| = |R_P R_Q^T|, P = [s B, -s' B'], Q = [A^T, A'^T], R from their thin QR: no cancellation where the two are nearly equal
    angles between column spaces (and row spaces): principal angles of orthonormal bases Qx, Qy (Bjorck and Golub 1973): their cosines are
        the singular values of Qx^T Qy, their sines those of (I - Qx Qx^T) Qy; an angle is taken from both, so small ones are exact too

The spaces are those of ``D`` itself: spanned by B where A has full row rank, and by A^T where B has full column rank. An update that is
zero has no direction: no cosine and no angle is made up for it. Shapes are never compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clonedna.core.comparison import Angles, GroupSimilarity, ModuleSimilarity, WeightSimilarity, Which
from clonedna.core.errors import AdapterInvalid
from clonedna.engine.adapters import Adapter, read_adapter
from clonedna.engine.merging import in_order, own_shapes

# Factors are stored in fp32 at best: directions weaker than this share of the strongest are its rounding.
DIRECTION = 2.0**-23
# A difference below this share of the norms is the rounding of its fp64; fp32 factors that differ at all are far above it.
NOTHING = 1e-12
COSINE_PLACES, ANGLE_PLACES, NORM_DIGITS = 9, 6, ".9g"
_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Update:
    """``scale * b @ a`` of one module, in fp64: ``a`` ``[r, in]``, ``b`` ``[out, r]``. Rank 0 is the zero update."""

    scale: float
    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True)
class Spaces:
    """Orthonormal columns that span an update's column space ``[out, k]`` and row space ``[in, k]``; its Frobenius norm. k = 0: zero."""

    columns: Tensor
    rows: Tensor
    norm: float


@dataclass(frozen=True, slots=True)
class _Between:
    """Angles of two spaces of ``dimensions`` in one of ``whole``."""

    angles: Tensor
    dimensions: tuple[int, int]
    whole: int


@dataclass(frozen=True, slots=True)
class _Found:
    """One module, before rounding; angles in radians, empty where they are not defined."""

    module: str
    only: Which | None
    inner: float
    norms: tuple[float, float]
    difference: float
    columns: _Between
    rows: _Between


def compare_adapters(
    a: Path, b: Path, *, fingerprint: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> WeightSimilarity:
    """Compare the PEFT files in two directories, both for the base with this fingerprint. ``progress`` hears modules done and in all.

    Ranks, scales and modules may differ; a module that only one has counts as zero for the other. Raises ``AdapterInvalid`` (also for
    modules of other shapes: not one base), ``WrongBase``, ``NoMemory``.
    """
    first, second = (read_adapter(path, own_shapes(path), fingerprint) for path in (a, b))
    names = in_order({*first.matrices, *second.matrices})
    found: list[_Found] = []
    for done, name in enumerate(names, 1):
        found.append(_module(name, first, second))
        progress(done, len(names))
    whole = _group("whole", found)
    zero = [which for which, norm in (("first", whole.norm_a), ("second", whole.norm_b)) if norm == 0]
    return WeightSimilarity(
        whole=whole, groups=tuple(_group(name, part) for name, part in _parts(found)),
        modules=tuple(_rounded(one) for one in found),
        only_a=tuple(one.module for one in found if one.only == "a"),
        only_b=tuple(one.module for one in found if one.only == "b"),
        undefined=f"the {' and the '.join(zero)} adapter changes nothing: zero has no direction" if zero else "",
    )  # fmt: skip


def inner(x: Update, y: Update) -> float:
    """``<x, y>`` of the formed products (the trace of ``x^T y``), from matrices of r x r'."""
    return x.scale * y.scale * float(((x.b.T @ y.b) * (x.a @ y.a.T)).sum())


def difference(x: Update, y: Update) -> float:
    """Frobenius norm of ``x - y`` without forming either."""
    r_p = torch.linalg.qr(torch.cat([x.scale * x.b, -y.scale * y.b], 1), mode="r").R
    r_q = torch.linalg.qr(torch.cat([x.a, y.a]).T, mode="r").R
    return float((r_p @ r_q.T).norm())


def spaces(x: Update) -> Spaces:
    """What ``x`` writes and reads: from the SVD of ``R_B R_A^T``, which is no larger than r x r."""
    q_b, r_b = torch.linalg.qr(x.b)
    q_a, r_a = torch.linalg.qr(x.a.T)
    u, s, vh = torch.linalg.svd(x.scale * (r_b @ r_a.T), full_matrices=False)
    kept = s > DIRECTION * s.max() if len(s) else s > 0
    return Spaces(q_b @ u[:, kept], q_a @ vh[kept].T, float(s.norm()))


def principal_angles(x: Tensor, y: Tensor) -> Tensor:
    """The min(p, q) principal angles between the spans of orthonormal columns ``x`` ``[d, p]`` and ``y`` ``[d, q]``: radians, ascending."""
    if x.shape[1] < y.shape[1]:
        x, y = y, x
    overlap = x.T @ y
    cosines = torch.linalg.svdvals(overlap).clamp(max=1)
    sines = torch.linalg.svdvals(y - x @ overlap).clamp(max=1).flip(0)
    return torch.atan2(sines, cosines)


def _module(name: str, first: Adapter, second: Adapter) -> _Found:
    factors = first.matrices.get(name), second.matrices.get(name)
    shapes = {(f[0].shape[1], f[1].shape[0]) for f in factors if f is not None}
    if len(shapes) > 1:
        raise AdapterInvalid(
            f"{name} has other shapes in the two adapters: {sorted(shapes)}", "compare adapters of one base"
        )
    ((inside, outside),) = shapes
    x, y = (
        _zero(inside, outside) if f is None else Update(adapter.scale, f[0].double(), f[1].double())
        for adapter, f in zip((first, second), factors, strict=True)
    )
    mine, theirs = spaces(x), spaces(y)
    only: Which | None = "b" if factors[0] is None else "a" if factors[1] is None else None
    return _Found(
        name, only, inner(x, y), (mine.norm, theirs.norm), difference(x, y),
        _between(mine.columns, theirs.columns), _between(mine.rows, theirs.rows),
    )  # fmt: skip


def _zero(inside: int, outside: int) -> Update:
    return Update(0.0, torch.zeros(0, inside, dtype=torch.float64), torch.zeros(outside, 0, dtype=torch.float64))


def _between(x: Tensor, y: Tensor) -> _Between:
    dimensions = x.shape[1], y.shape[1]
    angles = principal_angles(x, y) if min(dimensions) else torch.zeros(0, dtype=torch.float64)
    return _Between(angles, dimensions, x.shape[0])


def _parts(found: Sequence[_Found]) -> Iterable[tuple[str, list[_Found]]]:
    """Attention and MLP, and the thirds of the base's depth where there are three layers or more."""
    for part in ("attention", "mlp"):
        if chosen := [one for one in found if part_of(one.module) == part]:
            yield part, chosen
    depths = sorted({depth for one in found if (depth := depth_of(one.module)) is not None})
    if len(depths) < 3:
        return
    cuts = [depths[round(len(depths) * i / 3)] for i in range(3)] + [depths[-1] + 1]
    for name, low, high in zip(("first third", "middle third", "last third"), cuts[:-1], cuts[1:], strict=True):
        yield name, [one for one in found if (at := depth_of(one.module)) is not None and low <= at < high]


def part_of(module: str) -> Literal["attention", "mlp"]:
    """By the matrix's own name: q, k, v and o are attention's."""
    return "attention" if module.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"


def depth_of(module: str) -> int | None:
    """The layer's number in a module's name."""
    match = _NUMBER.search(module)
    return int(match[1]) if match else None


def _rounded(one: _Found) -> ModuleSimilarity:
    whole = _group(one.module, [one])
    return ModuleSimilarity(
        module=one.module, part=part_of(one.module), depth=depth_of(one.module), only=one.only, norm_a=whole.norm_a,
        norm_b=whole.norm_b, difference=whole.difference, cosine=whole.cosine, columns=whole.columns, rows=whole.rows,
    )  # fmt: skip


def _group(name: str, found: Sequence[_Found]) -> GroupSimilarity:
    """All of these modules as one vector: norms add up as squares, inner products plainly."""
    norm_a, norm_b = (math.hypot(*(one.norms[i] for one in found)) for i in (0, 1))
    cosine = sum(one.inner for one in found) / norm_a / norm_b if norm_a and norm_b else None
    apart = math.hypot(*(one.difference for one in found))
    return GroupSimilarity(
        name=name, modules=len(found), norm_a=_digits(norm_a), norm_b=_digits(norm_b),
        difference=_digits(apart) if apart > NOTHING * max(norm_a, norm_b) else 0.0,
        cosine=None if cosine is None else round(max(-1.0, min(1.0, cosine)), COSINE_PLACES),
        columns=_angles([one.columns for one in found]), rows=_angles([one.rows for one in found]),
    )  # fmt: skip


def _angles(between: Sequence[_Between]) -> Angles | None:
    """Of all angles together; what chance gives is weighted as they are."""
    defined = [one for one in between if len(one.angles)]
    if not defined:
        return None
    angles = torch.cat([one.angles for one in defined])
    chance = sum(len(one.angles) * max(one.dimensions) / one.whole for one in defined) / len(angles)
    return Angles(
        n=len(angles), mean=_degrees(angles.mean()), largest=_degrees(angles.max()),
        overlap=round(float(angles.cos().square().mean()), COSINE_PLACES), by_chance=round(chance, COSINE_PLACES),
    )  # fmt: skip


def _degrees(angle: Tensor) -> float:
    return round(math.degrees(float(angle)), ANGLE_PLACES)


def _digits(value: float) -> float:
    return float(format(value, NORM_DIGITS))
