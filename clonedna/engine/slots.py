"""The base's linear modules, wrapped: ``y = W x + sum_i w_i s_i B_i A_i x`` (Hu et al. 2021, eq. 3), the sum as the step says.

``W`` is never written, and no name of an adapter ever becomes a key of a module: a wrapped module knows its own name and nothing else.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from clonedna.core.model import ALL_LINEAR
from clonedna.engine.step import Linear, current


class Term(Protocol):
    """What one adapter, or one blend of several, adds to a linear module."""

    def added(self, linear: Linear, x: Tensor, out: Tensor) -> Tensor:
        """``out`` ``[rows, out]`` plus this term for ``x`` ``[rows, in]``, summed in fp32 and given in ``out``'s type."""
        ...


class SlotLinear(nn.Module):
    """A linear module (any whose forward maps ``[1, rows, in]`` to ``[1, rows, out]``) to which a step may add."""

    def __init__(self, name: str, base: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        step = current()
        return out if step is None else step.adapted(self, x.squeeze(0), out.squeeze(0)).unsqueeze(0)


def wrap(model: nn.Module) -> dict[str, SlotLinear]:
    """Put a ``SlotLinear`` around every target linear of ``model``; by full name, in the model's order."""
    wrapped: dict[str, SlotLinear] = {}
    for name, module in linear_targets(model).items():
        parent, _, child = name.rpartition(".")
        wrapped[name] = SlotLinear(name, module)
        setattr(model.get_submodule(parent), child, wrapped[name])
    return wrapped


def linear_targets(model: nn.Module) -> dict[str, nn.Module]:
    """The model's target linears by full name, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ALL_LINEAR and hasattr(module, "in_features")
    }


def shapes_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """``(in, out)`` of each target linear."""
    return {name: (int(m.in_features), int(m.out_features)) for name, m in linear_targets(model).items()}  # type: ignore[arg-type]
