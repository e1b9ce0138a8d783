"""What the benchmarks measure with: two bases, adapters of random numbers, prompts. All follow from seeds alone.

``narrow`` is the bundled base (256 wide, 4 layers). ``wide`` has the shapes of Qwen2.5-0.5B (896 wide, feed-forward 4864, 14 heads, 2 of
keys and values) in 4 layers instead of 24, random weights and the bundled base's tokenizer (4096 tokens): what it says means nothing,
how long it takes does. It is written once into ``.bench/``, and both sides of a benchmark read it from there. ``7b`` is made likewise,
in the shapes of Qwen2.5-7B (15 GB), for ``bench/gpu.py`` alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from bench.common import CACHE, ROOT
from clonedna.core.model import ALL_LINEAR

NANO = ROOT / "clonedna" / "bases" / "nano"
COMMON = {
    "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None, "initializer_range": 0.02,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "wide": COMMON | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4, "num_attention_heads": 14, "num_key_value_heads": 2,
        "vocab_size": 4096, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "7b": COMMON | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
}  # fmt: skip
SEED = 20261121
FIRST, LAST = 16, 4095  # token ids of random prompts: past the special ones


def base(name: str) -> Path:
    """The directory of ``narrow``, ``wide`` or ``7b``; any other name is a directory itself."""
    if name == "narrow":
        return NANO
    return _made(name) if name in SHAPES else Path(name)


def _made(name: str) -> Path:
    shape = SHAPES[name]
    digest = sha256(json.dumps([shape, SEED], sort_keys=True).encode()).hexdigest()[:8]
    directory = CACHE / f"{name}-{digest}"
    if directory.is_dir():
        return directory
    CACHE.mkdir(exist_ok=True)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = Path(scratch) / name
        AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.bfloat16).save_pretrained(made)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(NANO / file, made)
        os.replace(made, directory)
    return directory


def plain(directory: Path, **options: Any) -> Any:
    """The base as transformers loads it: fp32, sdpa, for inference."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa", **options
    )
    return model.eval().requires_grad_(False)


def adapters(directory: Path, into: Path, count: int, *, rank: int = 16, first: int = 0) -> list[Path]:
    """``count`` adapters in PEFT's format on all linear modules; strong enough that each changes what the base says."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    shapes = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ALL_LINEAR
    }
    return [_adapter(shapes, into / f"adapter-{i}", rank, SEED + i) for i in range(first, first + count)]


def _adapter(shapes: dict[str, tuple[int, int]], into: Path, rank: int, seed: int) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (inside, outside) in shapes.items():
        key = f"base_model.model.{name}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(rank, inside, generator=draw) / inside**0.5
        tensors[f"{key}.lora_B.weight"] = torch.randn(outside, rank, generator=draw) * 0.04
    LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM", inference_mode=True
    ).save_pretrained(str(into))
    save_file(tensors, into / "adapter_model.safetensors", metadata={"format": "pt"})
    return into


def prompts(count: int, tokens: int, seed: int = 0, shared: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Random token ids, all of one length; ``shared`` stands before each."""
    draw = random.Random(seed)
    return [(*shared, *(draw.randint(FIRST, LAST) for _ in range(tokens))) for _ in range(count)]
