"""Would a base, and the training of one adapter on it, fit in memory? The engine's own estimates, before a weight is read.

A base that is not on this machine is not fetched for the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from clonedna.core.errors import UnknownBase
from clonedna.core.model import LoraSpec, MemoryNeed
from clonedna.engine.base_files import BUNDLED, numel, stored_tensors
from clonedna.engine.bases import DTYPES, choose_device, choose_dtype, outline_base, weight_bytes
from clonedna.engine.memory import RESERVE, available
from clonedna.engine.slots import shapes_of
from clonedna.engine.training import training_bytes

SPARE = 1.1  # what loading asks for beyond the weights


@dataclass(frozen=True, slots=True)
class _Outline:
    """What ``training_bytes`` asks of a loaded model."""

    base: Any
    layers: int
    shapes: dict[str, tuple[int, int]]


def memory_need(reference: str, spec: LoraSpec, *, dtype: str = "", device: str = "", quantize: str = "") -> MemoryNeed:
    """Estimated bytes of the weights and of training ``spec``, and the bytes that are available on the device that would be chosen.

    Raises ``UnknownBase`` (also for a hub name that is not in the cache), ``BadConfig``.
    """
    if not _here(reference):
        raise UnknownBase(f"base {reference!r} is not on this machine yet", "a mint fetches it; a dry run does not")
    device = choose_device(device)
    chosen, _ = choose_dtype(dtype, device)
    outline = outline_base(reference)
    held = numel(stored_tensors(reference, outline.path))
    weights = int(weight_bytes(outline.model, held, DTYPES[chosen].itemsize, quantize) * SPARE)
    config: Any = outline.model.config
    shape: Any = _Outline(outline, int(config.get_text_config().num_hidden_layers), shapes_of(outline.model))
    free = available() if device == "cpu" else int(torch.cuda.mem_get_info(device)[0])
    return MemoryNeed(
        base=weights, training=training_bytes(shape, spec), reserve=RESERVE, available=free, dtype=quantize or chosen, device=device
    )  # fmt: skip


def _here(reference: str) -> bool:
    if reference in BUNDLED or Path(reference).expanduser().is_dir():
        return True
    name, _, revision = reference.partition("@")
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision or None), str)
