"""Which shapes give equal bits on this machine: what the promise "the same tokens alone or in company" rests on.

A matrix library chooses its kernel by shape, and kernels round differently. Measured here for the base's own matrices, once at
loading: a row of a product must not depend, to the last bit, on how many other rows there are (``ROWS`` at a time), a batched product
not on how many there are or whether they share matrices, and attention over masked lanes not on their number or padded length. What is
found is what the engine runs; where it does not hold, the engine says so (``EngineStatus.exact``) and promises equality within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROWS = 4
STEP = 128
MOST = 1 << 24  # numbers in one product that is tried


@dataclass(frozen=True, slots=True)
class Shapes:
    """``lengths``: numbers of kept tokens that attention runs over, ascending; the last covers the context. ``exact``: all held."""

    exact: bool
    lengths: tuple[int, ...]

    def length(self, tokens: int) -> int:
        return next(length for length in self.lengths if length >= tokens)


def decode_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """One new token of each lane against all it kept, all lanes in two products.

    ``q`` ``[lanes, kv heads, group, head]``, ``k`` and ``v`` ``[lanes, kv heads, capacity, head]``, ``mask`` ``[lanes, 1, 1, length]``
    (0 or -inf) -> ``[lanes, kv heads, group, head]``. Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023.
    """
    lanes, heads, group, width = q.shape
    length = mask.shape[-1]
    k, v = (t[:lanes].reshape(lanes * heads, -1, width)[:, :length] for t in (k, v))
    scores = torch.bmm((q * scaling).reshape(lanes * heads, group, width), k.transpose(1, 2))
    weights = (scores.view(lanes, heads, group, length).float() + mask).softmax(-1).to(q.dtype)
    return torch.bmm(weights.view(lanes * heads, group, length), v).view(lanes, heads, group, width)


@torch.inference_mode()
def verify(
    linears: Sequence[nn.Module], head: nn.Module, heads: int, group: int, width: int, context: int, dtype: torch.dtype
) -> Shapes:  # fmt: skip
    """Try the shapes that the engine runs. ``linears``: one target module of each shape; ``head``: the output head.

    Attention is tried up to 4,096 tokens; what is longer is taken to behave as the longest that was.
    """
    draw = torch.Generator().manual_seed(0)
    device = next(linears[0].parameters()).device
    exact = all(_rows_hold(linear, draw, dtype, device) for linear in (*linears, head))
    exact = exact and all(_batches_hold(linear, draw, device) for linear in linears)
    # Beyond 1,024 tokens fewer lengths: each is tried, and the padding of long ones is small against them.
    whole = -(-context // STEP) * STEP
    wanted = sorted({*range(STEP, min(whole, 1024) + 1, STEP), *range(1536, whole, 512), whole})
    held = _lengths_that_hold(wanted, heads, group, width, draw, dtype, device)
    if len(held) < 2 and len(wanted) > 1 and held != wanted:
        exact, held = False, wanted
    if held[-1] != whole:
        held.append(whole)
        exact = False
    return Shapes(exact, tuple(held))


def _rows_hold(linear: nn.Module, draw: torch.Generator, dtype: torch.dtype, device: torch.device) -> bool:
    x = torch.randn(1, 256, int(linear.in_features), generator=draw).to(device, dtype)  # type: ignore[arg-type]
    expected = torch.cat([linear(x[:, i : i + ROWS]) for i in range(0, 32, ROWS)], dim=1)
    return all(
        torch.equal(linear(x[:, :rows])[:, : min(rows, 32)], expected[:, : min(rows, 32)])
        for rows in (8, 12, 16, 20, 24, 32, 36, 64, 100, 128, 256)
        if rows * expected.shape[-1] <= MOST  # a wide vocabulary is tried with fewer rows
    )


def _batches_hold(linear: nn.Module, draw: torch.Generator, device: torch.device) -> bool:
    inside, outside, slots = int(linear.in_features), int(linear.out_features), 12  # type: ignore[arg-type]
    for rank in (16, 64):
        x = torch.randn(slots, 1, inside, generator=draw).to(device)
        a = (torch.randn(slots, rank, inside, generator=draw) / inside**0.5).to(device).transpose(1, 2)
        b = torch.randn(slots, rank, outside, generator=draw).to(device)
        expected = torch.bmm(torch.bmm(x, a), b)
        for count in (1, 2, 5):
            if not torch.equal(torch.bmm(torch.bmm(x[:count], a[:count]), b[:count]), expected[:count]):
                return False
            same_a, same_b = a[:1].expand(count, -1, -1), b[:1].expand(count, -1, -1)
            if not torch.equal(torch.bmm(torch.bmm(x[:1].expand(count, -1, -1), same_a), same_b)[-1:], expected[:1]):
                return False
    return True


def _lengths_that_hold(
    wanted: Sequence[int], heads: int, group: int, width: int, draw: torch.Generator, dtype: torch.dtype, device: torch.device
) -> list[int]:  # fmt: skip
    """The lengths that give the same bits as the longest that was tried, for every number of tokens and of lanes that is tried."""
    longest = min(wanted[-1], 4096)
    lanes = 6
    q = torch.randn(lanes, heads, group, width, generator=draw).to(device, dtype)
    k, v = (torch.randn(lanes, heads, longest, width, generator=draw).to(device, dtype) for _ in range(2))

    def attended(count: int, tokens: int, length: int) -> Tensor:
        mask = torch.zeros(count, 1, 1, length, device=device)
        mask[..., tokens:] = float("-inf")
        return decode_attention(q[:count], k, v, mask, width**-0.5)[0]

    held: list[int] = []
    for length in wanted:
        if length > longest:  # too long to try all: it is taken as the longest that was
            held.append(length)
            continue
        counts = [1, lanes] if length in (STEP, longest) else [1]
        tokens = sorted({1, STEP // 2 + 5, max(1, length - STEP + 3), length - 1, length})
        if all(
            torch.equal(attended(count, n, length), attended(lanes, n, longest)) for n in tokens for count in counts
        ):
            held.append(length)
    return held
