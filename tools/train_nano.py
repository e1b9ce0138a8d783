#!/usr/bin/env python3
"""Train the reference base ``clonedna/bases/nano`` from nothing, on a CPU, in a fixed time.

    python tools/nano_corpus.py build  --work DIR     # the text (see that file)
    python tools/train_nano.py prepare --work DIR     # tokenizer, token arrays, held-out sets
    python tools/train_nano.py train   --work DIR --minutes 95
    python tools/train_nano.py evaluate --work DIR    # held-out figures of the last checkpoint
    python tools/train_nano.py export  --work DIR --out clonedna/bases/nano

``train`` writes ``DIR/checkpoint.pt`` every few minutes (to a temporary file, then renamed):
weights, both optimizers' state, the random state, the position in the data and the time
used. Started again, it goes on from there with the time that is left. Every line of
``DIR/train.jsonl`` is one JSON object.

Units: loss and nll are in nats per token; ``bpb`` is bits per byte: the summed nll in bits over
the number of UTF-8 bytes, first token included; times are seconds unless the key says so.

The model is Qwen2's mathematics: pre-norm blocks, rotary positions, grouped-query attention with
biases on q, k and v, SwiGLU, tied embeddings. The loop runs a lean copy of it (fused projections,
``torch.compile``). ``export`` writes it as a Llama model with ``attention_bias``, the bias of the
output projection zero: the same function. It cannot be written as ``qwen2``, because transformers 5
loads every ``qwen2`` folder with Qwen's own pre-tokenizer and NFC, whatever its tokenizer.json says.
``export`` checks that transformers computes the same logits and the same tokens from the folder.

Optimizer: Muon for the hidden matrices (K. Jordan et al. 2024, "Muon: an optimizer for
hidden layers in neural networks"; ``torch.optim.Muon``), AdamW for embeddings, norms and biases.
Schedule: warm-up, stable, linear decay to zero (Hu et al. 2024, MiniCPM), over the time budget.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import lzma
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

SEED = 20240917
CONTEXT = 1024  # tokens
BLOCK = 1024  # tokens per unit of the data order
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<tools>", "</tools>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
]  # fmt: skip
VOCABULARY = 4096

# One pre-token is: a newline right after the word "assistant" (so that a completion which begins
# with an indent is cut the same way alone and after the generation prompt); newlines with the
# indent that follows; a run of spaces; a word with at most one other character before it; one
# digit; punctuation with the newlines and indent that follow.
PATTERN = (
    r"(?<=assistant)\n|(?:\r?\n[ \t]*)+|[ \t]{2,}|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}"
    r"| ?[^\s\p{L}\p{N}]+(?:\r?\n[ \t]*)*|\s+"
)

TOOLS_HEAD = (
    "You can call functions. Their signatures are listed as JSON inside <tools></tools>, one per line.\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\nTo call one, answer with its name and arguments as JSON inside <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <arguments-object>}\n</tool_call>'
)

CHAT_TEMPLATE = (
    """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- """
    + json.dumps(TOOLS_HEAD).replace('"', "'")
    + """ }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- """
    + "'"
    + TOOLS_TAIL.replace("\n", "\\n")
    + "'"
    + """ + '<|im_end|>\\n' }}
{%- elif messages and messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}
    {%- elif message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}
                {{- '\\n' }}
            {%- endif %}
            {%- set call = call.function or call %}
            {{- '<tool_call>\\n{"name": ' + (call.name | tojson) + ', "arguments": ' }}
            {{- call.arguments if call.arguments is string else (call.arguments | tojson) }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
)


# --- instruction rows made from code ---------------------------------------------------------

Row = list[tuple[str, bool]]  # (text, does it carry loss); a row is one conversation


def draw(*key: object) -> random.Random:
    """A generator that depends on the key only."""
    return random.Random(hashlib.sha256("\0".join(map(str, (SEED, *key))).encode()).digest())


def chat(user: str, completion: str, *more: tuple[str, bool]) -> Row:
    return [
        (f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n", False),
        (completion + "<|im_end|>", True),
        ("\n", False),
        *more,
    ]


def first_sentence(doc: str) -> str:
    """First sentence of a docstring, on one line, without the final dot; "" when it is no sentence."""
    line = " ".join(doc.strip().split("\n\n")[0].split())
    match = re.match(r"(.{12,160}?)(?:\.(?:\s|$)|$)", line)
    if not match or match[1].count(" ") < 2 or not match[1][0].isalpha() or ">>>" in match[1] or "::" in match[1]:
        return ""
    return match[1].rstrip(" .:")


def lower_first(text: str) -> str:
    return text[0].lower() + text[1:] if len(text) > 1 and not text[1].isupper() else text


def imperative(text: str) -> str:
    """``Returns the size`` -> ``return the size``, for the common third-person opening."""
    word, _, rest = text.partition(" ")
    low = word.lower()
    if re.fullmatch(r"[a-z]{3,}(sses|shes|ches|xes)", low):
        low = low[:-2]
    elif re.fullmatch(r"[a-z]{3,}ies", low):
        low = low[:-3] + "y"
    elif re.fullmatch(r"[a-z]{3,}[^su]s", low) and low not in ("this", "does"):
        low = low[:-1]
    return f"{low} {rest}"


@dataclass
class Span:
    """One function, method or class; lines are 0-based, end exclusive."""

    node: ast.AST
    start: int
    end: int
    owner: str  # class name or ""
    doc: ast.Expr | None


def spans(tree: ast.Module) -> Iterator[Span]:
    def visit(body: list[ast.stmt], owner: str) -> Iterator[Span]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                first = node.body[0]
                doc = (
                    first
                    if isinstance(first, ast.Expr)
                    and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)
                    else None
                )
                yield Span(node, start, node.end_lineno or start + 1, owner, doc)
                if isinstance(node, ast.ClassDef) and not owner:
                    yield from visit(node.body, node.name)

    yield from visit(tree.body, "")


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    a = node.args
    names = [x.arg for x in (*a.posonlyargs, *a.args)]
    if names and names[0] in ("self", "cls"):
        names = names[1:]
    names += ([f"*{a.vararg.arg}"] if a.vararg else []) + [x.arg for x in a.kwonlyargs]
    names += [f"**{a.kwarg.arg}"] if a.kwarg else []
    return ", ".join(names)


def dedent(lines: list[str]) -> str:
    first = lines[0]
    width = len(first) - len(first.lstrip())
    return "\n".join(line[width:] if not line[:width].strip() else line.lstrip() for line in lines)


def leading_comment(lines: list[str], start: int) -> str:
    got: list[str] = []
    i = start - 1
    while i >= 0 and lines[i].strip().startswith("#") and len(got) < 6:
        got.insert(0, lines[i].strip().lstrip("#:! ").strip())
        i -= 1
    text = " ".join(" ".join(got).split())
    return text if 15 <= len(text) <= 300 and text.count(" ") >= 2 and not set(text) <= set("-=#* ") else ""


def changed(span: Span, lines: list[str], rng: random.Random) -> tuple[str, str, str] | None:
    """``(commit subject, before, after)``: before is the span with one mechanical step undone."""
    node = span.node
    if isinstance(node, ast.ClassDef):
        return None
    after = "\n".join(lines[span.start : span.end])
    name = f"{span.owner}.{node.name}" if span.owner else node.name
    ways = ["guard", "doc", "rename", "hints"]
    rng.shuffle(ways)
    for way in ways:
        if way == "doc" and span.doc and len(node.body) > 1:
            kept = lines[span.start : span.doc.lineno - 1] + lines[span.doc.end_lineno : span.end]
            return f"add a docstring to {name}", "\n".join(kept), after
        if way == "guard":
            for child in node.body[1 if span.doc else 0 :][:-1]:
                if (
                    isinstance(child, ast.If)
                    and not child.orelse
                    and len(child.body) == 1
                    and isinstance(child.body[0], (ast.Raise, ast.Return))
                ):
                    kept = lines[span.start : child.lineno - 1] + lines[child.end_lineno : span.end]
                    what = "raise" if isinstance(child.body[0], ast.Raise) else "return early"
                    return f"{what} in {name} when {ast.unparse(child.test)[:80]}", "\n".join(kept), after
        if way == "rename":
            local = sorted(
                {
                    n.id
                    for n in ast.walk(node)
                    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and len(n.id) > 3
                }
            )
            if local:
                old = rng.choice(local)
                new = rng.choice([x for x in ("tmp", "value", "x", "data", "res") if x not in after] or [""])
                if new and not re.search(rf"[.'\"]{old}\b|\b{old}=", after):
                    return f"rename {new} to {old} in {name}", re.sub(rf"\b{old}\b", new, after), after
        if way == "hints" and node.returns is not None and not node.decorator_list:
            head_end = node.body[0].lineno - 1
            if span.doc is None or span.doc.lineno - 1 == head_end:
                bare = ast.parse(ast.unparse(node)).body[0]
                bare.returns = None
                every = bare.args
                for x in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg):
                    if x is not None:
                        x.annotation = None
                bare.body = [ast.Pass()]
                indent = re.match(r"\s*", lines[span.start])[0]
                head = [indent + h for h in ast.unparse(bare).split("\n")[:-1]]
                return f"add type hints to {name}", "\n".join(head + lines[head_end : span.end]), after
    return None


def code_rows(path: str, text: str) -> Iterator[Row]:
    """Instruction rows of one file, at most one per span, its form chosen by hash."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError):
        return
    lines = text.split("\n")
    for span in spans(tree):
        node = span.node
        size = sum(len(x) + 1 for x in lines[span.start : span.end])
        if not 60 <= size <= 1700 or span.end - span.start < 3:
            continue
        rng = draw("span", path, getattr(node, "name", ""), span.start)
        try:
            row = one_row(path, lines, span, rng)
        except (SyntaxError, ValueError, AttributeError, RecursionError):
            row = None
        if row is not None:
            yield row


def one_row(path: str, lines: list[str], span: Span, rng: random.Random) -> Row | None:
    node = span.node
    whole = "\n".join(lines[span.start : span.end])
    is_class = isinstance(node, ast.ClassDef)
    sentence = first_sentence(ast.literal_eval(ast.unparse(span.doc.value))) if span.doc else ""
    if is_class:
        if rng.random() < 0.4:
            return None
        task = f"Write the Python class `{node.name}` for `{path}`."
    elif span.owner:
        task = f"Write the Python method `{span.owner}.{node.name}({arguments(node)})` for `{path}`."
    else:
        task = f"Write the Python function `{node.name}({arguments(node)})` for `{path}`."
    roll = rng.random()
    if not is_class and roll < 0.09 and (change := changed(span, lines, rng)) is not None:
        subject, before, after = change
        commit = f"Commit: {subject}\n\n" if rng.random() < 0.8 else ""
        if before != after:
            return chat(f"Change this Python code in `{path}`.\n\n{commit}```python\n{before}\n```", after)
    separate = span.doc is not None and node.body[0].lineno > node.lineno and len(node.body) > 1
    if separate and not is_class and roll < 0.42:  # form B
        head = "\n".join(lines[span.start : span.doc.end_lineno])
        body = "\n".join(lines[span.doc.end_lineno : span.end])
        if body.strip():
            return chat(
                f"Write the body of this Python function from `{path}`.\n\n```python\n{head}\n```", body.lstrip("\n")
            )
    if sentence and not is_class and roll < 0.75:  # form C
        code = dedent(lines[span.start : span.end])
        verb = lower_first(imperative(sentence))
        ask = f"Write a Python function that {lower_first(sentence)}." if rng.random() < 0.5 else sentence
        if rng.random() < 0.15:
            ask = f"Write a Python function to {verb}."
        return chat(ask, code)
    if sentence and separate and roll < 0.88:  # form A, the docstring as stand-in for a subject
        kept = lines[span.start : span.doc.lineno - 1] + lines[span.doc.end_lineno : span.end]
        return chat(f"{task}\n\nCommit: {imperative(lower_first(sentence))}", "\n".join(kept))
    about = leading_comment(lines, span.start)
    if about and rng.random() < 0.8:
        task += f"\n\nAbout: {about}"
    return chat(task, whole)


# --- tool-use rows ---------------------------------------------------------------------------


def _tool(name: str, about: str, **properties: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {
                "type": "object",
                "properties": {k: {"type": "string", "description": v} for k, v in properties.items()},
                "required": list(properties),
            },
        },
    }


TOOLS = {
    "read_file": _tool("read_file", "Read a text file of the project.", path="Path of the file"),
    "write_file": _tool("write_file", "Write a text file.", path="Path of the file", content="The whole text"),
    "run_command": _tool("run_command", "Run a shell command and return its output.", command="The command"),
    "search": _tool("search", "Search the project for a text.", query="The text to look for"),
}


def tools_turn(tools: list[dict[str, Any]], system: str = "") -> str:
    """The system turn that the chat template renders for these tools."""
    head = f"{system}\n\n" if system else ""
    listed = "".join("\n" + json.dumps(t, ensure_ascii=False) for t in tools)
    return f"<|im_start|>system\n{head}{TOOLS_HEAD}{listed}{TOOLS_TAIL}<|im_end|>\n"


def call_text(name: str, args: dict[str, str]) -> str:
    body = json.dumps(args, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {body}}}\n</tool_call>'


@dataclass
class ToolExample:
    tools: list[str]
    system: str
    user: str
    name: str
    args: dict[str, str]
    response: str
    answer: str

    def row(self) -> Row:
        head = tools_turn([TOOLS[t] for t in self.tools], self.system)
        row: Row = [
            (f"{head}<|im_start|>user\n{self.user}<|im_end|>\n<|im_start|>assistant\n", False),
            (call_text(self.name, self.args) + "<|im_end|>", True),
            ("\n", False),
        ]
        if self.response:
            row += [
                (
                    f"<|im_start|>user\n<tool_response>\n{self.response}\n</tool_response><|im_end|>\n"
                    "<|im_start|>assistant\n",
                    False,
                ),
                (self.answer + "<|im_end|>", True),
                ("\n", False),
            ]
        return row


def tool_example(path: str, text: str, folder: list[str], salt: int = 0) -> ToolExample | None:
    """One tool conversation about this file; everything a reply says is true of the file."""
    rng = draw("tool", path, salt)
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError):
        return None
    lines = text.split("\n")
    tops = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    if not tops:
        return None
    node = rng.choice(tops)
    kind = "function" if isinstance(node, ast.FunctionDef) else "class"
    others = rng.sample(sorted(TOOLS), k=rng.randint(1, 4))
    base = path.rsplit("/", 1)[-1]
    name = rng.choice(["read_file", "write_file", "run_command", "search"])
    answer = response = ""
    if name == "read_file":
        args = {"path": path}
        user = rng.choice(
            [f"Read `{path}`.", f"Open {path} and tell me what it defines.", f"What is in `{path}`?",
             f"Show me {path}", f"Which functions and classes does `{path}` define?"]
        )  # fmt: skip
        shown = "\n".join(lines)[:900].rsplit("\n", 1)[0]
        response = shown
        seen = re.findall(r"^(?:async )?(?:def|class) (\w+)", shown, re.M)[:6]
        answer = (
            f"`{path}` defines " + ", ".join(f"`{x}`" for x in seen) + "." if seen
            else f"The part of `{path}` that I read has imports and no functions or classes."
        )  # fmt: skip
    elif name == "write_file":
        code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        if node.decorator_list or not 40 < len(code) < 700:
            return None
        args = {"path": path, "content": code + "\n"}
        user = rng.choice(
            [
                f"Write this to `{path}`:\n\n```python\n{code}\n```",
                f"Save this code as {path}\n\n```python\n{code}\n```",
            ]
        )
        response = f"wrote {len(args['content'].encode())} bytes to {path}"
        answer = f"I wrote the {kind} `{node.name}` to `{path}`."
    elif name == "run_command":
        folder_name = path.rsplit("/", 1)[0] if "/" in path else "."
        command, user, response, answer = rng.choice(
            [
                (f"wc -l {path}", f"How many lines does `{path}` have?", f"{text.count(chr(10))} {path}",
                 f"`{path}` has {text.count(chr(10))} lines."),
                (f"ls {folder_name}", f"List the files in `{folder_name}`.", "\n".join(folder[:12]),
                 f"There are {min(len(folder), 12)} files: " + ", ".join(f"`{x}`" for x in folder[:12]) + "."),
                (f"python -m pytest {path}", f"Run the tests in {path}.", "", ""),
                (f"python {path}", f"Run `{path}`.", "", ""),
                (f"python -m py_compile {path}", f"Does `{path}` compile?", "(no output, exit status 0)",
                 f"Yes, `{path}` compiles."),
                ("git status --short", "What has changed in the working tree?", f"M {path}",
                 f"`{path}` is modified."),
                (f"git log --oneline -5 -- {path}", f"Show the last commits that touched {base}.", "", ""),
                (f"ruff check {path}", f"Lint `{path}`.", "All checks passed!", f"`{path}` has no lint findings."),
            ]
        )  # fmt: skip
        args = {"command": command}
    else:
        args = {"query": f"{'def' if kind == 'function' else 'class'} {node.name}"}
        if rng.random() < 0.5:
            args = {"query": node.name}
        user = rng.choice(
            [f"Where is the {kind} `{node.name}` defined?", f"Find `{node.name}` in the project.",
             f"Search for {node.name}.", f"In which file is {node.name}?"]
        )  # fmt: skip
        response = f"{path}:{node.lineno}: {lines[node.lineno - 1].strip()[:120]}"
        answer = f"The {kind} `{node.name}` is defined in `{path}`, line {node.lineno}."
    if rng.random() < 0.5:
        response = answer = ""
    tools = sorted({name, *others}, key=lambda t: rng.random())
    system = rng.choice(
        ["", "", "You are a careful engineer.", "You work in this repository.", f"Project: {path.split('/')[0]}"]
    )
    return ToolExample(tools, system, user, name, args, response, answer)


# --- prepare ---------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.open()]


def make_tokenizer(texts: Iterable[str], size: int):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=32,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _rows_job(files: list[dict[str, str]]) -> list[Row]:
    return [row for f in files for row in code_rows(f["path"], f["text"])]


def folders(files: list[dict[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for f in files:
        parent, _, base = f["path"].rpartition("/")
        out.setdefault(f"{f['package']}:{parent}", []).append(base)
    return out


def tool_rows(files: list[dict[str, str]], count: int) -> list[ToolExample]:
    where = folders(files)
    order = list(range(len(files)))
    draw("tool order").shuffle(order)
    out: list[ToolExample] = []
    salt = 0
    while len(out) < count and salt < 40:
        for i in order:
            f = files[i]
            example = tool_example(f["path"], f["text"], where[f"{f['package']}:{f['path'].rpartition('/')[0]}"], salt)
            if example:
                out.append(example)
            if len(out) >= count:
                break
        salt += 1
    return out


def encode_rows(tokenizer, rows: list[Row]) -> list[tuple[list[int], list[bool]]]:
    flat = [text for row in rows for text, _ in row]
    ids: list[list[int]] = []
    for i in range(0, len(flat), 20_000):
        ids += [e.ids for e in tokenizer.encode_batch_fast(flat[i : i + 20_000], add_special_tokens=False)]
    out, at = [], 0
    for row in rows:
        tokens: list[int] = []
        loss: list[bool] = []
        for _, carries in row:
            tokens += ids[at]
            loss += [carries] * len(ids[at])
            at += 1
        out.append((tokens, loss))
    return out


def prepare(args: argparse.Namespace) -> int:
    import concurrent.futures

    from tokenizers import Tokenizer

    began = time.time()
    work: Path = args.work
    files = read_rows(work / "corpus" / "train.jsonl")
    rng = random.Random(SEED)
    rng.shuffle(files)

    def say(**fields: Any) -> None:
        print(json.dumps({"s": round(time.time() - began, 1), **fields}), flush=True)

    say(files=len(files))
    pool = concurrent.futures.ProcessPoolExecutor(args.threads)
    # A third of the tokens: the files that the instruction rows come from are sampled to that size.
    share = files[: int(len(files) * args.chat_files)]
    jobs = [pool.submit(_rows_job, share[i::64]) for i in range(64)]
    if (work / "tokenizer" / "tokenizer.json").exists() and not args.new_tokenizer:
        tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    else:
        sample, total = [], 0
        for f in files:
            sample.append(f["text"])
            total += len(f["text"])
            if total > args.tokenizer_mb * 1e6:
                break
        chatty = [t for row in jobs[0].result()[:3000] for t, _ in row]
        tokenizer = make_tokenizer(sample + chatty, VOCABULARY)
        save_tokenizer(tokenizer, work / "tokenizer")
    say(tokenizer=tokenizer.get_vocab_size())
    eot = tokenizer.token_to_id("<|endoftext|>")

    # Raw code: every other file opens with its path; documents are packed one after another.
    def head(f: dict[str, str]) -> str:
        return f"# {f['path']}\n" if draw("head", f["path"]).random() < 0.5 else ""

    raw: list[np.ndarray] = []
    for i in range(0, len(files), 500):
        batch = tokenizer.encode_batch_fast([head(f) + f["text"] for f in files[i : i + 500]], add_special_tokens=False)
        raw += [np.array([eot, *e.ids], dtype=np.uint16) for e in batch]
    stream = np.concatenate(raw)
    bytes_per_token = sum(len(f["text"].encode()) for f in files) / len(stream)
    say(raw_tokens=len(stream), bytes_per_token=round(bytes_per_token, 3))
    stream = stream[: len(stream) // BLOCK * BLOCK].reshape(-1, BLOCK)

    rows: list[Row] = [row for job in jobs for row in job.result()]
    pool.shutdown()
    rng.shuffle(rows)
    examples = tool_rows(files, max(1, int(0.07 * len(rows))))
    rows += [e.row() for e in examples]
    rng.shuffle(rows)
    say(rows=len(rows), tool_rows=len(examples))
    encoded = encode_rows(tokenizer, rows)
    say(encoded=sum(len(t) for t, _ in encoded))

    # Half blocks that begin at a row's beginning; the row at a half block's end is cut there.
    half = BLOCK // 2
    chat_ids, chat_loss = [], []
    ids: list[int] = []
    loss: list[bool] = []
    for tokens, carries in encoded:
        if len(tokens) > half - 2:
            continue
        ids += [eot, *tokens]
        loss += [False, *carries]
        if len(ids) >= half:
            chat_ids.append(ids[:half])
            chat_loss.append(loss[:half])
            ids, loss = [], []
    even = len(chat_ids) // 2 * 2
    chat_array = np.array(chat_ids[:even], dtype=np.uint16).reshape(-1, BLOCK)
    chat_mask = np.array(chat_loss[:even], dtype=bool).reshape(-1, BLOCK)
    say(raw_blocks=len(stream), chat_blocks=len(chat_array), chat_loss_share=round(float(chat_mask.mean()), 3))
    np.savez(
        work / "data.npz",
        raw=stream,
        chat=chat_array,
        chat_mask=chat_mask,
        bytes_per_token=bytes_per_token,
    )

    # Held-out sets.
    held: dict[str, Any] = {}
    for part in ("heldout_a", "heldout_b"):
        docs = read_rows(work / "corpus" / f"{part}.jsonl")
        draw("held out", part).shuffle(docs)
        held[part] = [d["text"] for d in docs]
        found = [row for d in docs for row in code_rows(d["path"], d["text"])]
        draw("held rows", part).shuffle(found)
        held[f"{part}_chat"] = found[:300]
        held[f"{part}_tools"] = [asdict(e) for e in tool_rows(docs, 60)]
    (work / "heldout.json").write_text(json.dumps(held))
    say(done=True)
    return 0


# --- model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    vocabulary: int = VOCABULARY
    hidden: int = 256
    layers: int = 6
    feed_forward: int = 704
    heads: int = 4
    kv_heads: int = 2
    theta: float = 10_000.0
    eps: float = 1e-6

    @property
    def head(self) -> int:
        return self.hidden // self.heads


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        wide = (s.heads + 2 * s.kv_heads) * s.head
        self.norm1 = nn.Parameter(torch.ones(s.hidden))
        self.norm2 = nn.Parameter(torch.ones(s.hidden))
        self.q = nn.Parameter(torch.empty(s.heads * s.head, s.hidden))
        self.k = nn.Parameter(torch.empty(s.kv_heads * s.head, s.hidden))
        self.v = nn.Parameter(torch.empty(s.kv_heads * s.head, s.hidden))
        self.qkv_bias = nn.Parameter(torch.zeros(wide))
        self.o = nn.Parameter(torch.zeros(s.hidden, s.heads * s.head))
        self.gate = nn.Parameter(torch.empty(s.feed_forward, s.hidden))
        self.up = nn.Parameter(torch.empty(s.feed_forward, s.hidden))
        self.down = nn.Parameter(torch.zeros(s.hidden, s.feed_forward))
        for weight in (self.q, self.k, self.v, self.gate, self.up):
            nn.init.normal_(weight, std=s.hidden**-0.5)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        s = self.s
        b, t, _ = x.shape
        h = F.rms_norm(x, (s.hidden,), self.norm1, s.eps)
        qkv = F.linear(h, torch.cat((self.q, self.k, self.v)), self.qkv_bias)
        q, k, v = qkv.view(b, t, -1, s.head).split((s.heads, s.kv_heads, s.kv_heads), dim=2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = s.heads // s.kv_heads
        k = k.repeat_interleave(repeat, dim=2)
        v = v.repeat_interleave(repeat, dim=2)
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + F.linear(a.transpose(1, 2).reshape(b, t, -1), self.o)
        h = F.rms_norm(x, (s.hidden,), self.norm2, s.eps)
        gate, up = F.linear(h, torch.cat((self.gate, self.up))).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, halves convention (Qwen2). x: [batch, tokens, heads, head]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Lean(nn.Module):
    """The model while it is trained. ``forward(ids [b, t], targets [b, t], -100 = no loss)`` -> summed nll."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.embed = nn.Parameter(torch.empty(s.vocabulary, s.hidden))
        nn.init.normal_(self.embed, std=0.02)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.Parameter(torch.ones(s.hidden))
        angles = torch.outer(torch.arange(CONTEXT).float(), s.theta ** (-torch.arange(0, s.head, 2).float() / s.head))
        self.register_buffer("cos", angles.cos()[:, None, :], persistent=False)
        self.register_buffer("sin", angles.sin()[:, None, :], persistent=False)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        t = ids.shape[1]
        cos, sin = self.cos[:t], self.sin[:t]
        x = F.embedding(ids, self.embed)
        if torch.is_autocast_enabled("cpu"):
            x, cos, sin = x.bfloat16(), cos.bfloat16(), sin.bfloat16()
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.rms_norm(x, (self.s.hidden,), self.norm, self.s.eps)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.hidden(ids), self.embed)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.logits(ids)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")


def transformers_state(model: Lean) -> dict[str, torch.Tensor]:
    s = model.s
    out = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm}
    for i, b in enumerate(model.blocks):
        p = f"model.layers.{i}."
        qb, kb, vb = b.qkv_bias.split((s.heads * s.head, s.kv_heads * s.head, s.kv_heads * s.head))
        out |= {
            p + "input_layernorm.weight": b.norm1,
            p + "post_attention_layernorm.weight": b.norm2,
            p + "self_attn.q_proj.weight": b.q,
            p + "self_attn.k_proj.weight": b.k,
            p + "self_attn.v_proj.weight": b.v,
            p + "self_attn.q_proj.bias": qb,
            p + "self_attn.k_proj.bias": kb,
            p + "self_attn.v_proj.bias": vb,
            p + "self_attn.o_proj.weight": b.o,
            p + "self_attn.o_proj.bias": torch.zeros_like(b.norm1),
            p + "mlp.gate_proj.weight": b.gate,
            p + "mlp.up_proj.weight": b.up,
            p + "mlp.down_proj.weight": b.down,
        }
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


def transformers_model(model: Lean, dtype: torch.dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    s = model.s
    config = LlamaConfig(
        vocab_size=s.vocabulary,
        hidden_size=s.hidden,
        intermediate_size=s.feed_forward,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head,
        attention_bias=True,
        mlp_bias=False,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=s.eps,
        rope_parameters={"rope_type": "default", "rope_theta": s.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
    )
    full = LlamaForCausalLM(config).eval()
    missing, unexpected = full.load_state_dict(transformers_state(model), strict=False)
    if unexpected or [m for m in missing if m != "lm_head.weight"]:
        raise SystemExit(f"state does not fit: missing {missing}, unexpected {unexpected}")
    full.tie_weights()
    return full.to(dtype)


# --- data order ------------------------------------------------------------------------------


class Data:
    """Blocks of 1024 tokens in a fixed order; ``position`` counts blocks taken."""

    def __init__(self, work: Path, chat_share: float):
        with np.load(work / "data.npz") as z:
            self.raw, self.chat, self.mask = z["raw"], z["chat"], z["chat_mask"]
            self.bytes_per_token = float(z["bytes_per_token"])
        self.position = 0
        self.chat_share = chat_share
        self._order: dict[tuple[str, int], np.ndarray] = {}

    def _pick(self, kind: str, n: int) -> int:
        size = len(getattr(self, kind))
        epoch, at = divmod(n, size)
        if (kind, epoch) not in self._order:
            seed = int.from_bytes(hashlib.sha256(f"{SEED} {kind} {epoch}".encode()).digest()[:8], "big")
            self._order[kind, epoch] = np.random.default_rng(seed).permutation(size)
        return int(self._order[kind, epoch][at])

    def take(self, blocks: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``ids, targets`` of shape [blocks * 1024 // length, length]; the last target has no loss."""
        ids = np.empty((blocks, BLOCK), dtype=np.int64)
        keep = np.ones((blocks, BLOCK), dtype=bool)
        for j in range(blocks):
            n = self.position
            chat_before = math.floor(n * self.chat_share)
            if math.floor((n + 1) * self.chat_share) > chat_before:
                i = self._pick("chat", chat_before)
                ids[j], keep[j] = self.chat[i], self.mask[i]
            else:
                ids[j] = self.raw[self._pick("raw", n - chat_before)]
            self.position += 1
        ids, keep = ids.reshape(-1, length), keep.reshape(-1, length)
        targets = np.full_like(ids, -100)
        targets[:, :-1] = np.where(keep[:, 1:], ids[:, 1:], -100)
        return torch.from_numpy(ids), torch.from_numpy(targets)


# --- measuring -------------------------------------------------------------------------------


@torch.inference_mode()
def bits_per_byte(model: Lean, tokenizer, texts: list[str], budget: int, bf16: bool = True) -> dict[str, float]:
    """Sliding windows of 1024 tokens, stride 512; each text opens with ``<|endoftext|>``, which is not scored."""
    eot = SPECIAL.index("<|endoftext|>")
    nats = 0.0
    size = tokens = 0
    windows: list[tuple[list[int], int]] = []  # (ids, first scored position)
    for text in texts:
        if size >= budget:
            break
        ids = [eot, *tokenizer.encode(text, add_special_tokens=False).ids]
        size += len(text.encode())
        tokens += len(ids) - 1
        at = 0
        while True:
            piece = ids[at : at + CONTEXT]
            windows.append((piece, 1 if at == 0 else CONTEXT // 2))
            if at + CONTEXT >= len(ids):
                break
            at += CONTEXT // 2
    windows.sort(key=lambda w: len(w[0]))
    for i in range(0, len(windows), 8):
        group = windows[i : i + 8]
        width = max(len(w[0]) for w in group)
        ids_ = torch.zeros(len(group), width, dtype=torch.long)
        targets = torch.full((len(group), width), -100)
        for j, (piece, first) in enumerate(group):
            row = torch.tensor(piece)
            ids_[j, : len(piece)] = row
            targets[j, first - 1 : len(piece) - 1] = row[first:]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            nats += float(model(ids_, targets))
    return {
        "bpb": nats / math.log(2) / max(size, 1),
        "nll": nats / max(tokens, 1),
        "bytes": size,
        "tokens": tokens,
    }


@torch.inference_mode()
def chat_nll(model: Lean, tokenizer, rows: list[Row], bf16: bool = True) -> dict[str, float]:
    """nll per completion token and bits per completion byte, each row alone in its context."""
    nats, tokens, size = 0.0, 0, 0
    for row, (ids, loss) in zip(rows, encode_rows(tokenizer, rows), strict=True):
        ids, loss = ids[:CONTEXT], loss[:CONTEXT]
        x = torch.tensor([ids])
        y = torch.where(torch.tensor([loss[1:]]), x[:, 1:], -100)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            nats += float(model(x[:, :-1], y))
        tokens += sum(loss[1:])
        size += sum(len(t.removesuffix("<|im_end|>").encode()) for t, carries in row if carries)
    return {"nll": nats / tokens, "bpb": nats / math.log(2) / size, "rows": len(rows), "tokens": tokens}


def tool_validity(full, tokenizer, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Greedy replies to held-out tool prompts.

    ``valid``: the reply is exactly one <tool_call> whose JSON names an offered tool and gives exactly its required
    arguments. ``right_tool`` and ``exact`` compare with the reference call.
    """
    valid = right = exact = 0
    for item in examples:
        e = ToolExample(**item)
        prompt = e.row()[0][0]
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
        with torch.inference_mode():
            out = full.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(320, CONTEXT - ids.shape[1]),
                do_sample=False,
            )
        text = tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=False)
        match = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call><\|im_end\|>", text, re.S)
        try:
            call = json.loads(match[1]) if match else {}
        except ValueError:
            call = {}
        if not isinstance(call, dict):
            call = {}
        name = call.get("name")
        required = TOOLS[name]["function"]["parameters"]["required"] if name in e.tools else None
        if (
            required is not None
            and isinstance(call.get("arguments"), dict)
            and sorted(call["arguments"]) == sorted(required)
        ):
            valid += 1
            right += name == e.name
            exact += name == e.name and call["arguments"] == e.args
    n = len(examples)
    return {"n": n, "valid": valid / n, "right_tool": right / n, "exact": exact / n}


# --- train -----------------------------------------------------------------------------------


def optimizers(model: Lean, lr_muon: float, lr_adam: float) -> list[torch.optim.Optimizer]:
    matrices = [p for b in model.blocks for p in b.parameters() if p.ndim == 2]
    rest = [p for b in model.blocks for p in b.parameters() if p.ndim == 1] + [model.norm]
    muon = torch.optim.Muon(matrices, lr=lr_muon, weight_decay=0.05, momentum=0.95, nesterov=True)
    adam = torch.optim.AdamW(
        [{"params": [model.embed], "lr": lr_adam}, {"params": rest, "lr": lr_adam}],
        betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=True,
    )  # fmt: skip
    for o in (muon, adam):
        for group in o.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adam]


def schedule(progress: float, step: int, warm_steps: int, decay_from: float) -> float:
    warm = min(1.0, (step + 1) / warm_steps)
    return warm * min(1.0, max(0.0, (1.0 - progress) / (1.0 - decay_from)))


def save_atomic(obj: Any, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(obj, temporary)
    os.replace(temporary, path)


def train(args: argparse.Namespace) -> int:
    from tokenizers import Tokenizer

    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    work: Path = args.work
    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    shape = Shape(
        vocabulary=tokenizer.get_vocab_size(), hidden=args.hidden, layers=args.layers,
        feed_forward=args.feed_forward, heads=args.heads, kv_heads=args.kv_heads,
    )  # fmt: skip
    model = Lean(shape).to(args.device)
    parameters = sum(p.numel() for p in model.parameters())
    opts = optimizers(model, args.lr_muon, args.lr_adam)
    data = Data(work, args.chat_share)
    held = json.loads((work / "heldout.json").read_text())
    log_path = work / f"{args.name}.jsonl"
    checkpoint = work / ("checkpoint.pt" if args.name == "train" else f"{args.name}.pt")
    step, tokens, used = 0, 0, 0.0
    if checkpoint.exists() and not args.fresh:
        state = torch.load(checkpoint, map_location=args.device, weights_only=False)
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["optimizers"], strict=True):
            o.load_state_dict(s)
        torch.set_rng_state(state["rng"])
        data.position, step, tokens, used = state["position"], state["step"], state["tokens"], state["used"]
    log = log_path.open("a")

    def say(**fields: Any) -> None:
        line = json.dumps(fields)
        log.write(line + "\n")
        log.flush()
        print(line, flush=True)

    say(event="start", step=step, tokens=tokens, used_s=round(used, 1), parameters=parameters,
        shape=asdict(shape), torch=torch.__version__, seed=SEED,
        settings={k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "run"},
        raw_blocks=len(data.raw), chat_blocks=len(data.chat))  # fmt: skip
    forward: Callable[..., torch.Tensor] = torch.compile(model, dynamic=False) if args.compile else model
    stop = False

    def ask(*_: Any) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)

    def save() -> None:
        save_atomic(
            {
                "model": model.state_dict(), "optimizers": [o.state_dict() for o in opts],
                "rng": torch.get_rng_state(), "position": data.position, "step": step, "tokens": tokens,
                "used": used, "shape": asdict(shape),
                "settings": {k: str(v) for k, v in vars(args).items() if k != "run"},
            },
            checkpoint,
        )  # fmt: skip

    budget_s = args.minutes * 60 if args.minutes else float("inf")
    last = time.time()
    last_save = last_eval = used
    window: list[tuple[float, float]] = []  # (summed nll, tokens with loss)
    seen_at, seen_tokens = used, tokens
    while not stop:
        progress = max(used / budget_s if args.minutes else 0.0, tokens / args.tokens if args.tokens else 0.0)
        if progress >= 1.0:
            break
        factor = schedule(progress, step, args.warm_steps, args.decay_from)
        for o in opts:
            for group in o.param_groups:
                group["lr"] = group["base_lr"] * factor
        length = 512 if progress < args.long_from else 1024
        pieces = [data.take(args.micro_tokens // BLOCK, length) for _ in range(args.accumulate)]
        counted = sum(int((y != -100).sum()) for _, y in pieces)
        total = 0.0
        for x, y in pieces:
            with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
                loss = forward(x.to(args.device), y.to(args.device))
            (loss / counted).backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        tokens += args.micro_tokens * args.accumulate
        window.append((total, counted))
        now = time.time()
        used += now - last
        last = now
        if not math.isfinite(total):
            say(event="not finite", step=step)
            return 1
        if step % args.log_every == 0:
            nll = sum(a for a, _ in window) / sum(c for _, c in window)
            say(step=step, tokens=tokens, used_s=round(used, 1), progress=round(progress, 4), nll=round(nll, 4),
                lr=round(factor, 4), length=length,
                tokens_per_s=round((tokens - seen_tokens) / max(used - seen_at, 1e-9)))  # fmt: skip
            window.clear()
            seen_at, seen_tokens = used, tokens
        if used - last_save > args.save_every:
            save()
            last_save = used
        if used - last_eval > args.eval_every:
            model.eval()
            say(event="held out", step=step, tokens=tokens, used_s=round(used, 1),
                **{p: round(bits_per_byte(model, tokenizer, held[p], 80_000)["bpb"], 4)
                   for p in ("heldout_a", "heldout_b")})  # fmt: skip
            model.train()
            last_eval = used
            now = time.time()
            used += now - last
            last = now
    save()
    say(event="stopped" if stop else "finished", step=step, tokens=tokens, used_s=round(used, 1))
    return 0


def load_checkpoint(path: Path) -> tuple[Lean, dict[str, Any]]:
    state = torch.load(path, map_location="cpu", weights_only=False)
    model = Lean(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model.eval(), state


def as_shipped(model: Lean) -> Lean:
    """The weights rounded to bf16 (held in float32), as the exported file has them."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    return model


def evaluate(args: argparse.Namespace) -> int:
    from tokenizers import Tokenizer

    torch.set_num_threads(args.threads)
    work: Path = args.work
    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    model, state = load_checkpoint(args.checkpoint or work / "checkpoint.pt")
    model = as_shipped(model)
    held = json.loads((work / "heldout.json").read_text())
    out: dict[str, Any] = {
        "step": state["step"],
        "tokens": state["tokens"],
        "used_s": state["used"],
        "computed_in": "float32, weights rounded to bf16",
    }
    full = transformers_model(model, torch.float32)
    for part in ("heldout_a", "heldout_b"):
        out[part] = bits_per_byte(model, tokenizer, held[part], args.eval_bytes, bf16=False)
        rows = [[(t, bool(c)) for t, c in row] for row in held[f"{part}_chat"]]
        out[f"{part}_chat"] = chat_nll(model, tokenizer, rows, bf16=False)
        out[f"{part}_tools"] = tool_validity(full, tokenizer, held[f"{part}_tools"])
        joined = "".join(held[part]).encode()
        out[f"{part}_xz"] = 8 * len(lzma.compress(joined, preset=9 | lzma.PRESET_EXTREME)) / len(joined)
        print(json.dumps({k: out[k] for k in out if k.startswith(part)}), flush=True)
    (work / "evaluation.json").write_text(json.dumps(out, indent=1) + "\n")
    return 0


# --- export ----------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> int:
    """Write the model folder beside ``--out`` under a temporary name, check it, rename it."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    work, out = args.work, args.out
    model, state = load_checkpoint(args.checkpoint or work / "checkpoint.pt")
    temporary = out.with_name(out.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    full = transformers_model(model, torch.bfloat16)
    full.generation_config.do_sample = False
    full.generation_config.eos_token_id = [SPECIAL.index("<|im_end|>"), SPECIAL.index("<|endoftext|>")]
    full.generation_config.pad_token_id = SPECIAL.index("<|endoftext|>")
    full.save_pretrained(temporary)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(work / "tokenizer" / name, temporary / name)
    shutil.copyfile(Path(__file__).with_name("nano_corpus.json"), temporary / "corpus.json")
    reduced_log(work / "train.jsonl", temporary / "training_log.jsonl")
    corpus = json.loads((temporary / "corpus.json").read_text())
    measured = work / "evaluation.json"
    figures = json.loads(measured.read_text()) if measured.exists() else None
    if figures is not None and figures["step"] != state["step"]:
        figures = None  # they belong to another checkpoint
    (temporary / "README.md").write_text(card(model, state, corpus, figures))
    (temporary / "LICENSES.md").write_text(notices(corpus))

    # The folder computes what the checkpoint computes.
    tokenizer = AutoTokenizer.from_pretrained(temporary)
    loaded = AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32).eval()
    sample = "def mean(values):\n    return sum(values) / len(values)  # e\u0301 1234\n"
    ids = torch.tensor([tokenizer(sample)["input_ids"]])
    if ids[0].tolist() != Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json")).encode(sample).ids:
        raise SystemExit("the exported tokenizer cuts text differently from the one in training")
    with torch.inference_mode():
        apart = float((loaded(ids).logits - as_shipped(model).logits(ids)).abs().max())
    if apart > 1e-3:
        raise SystemExit(f"the exported model differs from the checkpoint by {apart}")
    for file in temporary.iterdir():
        file.chmod(0o644)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(temporary, out)
    shutil.rmtree(old, ignore_errors=True)
    size = (out / "model.safetensors").stat().st_size
    print(
        json.dumps(
            {
                "out": str(out),
                "step": state["step"],
                "tokens": state["tokens"],
                "bytes": size,
                "logit_difference": apart,
            }
        )
    )
    return 0


def card(model: Lean, state: dict[str, Any], corpus: dict[str, Any], figures: dict[str, Any] | None) -> str:
    """The model card. Figures that were not measured on this very checkpoint read ``not_available``."""
    import platform

    import tokenizers
    import transformers

    s, settings = model.s, state["settings"]
    count = sum(p.numel() for p in model.parameters())

    def row(title: str, *keys: str, unit: str = "") -> str:
        cells: list[str] = []
        for part in ("heldout_a", "heldout_b"):
            value: Any = figures
            for key in (part + keys[0], *keys[1:]):
                value = value[key] if value is not None else None
            shown = f"{value:,}" if isinstance(value, int) else "not_available" if value is None else f"{value:.3f}"
            cells.append(shown + (unit if value is not None else ""))
        return f"| {title} | {' | '.join(cells)} |"

    train = [r for r in corpus["packages"] if r["part"] == "train"]
    licences: dict[str, int] = {}
    for r in train:
        licences[r["licence"]] = licences.get(r["licence"], 0) + r["bytes_used"]
    return (
        Path(__file__)
        .with_name("nano_card.md")
        .read_text()
        .format(
            **asdict(s),
            parameters_m=f"{count / 1e6:.1f}",
            parameters=f"{count:,}",
            context=CONTEXT,
            tokens_m=f"{state['tokens'] / 1e6:.0f}",
            tokens=f"{state['tokens']:,}",
            steps=f"{state['step']:,}",
            minutes_used=f"{state['used'] / 60:.0f}",
            budget=f"{float(settings['minutes']):g}",
            minutes=f"{float(settings['minutes']):g}",
            tokens_per_s=f"{state['tokens'] / state['used']:.0f}",
            raw_share=f"{1 - float(settings['chat_share']):.0%}",
            chat_share=f"{float(settings['chat_share']):.0%}",
            **{k: settings[k] for k in ("lr_muon", "lr_adam", "micro_tokens", "warm_steps")},
            decay_from=f"{float(settings['decay_from']):.0%}",
            long_from=f"{float(settings['long_from']):.0%}",
            seed=SEED,
            versions=f"torch {torch.__version__}, transformers {transformers.__version__}, "
            f"tokenizers {tokenizers.__version__}, Python {platform.python_version()}",
            chat_files=CHAT_FILES,
            files=f"{sum(r['files_used'] for r in train):,}",
            megabytes=f"{sum(r['bytes_used'] for r in train) / 1e6:.1f}",
            sources=len(train),
            licences="\n".join(f"| {k} | {v / 1e6:.1f} |" for k, v in sorted(licences.items(), key=lambda i: -i[1])),
            held_out_packages=", ".join(r["name"] for r in corpus["packages"] if r["part"] != "train"),
            measured="\n".join(
                (
                    row("code: bits per byte", "", "bpb"),
                    row("- of so much text", "", "bytes", unit=" bytes"),
                    row("- the same text by `xz -9e`, in one stream, for scale", "_xz"),
                    row("instruction rows: nll per completion token (nats)", "_chat", "nll"),
                    row("- bits per completion byte", "_chat", "bpb"),
                    row("- of so many", "_chat", "rows", unit=" rows"),
                    row("tool prompts, greedy: share of valid calls", "_tools", "valid"),
                    row("- of the tool that the reference calls", "_tools", "right_tool"),
                    row("- with exactly the reference's arguments", "_tools", "exact"),
                    row("- of so many", "_tools", "n", unit=" prompts"),
                )
            ),
        )
    )


CHAT_FILES = 0.6  # what the shipped run was prepared with


def notices(corpus: dict[str, Any]) -> str:
    lines = [
        "# Sources and licences", "",
        "The weights were trained on the text of these packages. No file of them is part of this folder; the list is kept so",
        "that everybody who wrote what the model learned from is named, with the licence as the package's own metadata states",
        "it. Full licence texts are in each package at the version given; digests are in `corpus.json`.", "",
        "| Package | Version | Licence | Used for |", "|---|---|---|---|",
        *[f"| {r['name']} | {r['version']} | {r['licence']} | {'training' if r['part'] == 'train' else 'held-out measurement only'} |"
          for r in corpus["packages"]],
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def reduced_log(source: Path, target: Path, lines: int = 200) -> None:
    if not source.exists():
        return
    rows = []
    for line in source.read_text().splitlines():
        row = json.loads(line)
        if "settings" in row:
            row["settings"]["work"] = "DIR"
        rows.append(json.dumps(row))
    events = [r for r in rows if '"event"' in r]
    steps = [r for r in rows if '"event"' not in r]
    room = max(1, lines - len(events))
    every = math.ceil(len(steps) / room) if steps else 1
    kept = set(events) | set(steps[::every]) | set(steps[-1:])
    target.write_text("\n".join(r for r in rows if r in kept) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sub = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        p = sub.add_parser(name)
        p.set_defaults(run=run)
        p.add_argument("--work", type=Path, required=True)
        p.add_argument("--threads", type=int, default=2)
        return p

    p = command("prepare", prepare)
    p.add_argument(
        "--chat-files", type=float, default=CHAT_FILES, help="share of the files that instruction rows come from"
    )
    p.add_argument("--tokenizer-mb", type=float, default=30.0)
    p.add_argument("--new-tokenizer", action="store_true")
    p = command("train", train)
    p.add_argument("--name", default="train")
    p.add_argument("--minutes", type=float, default=0.0)
    p.add_argument("--tokens", type=float, default=0.0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--fresh", action="store_true", help="do not continue from a checkpoint")
    p.add_argument("--hidden", type=int, default=Shape.hidden)
    p.add_argument("--layers", type=int, default=Shape.layers)
    p.add_argument("--feed-forward", type=int, default=Shape.feed_forward)
    p.add_argument("--heads", type=int, default=Shape.heads)
    p.add_argument("--kv-heads", type=int, default=Shape.kv_heads)
    p.add_argument("--lr-muon", type=float, default=0.02)
    p.add_argument("--lr-adam", type=float, default=0.004)
    p.add_argument("--micro-tokens", type=int, default=8192)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--warm-steps", type=int, default=100)
    p.add_argument("--decay-from", type=float, default=0.55)
    p.add_argument("--long-from", type=float, default=0.75)
    p.add_argument("--chat-share", type=float, default=0.34)
    p.add_argument("--log-every", type=int, default=20)
    p.add_argument("--save-every", type=float, default=240.0)
    p.add_argument("--eval-every", type=float, default=900.0)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    p = command("evaluate", evaluate)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--eval-bytes", type=int, default=1_000_000_000)
    p = command("export", export)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
