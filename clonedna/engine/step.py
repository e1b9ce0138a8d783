"""One forward pass of the base, described: whose tokens these are, which slots they go through, whose keys and values are kept.

Sequences stand one after the other in a single row, with no padding; ``attention.py`` and ``slots.py`` read the description from a
context variable that only the owner's thread sets. There is no state of the model to be set and forgotten.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class KeyValues:
    """Keys and values of one sequence: per layer two buffers ``[1, heads, capacity, head]`` that grow by doubling."""

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[1, heads, n, head]`` and give all so far. ``length`` moves once a step, when every layer has been through."""
        end = self.length + key.shape[2]
        keys, values = _grown(self._keys[layer], key, end), _grown(self._values[layer], value, end)
        self._keys[layer], self._values[layer] = keys, values
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]


def _grown(buffer: Tensor | None, like: Tensor, needed: int) -> Tensor:
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    capacity = max(64, needed + 16, 0 if buffer is None else 2 * buffer.shape[2])
    grown = like.new_empty((like.shape[0], like.shape[1], capacity, like.shape[3]))
    if buffer is not None:
        grown[:, :, : buffer.shape[2]] = buffer
    return grown


@dataclass(frozen=True, slots=True)
class Part:
    """A run of ``tokens`` that go through the same slots. A weight is one number, or a column ``[tokens, 1]`` with one for each token."""

    tokens: int
    slots: tuple[tuple[int, float | Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """``lengths`` of the sequences and of the parts both add up to the step's tokens; ``caches`` has one entry for each sequence."""

    lengths: tuple[int, ...]
    caches: tuple[KeyValues | None, ...]
    parts: tuple[Part, ...]


_CURRENT: ContextVar[Step | None] = ContextVar("clonedna_engine_step", default=None)


def current() -> Step | None:
    """The step that this thread is running, if any."""
    return _CURRENT.get()


@contextmanager
def running(step: Step) -> Generator[None]:
    token = _CURRENT.set(step)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def forward(
    decoder: nn.Module,
    sequences: Sequence[Sequence[int]],
    parts: Sequence[Part],
    caches: Sequence[KeyValues | None] = (),
) -> Tensor:
    """Last hidden states ``[tokens, hidden]`` of the sequences, packed in their order.

    A sequence with a cache continues it: its tokens stand after those already there. Only a cache that is empty may take more than
    one token at once. Without a cache a sequence stands for itself, from position 0.
    """
    kept = tuple(caches) or (None,) * len(sequences)
    lengths = tuple(len(ids) for ids in sequences)
    if sum(lengths) != sum(part.tokens for part in parts):
        raise ValueError(f"{sum(lengths)} tokens in sequences, {sum(part.tokens for part in parts)} in parts")
    if any(cache is not None and cache.length and length > 1 for cache, length in zip(kept, lengths, strict=True)):
        raise ValueError("a sequence that goes on from its cache takes one token at a time")
    device = next(decoder.parameters()).device
    offsets = [cache.length if cache is not None else 0 for cache in kept]
    positions = [o + i for o, n in zip(offsets, lengths, strict=True) for i in range(n)]
    packed = torch.tensor([[token for ids in sequences for token in ids]], device=device)
    with running(Step(lengths, kept, tuple(parts))):
        out = decoder(input_ids=packed, position_ids=torch.tensor([positions], device=device), use_cache=False)
    for cache, length in zip(kept, lengths, strict=True):
        if cache is not None:
            cache.length += length
    return out.last_hidden_state.squeeze(0)
