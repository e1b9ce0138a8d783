"""A serving step: pieces of prompts and one token of each running request, in one pass, each row through its own block.

Rows stand in the order: pieces of prompts, decoding rows of the base, those of blocks, those of mixtures (``mixing.py``). Decoding rows go
through their slots in batched products of one row each, over neighbouring slots; where a block has many rows, they share its matrices. A
piece of a prompt is a product of its own. The rows are filled up to a multiple of ``ROWS``. By ``exact.py``, none of this can be seen in a
row's bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clonedna.engine.exact import ROWS, Shapes, decode_attention
from clonedna.engine.lanes import Lane, Pool
from clonedna.engine.mixing import Mix
from clonedna.engine.slots import add
from clonedna.engine.stacks import Block, Stack
from clonedna.engine.step import Linear, forward

GAP = 8  # idle slots between two that are rather computed than that a product is split


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a prompt that continue what ``lane`` holds."""

    ids: Sequence[int]
    lane: Lane
    block: Block | Mix | None


@dataclass(frozen=True, slots=True)
class Token:
    """The last token of a running request, to be put into ``lane``."""

    id: int
    lane: Lane
    block: Block | Mix | None


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows ``start:stop`` through slots ``low:high`` of a stack, one row for each slot.

    ``gather``: the row of each slot, ``scatter``: the slot of each row; ``None``: row by row, slot by slot. A run of one slot takes
    any number of rows.
    """

    stack: Stack
    low: int
    high: int
    start: int
    stop: int
    gather: Tensor | None = None
    scatter: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Decoding rows of one pool: where each new key goes, the row that each lane asks with, the lane that answers each row."""

    pool: Pool
    lanes: tuple[Lane, ...]
    rows: Tensor
    places: Tensor
    asking: Tensor
    answering: Tensor
    mask: Tensor


class BatchStep:
    """``step.Step`` for serving. ``order[i]`` is the row of the i-th token; ``last[i]`` the last row of the i-th piece."""

    def __init__(self, pieces: Sequence[Piece], tokens: Sequence[Token], shapes: Shapes, device: str) -> None:
        self._device = device
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.last: list[int] = []
        self._pieces: list[tuple[int, int, Piece, int]] = []  # start, stop, piece, tokens before it
        begun: dict[int, int] = {}
        for piece in pieces:
            start, kept = len(self.ids), begun.get(id(piece.lane), piece.lane.length)
            self.ids += piece.ids
            self.positions += range(kept, kept + len(piece.ids))
            self._pieces.append((start, len(self.ids), piece, kept))
            self.last.append(len(self.ids) - 1)
            begun[id(piece.lane)] = kept + len(piece.ids)
        through = [(start, stop, piece.block) for start, stop, piece, _ in self._pieces]
        self._products = [(start, stop, block) for start, stop, block in through if isinstance(block, Block)]
        self._mixed = [(start, stop, mix) for start, stop, mix in through if isinstance(mix, Mix)]
        self._mixing: list[tuple[int, int, Mix]] = []  # decoding rows
        self.order = [0] * len(tokens)
        self._runs: list[_Run] = []
        self._place(tokens)
        idle = -len(self.ids) % ROWS
        self.ids += [0] * idle
        self.positions += [0] * idle
        self._decoding = self._decode(tokens, shapes)

    def _place(self, tokens: Sequence[Token]) -> None:
        """Give each token its row, block by block, and plan the products."""
        self._rows(tokens, [i for i, token in enumerate(tokens) if token.block is None])
        members: dict[Stack, dict[int, list[int]]] = {}
        mixes: dict[Mix, list[int]] = {}
        for i, token in enumerate(tokens):
            if isinstance(token.block, Mix):
                mixes.setdefault(token.block, []).append(i)
            elif token.block is not None:
                members.setdefault(token.block.stack, {}).setdefault(token.block.position, []).append(i)
        for stack, by_slot in members.items():
            slots = sorted(by_slot.items())
            # As many rounds over all slots as the fullest has rows, or a product for each slot: whichever is fewer.
            if max(len(own) for _, own in slots) > len(slots):
                for slot, own in slots:
                    start = self._rows(tokens, own)
                    self._runs.append(_Run(stack, slot, slot + 1, start, len(self.ids)))
                continue
            while slots:
                self._round(tokens, stack, [(slot, own[0]) for slot, own in slots])
                slots = [(slot, own[1:]) for slot, own in slots if len(own) > 1]
        for mix, own in mixes.items():
            start = self._rows(tokens, own)
            self._mixing.append((start, len(self.ids), mix))

    def _round(self, tokens: Sequence[Token], stack: Stack, slots: Sequence[tuple[int, int]]) -> None:
        """One row for each of ``slots`` (with the token's number), as runs over neighbouring ones."""
        run: list[tuple[int, int]] = []
        for one in slots:
            if run and one[0] - run[-1][0] > GAP:
                self._run(tokens, stack, run)
                run = []
            run.append(one)
        self._run(tokens, stack, run)

    def _run(self, tokens: Sequence[Token], stack: Stack, run: Sequence[tuple[int, int]]) -> None:
        low, high = run[0][0], run[-1][0] + 1
        start = self._rows(tokens, [i for _, i in run])
        if len(run) == high - low:
            return self._runs.append(_Run(stack, low, high, start, len(self.ids)))
        gather = [start] * (high - low)
        for row, (slot, _) in enumerate(run, start):
            gather[slot - low] = row
        scatter = self._tensor([slot - low for slot, _ in run])
        self._runs.append(_Run(stack, low, high, start, len(self.ids), self._tensor(gather), scatter))
        return None

    def _rows(self, tokens: Sequence[Token], members: Sequence[int]) -> int:
        start = len(self.ids)
        for i in members:
            self.order[i] = len(self.ids)
            self.ids.append(tokens[i].id)
            self.positions.append(tokens[i].lane.length)
        return start

    def _decode(self, tokens: Sequence[Token], shapes: Shapes) -> list[_Decoding]:
        pools: dict[int, tuple[Pool, list[int]]] = {}
        for i, token in enumerate(tokens):
            pools.setdefault(id(token.lane.pool), (token.lane.pool, []))[1].append(i)
        plans: list[_Decoding] = []
        for pool, members in pools.values():
            members.sort(key=lambda i: tokens[i].lane.index)
            length = shapes.length(1 + max(tokens[i].lane.length for i in members))
            heads, ends = pool.shape.heads, [1] * len(pool.lanes)
            asking, answering = [0] * len(pool.lanes), [0] * len(self.ids)
            for i in members:  # a lane that takes no part looks at one token, and nobody reads what it sees
                lane = tokens[i].lane
                ends[lane.index] = lane.length + 1
                asking[lane.index], answering[self.order[i]] = self.order[i], lane.index
            first = self._tensor([tokens[i].lane.index for i in members])[:, None] * heads + torch.arange(
                heads, device=self._device
            )
            places = first * pool.capacity + self._tensor([tokens[i].lane.length for i in members])[:, None]
            beyond = torch.arange(length, device=self._device) >= self._tensor(ends)[:, None]
            mask = torch.zeros(len(ends), length, device=self._device).masked_fill_(beyond, float("-inf"))
            plans.append(
                _Decoding(
                    pool, tuple(tokens[i].lane for i in members), self._tensor([self.order[i] for i in members]), places.flatten(),
                    self._tensor(asking), self._tensor(answering), mask[:, None, None],
                )
            )  # fmt: skip
        return plans

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self._device)

    def adapted(self, linear: Linear, x: Tensor, out: Tensor) -> Tensor:
        """Adds in place: ``out`` was just made by the base's product."""
        if self._products:
            add(x, out, [(start, stop, block.factors(linear)) for start, stop, block in self._products])
        for run in self._runs:
            a, b = run.stack.pair(linear.name)
            rows = x[run.start : run.stop] if run.gather is None else x.index_select(0, run.gather)
            shape = (len(rows), run.stack.rank, -1)
            low = torch.bmm(rows.unsqueeze(1).float(), a[run.low : run.high].expand(shape).transpose(1, 2))
            more = torch.bmm(low, b[run.low : run.high].expand(shape)).squeeze(1)
            out[run.start : run.stop] += (
                more if run.scatter is None else more.index_select(0, run.scatter)
            )  # an fp32 sum
        for start, stop, mix in self._mixed:
            mix.add_rows(linear.name, x[start:stop], out[start:stop])
        for start, stop, mix in self._mixing:
            mix.add_each(linear.name, x[start:stop], out[start:stop])
        return out

    def attended(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        layer, scaling = int(module.layer_idx), options.get("scaling")  # type: ignore[arg-type]
        scaling = float(scaling if scaling is not None else q.shape[-1] ** -0.5)
        _, heads, rows, width = q.shape
        q, k, v = q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1)
        out = None if len(self._decoding) == 1 and not self._pieces else q.new_zeros(rows, heads, width)
        for start, stop, piece, kept in self._pieces:
            keys, values = piece.lane.keys(layer), piece.lane.values(layer)
            end = kept + stop - start
            keys[:, kept:end] = k[start:stop].transpose(0, 1)
            values[:, kept:end] = v[start:stop].transpose(0, 1)
            seen = _piece_attention(q[start:stop].transpose(0, 1), keys[:, :end], values[:, :end], scaling)
            out[start:stop] = seen  # type: ignore[index]
        for plan in self._decoding:
            pool, kv_heads = plan.pool, k.shape[1]
            pool.k[layer].view(-1, width).index_copy_(0, plan.places, k.index_select(0, plan.rows).reshape(-1, width))
            pool.v[layer].view(-1, width).index_copy_(0, plan.places, v.index_select(0, plan.rows).reshape(-1, width))
            asked = q.index_select(0, plan.asking).view(-1, kv_heads, heads // kv_heads, width)
            seen = decode_attention(asked, pool.k[layer], pool.v[layer], plan.mask, scaling).view(-1, heads, width)
            if out is None:
                return seen.index_select(0, plan.answering).unsqueeze(0)
            out[plan.rows] = seen.index_select(0, plan.answering.index_select(0, plan.rows))
        assert out is not None
        return out.unsqueeze(0)

    def run(self, decoder: nn.Module) -> Tensor:
        """Hidden states ``[rows, hidden]``; afterwards every lane holds its new tokens."""
        hidden = forward(decoder, self.ids, self.positions, self)
        for start, stop, piece, kept in self._pieces:
            piece.lane.length = kept + stop - start
        for plan in self._decoding:
            for lane in plan.lanes:
                lane.length += 1
        return hidden


def _piece_attention(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """``q`` ``[heads, n, head]`` over ``k``, ``v`` ``[kv heads, m, head]``, the last ``n`` of ``m`` its own -> ``[n, heads, head]``."""
    new, end = q.shape[1], k.shape[1]
    mask = None
    if new != end:
        mask = torch.ones(new, end, dtype=torch.bool, device=q.device).tril(end - new)
    seen = functional.scaled_dot_product_attention(
        q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None and new > 1, scale=scaling, enable_gqa=True
    )
    return seen[0].transpose(0, 1)
