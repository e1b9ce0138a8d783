"""Slots: where the matrices of adapters and blends lie ready for a step, stacked module by module.

A *block* is what a request goes through: one adapter, or a virtual blend ``sum_i w_i s_i B_i A_i`` laid side by side as one product
of rank ``sum r_i`` - exact, nothing is merged. Blocks of one rank class (16, 32, 64, ... rows; a smaller rank is filled up with zeros,
which add nothing, exactly) share one stack for each module: ``A [slots, rank, in]`` and ``B [slots, rank, out]``, ``B`` with weight
and scale in it. Many blocks are then one batched product. Only the owner's thread comes here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clonedna.core.errors import NoMemory, Overloaded
from clonedna.engine.adapters import Adapter
from clonedna.engine.memory import available
from clonedna.engine.slots import Factors
from clonedna.engine.step import Linear

SMALLEST = 16  # below this, the matrix library takes another path for a product's columns, and bits differ
Key = tuple[tuple[str, float], ...]  # adapter ids and weights, sorted: names a block


@dataclass(slots=True, eq=False)
class Block:
    """A place in the stack of its rank class. ``uses``: requests that hold it."""

    key: Key
    stack: Stack
    position: int
    uses: int = 0
    last: float = field(default_factory=time.monotonic)

    def factors(self, linear: Linear) -> Factors:
        a, b = self.stack.pair(linear.name)
        return Factors(a[self.position], b[self.position], 1.0)


class Stack:
    """All blocks of one rank class. Grows by doubling; positions are given lowest first, so that those in use lie close together."""

    def __init__(self, rank: int, shapes: Mapping[str, tuple[int, int]], device: str) -> None:
        self.rank = rank
        self.slots = 0
        self._shapes, self._device = shapes, device
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self._free: list[int] = []
        self.slot_bytes = 4 * rank * sum(inside + outside for inside, outside in shapes.values())

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """``(A [slots, rank, in], B [slots, rank, out])`` of a module, fp32."""
        return self._pairs[name]

    def take(self) -> int | None:
        return self._free.pop(0) if self._free else None

    def give(self, position: int) -> None:
        self._free = sorted([*self._free, position])

    def grow(self, slots: int) -> None:
        for name, (inside, outside) in self._shapes.items():
            a, b = (torch.zeros(slots, self.rank, side, device=self._device) for side in (inside, outside))
            if self.slots:
                old_a, old_b = self._pairs[name]
                a[: self.slots], b[: self.slots] = old_a, old_b
            self._pairs[name] = a, b
        self._free += range(self.slots, slots)
        self.slots = slots

    def write(self, position: int, parts: Sequence[tuple[Adapter, float]]) -> None:
        """Lay the parts' factors one below the other; what is left of the rank is zero."""
        for name, (a, b) in self._pairs.items():
            row = 0
            for adapter, weight in parts:
                matrices = adapter.matrices.get(name)
                if matrices is None:
                    continue
                rank = matrices[0].shape[0]
                a[position, row : row + rank].copy_(matrices[0])
                b[position, row : row + rank].copy_(matrices[1].t()).mul_(weight * adapter.scale)
                row += rank
            a[position, row:].zero_()
            b[position, row:].zero_()


class Stacks:
    """All slots of one engine. ``budget``: bytes that slots may take in all."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], device: str, budget: int) -> None:
        self._shapes, self._device, self.budget = shapes, device, budget
        self._stacks: dict[int, Stack] = {}
        self._blocks: dict[tuple[Key, int], Block] = {}

    @property
    def bytes(self) -> int:
        return sum(stack.slots * stack.slot_bytes for stack in list(self._stacks.values()))

    @property
    def slots(self) -> int:
        return sum(stack.slots for stack in list(self._stacks.values()))

    def __len__(self) -> int:
        return len(self._blocks)

    def adapters(self) -> set[str]:
        """Ids of all adapters that lie in a slot, alone or in a blend."""
        return {adapter for key, _ in list(self._blocks) for adapter, _ in key}

    @torch.inference_mode()
    def use(self, key: Key, parts: Sequence[tuple[Adapter, float]], *, rank: int = 0) -> Block:
        """The block of ``key``, laid into a slot if it is in none; it stays there until ``leave``. ``rank``: of a stack at least so wide.

        Raises ``Overloaded`` when all slots are in use, ``NoMemory`` when not even one would fit.
        """
        rank = max(SMALLEST, 1 << (max(rank, sum(adapter.info.rank for adapter, _ in parts)) - 1).bit_length())
        block = self._blocks.get((key, rank))
        if block is None:
            stack = self._stacks.setdefault(rank, Stack(rank, self._shapes, self._device))
            block = Block(key, stack, self._place(stack))
            stack.write(block.position, parts)
            self._blocks[key, rank] = block
        block.uses += 1
        block.last = time.monotonic()
        return block

    def leave(self, block: Block) -> None:
        block.uses -= 1
        block.last = time.monotonic()

    def drop(self, adapter: str) -> bool:
        """Free the slots of every block with this adapter that nobody uses; whether none is left."""
        with_it = [block for block in self._blocks.values() if any(name == adapter for name, _ in block.key)]
        for block in with_it:
            if not block.uses:
                self._remove(block)
        return not any(block.uses for block in with_it)

    def _remove(self, block: Block) -> None:
        del self._blocks[block.key, block.stack.rank]
        block.stack.give(block.position)

    def _place(self, stack: Stack) -> int:
        position = stack.take()
        if position is not None:
            return position
        wanted = max(4, 2 * stack.slots)
        while wanted > stack.slots:
            more = (wanted - stack.slots) * stack.slot_bytes
            # While it grows, the old stack of one module lies beside its new one; the largest module decides.
            if self.bytes + more <= self.budget and more < available() - (64 << 20):
                stack.grow(wanted)
                break
            wanted = stack.slots + (wanted - stack.slots) // 2
        else:
            self._evict(stack)
        position = stack.take()
        if position is None:
            raise NoMemory(
                f"a slot of rank {stack.rank} takes {stack.slot_bytes >> 20} MiB, {self.budget >> 20} MiB are set for slots",
                "raise adapter_bytes, or use adapters of a smaller rank",
            )
        return position

    def _evict(self, stack: Stack) -> None:
        idle = [block for block in self._blocks.values() if not block.uses and block.stack is stack]
        if idle:
            return self._remove(min(idle, key=lambda block: block.last))
        if stack.slots:
            raise Overloaded(
                f"all {stack.slots} slots of rank {stack.rank} are in use", "ask again later", retry_after=1
            )
        for other in list(self._stacks.values()):  # room that other rank classes hold and nobody uses
            if all(not block.uses for block in self._blocks.values() if block.stack is other):
                self._blocks = {key: block for key, block in self._blocks.items() if block.stack is not other}
                del self._stacks[other.rank]
        if stack.rank not in self._stacks:
            self._stacks[stack.rank] = stack
        for slots in (4, 2, 1):
            if self.bytes + slots * stack.slot_bytes <= self.budget:
                return stack.grow(slots)
        if stack.slot_bytes <= self.budget:
            raise Overloaded("slots of other ranks in use leave no room for this one", "ask again later", retry_after=1)
        return None
