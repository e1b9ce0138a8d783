"""The files of a base model: where they are, and what is wrong with them before a weight is read.

Nothing here is executed or unpickled, no path that a file names leaves the base's directory, and every refusal is an ``UnknownBase``
with its reason. A safetensors file (https://huggingface.co/docs/safetensors) is a length, a JSON header with each tensor's type, shape
and place, and the bytes: headers alone say whether the files are whole and how much memory they need.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from clonedna.core.canonical import digest, strict_json
from clonedna.core.errors import NoSpace, UnknownBase

BUNDLED = ("nano",)
HUB_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?$")
HUB_FILES = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
]  # fmt: skip
MAX_DOWNLOAD = 200 * 10**9
MAX_HEADER = 100_000_000  # what safetensors itself allows
MAX_LAYERS = 1000
WHOLE = 1 << 20
PIECES, PIECE = 64, 1 << 14
INDEX = "model.safetensors.index.json"
HINT = (
    f"use one of: {', '.join(BUNDLED)}; a directory with config.json, tokenizer.json and model*.safetensors; "
    "or a Hugging Face name such as Qwen/Qwen2.5-Coder-0.5B-Instruct (and @revision)"
)
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
PLAIN = frozenset(("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"))


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in a file: its type as safetensors calls it, its shape, and where its bytes are."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


def resolve_base(reference: str) -> tuple[str, Path]:
    """``(id, directory)`` of a base. The id is fit for a block: a bundled name, a directory's own name, or a hub name.

    Raises ``UnknownBase``, ``NoSpace``. A hub name, ``owner/name`` or ``owner/name@revision``, that is not in the cache is fetched
    (at most 200 GB, and no file but those of ``HUB_FILES``), unless ``HF_HUB_OFFLINE`` is set.
    """
    if reference in BUNDLED:
        directory = Path(str(files("clonedna.bases").joinpath(reference)))
        if not (directory / "config.json").is_file():
            raise UnknownBase(
                f"the bundled base {reference!r} is missing from this installation", "install clone-dna again"
            )
        return reference, directory
    path = Path(reference).expanduser()
    if path.is_dir():
        return path.resolve().name, path.resolve()
    if not (named := HUB_NAME.match(reference)):
        raise UnknownBase(f"no base is called {reference!r}", HINT)
    return named[1], _from_hub(reference, named[1], named[2])


def _from_hub(reference: str, name: str, revision: str | None) -> Path:
    wanted: Any = {"revision": revision, "allow_patterns": HUB_FILES, "ignore_patterns": ["*/*"]}
    try:
        with quiet_hub():
            if not constants.is_offline_mode():
                listed: Any = snapshot_download(name, dry_run=True, **wanted)
                missing = sum(file.file_size or 0 for file in listed if not file.is_cached)
                if missing > MAX_DOWNLOAD:
                    raise NoSpace(
                        f"{reference!r} is {missing / 1e9:.0f} GB to fetch, more than {MAX_DOWNLOAD / 1e9:.0f} GB",
                        "fetch it yourself and give its directory",
                        needed=missing,
                    )
            return Path(snapshot_download(name, **wanted))
    except NoSpace:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UnknownBase(f"{reference!r} could not be had from the Hugging Face hub ({reason})", HINT) from error


def read_object(reference: str, path: Path) -> dict[str, Any]:
    """A JSON object of the base, strictly parsed."""
    try:
        value = strict_json(path.read_bytes())
    except OSError as error:
        raise UnknownBase(f"base {reference!r} has no readable {path.name}", HINT) from error
    except ValueError as error:
        raise UnknownBase(f"base {reference!r}: {path.name} is not valid JSON ({error})", HINT) from error
    if not isinstance(value, dict):
        raise UnknownBase(f"base {reference!r}: {path.name} is not an object", HINT)
    return value


def read_config(reference: str, path: Path, causal: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json``, refused with the reason when it says that this engine cannot carry the model.

    ``causal``: the model types that have a causal language model here.
    """
    if (path / "adapter_config.json").exists():
        raise UnknownBase(f"{reference!r} is an adapter (it has adapter_config.json), not a base", HINT)
    config = read_object(reference, path / "config.json")
    if reason := _unfit(config, causal):
        raise UnknownBase(f"base {reference!r} {reason}", HINT)
    return config


def _unfit(config: dict[str, Any], causal: Mapping[str, Any]) -> str:
    kind = config.get("model_type")
    text = config.get("text_config")
    parts: list[dict[str, Any]] = [config, text] if isinstance(text, dict) else [config]
    if several := [key for key in ("vision_config", "audio_config") if config.get(key)]:
        return f"is multimodal ({several[0]}): use a checkpoint of its language model alone"
    if config.get("is_encoder_decoder"):
        return f"is an encoder-decoder ({kind}), not a causal language model"
    if kind not in causal:
        if config.get("auto_map"):
            return f"is of type {kind!r} and runs only with code of its own (auto_map), which is never executed"
        return f"is of type {kind!r}, which is no causal language model here"
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        return f"is stored quantised ({method}): use the checkpoint that it was made from, with quantize = nf4 to save memory"
    for part in parts:
        if experts := [key for key in EXPERT_KEYS if part.get(key)]:
            return f"is a mixture of experts ({experts[0]}): adapters on experts are not supported"
        if caps := [key for key in ("attn_logit_softcapping", "final_logit_softcapping") if part.get(key)]:
            return f"caps its logits ({caps[0]}), which this engine's attention and head do not do"
        for key, value in part.items():
            if (key.endswith("layers") or key == "n_layer") and isinstance(value, int) and value > MAX_LAYERS:
                return f"has {key} = {value}, more than {MAX_LAYERS}"
    return ""


def stored_tensors(reference: str, path: Path) -> dict[str, Stored]:
    """Every tensor of ``model.safetensors``, or of the shards that the index names; from the headers alone.

    Raises ``UnknownBase`` for a missing, truncated or overlong file, and for an index that names another place.
    """
    if (path / "model.safetensors").is_file():
        names: set[str] = {"model.safetensors"}
        placed: dict[str, Any] | None = None
    elif (path / INDEX).is_file():
        placed = read_object(reference, path / INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
            raise UnknownBase(f"base {reference!r}: {INDEX} has no weight_map", HINT)
        names = set(placed.values())
    else:
        raise UnknownBase(
            f"base {reference!r} has no model*.safetensors files (pickled weights are never loaded)", HINT
        )
    found: dict[str, Stored] = {}
    for name in sorted(names):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise UnknownBase(f"base {reference!r}: {INDEX} names {name!r}, which is no file beside it", HINT)
        if not (path / name).is_file():
            raise UnknownBase(f"base {reference!r} lacks {name}, which its index names", "fetch the base again")
        try:
            found |= _header(path / name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnknownBase(f"base {reference!r}: {name} is not a whole safetensors file ({error})", HINT) from error
    if lacking := sorted(set(placed or ()) - set(found)):
        raise UnknownBase(f"base {reference!r} lacks weights: {', '.join(lacking[:3])} ({len(lacking)} in all)", HINT)
    if odd := next((tensor for tensor in found.values() if tensor.kind not in PLAIN), None):
        raise UnknownBase(f"base {reference!r} has weights stored as {odd.kind}, which is a quantised form", HINT)
    return found


def _header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    found = {
        name: Stored(
            file, str(entry["dtype"]), tuple(int(side) for side in entry["shape"]),
            8 + length + int(entry["data_offsets"][0]), 8 + length + int(entry["data_offsets"][1]),
        )
        for name, entry in header.items()
    }  # fmt: skip
    end = max((tensor.end for tensor in found.values()), default=8 + length)
    if end != size:
        raise ValueError(f"its header describes {end} bytes, it has {size}")
    return found


def numel(tensors: Mapping[str, Stored]) -> int:
    """Number of weights."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def weights_digest(tensors: Mapping[str, Stored]) -> str:
    """SHA-256 that tells a base from one of the same shape that was trained further; the same however the files are split.

    Over the canonical JSON ``{name: [type, shape, sha256(bytes)]}``. A tensor of up to 1 MiB is hashed whole; of a larger one 64 pieces
    of 16 KiB at even distances, the first and the last among them, so the cost is bounded by the number of tensors. A change that
    lies wholly between the pieces is not seen: this guards against mistakes, not against somebody who means to deceive.
    """
    streams: dict[Path, BinaryIO] = {}
    found: dict[str, list[Any]] = {}
    try:
        for name, tensor in sorted(tensors.items()):
            if tensor.file not in streams:
                streams[tensor.file] = tensor.file.open("rb")
            found[name] = [tensor.kind, list(tensor.shape), _sampled(streams[tensor.file], tensor)]
    finally:
        for stream in streams.values():
            stream.close()
    return digest(found)


def _sampled(stream: BinaryIO, tensor: Stored) -> str:
    size = tensor.end - tensor.start
    if size <= WHOLE:
        pieces = [(0, size)]
    else:
        pieces = [(i * (size - PIECE) // (PIECES - 1), PIECE) for i in range(PIECES)]
    total = hashlib.sha256()
    for offset, length in pieces:
        stream.seek(tensor.start + offset)
        total.update(stream.read(length))
    return total.hexdigest()


@contextmanager
def quiet_hub() -> Generator[None]:
    """No progress bars of the hub's client; what they were set to comes back."""
    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()


def tokenizer_digest(reference: str, path: Path) -> str:
    """Digest of ``tokenizer.json``'s canonical JSON. A base without that file is refused: no other form of tokenizer is read."""
    return digest(read_object(reference, path / "tokenizer.json"))
