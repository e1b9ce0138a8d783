"""Find and load a base model: the bundled ``nano``, a directory, or a name on the Hugging Face hub.

Nothing of a base is ever executed (``trust_remote_code`` is off) and nothing is unpickled (safetensors only). A base that this
engine cannot carry is refused with the reason, before its weights are read where that can be; no weight is ever filled in at random.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from clonedna.core.canonical import digest
from clonedna.core.errors import BadConfig, UnknownBase
from clonedna.core.model import ALL_LINEAR
from clonedna.engine.base_files import (
    HINT,
    numel,
    quiet_hub,
    read_config,
    resolve_base,
    stored_tensors,
    tokenizer_digest,
    weights_digest,
)
from clonedna.engine.memory import require
from clonedna.engine.slots import linear_targets

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_CONTEXT = 1 << 20
NF4_BYTES = (
    0.5 + 4 / 64
)  # a weight: 4 bits and its share of an fp32 scale for 64 of them (Dettmers et al. 2023, without double)
FAMILIES = "a Llama, Mistral, Qwen2, Qwen3, OLMo2, Granite or SmolLM3 model; docs/bases.md lists what runs"
# Keys of config.json that say how a file was written or run, not what it computes.
VOLATILE = frozenset(
    ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "attn_implementation", "_attn_implementation",
     "_attn_implementation_autoset", "use_cache", "output_attentions", "output_hidden_states", "return_dict")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """A base in memory, before anything is wrapped. ``context`` is what the engine uses: no longer than any sliding window.

    ``dtype``: ``nf4``, or what the weights are held in; ``dtype_how``: how that was chosen. ``weights_digest`` is of the stored
    weights, so it does not depend on dtype or device (``None``: an outline). ``parameters`` counts weights before any packing.
    """

    id: str
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
    context: int
    dtype: str
    device: str
    dtype_how: str = ""
    weights_digest: str | None = None
    parameters: int = 0


def load_base(reference: str, *, dtype: str = "", device: str = "", quantize: str = "") -> Base:
    """Load a base for inference. ``dtype``: ``float32``, ``bfloat16``, ``float16``, or empty: chosen by the device (``choose_dtype``).
    ``device``: empty is the first GPU where there is one, else the CPU. ``quantize``: ``nf4``, or empty for none.

    Raises ``UnknownBase`` with the reason, ``BadConfig`` for what cannot be done here, ``NoMemory`` when the weights would not fit.
    """
    device = choose_device(device)
    chosen, how = choose_dtype(dtype, device)
    options = weight_options("nf4" if _is_nf4(quantize) else chosen, chosen, device)
    outline = outline_base(reference)
    stored = stored_tensors(reference, outline.path)
    needed, held = outline.parameters, numel(stored)
    if needed > 2 * held:
        raise UnknownBase(f"base {reference!r}: its config asks for {needed} weights, its files hold {held}", HINT)
    free = int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else None
    require(
        int(weight_bytes(outline.model, held, DTYPES[chosen].itemsize, quantize) * 1.1),
        f"base {reference!r}",
        free=free,
    )
    with quiet():
        try:
            # Eager: the attention that each architecture's own code spells out. What this engine computes is checked against it.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                outline.path, attn_implementation="eager", output_loading_info=True, **options
            )
        except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise UnknownBase(f"base {reference!r} cannot be loaded ({_reason(error)})", HINT) from error
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise UnknownBase(f"base {reference!r} lacks weights: {', '.join(lacking[:3])} ({len(lacking)} in all)", HINT)
    _refuse_not_finite(reference, model)
    if quantize:
        _unpacked(model)
    else:
        model.to(device)  # type: ignore[arg-type]
    model.eval().requires_grad_(False)
    return Base(
        outline.id, outline.path, model, outline.tokenizer, outline.fingerprint, outline.context, quantize or chosen, device,
        f"asked for, computing in {chosen} ({how})" if quantize else how, weights_digest(stored), needed,
    )  # fmt: skip


def outline_base(reference: str) -> Base:
    """A base as its config and tokenizer describe it: names, shapes, fingerprint; its weights are neither read nor held.

    The model lies on torch's ``meta`` device (so does ``device`` say; ``dtype`` is empty) and computes nothing. For engines whose
    weights are elsewhere, and for refusing before weights are read. Raises ``UnknownBase``.
    """
    name, path = resolve_base(reference)
    config = read_config(reference, path, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    tokenizer_id = tokenizer_digest(reference, path)
    with quiet():
        try:
            made: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(
                    made, attn_implementation="eager", trust_remote_code=False
                )
            if (path / "generation_config.json").is_file():
                model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
            # Not AutoTokenizer: for some model types it rebuilds the pipeline and no longer does what tokenizer.json says.
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        except Exception as error:  # a config is third-party text: its numbers make the model's own code raise anything
            raise UnknownBase(f"base {reference!r} cannot be read ({_reason(error)})", HINT) from error
    _refuse_unfit(reference, config, model)
    rows, highest = int(model.get_input_embeddings().weight.shape[0]), max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise UnknownBase(
            f"base {reference!r}: its tokenizer gives ids up to {highest}, its model has {rows} embeddings", HINT
        )
    shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    fingerprint = digest({"config": kept, "tokenizer": tokenizer_id, "shapes": shapes})
    return Base(
        name, path, model, tokenizer, fingerprint, _context(model), "", "meta",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )  # fmt: skip


def choose_device(device: str) -> str:
    """``cpu`` or ``cuda`` (or ``cuda:N``); empty is the first GPU where there is one. Raises ``BadConfig`` for one that is not here."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        raise BadConfig(f"device {device!r} is not one that a base runs on", "use cpu, cuda or cuda:N")
    if device != "cpu" and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise BadConfig(
            f"there is no device {device!r} here ({torch.cuda.device_count()} GPUs are seen by torch)",
            "use cpu, or install a torch with CUDA",
        )
    return device


def choose_dtype(dtype: str, device: str) -> tuple[str, str]:
    """``(dtype, how it was chosen)``. A GPU: bfloat16, float16 where it has none; a CPU: float32 (docs/bases.md says what was measured)."""
    if dtype:
        if dtype not in DTYPES:
            raise BadConfig(f"dtype {dtype!r} is not one that a base is held in", f"use one of: {', '.join(DTYPES)}")
        return dtype, "asked for"
    if device == "cpu":
        return "float32", "default on a CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "default on a GPU"
    return "float16", "this GPU has no bfloat16"


def weight_options(kind: str, compute: str, device: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told so that it reads weights as ``kind`` (a dtype, or ``nf4`` computing in ``compute``)."""
    common: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
    if kind != "nf4":
        return common | {"dtype": DTYPES[kind]}
    settings: Any = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[compute]
    )
    return common | {"dtype": DTYPES[compute], "quantization_config": settings, "device_map": {"": device}}


def _is_nf4(quantize: str) -> bool:
    if quantize not in ("", "nf4"):
        raise BadConfig(f"quantize {quantize!r} is not known", "use nf4, or leave it empty")
    if quantize and importlib.util.find_spec("bitsandbytes") is None:
        raise BadConfig("quantize = nf4 needs bitsandbytes, which is not installed", "pip install 'clone-dna[nf4]'")
    return bool(quantize)


def _unpacked(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with avx512_bf16: that form takes no gradient, refuses widths that 32 does
    not divide, and rounds a row by how many there are. Without it weights are unpacked to the computing dtype for each product.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - not a tensor, as its type would have it


def weight_bytes(model: PreTrainedModel, held: int, width: int, quantize: str) -> float:
    """Of the weights in memory; at least as many as the files hold."""
    total = max(held, sum(p.numel() for p in model.parameters()))
    if not quantize:
        return total * width
    packed = sum(m.weight.numel() for m in linear_targets(model).values() if isinstance(m, nn.Linear))
    return (total - packed) * width + packed * NF4_BYTES


def _refuse_unfit(reference: str, config: dict[str, Any], model: PreTrainedModel) -> None:
    kind, text = config.get("model_type"), model.config.get_text_config()
    if any(".experts." in name or name.endswith(".experts") for name, _ in model.named_modules()):
        raise UnknownBase(
            f"base {reference!r} ({kind}) is a mixture of experts: adapters on experts are not supported", HINT
        )
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"]) - {"full_attention", "sliding_attention"}
    if not kinds and any(isinstance(module, nn.Conv1d) for module in model.modules()):
        kinds = {"convolution or recurrence"}
    if kinds:
        raise UnknownBase(
            f"base {reference!r} ({kind}) has layers of type {', '.join(sorted(kinds))}, which this engine cannot run",
            HINT,
        )
    layers = int(text.num_hidden_layers)
    names = list(linear_targets(model))
    for target in ALL_LINEAR:
        count = sum(name.rpartition(".")[2] == target for name in names)
        if count != layers:
            raise UnknownBase(
                f"base {reference!r} ({kind}) has {count} modules called {target} in {layers} layers; "
                "this engine carries models with one in each",
                f"use {FAMILIES}",
            )
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise UnknownBase(f"base {reference!r} has no linear output head", HINT)


def _refuse_not_finite(reference: str, model: PreTrainedModel) -> None:
    """One sum over each tensor: a NaN or an infinity survives it. Of packed 4-bit weights the scales are looked at."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        values = parameter if state is None else cast(torch.Tensor, state.absmax)
        if not bool(
            torch.isfinite(values.detach().sum(dtype=torch.float64 if values.dtype == torch.float64 else torch.float32))
        ):
            raise UnknownBase(
                f"base {reference!r} has a weight that is no finite number in {name}", "fetch the base again"
            )


def _context(model: PreTrainedModel) -> int:
    """Longest sequence; at most 2^20. Within a sliding window, sliding attention is full attention: the engine stays inside it.

    Rotary embeddings of type ``longrope`` (Ding et al. 2024) turn to other factors for a whole pass once any position in it is beyond
    the original length, so that one request would change another's: the engine stays inside that length too.
    """
    config = model.config.get_text_config()
    context = min(int(config.max_position_embeddings), MAX_CONTEXT)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else window is not None
    if slides and window:
        context = min(context, int(window))
    ropes: Any = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *(value for value in ropes.values() if isinstance(value, dict))]:
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            context = min(context, int(original or context))
    return context


def _reason(error: Exception) -> str:
    return (f"{type(error).__name__}: {error}".splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def quiet() -> Generator[None]:
    """No progress bars and no advice from the libraries while a base is loaded; what they were set to comes back."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_hub():
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
