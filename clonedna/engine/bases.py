"""Find and load a base model: the bundled ``nano``, a directory, or a name on the Hugging Face hub.

Nothing of a base is ever executed (``trust_remote_code`` is off) and nothing is unpickled (safetensors only). A base that this
engine cannot carry is refused with the reason; no weight is ever filled in at random.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from clonedna.core.canonical import digest, strict_json
from clonedna.core.errors import UnknownBase
from clonedna.core.model import ALL_LINEAR
from clonedna.engine.memory import require
from clonedna.engine.slots import linear_targets

BUNDLED = ("nano",)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
HUB_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "*.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
]
HINT = (
    f"use one of: {', '.join(BUNDLED)}; a directory with config.json, tokenizer.json and *.safetensors; "
    "or a Hugging Face name such as Qwen/Qwen2.5-Coder-0.5B-Instruct"
)
# Keys of config.json that say how a file was written or run, not what it computes.
VOLATILE = frozenset(
    ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "attn_implementation", "_attn_implementation",
     "_attn_implementation_autoset", "use_cache", "output_attentions", "output_hidden_states", "return_dict")
)  # fmt: skip
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Base:
    """A base in memory, before anything is wrapped. ``context`` is what the engine uses: no longer than any sliding window."""

    id: str
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    context: int
    dtype: str
    device: str


def resolve_base(reference: str) -> tuple[str, Path]:
    """``(id, directory)`` of a base. The id is fit for a block: a bundled name, a directory's own name, or a hub name.

    Raises ``UnknownBase``. A hub name that is not in the cache is fetched, unless ``HF_HUB_OFFLINE`` is set.
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
    if not HUB_NAME.match(reference):
        raise UnknownBase(f"no base is called {reference!r}", HINT)
    try:
        with _quiet():
            return reference, Path(snapshot_download(reference, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client raises its own, requests', httpx' and the system's errors
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UnknownBase(f"{reference!r} could not be had from the Hugging Face hub ({reason})", HINT) from error


def load_base(reference: str, *, dtype: str = "", device: str = "") -> Base:
    """Load a base for inference. ``dtype``: ``float32`` (default on CPU) or ``bfloat16`` (default elsewhere).

    Raises ``UnknownBase`` with the reason, ``NoMemory`` when the weights would not fit.
    """
    name, path = resolve_base(reference)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise UnknownBase(f"dtype {dtype!r} is not one that a base is loaded in", f"use one of: {', '.join(DTYPES)}")
    config = _config(reference, path)
    tokenizer_digest = digest(_json(reference, path / "tokenizer.json"))
    require(int(_numel(reference, path) * DTYPES[dtype].itemsize * 1.1), f"base {reference!r}")
    with _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=DTYPES[dtype], attn_implementation="sdpa", trust_remote_code=False, use_safetensors=True,
                local_files_only=True, output_loading_info=True,
            )  # fmt: skip
            # Not AutoTokenizer: for some model types it rebuilds the pipeline and no longer does what tokenizer.json says.
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise UnknownBase(f"base {reference!r} cannot be loaded ({reason})", HINT) from error
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise UnknownBase(f"base {reference!r} lacks weights: {', '.join(lacking[:3])} ({len(lacking)} in all)", HINT)
    _refuse_unfit(reference, config, model)
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    fingerprint = digest({"config": kept, "tokenizer": tokenizer_digest, "shapes": shapes})
    return Base(name, path, model, tokenizer, fingerprint, _context(model), dtype, device)


def _json(reference: str, path: Path) -> dict[str, Any]:
    try:
        value = strict_json(path.read_bytes())
    except OSError as error:
        raise UnknownBase(f"base {reference!r} has no readable {path.name}", HINT) from error
    except ValueError as error:
        raise UnknownBase(f"base {reference!r}: {path.name} is not valid JSON ({error})", HINT) from error
    if not isinstance(value, dict):
        raise UnknownBase(f"base {reference!r}: {path.name} is not an object", HINT)
    return value


def _config(reference: str, path: Path) -> dict[str, Any]:
    config = _json(reference, path / "config.json")
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnknownBase(f"base {reference!r} is of type {kind!r}, which is no causal language model here", HINT)
    experts = [key for key in EXPERT_KEYS if config.get(key)]
    if experts:
        raise UnknownBase(
            f"base {reference!r} is a mixture of experts ({experts[0]}): adapters on experts are not supported", HINT
        )
    return config


def _numel(reference: str, path: Path) -> int:
    """Number of weights in the safetensors files, from their headers alone."""
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise UnknownBase(f"base {reference!r} has no *.safetensors files (pickled weights are never loaded)", HINT)
    total = 0
    for file in found:
        try:
            with safe_open(file, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    count = 1
                    for side in tensors.get_slice(key).get_shape():
                        count *= int(side)
                    total += count
        except (OSError, SafetensorError) as error:
            raise UnknownBase(f"base {reference!r}: {file.name} is not a safetensors file ({error})", HINT) from error
    return total


def _refuse_unfit(reference: str, config: dict[str, Any], model: PreTrainedModel) -> None:
    layers = int(model.config.get_text_config().num_hidden_layers)
    names = list(linear_targets(model))
    for target in ALL_LINEAR:
        count = sum(name.rpartition(".")[2] == target for name in names)
        if count != layers:
            raise UnknownBase(
                f"base {reference!r} ({config.get('model_type')}) has {count} modules called {target} in {layers} layers; "
                "this engine carries models with one in each (Llama, Mistral, Qwen2, Qwen3 and their like)",
                HINT,
            )
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise UnknownBase(
            f"base {reference!r} has layers of type {', '.join(sorted(unknown))}, which this engine cannot run", HINT
        )
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise UnknownBase(f"base {reference!r} has no linear output head", HINT)


def _context(model: PreTrainedModel) -> int:
    """Longest sequence. Within a sliding window, sliding attention is full attention: the engine stays inside it."""
    config = model.config.get_text_config()
    context = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else window is not None
    return min(context, int(window)) if slides and window else context


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bars and no advice from the libraries while a base is loaded; what they were set to comes back."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
