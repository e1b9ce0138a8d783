"""Keys and values of prompt beginnings, kept for the next request that begins alike *and goes through the same block*.

Prompts are computed in pieces of 64 tokens counted from their start. A piece is named by a hash chain over the block's key (adapter
digests and weights) and all tokens up to its end, so another adapter, another version or another weight never finds it. What is kept
is what the same piece would be computed to again, bit for bit: its computation depends on nothing but what its name says.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from clonedna.engine.lanes import Lane

PIECE = 64


def names_of(seed: str, prompt: Sequence[int]) -> list[bytes]:
    """A name for each whole piece of ``prompt`` but a last one that ends it: at least one token is always computed.

    ``seed``: what the keys and values depend on besides the tokens.
    """
    chain = hashlib.sha256(seed.encode()).digest()
    names: list[bytes] = []
    for end in range(PIECE, len(prompt), PIECE):
        chain = hashlib.sha256(chain + array("q", prompt[end - PIECE : end]).tobytes()).digest()
        names.append(chain)
    return names


class Prefixes:
    """Pieces by name, least recently used first out. ``budget`` in bytes; 0 keeps none."""

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self.queries = self.hits = 0  # in tokens
        self._pieces: OrderedDict[bytes, Tensor] = OrderedDict()

    def restore(self, names: Sequence[bytes], lane: Lane) -> int:
        """Copy the longest known beginning into an empty lane; gives its number of tokens."""
        self.queries += PIECE * len(names)
        for number, name in enumerate(names):
            piece = self._pieces.get(name)
            if piece is None:
                break
            self._pieces.move_to_end(name)
            start = number * PIECE
            for layer in range(len(lane.pool.k)):
                lane.keys(layer)[:, start : start + PIECE] = piece[0, layer]
                lane.values(layer)[:, start : start + PIECE] = piece[1, layer]
            lane.length = start + PIECE
        self.hits += lane.length
        return lane.length

    def keep(self, name: bytes, lane: Lane, start: int) -> None:
        """Keep the piece that begins at ``start`` of ``lane``."""
        if name in self._pieces:
            return self._pieces.move_to_end(name)
        size = PIECE * lane.pool.shape.token_bytes
        if size > self.budget:
            return None
        while self.bytes + size > self.budget:
            _, old = self._pieces.popitem(last=False)
            self.bytes -= old.nbytes
        layers = range(len(lane.pool.k))
        self._pieces[name] = torch.stack(
            [
                torch.stack([lane.keys(i)[:, start : start + PIECE] for i in layers]),
                torch.stack([lane.values(i)[:, start : start + PIECE] for i in layers]),
            ]
        )
        self.bytes += size
        return None
