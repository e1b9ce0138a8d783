"""How far an adapter moves each module of its base: the size of what it adds, and that size beside the module's own weights.

    |s B A|_F^2 = s^2 tr((B^T B)(A A^T))

from the factors, in fp64: the product ``[out, in]`` is never formed. ``s`` is alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import torch
from torch import Tensor, nn

from clonedna.core.block import DriftReport, ModuleDrift
from clonedna.core.seams import Engine
from clonedna.engine.adapters import read_adapter
from clonedna.engine.merging import own_shapes

if TYPE_CHECKING:
    from clonedna.engine.local import LocalEngine

DIGITS = ".6g"  # what two machines agree on


async def layer_drift(engine: Engine, directory: Path) -> DriftReport:
    """Of the PEFT files in ``directory``, for the base that ``engine`` holds. Raises what reading an adapter raises.

    The relative size is ``None`` where the engine does not hold the base's weights in the open (a server, a quantised base).
    """
    return await anyio.to_thread.run_sync(_report, engine, directory)


def _report(engine: Engine, directory: Path) -> DriftReport:
    adapter = read_adapter(directory, own_shapes(directory), engine.base.fingerprint)
    weights = base_norms(engine)
    modules: list[ModuleDrift] = []
    squares = 0.0
    for name, (a, b) in sorted(adapter.matrices.items()):
        norm = adapter.scale * product_norm(a, b)
        squares += norm**2
        whole = weights.get(name)
        modules.append(ModuleDrift(module=name, norm=_digits(norm), relative=_digits(norm / whole) if whole else None))
    known = [weights[module.module] for module in modules if module.module in weights]
    total = math.sqrt(squares)
    whole = math.sqrt(sum(one**2 for one in known)) if len(known) == len(modules) else 0.0
    return DriftReport(modules=tuple(modules), norm=_digits(total), relative=_digits(total / whole) if whole else None)


def product_norm(a: Tensor, b: Tensor) -> float:
    """Frobenius norm of ``b @ a``, with ``a`` ``[r, in]`` and ``b`` ``[out, r]``."""
    first, second = a.double(), b.double()
    return math.sqrt(max(0.0, float(((first @ first.T) * (second.T @ second)).sum())))


def base_norms(engine: Engine | LocalEngine) -> Mapping[str, float]:
    """Frobenius norms of the target modules that the engine holds as plain matrices, by name. The owner never writes them."""
    model = getattr(engine, "_model", None)
    if model is None:
        return {}
    norms: dict[str, float] = {}
    for name, linear in model.linears.items():
        weight = linear.base.weight if isinstance(linear.base, nn.Linear) else None
        if weight is not None and weight.is_floating_point() and weight.dim() == 2:
            norms[name] = float(torch.linalg.matrix_norm(weight.detach().double()).item())
    return norms


def _digits(value: float) -> float:
    return float(format(value, DIGITS))
