"""Whole sequences side by side in one pass: what training and measuring run. No padding, no kept keys and values.

Each sequence attends to itself alone, and each run of rows goes through one adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from clonedna.engine.mixing import Mix
from clonedna.engine.slots import Factors, Term, add
from clonedna.engine.step import Linear, forward


@dataclass(frozen=True, slots=True)
class Part:
    """A run of ``rows`` that go through the same adapter, blend or mixture (which has no gradient); ``None``: the base's own."""

    rows: int
    term: Term | Mix | None = None


class PackedStep:
    """``step.Step`` for sequences of ``lengths``; the parts' rows add up to the same number."""

    def __init__(self, lengths: Sequence[int], parts: Sequence[Part]) -> None:
        if sum(lengths) != sum(part.rows for part in parts):
            raise ValueError(f"{sum(lengths)} rows in sequences, {sum(part.rows for part in parts)} in parts")
        self._lengths, self._parts = list(lengths), list(parts)

    def adapted(self, linear: Linear, x: Tensor, out: Tensor) -> Tensor:
        terms: list[tuple[int, int, Factors]] = []
        start = 0
        for part in self._parts:
            if isinstance(part.term, Mix):
                part.term.add_rows(linear.name, x[start : start + part.rows], out[start : start + part.rows])
            elif part.term is not None and (factors := part.term.factors(linear)) is not None:
                terms.append((start, start + part.rows, factors))
            start += part.rows
        return add(x, out, terms) if terms else out

    def attended(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """transformers' own call for each sequence: causal, so no mask is needed."""
        parts = zip(q.split(self._lengths, 2), k.split(self._lengths, 2), v.split(self._lengths, 2), strict=True)
        outputs = [sdpa_attention_forward(module, *one, None, **options)[0] for one in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def run_packed(decoder: nn.Module, sequences: Sequence[Sequence[int]], parts: Sequence[Part]) -> Tensor:
    """Last hidden states ``[rows, hidden]`` of the sequences, packed in their order."""
    step = PackedStep([len(ids) for ids in sequences], parts)
    positions = [i for ids in sequences for i in range(len(ids))]
    return forward(decoder, [token for ids in sequences for token in ids], positions, step)
