"""The trial notices a machine whose products depend on their shape."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from clonedna.engine import exact
from clonedna.engine.exact import Shapes, decode_attention, verify


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ByRows(nn.Linear):
    """Rounds otherwise when it has more than ``limit`` rows, as a matrix library that changes its kernel would."""

    limit = 1 << 30

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        return out * (1 + 2**-23) if input.shape[-2] > self.limit else out


class BySum(nn.Linear):
    """Adds in another order when there are many rows."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-2] <= 32:
            return super().forward(input)
        half = self.in_features // 2
        return input[..., :half] @ self.weight[:, :half].t() + input[..., half:] @ self.weight[:, half:].t() + self.bias


def found(linear: nn.Module, context: int = 256) -> Shapes:
    torch.manual_seed(0)
    return verify([linear], linear, 2, 2, 16, context, torch.float32)


def test_a_head_whose_rows_depend_on_their_number_is_noticed() -> None:
    class Uneven(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1e-6 * input.shape[1]

    plain = nn.Linear(64, 48)
    assert verify([plain], plain, 2, 2, 16, 256, torch.float32).exact
    assert not verify([plain], Uneven(64, 48), 2, 2, 16, 256, torch.float32).exact


def test_a_linear_whose_rows_depend_on_their_number_is_noticed() -> None:
    assert found(nn.Linear(64, 48)).exact
    for limit in (4, 64, 255):
        linear = ByRows(64, 48)
        linear.limit = limit
        assert not found(linear).exact, limit
    assert not found(BySum(64, 48)).exact
    assert found(ByRows(64, 48)).exact


def test_a_batched_product_that_depends_on_its_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.bmm

    def bmm(a: Tensor, b: Tensor) -> Tensor:
        out = plain(a, b)
        return out * (1 + 2**-22) if a.shape[0] == 5 else out

    monkeypatch.setattr(torch, "bmm", bmm)
    assert not found(nn.Linear(64, 48)).exact


def test_lengths_that_round_otherwise_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decode_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
        out = plain(q, k, v, mask, scaling)
        return out * (1 + 2**-22) if mask.shape[-1] in (128, 384) else out

    monkeypatch.setattr(exact, "decode_attention", attention)
    shapes = found(nn.Linear(64, 48), context=600)
    assert shapes.lengths == (256, 512, 640)
    assert shapes.exact
    assert [shapes.length(n) for n in (1, 128, 256, 257, 513, 600)] == [256, 256, 256, 512, 640, 640]


def test_a_longest_length_that_does_not_hold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(1)
    plain = decode_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> Tensor:
        out = plain(q, k, v, mask, scaling)
        return out * (1 + 2**-18 * torch.rand(1, generator=draws))

    monkeypatch.setattr(exact, "decode_attention", attention)
    shapes = found(nn.Linear(64, 48), context=600)
    assert not shapes.exact
    assert shapes.lengths[-1] == 640
    assert shapes.lengths == tuple(sorted(shapes.lengths))


@pytest.mark.parametrize("context", [1, 100, 128, 129, 1024, 2000, 40_960])
def test_the_lengths_cover_the_context_with_little_padding(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(_q: Tensor, k: Tensor, _v: Tensor, _mask: Tensor, _scaling: float) -> Tensor:
        return torch.zeros(1)

    monkeypatch.setattr(exact, "decode_attention", equal)
    shapes = verify([nn.Linear(8, 8)], nn.Linear(8, 8), 1, 1, 2, context, torch.float32)
    assert shapes.lengths[0] <= 128
    assert context <= shapes.lengths[-1] < context + 128
    assert all(b - a <= 512 for a, b in zip(shapes.lengths, shapes.lengths[1:], strict=False))


def test_attention_over_lanes_is_that_of_each_alone() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(5, 2, 3, 8), torch.randn(7, 2, 64, 8), torch.randn(7, 2, 64, 8)
    ends = [1, 5, 64, 33, 20]
    mask = torch.zeros(5, 1, 1, 64)
    for lane, end in enumerate(ends):
        mask[lane, ..., end:] = float("-inf")
    got = decode_attention(q, k, v, mask, 0.3)
    for lane, end in enumerate(ends):
        scores = torch.einsum("hgd,hkd->hgk", q[lane], k[lane, :, :end]) * 0.3
        wanted = torch.einsum("hgk,hkd->hgd", scores.softmax(-1), v[lane, :, :end])
        torch.testing.assert_close(got[lane], wanted, atol=1e-5, rtol=1e-5)
