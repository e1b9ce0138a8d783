"""A serving step: pieces of prompts and one token of each running request, in one pass, each row through its own block.

Rows stand in the order: pieces of prompts, then decoding rows of the base, then those of each block. A block with few rows is a tile of
``TILE`` rows in one batched product over neighbouring slots; one with many rows, or a piece of a prompt, is a product of its own. The
rows are filled up to a multiple of ``ROWS``. By ``exact.py``, none of this can be seen in a row's bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clonedna.engine.exact import ROWS, TILE, Shapes, decode_attention
from clonedna.engine.lanes import Lane, Pool
from clonedna.engine.slots import SlotLinear
from clonedna.engine.stacks import Block, Stack
from clonedna.engine.step import forward

GAP = 4  # idle slots between two that are worth computing rather than splitting the product


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a prompt that continue what ``lane`` holds."""

    ids: Sequence[int]
    lane: Lane
    block: Block | None


@dataclass(frozen=True, slots=True)
class Token:
    """The last token of a running request, to be put into ``lane``."""

    id: int
    lane: Lane
    block: Block | None


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Rows ``start:stop`` through slots ``low:high`` of a stack: ``gather`` fills the tiles, ``scatter`` reads the rows back."""

    stack: Stack
    low: int
    high: int
    start: int
    stop: int
    gather: Tensor
    scatter: Tensor


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Decoding rows of one pool, by lane: ``rows`` of the step, ``lanes`` and ``places`` in the pool, ``mask`` over all lanes."""

    pool: Pool
    rows: Tensor
    lanes: Tensor
    places: Tensor
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
        self._products = [(start, stop, piece.block) for start, stop, piece, _ in self._pieces if piece.block]
        self.order = [0] * len(tokens)
        self._tiles: list[_Tiles] = []
        self._dense: list[tuple[int, int, Block]] = []
        self._place(tokens)
        self._decoding = self._decode(tokens, shapes)
        idle = -len(self.ids) % ROWS
        self.ids += [0] * idle
        self.positions += [0] * idle

    def _place(self, tokens: Sequence[Token]) -> None:
        """Give each token its row, block by block, and plan the blocks' products."""
        blocks: dict[int, Block] = {id(token.block): token.block for token in tokens if token.block}
        members: dict[int, list[int]] = {id(None): []}
        for i, token in enumerate(tokens):
            members.setdefault(id(token.block), []).append(i)
        self._rows(tokens, members[id(None)])
        few: list[tuple[Block, list[int]]] = []
        for name, block in blocks.items():
            if len(members[name]) <= TILE:
                few.append((block, members[name]))
            else:
                start = self._rows(tokens, members[name])
                self._dense.append((start, len(self.ids), block))
        few.sort(key=lambda one: (one[0].stack.rank, one[0].position))
        for _, same in groupby(few, key=lambda one: one[0].stack.rank):
            run: list[tuple[Block, list[int]]] = []
            for one in same:
                if run and one[0].position - run[-1][0].position > GAP:
                    self._tile(tokens, run)
                    run = []
                run.append(one)
            self._tile(tokens, run)

    def _rows(self, tokens: Sequence[Token], members: Sequence[int]) -> int:
        start = len(self.ids)
        for i in members:
            self.order[i] = len(self.ids)
            self.ids.append(tokens[i].id)
            self.positions.append(tokens[i].lane.length)
        return start

    def _tile(self, tokens: Sequence[Token], run: Sequence[tuple[Block, list[int]]]) -> None:
        low, high = run[0][0].position, run[-1][0].position + 1
        start = len(self.ids)
        gather, scatter = [start] * (TILE * (high - low)), []
        for block, members in run:
            first = self._rows(tokens, members)
            for j in range(len(members)):
                gather[TILE * (block.position - low) + j] = first + j
                scatter.append(TILE * (block.position - low) + j)
        self._tiles.append(
            _Tiles(run[0][0].stack, low, high, start, len(self.ids), self._tensor(gather), self._tensor(scatter))
        )

    def _decode(self, tokens: Sequence[Token], shapes: Shapes) -> list[_Decoding]:
        pools: dict[int, tuple[Pool, list[int]]] = {}
        for i, token in enumerate(tokens):
            pools.setdefault(id(token.lane.pool), (token.lane.pool, []))[1].append(i)
        plans: list[_Decoding] = []
        for pool, members in pools.values():
            members.sort(key=lambda i: tokens[i].lane.index)
            length = shapes.length(1 + max(tokens[i].lane.length for i in members))
            ends = [1] * len(pool.lanes)  # a lane that takes no part looks at one token, and nobody reads what it sees
            for i in members:
                ends[tokens[i].lane.index] = tokens[i].lane.length + 1
            beyond = torch.arange(length, device=self._device) >= self._tensor(ends)[:, None]
            mask = torch.zeros(len(ends), length, device=self._device).masked_fill_(beyond, float("-inf"))
            plans.append(
                _Decoding(
                    pool, self._tensor([self.order[i] for i in members]),
                    self._tensor([tokens[i].lane.index for i in members]),
                    self._tensor([tokens[i].lane.length for i in members]), mask[:, None, None],
                )
            )  # fmt: skip
        return plans

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self._device)

    def adapted(self, linear: SlotLinear, x: Tensor, out: Tensor) -> Tensor:
        """Adds in place: ``out`` was just made by the base's product."""
        for start, stop, block in self._products:
            out[start:stop] = block.added(linear, x[start:stop], out[start:stop])
        for start, stop, block in self._dense:
            rows = -(-(stop - start) // ROWS) * ROWS
            first = min(start, len(x) - rows)
            a, b = block.stack.pair(linear.name)
            more = (x[first : first + rows].float() @ a[block.position].t()) @ b[block.position]
            _add(out[start:stop], more[start - first : stop - first])
        for tiles in self._tiles:
            a, b = tiles.stack.pair(linear.name)
            rows = x.index_select(0, tiles.gather).view(-1, TILE, x.shape[1]).float()
            low = torch.bmm(rows, a[tiles.low : tiles.high].transpose(1, 2))
            more = torch.bmm(low, b[tiles.low : tiles.high]).view(-1, out.shape[1])
            _add(out[tiles.start : tiles.stop], more.index_select(0, tiles.scatter))
        return out

    def attended(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        layer, scaling = int(module.layer_idx), options.get("scaling")  # type: ignore[arg-type]
        scaling = float(scaling if scaling is not None else q.shape[-1] ** -0.5)
        _, heads, rows, width = q.shape
        out = q.new_zeros(rows, heads, width)
        q, k, v = q[0], k[0].transpose(0, 1), v[0].transpose(0, 1)
        for start, stop, piece, kept in self._pieces:
            keys, values = piece.lane.keys(layer), piece.lane.values(layer)
            end = kept + stop - start
            keys[:, kept:end] = k[start:stop].transpose(0, 1)
            values[:, kept:end] = v[start:stop].transpose(0, 1)
            out[start:stop] = _piece_attention(q[:, start:stop], keys[:, :end], values[:, :end], scaling)
        for plan in self._decoding:
            kv_heads = k.shape[1]
            plan.pool.k[layer][plan.lanes, :, plan.places] = k.index_select(0, plan.rows)
            plan.pool.v[layer][plan.lanes, :, plan.places] = v.index_select(0, plan.rows)
            asked = q.new_zeros(len(plan.pool.lanes), kv_heads, heads // kv_heads, width)
            asked[plan.lanes] = (
                q.index_select(1, plan.rows).transpose(0, 1).view(-1, kv_heads, heads // kv_heads, width)
            )
            seen = decode_attention(asked, plan.pool.k[layer], plan.pool.v[layer], plan.mask, scaling)
            out[plan.rows] = seen.index_select(0, plan.lanes).reshape(-1, heads, width)
        return out.unsqueeze(0)

    def run(self, decoder: nn.Module) -> Tensor:
        """Hidden states ``[rows, hidden]``; afterwards every lane holds its new tokens."""
        hidden = forward(decoder, self.ids, self.positions, self)
        for start, stop, piece, kept in self._pieces:
            piece.lane.length = kept + stop - start
        for plan in self._decoding:
            for index in plan.lanes.tolist():
                plan.pool.lanes[index].length += 1
        return hidden


def _add(out: Tensor, more: Tensor) -> None:
    if out.dtype == torch.float32:
        out += more
    else:
        out.copy_((out.float() + more).to(out.dtype))


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
