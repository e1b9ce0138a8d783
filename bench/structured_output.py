"""What a grammar costs: compiling a guide, one mask, one token of free words beside tools. One JSON line for each vocabulary.

``python bench/structured_output.py [VOCABULARY ...]``, by default 4096 (nano's) and 151936. A larger vocabulary than nano's is made of
joined pieces of nano's, so its masks are measured on a real tokenizer's machinery but not on a real vocabulary. Times are of one thread,
the tokens those of a fitting answer, in microseconds unless they say otherwise: median, 95th percentile, largest.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import clonedna
from clonedna.core.model import Guide, SampleRequest
from clonedna.engine.grammar import Grammars, Guidance

STOPS = (0, 2)
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "tags", "kind", "when", "ratio", "part"],
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
        "kind": {"enum": ["alpha", "beta", "gamma"]}, "when": {"type": "string", "format": "date-time"}, "ratio": {"type": "number"},
        "part": {
            "type": "object", "required": ["x", "y"], "additionalProperties": False,
            "properties": {"x": {"type": "string", "maxLength": 12}, "y": {"type": "boolean"}},
        },
    },
}  # fmt: skip
ANSWER = {
    "name": "Ada Lovelace, and a longer text to write", "age": 36, "tags": ["alpha", "some words"], "kind": "beta",
    "when": "2024-01-01T00:00:00Z", "ratio": 12.5, "part": {"x": "abc-12", "y": True},
}  # fmt: skip
PATTERN = SCHEMA | {
    "properties": SCHEMA["properties"]
    | {"age": {"type": "integer"}, "name": {"type": "string", "pattern": "^[A-Z].*$"}}
}
TOOL = {"type": "function", "function": {"name": "keep", "parameters": SCHEMA}}


def widened(size: int) -> PreTrainedTokenizerFast:
    nano = PreTrainedTokenizerFast.from_pretrained(
        Path(clonedna.__file__).parent / "bases" / "nano", local_files_only=True
    )
    if size == 4096:
        return nano
    described = json.loads(nano.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = described["model"]["vocab"]
    pieces, draw = [text for text, index in vocabulary.items() if index >= 12], random.Random(0)
    while len(vocabulary) < size:
        text = "".join(draw.choices(pieces, k=draw.randint(2, 3)))
        if len(text) < 24:
            vocabulary.setdefault(text, len(vocabulary))
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))


def timed(work: Callable[[], object]) -> tuple[float, Any]:
    begun = time.perf_counter()
    made = work()
    return (time.perf_counter() - begun) * 1e6, made


def spread(values: list[float]) -> list[float]:
    return [round(float(value), 1) for value in np.quantile(values, [0.5, 0.95, 1.0])]


def walk(guidance: Guidance, tokens: list[int]) -> dict[str, list[float]]:
    masks, accepts, ends = [], [], []
    for token in tokens:
        masks.append(timed(guidance.mask)[0])
        accepts.append(timed(lambda token=token: guidance.accept(token))[0])
        ends.append(timed(lambda: guidance.finished)[0])
    return {"mask_us": spread(masks), "accept_us": spread(accepts), "finished_us": spread(ends)}


def measure(size: int) -> dict[str, Any]:
    tokenizer = widened(size)
    opening, grammars = timed(lambda: Grammars(tokenizer, STOPS, size))
    texts = {"json_object": "", "json_schema": json.dumps(SCHEMA), "pattern": json.dumps(PATTERN)}
    guides = {name: Guide(kind="json_object" if not text else "json_schema", text=text) for name, text in texts.items()}
    first, _ = timed(
        lambda: grammars.compile(SampleRequest(prompt="x", guide=Guide(kind="json_schema", text='{"const": 1}')))
    )
    report: dict[str, Any] = {
        "vocabulary": size,
        "open_ms": round(opening / 1e3, 1),
        "first_guide_ms": round(first / 1e3, 1),
    }
    answer = tokenizer(json.dumps(ANSWER), add_special_tokens=False)["input_ids"]
    for name, guide in guides.items():
        cold: list[float] = []
        for i in range(20 if guide.text else 0):
            new = Guide(kind="json_schema", text=f'{guide.text[:-1]}, "title": "{i}"}}')
            cold.append(timed(lambda new=new: grammars.compile(SampleRequest(prompt="x", guide=new)))[0])
        request = SampleRequest(prompt="x", guide=guide)
        grammars.compile(request)
        warm = [timed(lambda request=request: grammars.compile(request))[0] for _ in range(20)]
        _, guidance = timed(lambda request=request: grammars.compile(request))
        report[name] = {"compile_us": spread(cold) if cold else None, "again_us": spread(warm)} | walk(guidance, answer)
    auto = SampleRequest(prompt="x", tools=(TOOL,))
    begun, guidance = timed(lambda: grammars.compile(auto))
    words = tokenizer("Some words before any call is made, a < b and <tools> too. " * 10)["input_ids"]
    report["auto_words"] = {"first_ms": round(begun / 1e3, 1)} | walk(guidance, words)
    return report


def main() -> None:
    torch.set_num_threads(1)
    for size in [int(given) for given in sys.argv[1:]] or [4096, 151_936]:
        print(json.dumps(measure(size)), flush=True)


if __name__ == "__main__":
    main()
