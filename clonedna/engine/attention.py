"""Attention over packed sequences: each attends to itself and its own kept keys and values, never to its neighbours.

Registered with transformers under one name; the arithmetic is transformers' own ``sdpa`` call for each sequence. Outside a step,
and for a step of one sequence, it *is* that call, with the same arguments as the unwrapped model makes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from clonedna.engine.step import current

NAME = "clonedna_packed"


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """``query`` ``[1, heads, tokens, head]`` (keys and values likewise) -> ``[1, tokens, heads, head]``.

    No mask is needed: a sequence is either whole (causal from its first token) or a single token that sees all before it.
    """
    step = current()
    if step is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = list(step.lengths)
    outputs: list[Tensor] = []
    for q, k, v, cache in zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), step.caches, strict=True
    ):
        if cache is not None:
            k, v = cache.extend(int(module.layer_idx), k, v)  # type: ignore[arg-type]
        outputs.append(sdpa_attention_forward(module, q, k, v, None, **options)[0])
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), None


# No mask function is registered under this name, so transformers builds no mask for it.
AttentionInterface.register(NAME, packed_attention)
