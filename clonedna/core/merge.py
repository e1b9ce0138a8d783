"""What is said about a merge: how adapters become one, what came of it, and the record of it that a merged block carries.

Methods have PEFT's names (``combination_type``) and PEFT's meaning, but for ``knots_ties`` and ``regmean``, which PEFT has not. The target
of every merge is ``T = sum_i w_i s_i B_i A_i`` in each module, with ``s_i`` the adapter's own scale; how far the result is from it is
measured, whatever the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.core.value import Value

MergeMethod = Literal[
    "cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd", "knots_ties", "regmean",
]  # fmt: skip
MAX_WEIGHT = 100.0
MAX_PARENTS = 32


class MergeSpec(Value):
    """How adapters are merged. What a method does not use must be left out (``None``).

    ``rank`` of the result: ``svd`` and ``*_svd`` (default: the adapters' largest), ``knots_ties`` and ``regmean`` (their sum, at most 128).
    ``density``: the share of entries that is kept, ``majority``: which sign wins (by sum or by count), ``seed``: which entries ``dare_*``
    drops, ``ridge``: of ``regmean``, in units of the covariances' mean diagonal; defaults 0.5, ``total``, 0, 0.01.
    """

    method: MergeMethod
    rank: int | None = Field(default=None, ge=1)
    density: float | None = Field(default=None, gt=0, le=1)
    majority: Literal["total", "frequency"] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    ridge: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)


class Weighted(Value):
    """A block by its reference, and its weight in a merge."""

    reference: str
    weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)


class MergeOrder(Value):
    """A merge as it was asked for. ``on``: where the base is, if not under the name that the blocks give; ``check``: load the result."""

    kind: Literal["merge"] = "merge"
    parts: tuple[Weighted, ...] = Field(min_length=1, max_length=MAX_PARENTS)
    name: str
    spec: MergeSpec
    on: str | None = None
    check: bool = True


@dataclass(frozen=True, slots=True)
class MergePart:
    """One adapter of a merge: the directory with its files, and its weight. ``covariance``: the folder of what its modules read."""

    directory: Path
    weight: float
    covariance: Path | None = None


class ModuleError(Value):
    """How far one module of the result is from its target: ``|M - T| / |T|`` (Frobenius); ``None`` where the target is zero."""

    module: str
    relative_error: float | None


class MergeReport(Value):
    """What a merge wrote. ``spec`` has every default filled in; ``modules`` are in the base's order of names; ``seconds`` of wall time.

    ``relative_error``: distance from the weighted sum, whose norm (Frobenius, over all modules) is ``sum_norm``, where ``norm`` is that of
    what was written. ``formula_error``: distance from what the method itself says, of ``cat``, ``svd``,
    ``knots_ties`` and ``regmean``: what cutting to the rank and rounding to fp32 took away; ``None`` for the others.
    """

    spec: MergeSpec
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    relative_error: float
    formula_error: float | None = None
    norm: float = 0.0
    sum_norm: float = 0.0
    modules: tuple[ModuleError, ...]
    seconds: float


class MergeParent(Value):
    """A block that went into a merge, and with which weight. ``consent_mode`` and ``license`` as they were then."""

    name: str
    version: str
    id: str
    weight: float
    consent_mode: Literal["self", "granted", "local-only"]
    license: str


class MergeRecord(Value):
    """What a merged block says about its making: same parents, weights and spec -> the same weights."""

    parents: tuple[MergeParent, ...]
    spec: MergeSpec
    relative_error: float
