"""The base's linear modules, wrapped: ``y = W x + sum_i w_i s_i B_i A_i x`` (Hu et al. 2021, eq. 3), the sum as the step says.

``W`` is never written, and no name of an adapter ever becomes a key of a module: a wrapped module knows its own name and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clonedna.core.model import ALL_LINEAR
from clonedna.engine.step import Linear, current


class Factors(NamedTuple):
    """What is added is ``scale * (x A^T) B``: ``a`` ``[rank, in]``, ``b`` ``[rank, out]``, fp32."""

    a: Tensor
    b: Tensor
    scale: float


class Term(Protocol):
    """One adapter, or one blend of several laid side by side."""

    def factors(self, linear: Linear) -> Factors | None:
        """What it adds to this module; ``None``: nothing."""
        ...


Span = tuple[int, int, float]


def add(x: Tensor, out: Tensor, terms: Sequence[tuple[int, int, Factors]]) -> Tensor:
    """``out`` ``[rows, out]`` plus, on rows ``start:stop``, each term for ``x`` ``[rows, in]``; summed in fp32, in ``out``'s own memory.

    Differentiable in ``x``, ``out`` and all factors. ``out`` must be nothing that a backward pass still needs: a product's result is not.
    """
    spans = [(start, stop, factors.scale) for start, stop, factors in terms]
    return _Added.apply(x, out, spans, *(m for *_, factors in terms for m in (factors.a, factors.b)))  # type: ignore[no-any-return]


class _Added(torch.autograd.Function):
    """By hand, since autograd would make a new ``[rows, out]`` for every sum, and touching fresh memory is what a step waits for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, spans: Sequence[Span], *matrices: Tensor) -> Tensor:
        lows: list[Tensor] = []
        for (start, stop, scale), a, b in zip(spans, matrices[::2], matrices[1::2], strict=True):
            low = (x[start:stop].float() @ a.t()).mul_(scale)
            if out.dtype == torch.float32:
                out[start:stop].addmm_(low, b)
            else:
                out[start:stop].add_(low @ b)  # an fp32 sum, rounded once
            lows.append(low)
        ctx.mark_dirty(out)
        ctx.spans = spans
        ctx.save_for_backward(x, *lows, *matrices)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        x, *kept = ctx.saved_tensors
        count = len(ctx.spans)
        lows, matrices = kept[:count], kept[count:]
        grad_x = torch.zeros_like(x, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        for (start, stop, scale), low, a, b in zip(ctx.spans, lows, matrices[::2], matrices[1::2], strict=True):
            above = grad[start:stop].float()
            grad_low = (above @ b.t()).mul_(scale)
            grads += [grad_low.t() @ x[start:stop].float(), low.t() @ above]
            if grad_x is not None:
                grad_x[start:stop].addmm_(grad_low, a)
        return None if grad_x is None else grad_x.to(x.dtype), grad, None, *grads


class SlotLinear(nn.Module):
    """A linear module (any whose forward maps ``[rows, in]`` to ``[rows, out]``) to which a step may add."""

    def __init__(self, name: str, base: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        step = current()
        if step is None:
            return self.base(x)
        rows = x.squeeze(0)
        return step.adapted(self, rows, self.base(rows)).unsqueeze(0)


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
