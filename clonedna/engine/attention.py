"""Attention as the step says: registered with transformers under one name. Outside a step it *is* transformers' own ``sdpa``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from clonedna.engine.step import current

NAME = "clonedna_step"


def step_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """``query`` ``[1, heads, rows, head]`` (keys and values likewise) -> ``[1, rows, heads, head]``."""
    step = current()
    if step is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return step.attended(module, query, key, value, options), None


# No mask function is registered under this name, so transformers builds no mask for it.
AttentionInterface.register(NAME, step_attention)
