"""A training's state beside its adapter: AdamW's moments in one safetensors file, bound to the spec and to the adapter's very bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import AdapterInvalid, NoSpace
from clonedna.core.model import LoraSpec
from clonedna.engine.adapters import WEIGHTS, lora_scale, read_adapter, write_atomic
from clonedna.engine.training import Saved

STATE = "trainer_state.safetensors"


def write_state(directory: Path, saved: Saved, spec: LoraSpec) -> None:
    """Write ``saved`` beside the adapter that was just written there. Raises ``NoSpace``."""
    metadata = {
        "state": json.dumps(
            {
                "spec": sha256(canonical(spec)),
                "adapter": sha256((directory / WEIGHTS).read_bytes()),
                "steps": saved.steps,
            }
        )
    }
    tensors = {name: tensor.to("cpu").contiguous() for name, tensor in saved.moments.items()}
    try:
        write_atomic(directory / STATE, safetensors.torch.save(tensors, metadata))
    except OSError as error:
        raise NoSpace(
            f"cannot write the trainer's state to {directory}: {error.strerror}",
            "free some space, or check the permissions",
        ) from error


def read_state(directory: Path, spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], fingerprint: str) -> Saved:
    """What ``write_state`` wrote. Raises ``AdapterInvalid`` when it belongs to another spec or adapter, or is damaged."""
    adapter = read_adapter(directory, shapes, fingerprint)
    try:
        raw = (directory / STATE).read_bytes()
        tensors = safetensors.torch.load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        state = json.loads(header["__metadata__"]["state"])
        belongs = state["spec"] == sha256(canonical(spec)) and state["adapter"] == sha256(
            (directory / WEIGHTS).read_bytes()
        )
        steps = int(state["steps"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AdapterInvalid(f"{STATE} cannot be read ({error})", "train from the beginning") from error
    if not belongs:
        raise AdapterInvalid(f"{STATE} belongs to another training", "train from the beginning")
    wanted = {
        f"{name}.{side}.{moment}": matrix.shape
        for name, pair in adapter.matrices.items()
        for side, matrix in zip("AB", pair, strict=True)
        for moment in ("exp_avg", "exp_avg_sq")
    }
    if steps and {name: tensor.shape for name, tensor in tensors.items()} != wanted:
        raise AdapterInvalid(f"{STATE} does not fit its adapter", "train from the beginning")
    if any(not bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise AdapterInvalid(f"{STATE} has values that are not finite", "train from the beginning with a lower rate")
    return Saved(adapter.matrices, tensors, steps)


def read_start(directory: Path, spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], fingerprint: str) -> Saved:
    """The matrices of an adapter that a new training starts from, as if no step had been taken. Raises ``AdapterInvalid``, ``WrongBase``.

    The adapter must have the modules, the rank and the scale of ``spec``.
    """
    adapter = read_adapter(directory, shapes, fingerprint)
    wanted = {name for name in shapes if name.rpartition(".")[2] in spec.target_modules}
    scale = lora_scale(spec.alpha, spec.rank, rslora=spec.rslora)
    if adapter.info.rank != spec.rank or adapter.scale != scale or set(adapter.matrices) != wanted:
        raise AdapterInvalid(
            f"the adapter to start from has rank {adapter.info.rank}, scale {adapter.scale:g} and {len(adapter.matrices)} modules; "
            f"rank {spec.rank}, scale {scale:g} and {len(wanted)} modules were asked for",
            "train with the shape that it has",
        )
    return Saved(adapter.matrices, {}, 0)
