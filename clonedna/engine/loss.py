"""Negative log-likelihood of tokens, and divergence from a reference, under the base's head: in chunks, so that a wide vocabulary never
fills the memory.

For hidden state h, target t and head W: ``nll = logsumexp(W h) - (W h)_t`` and ``d nll / d h = (softmax(W h) - e_t) W``. The head is
frozen, so this gradient is all there is; it is computed on the way forward and no logits are kept. With the reference's p:
``KL(p || q) = sum p (log p - log q)`` and ``d KL / d h = (q - p) W``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 8 << 20


def token_nll(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """Nats for each target: ``hidden`` ``[n, d]``, ``targets`` ``[n]`` -> ``[n]`` fp32, differentiable in ``hidden``."""
    return _TokenNll.apply(hidden, targets, head)  # type: ignore[no-any-return]


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
        wants = ctx.needs_input_grad[0]
        rows = max(1, CHUNK_LOGITS // head.weight.shape[0])
        nll = hidden.new_empty(len(hidden), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if wants else None
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            logs = torch.log_softmax(head(part).float(), dim=-1)
            nll[start : start + rows] = -logs.gather(1, wanted).squeeze(1)
            if gradient is not None:
                difference = logs.exp_()
                difference[torch.arange(len(part), device=part.device), wanted.squeeze(1)] -= 1.0
                gradient[start : start + rows] = difference.to(head.weight.dtype) @ head.weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None].to(gradient.dtype), None, None


def divergence(hidden: Tensor, reference: Tensor, head: nn.Linear) -> Tensor:
    """Nats of ``KL(reference || hidden)`` for each row: both ``[n, d]`` -> ``[n]`` fp32, differentiable in ``hidden`` alone."""
    return _Divergence.apply(hidden, reference, head)  # type: ignore[no-any-return]


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, head: nn.Linear) -> Tensor:
        rows = max(1, CHUNK_LOGITS // head.weight.shape[0])
        found = hidden.new_empty(len(hidden), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), rows):
            logs = torch.log_softmax(head(hidden[start : start + rows]).float(), dim=-1)
            wanted = torch.log_softmax(head(reference[start : start + rows]).float(), dim=-1)
            shares = wanted.exp()
            found[start : start + rows] = (shares * (wanted - logs)).sum(1)
            gradient[start : start + rows] = logs.exp_().sub_(shares).to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None].to(gradient.dtype), None, None
