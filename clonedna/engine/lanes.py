"""Keys and values of running requests: a lane for each, in pools of lanes of one length, so that many decode in one product.

A pool holds, for each layer, ``[lanes, kv heads, capacity, head]`` twice. The lanes in use are always the first ones: when one is
given back, the last moves into its place. A lane is as long as its request can become, so it is never moved for growing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clonedna.engine.exact import Shapes

SHORTEST = 128
FIRST_BYTES = 32 << 20  # of a pool's first lanes


@dataclass(frozen=True, slots=True)
class Shape:
    """Of one token's keys: layers, kv heads, width of a head; ``dtype`` and ``device`` as the base computes."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: str

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Lane:
    """One request's keys and values: ``length`` tokens so far, at ``index`` of its pool."""

    pool: Pool
    index: int
    length: int = 0

    def keys(self, layer: int) -> Tensor:
        """``[kv heads, capacity, head]``."""
        return self.pool.k[layer][self.index]

    def values(self, layer: int) -> Tensor:
        return self.pool.v[layer][self.index]


@dataclass(slots=True, eq=False)
class Pool:
    """All lanes of one capacity."""

    shape: Shape
    capacity: int
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)

    @property
    def size(self) -> int:
        return int(self.k[0].shape[0]) if self.k else 0

    @property
    def lane_bytes(self) -> int:
        return self.capacity * self.shape.token_bytes

    def take(self) -> Lane:
        if len(self.lanes) == self.size:
            self._resize(2 * self.size or max(1, min(8, FIRST_BYTES // self.lane_bytes)))
        lane = Lane(self, len(self.lanes))
        self.lanes.append(lane)
        return lane

    def give(self, lane: Lane) -> None:
        """What it held becomes zeros: a lane that is masked is multiplied by 0, and an adapter may have left a NaN."""
        last = self.lanes.pop()
        for tensors in (self.k, self.v):
            for tensor in tensors:
                if last is not lane:
                    tensor[lane.index, :, : last.length] = tensor[last.index, :, : last.length]
                    tensor[lane.index, :, last.length : lane.length] = 0
                tensor[last.index, :, : last.length] = 0
        if last is not lane:
            last.index = lane.index
            self.lanes[last.index] = last
        if not self.lanes:
            self.k, self.v = [], []
        elif self.size > 8 and 4 * len(self.lanes) <= self.size:
            self._resize(self.size // 2)

    def _resize(self, size: int) -> None:
        shape = self.shape
        for name in ("k", "v"):
            made: list[Tensor] = []
            for layer in range(shape.layers):
                # Zeros, not whatever was there: what is masked is multiplied by 0, and 0 times a NaN is a NaN.
                tensor = torch.zeros(
                    size, shape.heads, self.capacity, shape.width, dtype=shape.dtype, device=shape.device
                )
                if old := getattr(self, name):
                    kept = min(size, len(self.lanes))
                    tensor[:kept] = old[layer][:kept]
                made.append(tensor)
            setattr(self, name, made)


class Lanes:
    """All pools of one engine. ``budget``: bytes that the lanes of running requests may take, counted at their full length.

    ``lengths``: what attention may run over; a lane has one of these, so that all of it can be looked at.
    """

    def __init__(self, shape: Shape, lengths: Shapes, budget: int) -> None:
        self.shape, self.budget, self.used = shape, budget, 0
        self._lengths = lengths
        self._pools: dict[int, Pool] = {}

    def capacity(self, tokens: int) -> int:
        """Length of the lane for so many tokens: a power of two, or the next length that attention may run over."""
        return self._lengths.length(min(self._lengths.lengths[-1], max(SHORTEST, 1 << (tokens - 1).bit_length())))

    def fits(self, tokens: int) -> bool:
        """Whether a lane for so many tokens may be taken now; one is always allowed when none is taken."""
        return self.used == 0 or self.used + self.capacity(tokens) * self.shape.token_bytes <= self.budget

    def take(self, tokens: int) -> Lane:
        capacity = self.capacity(tokens)
        pool = self._pools.setdefault(capacity, Pool(self.shape, capacity))
        lane = pool.take()
        self.used += pool.lane_bytes
        return lane

    def give(self, lane: Lane) -> None:
        self.used -= lane.pool.lane_bytes
        lane.pool.give(lane)
