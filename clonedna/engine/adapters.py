"""Adapter files in PEFT's format: read strictly, written deterministically.

Reading refuses everything that would compute something else than ``W x + scale B A x`` on modules of this base: unknown options,
wrong shapes, stray or missing tensors, values that are not finite, pickles. The digest is of the very bytes that were parsed.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from clonedna.core.canonical import digest, sha256, strict_json
from clonedna.core.errors import AdapterInvalid, NoSpace, WrongBase
from clonedna.core.model import ALL_LINEAR, AdapterInfo
from clonedna.engine.memory import require

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HINT = "only LoRA adapters in PEFT's format on linear projections are carried; export the adapter again without this"
MAX_CONFIG_BYTES = 1 << 20
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# Options of PEFT that change what is computed, and the values under which they do not. Everything else that is not in ``_Config``
# or ``_NEUTRAL`` is refused: an option this engine does not know may mean anything.
_OFF = (None, False, [], {})
_MUST_BE_OFF = (
    "alora_invocation_tokens", "arrow_config", "eva_config", "exclude_modules", "fan_in_fan_out", "kasa_config", "layer_replication",
    "layers_pattern", "layers_to_transform", "lora_bias", "megatron_config", "modules_to_save", "monteclora_config", "rank_pattern",
    "alpha_pattern", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "velora_config",
)  # fmt: skip
_NEUTRAL = frozenset(
    ("auto_mapping", "base_model_class", "corda_config", "ensure_weight_tying", "inference_mode", "loftq_config", "lora_dropout",
     "lora_ga_config", "megatron_core", "parent_library", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type")
)  # fmt: skip
# Initialisations that leave the base alone. PiSSA, OLoRA, LoftQ and CorDA rewrite the base's weights when they are set up.
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


class _Config(BaseModel):
    """The part of ``adapter_config.json`` that decides what is computed."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: str
    r: int = Field(ge=1, le=1024)
    lora_alpha: float = Field(allow_inf_nan=False)
    target_modules: list[str] = Field(min_length=1)
    bias: str = "none"
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None
    base_model_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter read from files: fp32 matrices ``(A [r, in], B [out, r])`` by module, and the scale of their product."""

    info: AdapterInfo
    scale: float
    matrices: dict[str, tuple[Tensor, Tensor]]


Stamp = tuple[int, int, int, int, int]
_SETTLED = 2_000_000_000  # ns; longer than any file system's own clock is coarse


class Seen:
    """Digests of adapter files that were read and checked whole before, so that they need not be hashed again. From any thread.

    A file is the same while the system says so: device, inode, size, times of writing and of change, as git's index has it. Nobody but
    the machine's administrator can set the last of these. One that changed within two seconds of being hashed is hashed again.
    """

    MOST = 4096

    def __init__(self) -> None:
        self._digests: dict[tuple[Stamp, Stamp], str] = {}

    def digest(self, stamps: tuple[Stamp, Stamp]) -> str | None:
        return self._digests.get(stamps)

    def keep(self, stamps: tuple[Stamp, Stamp], digest: str) -> None:
        if time.time_ns() - max(stamp[-1] for stamp in stamps) > _SETTLED:
            if len(self._digests) >= self.MOST:
                self._digests.clear()
            self._digests[stamps] = digest


def lora_scale(alpha: float, rank: int, *, rslora: bool) -> float:
    """alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def read_adapter(
    directory: Path, shapes: Mapping[str, tuple[int, int]], fingerprint: str, seen: Seen | None = None
) -> Adapter:
    """Read and check an adapter for a base with these modules (``(in, out)`` by name) and this fingerprint.

    Files that ``seen`` knows are not hashed and searched for values that are not finite again; all else is checked as ever.

    Raises ``AdapterInvalid`` with the reason, ``WrongBase`` when the files name another base, ``NoMemory``.
    """
    if not directory.is_dir():
        raise AdapterInvalid(f"no adapter directory at {directory}", "check the path")
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise AdapterInvalid(
            f"{pickles[0]} is a pickle, which could run code when loaded", "convert the adapter to safetensors"
        )
    raw_config, config_stamp = _bytes(directory / CONFIG, MAX_CONFIG_BYTES)
    config = _config(raw_config)
    rows = [name for name in shapes if any(name == t or name.endswith(f".{t}") for t in config.target_modules)]
    expected = 4 * config.r * sum(sum(shapes[name]) for name in rows)
    require(2 * expected, f"adapter {directory.name}")
    raw, stamp = _bytes(directory / WEIGHTS, 2 * expected + (16 << 20))
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterInvalid(f"{WEIGHTS} is not a safetensors file ({error})", "get the adapter again") from error
    named = config.base_model_fingerprint or _metadata(raw).get("base_model_fingerprint")
    if named is not None and named != fingerprint:
        raise WrongBase(
            f"this adapter was made for base {str(named)[:12]}, this engine holds {fingerprint[:12]}",
            "load it on the base it was trained on",
        )
    identity = seen.digest((config_stamp, stamp)) if seen is not None else None
    matrices = _matrices(tensors, config, shapes, rows, finite=identity is not None)
    if identity is None:
        identity = digest({CONFIG: sha256(raw_config), WEIGHTS: sha256(raw)})
        if seen is not None:
            seen.keep((config_stamp, stamp), identity)
    info = AdapterInfo(
        id=identity[:16], digest=identity, rank=config.r, alpha=config.lora_alpha,
        target_modules=tuple(sorted({name.rpartition(".")[2] for name in matrices})), bytes=expected,
    )  # fmt: skip
    return Adapter(info, lora_scale(config.lora_alpha, config.r, rslora=config.use_rslora), matrices)


def _bytes(path: Path, limit: int) -> tuple[bytes, Stamp]:
    try:
        with path.open("rb") as file:
            stamp = _stamp(file.fileno())
            # As much as it says it has, not as much as it may have: memory is taken for what is asked.
            data = file.read(min(stamp[2], limit) + 1)
            changed = _stamp(file.fileno()) != stamp
    except OSError as error:
        raise AdapterInvalid(
            f"{path.name} is missing or cannot be read ({error.strerror})", "get the adapter again"
        ) from error
    if len(data) > limit:
        raise AdapterInvalid(f"{path.name} is larger than {limit} bytes, more than such an adapter can be", HINT)
    if changed:
        raise AdapterInvalid(f"{path.name} was written while it was read", "load it again once it is whole")
    return data, stamp


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _config(raw: bytes) -> _Config:
    try:
        fields = strict_json(raw)
    except ValueError as error:
        raise AdapterInvalid(f"{CONFIG} is not valid JSON ({error})", "get the adapter again") from error
    if not isinstance(fields, dict):
        raise AdapterInvalid(f"{CONFIG} is not an object", "get the adapter again")
    if fields.get("peft_type") != "LORA":
        raise AdapterInvalid(f"peft_type is {fields.get('peft_type')!r}, not 'LORA'", HINT)
    for key in _MUST_BE_OFF:
        if fields.get(key) not in _OFF:
            raise AdapterInvalid(f"{CONFIG} sets {key} = {_short(fields[key])}, which this engine does not carry", HINT)
    unknown = sorted(set(fields) - set(_Config.model_fields) - set(_MUST_BE_OFF) - _NEUTRAL)
    if unknown:
        raise AdapterInvalid(f"{CONFIG} sets {unknown[0]}, an option that this engine does not know", HINT)
    try:
        config = _Config.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise AdapterInvalid(f"{CONFIG}: {where} = {_short(first['input'])}: {first['msg']}", HINT) from error
    if config.bias != "none":
        raise AdapterInvalid(f"{CONFIG} sets bias = {_short(config.bias)}; only 'none' is carried", HINT)
    if config.init_lora_weights not in _INITIALISATIONS:
        raise AdapterInvalid(
            f"{CONFIG} sets init_lora_weights = {_short(config.init_lora_weights)}, which changes the base's own weights",
            "convert it to a plain LoRA adapter when saving (PEFT: path_initial_model_for_weight_conversion)",
        )
    return config


def _metadata(raw: bytes) -> dict[str, Any]:
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return header.get("__metadata__", {})


def _matrices(
    tensors: Mapping[str, Tensor],
    config: _Config,
    shapes: Mapping[str, tuple[int, int]],
    modules: list[str],
    *,
    finite: bool,
) -> dict[str, tuple[Tensor, Tensor]]:
    for target in config.target_modules:
        if target.rpartition(".")[2] not in ALL_LINEAR or not any(
            m == target or m.endswith(f".{target}") for m in modules
        ):
            raise AdapterInvalid(
                f"this base has no adaptable module {_short(target)}", f"modules: {', '.join(ALL_LINEAR)}"
            )
    wanted: dict[str, tuple[int, int]] = {}
    for name in modules:
        inside, outside = shapes[name]
        wanted[f"base_model.model.{name}.lora_A.weight"] = (config.r, inside)
        wanted[f"base_model.model.{name}.lora_B.weight"] = (outside, config.r)
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        known = _KEY.match(extra[0])
        why = (
            "for a module that its config does not target or this base does not have"
            if known
            else "that is no LoRA matrix"
        )
        raise AdapterInvalid(f"{WEIGHTS} has a tensor {why}: {_short(extra[0])}", HINT)
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise AdapterInvalid(f"{WEIGHTS} lacks {missing[0]} ({len(missing)} tensors missing)", "get the adapter again")
    for key, shape in wanted.items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape:
            raise AdapterInvalid(
                f"{key} is {list(tensor.shape)}, this base and rank {config.r} need {list(shape)}", HINT
            )
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise AdapterInvalid(f"{key} is of type {tensor.dtype}, not a float of 16 or 32 bits", HINT)
        if not finite and not _finite(tensor):
            raise AdapterInvalid(
                f"{key} has values that are not finite", "get the adapter again, or train it with a lower rate"
            )
    keys = iter(wanted)
    return {name: (tensors[next(keys)].float(), tensors[next(keys)].float()) for name in modules}


def _finite(tensor: Tensor) -> bool:
    """A sum is finite only if all it adds is; it is looked at one by one only where the sum overflows."""
    return math.isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _short(value: object) -> str:
    return repr(value)[:80]


def write_adapter(
    directory: Path,
    matrices: Mapping[str, tuple[Tensor, Tensor]],
    *,
    rank: int,
    alpha: float,
    rslora: bool,
    base: str,
    fingerprint: str,
) -> None:
    """Write both files into ``directory`` (made if missing), each atomically; equal matrices give equal bytes.

    ``alpha`` is written as an integer where it is one, as PEFT has it. Raises ``NoSpace``.
    """
    config = {
        "base_model_name_or_path": base, "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha, "lora_dropout": 0.0, "modules_to_save": None,
        "peft_type": "LORA", "r": rank, "target_modules": sorted({name.rpartition(".")[2] for name in matrices}),
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": rslora,
    }  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in matrices.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.detach().to("cpu", torch.float32).contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.detach().to("cpu", torch.float32).contiguous()
    weights = safetensors.torch.save(tensors, {"format": "pt", "base_model_fingerprint": fingerprint})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / WEIGHTS, _ordered_metadata(weights))
        write_atomic(directory / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise NoSpace(
            f"cannot write the adapter to {directory}: {error.strerror}", "free some space, or check the permissions"
        ) from error


def _ordered_metadata(data: bytes) -> bytes:
    """The same file with its metadata in alphabetical order: the library writes them in a random one."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def write_atomic(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
