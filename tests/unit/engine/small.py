"""Small bases and adapters for tests: Qwen2 and Llama models with random weights, a byte-level tokenizer trained on the spot."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SENTENCES = [
    "def area(width, height):\n    return width * height\n",
    "class Stack:\n    def push(self, item):\n        self.items.append(item)\n",
    "for name in names:\n    print(f'hello {name}')\n",
    "try:\n    value = int(text)\nexcept ValueError:\n    value = 0\n",
    "grüße = 'käse 🧀 und 日本語'\n",
    "The quick brown fox jumps over the lazy dog. ",
]
SHAPE = {
    "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip


transformers_logging.disable_progress_bar()


def make_tokenizer(directory: Path, *, template: str | None = TEMPLATE) -> int:
    """Write tokenizer files; gives the vocabulary's size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return tokenizer.get_vocab_size()


def make_base(
    directory: Path, *, kind: str = "qwen2", seed: int = 0, template: str | None = TEMPLATE, **shape: object
) -> Path:
    """A base directory. Weights are wide enough that logits, and with them mistakes, are far from rounding."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = make_tokenizer(directory, template=template)
    torch.manual_seed(seed)
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    fields = (
        SHAPE
        | {"vocab_size": vocabulary, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.1}
        | shape
    )
    made = model(config(**fields))
    made.generation_config.eos_token_id = [2, 0]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    made.save_pretrained(directory)
    return directory


def plain_model(base: Path):
    """The base as transformers alone loads it."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@contextmanager
def peft_quiet() -> Iterator[None]:
    """PEFT uses names that transformers has deprecated; that is not what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def with_adapter(base: Path, adapter: Path):
    """The base with an adapter as PEFT loads it."""
    with peft_quiet():
        return peft.PeftModel.from_pretrained(plain_model(base), str(adapter)).eval()


def make_adapter(base: Path, directory: Path, *, seed: int = 0, **options: object) -> Path:
    """An adapter that PEFT itself made and saved, with a B that is not zero."""
    torch.manual_seed(seed)
    options = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    } | options
    with peft_quiet():
        model = peft.get_peft_model(plain_model(base), peft.LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(directory)
    return directory
