"""The numbers of a block's ``eval.json`` again, with plain transformers and PEFT: nothing here is ours but the files that are read.

``python recomputed.py BASE BLOCK GENERAL`` prints one JSON object: likelihoods on the hold-out, and forgetting on the general set.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ids_of(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt and completion, tokenised apart; a turn ends with its token, plain text does not."""
    if "text" in row:
        return tokenizer(row["text"])["input_ids"], tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    messages = row.get("messages") or [{"role": "user", "content": row["instruction"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    completion = row["completion"].removesuffix("\n") + "<|im_end|>"
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))


@torch.inference_mode()
def total(model: Any, tokenizer: Any, examples: list[dict[str, Any]]) -> tuple[float, int]:
    """Nats over all completions, and how many tokens these are. One example at a time, in fp32."""
    nats, tokens = 0.0, 0
    for row in examples:
        prompt, completion = ids_of(tokenizer, row)
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])
        nats -= float(chosen.sum())
        tokens += len(completion)
    return nats, tokens


def main(base: str, block: str, general: str) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    held = [row for row in rows(Path(block) / "pairs.jsonl") if row["split"] == "holdout"]
    others = rows(Path(general))
    before = [total(model, tokenizer, some) for some in (held, others)]
    tuned = PeftModel.from_pretrained(model, block).eval()
    after = [total(tuned, tokenizer, some) for some in (held, others)]
    bare, own = (side[0][0] / side[0][1] for side in (before, after))
    size = sum(len(row["completion"].removesuffix("\n").encode()) for row in held)
    found = {
        "nll.base": bare, "nll.adapter": own, "nll.delta": bare - own, "perplexity_reduction_ratio": math.exp(bare - own),
        "bits_per_byte.base": before[0][0] / math.log(2) / size, "bits_per_byte.adapter": after[0][0] / math.log(2) / size,
        "forgetting": (after[1][0] - before[1][0]) / before[1][0],
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
