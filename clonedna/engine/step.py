"""One forward pass of the base, described by a step: where each row's adapter and each row's keys and values are.

The wrapped linears (``slots.py``) and the attention (``attention.py``) ask the step of their thread what to add and what to attend
to; it stands in a context variable that only the owner's thread sets. There is no state of the model to be set and forgotten.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Linear(Protocol):
    """A wrapped linear module, as a step knows it: by its full name."""

    name: str


class Step(Protocol):
    """What is particular to one pass. All rows of a pass stand in one line, without padding between them."""

    def adapted(self, linear: Linear, x: Tensor, out: Tensor) -> Tensor:
        """``out`` ``[rows, out]`` of the base for ``x`` ``[rows, in]``, plus what each row's adapter adds."""
        ...

    def attended(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """``q`` ``[1, heads, rows, head]``, ``k`` and ``v`` ``[1, kv heads, rows, head]`` -> ``[1, rows, heads, head]``."""
        ...


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


def forward(decoder: nn.Module, ids: Sequence[int], positions: Sequence[int], step: Step) -> Tensor:
    """Last hidden states ``[rows, hidden]`` for token ``ids`` at ``positions``, row by row as ``step`` describes them."""
    device = next(decoder.parameters()).device
    with running(step):
        out = decoder(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
        )
    return out.last_hidden_state.squeeze(0)
