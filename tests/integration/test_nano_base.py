"""The shipped reference base: it loads as any Hugging Face base does, and is what its card says."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NANO = Path(__file__).parents[2] / "clonedna" / "bases" / "nano"

pytestmark = pytest.mark.skipif(not (NANO / "model.safetensors").exists(), reason="the reference base is not here")

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)

# Public code of these packages' maintainers is kept for trials; the base must not have seen it.
KEPT_OUT = {
    "rich",
    "textual",
    "typer",
    "fastapi",
    "sqlmodel",
    "asyncer",
    "click",
    "flask",
    "werkzeug",
    "jinja2",
    "markupsafe",
    "itsdangerous",
    "quart",
    "blinker",
    "httpx",
    "httpcore",
    "starlette",
    "uvicorn",
    "djangorestframework",
    "databases",
    "mkdocs",
    "h11",
    "h2",
    "python-multipart",
    "attrs",
    "cattrs",
    "structlog",
    "argon2-cffi",
    "service-identity",
    "twisted",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "logfire",
    "pip",
}

TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a text file of the project.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string", "description": "Path of the file"}},
            "required": ["path"],
        },
    },
}

CODE = '''def mean(values):
    """Return the arithmetic mean of the values."""
    if not values:
        raise ValueError("mean of no values")
    return sum(values) / len(values)


class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, n=1):
        self.count += n
        return self.count
'''


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(NANO)


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32).eval()


def test_loads_without_warnings_or_remote_code() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(NANO)
        transformers.AutoTokenizer.from_pretrained(NANO)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.tie_word_embeddings
    assert not list(NANO.glob("*.py"))


def test_is_small(model) -> None:
    assert sum(p.numel() for p in model.parameters()) <= 8_000_000
    assert (NANO / "model.safetensors").stat().st_size <= 16 * 1024 * 1024
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model.config.max_position_embeddings >= 1024


def test_special_tokens_are_single(tokenizer) -> None:
    for token in SPECIAL:
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        CODE,
        " \n\t\r\n  x\r\n\r\n\t ",
        "naïve café — “quotes” …",
        "日本語 и кириллица عربى हिन्दी",
        "👩‍👩‍👧‍👦 🏳️‍🌈 \U0010ffff",
        "\x00\x01\x7f\u200b\ufeff\u2028",
        "e\u0301 vs \u00e9",
        "    leading and trailing    ",
        "1234567890 3.14e-10 0xFF",
    ],
)
def test_text_comes_back_byte_for_byte(tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_chat_template_with_tools(tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is in `a/b.py`?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "read_file", "arguments": {"path": "a/b.py"}}}],
        },
        {"role": "tool", "content": "x = 1"},
        {"role": "tool", "content": "y = 2"},
        {"role": "assistant", "content": "Two assignments."},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")
    listed = text.split("<tools>\n", 1)[1].split("\n</tools>", 1)[0]
    assert json.loads(listed) == TOOL
    call = text.split("<|im_start|>assistant\n<tool_call>\n", 1)[1].split("\n</tool_call><|im_end|>", 1)[0]
    assert json.loads(call) == {"name": "read_file", "arguments": {"path": "a/b.py"}}
    assert (
        "<|im_start|>user\n<tool_response>\nx = 1\n</tool_response>\n<tool_response>\ny = 2\n</tool_response><|im_end|>"
        in text
    )
    assert text.endswith("<|im_start|>assistant\nTwo assignments.<|im_end|>\n")


def test_no_system_turn_unless_given(tokenizer) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("completion", ["    return x", "\n    x = 1", "def f():\n    pass", "\treturn", "# a"])
def test_prompt_is_a_token_prefix_of_prompt_and_completion(tokenizer, completion: str) -> None:
    """What training masks and what generation continues are cut at the same token."""
    prompt = [{"role": "user", "content": "Write it."}]
    whole = [*prompt, {"role": "assistant", "content": completion}]
    a = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    b = tokenizer.apply_chat_template(whole, tokenize=False)
    first = tokenizer.encode(a, add_special_tokens=False)
    both = tokenizer.encode(b, add_special_tokens=False)
    assert both[: len(first)] == first


def test_bits_per_byte_of_plain_python_is_sane(tokenizer, model) -> None:
    ids = [tokenizer.convert_tokens_to_ids("<|endoftext|>"), *tokenizer.encode(CODE, add_special_tokens=False)]
    x = torch.tensor([ids])
    with torch.inference_mode():
        logits = model(x).logits
    nats = torch.nn.functional.cross_entropy(logits[0, :-1], x[0, 1:], reduction="sum").item()
    assert 0.2 < nats / math.log(2) / len(CODE.encode()) < 2.0


def test_generates_until_the_end_of_turn(tokenizer, model) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write a Python function that returns the sum of two numbers."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=200)
    reply = out[0, prompt["input_ids"].shape[1] :].tolist()
    text = tokenizer.decode(reply, skip_special_tokens=True)
    assert text.lstrip().startswith(("def ", "async def ", "@", "class "))
    assert "```" not in text


def test_corpus_list_is_permissive_and_leaves_the_trials_out() -> None:
    rows = json.loads((NANO / "corpus.json").read_text())["packages"]
    names = {r["name"] for r in rows}
    assert len(names) > 40
    assert not names & KEPT_OUT
    for row in rows:
        assert row["licence"]
        assert not any(word in row["licence"].upper() for word in ("GPL", "MPL", "EPL"))
        assert row["digest"].startswith("sha256:")
    total = sum(r["bytes_used"] for r in rows if r["part"] == "train")
    assert max(r["bytes_used"] for r in rows) <= 0.08 * total


def test_card_and_log_are_there() -> None:
    assert "What it is not" in (NANO / "README.md").read_text()
    log = (NANO / "training_log.jsonl").read_text().splitlines()
    assert 0 < len(log) <= 210
    assert json.loads(log[0])["event"] == "start"
