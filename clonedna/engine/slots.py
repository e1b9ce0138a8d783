"""LoRA slots beside the base's linear modules: ``y = W x + sum_i w_i s_i B_i A_i x`` (Hu et al. 2021, eq. 3), one term a slot.

``W`` is never written. Slots are integers; no name of an adapter ever becomes a key of a module. Each slot keeps its own ``A`` and
``B`` in fp32 at its own rank, so adding one touches neither the base nor its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from clonedna.core.model import ALL_LINEAR
from clonedna.engine.step import Part, current


@dataclass(frozen=True, slots=True)
class Pair:
    """One slot's matrices at one module: ``a`` ``[rank, in]``, ``b`` ``[out, rank]``, both fp32."""

    a: Tensor
    b: Tensor


class SlotLinear(nn.Module):
    """A linear module (any whose forward maps ``[1, tokens, in]`` to ``[1, tokens, out]``) with room for slots.

    With no slot of its own in the step, its output *is* the wrapped module's.
    """

    def __init__(self, base: nn.Module, scales: Mapping[int, float]) -> None:
        super().__init__()
        self.base = base
        self.pairs: dict[int, Pair] = {}
        self._scales = scales

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        step = current()
        if step is None or not any(slot in self.pairs for part in step.parts for slot, _ in part.slots):
            return out
        rows, sums = x.squeeze(0), out.squeeze(0)
        if len(step.parts) == 1:
            return self._added(rows, sums, step.parts[0]).unsqueeze(0)
        lengths = [part.tokens for part in step.parts]
        pieces = zip(rows.split(lengths), sums.split(lengths), step.parts, strict=True)
        return torch.cat([self._added(own, base, part) for own, base, part in pieces]).unsqueeze(0)

    def _added(self, x: Tensor, out: Tensor, part: Part) -> Tensor:
        """``out`` ``[tokens, out]`` plus the slots' terms for ``x`` ``[tokens, in]``, summed in fp32. Scaling at rank width is cheapest."""
        total = out.float()
        for slot, weight in part.slots:
            pair = self.pairs.get(slot)
            if pair is not None:
                low = functional.linear(x.float(), pair.a) * (weight * self._scales[slot])
                total = torch.addmm(total, low.float(), pair.b.t())
        return total.to(out.dtype)


class Slots:
    """All slots of one model: wraps its target linears once, then adds and removes slots by number."""

    def __init__(self, model: nn.Module) -> None:
        self.scales: dict[int, float] = {}
        self.modules: dict[str, SlotLinear] = {}
        self._next = 0
        for name, module in linear_targets(model).items():
            parent, _, child = name.rpartition(".")
            wrapped = SlotLinear(module, self.scales)
            setattr(model.get_submodule(parent), child, wrapped)
            self.modules[name] = wrapped

    def add(self, pairs: Mapping[str, Pair], scale: float) -> int:
        """A new slot with these matrices, by module name. The number is never used again."""
        slot, self._next = self._next, self._next + 1
        self.scales[slot] = scale
        for name, pair in pairs.items():
            self.modules[name].pairs[slot] = pair
        return slot

    def remove(self, slot: int) -> None:
        self.scales.pop(slot, None)
        for module in self.modules.values():
            module.pairs.pop(slot, None)


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
