"""Pairs that were given as a file: chat JSONL as OpenAI's fine-tuning has it, read strictly, split so that no prompt stands on two sides.

A line is ``{"messages": [...], "tools": [...]}``; its last message is the assistant's and is what is learnt, all before it is the prompt.
``weight: 0`` on that message (or on the line) leaves the line out. Anything that is not understood is an error with its line number,
never skipped in silence. Nothing in a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from clonedna.core.block import GivenFile, GivenPairs, Recipe
from clonedna.core.canonical import canonical, digest, sha256, strict_json
from clonedna.core.errors import InputError, TooFewSpans
from clonedna.core.model import Message, ToolCall
from clonedna.core.value import Value
from clonedna.core.work import Pair, Provenance, Refusal, Split
from clonedna.mint.divide import VALIDATION_FROM, VALIDATION_SHARE
from clonedna.mint.values import GivenExample, Read, Taught

MOST_LINES = 50_000
MOST_SHOWN = 20
BYTES_PER_TOKEN = 3
MOST_HELD_OUT = 0.4
TEACHER = "given"


class _Function(Value):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class _Call(Value):
    id: str = ""
    type: Literal["function"] = "function"
    function: _Function

    @model_validator(mode="after")
    def _object(self) -> _Call:
        if not isinstance(strict_json(self.function.arguments), dict):
            raise ValueError("arguments are no JSON object")
        return self


class _Part(Value):
    type: Literal["text"]
    text: str


def _without_nulls(fields: Any) -> Any:
    """A key whose value is null is one that was not given."""
    return {key: value for key, value in fields.items() if value is not None} if isinstance(fields, dict) else fields


class _Turn(Value):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[_Part, ...] | None = None
    weight: Literal[0, 1] | None = None
    tool_calls: tuple[_Call, ...] = ()
    tool_call_id: str | None = None

    _nulls = model_validator(mode="before")(_without_nulls)

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())

    def message(self) -> Message:
        calls = tuple(ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in self.tool_calls)
        role = "system" if self.role == "developer" else self.role
        return Message(role=role, content=self.text, tool_calls=calls, tool_call_id=self.tool_call_id)

    @property
    def answer(self) -> str:
        """What the assistant said: its words, then its calls in the format that the bundled tool-use pairs have."""
        calls = (
            f'<tool_call>\n{{"name": {json.dumps(c.function.name)}, "arguments": {c.function.arguments}}}\n</tool_call>'
            for c in self.tool_calls
        )
        return "\n".join(text for text in (self.text, *calls) if text)


class _Line(Value):
    messages: tuple[_Turn, ...] = Field(min_length=2)
    tools: tuple[dict[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None
    weight: Literal[0, 1] = 1

    _nulls = model_validator(mode="before")(_without_nulls)

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> _Line:
        last = self.messages[-1]
        if last.role != "assistant":
            raise ValueError("the last message is not the assistant's")
        if not last.answer.strip():
            raise ValueError("the assistant's last message is empty")
        for turn in self.messages:
            if turn.content is None and not (turn.role == "assistant" and turn.tool_calls):
                raise ValueError(f"a message of the role {turn.role!r} has no content")
            if turn.tool_calls and turn.role != "assistant":
                raise ValueError("only an assistant calls tools")
        return self


def read_examples(
    data: bytes, file: GivenFile, *, max_tokens: int, secret_in: Callable[[str], str | None]
) -> tuple[tuple[GivenExample, ...], tuple[Refusal, ...]]:
    """The file's examples in their order, and those that are left out, with the reason: ``repeated``, ``weight_zero``, ``secret``,
    ``too_long`` (over ``max_tokens``, estimated at 3 bytes a token; cutting it would teach half an answer).

    Raises ``InputError`` with the numbers of the lines that cannot be read (the first 20), or when there are too many lines.
    """
    lines = data.split(b"\n")
    if len(lines) - (lines[-1] == b"") > MOST_LINES:
        raise InputError(f"{file.name} has more than {MOST_LINES} lines", "give a smaller file")
    examples: list[GivenExample] = []
    refusals: list[Refusal] = []
    faults: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            line = _parse(raw)
        except ValueError as error:
            faults.append((number, _explain(error)))
            continue
        example = _example(line, number)
        reason = _left_out(line, example, seen, max_tokens, secret_in)
        if reason:
            refusals.append(Refusal(path=file.name, start=number, end=number, reason=reason[0], detail=reason[1]))
        else:
            seen.add(_key(example))
            examples.append(example)
    if faults:
        shown = "; ".join(f"line {number}: {text}" for number, text in faults[:MOST_SHOWN])
        raise InputError(
            f"{file.name}: {len(faults)} lines cannot be used: {shown}",
            'each line is {"messages": [..., {"role": "assistant", "content": "..."}]}',
            lines=[str(number) for number, _ in faults[:MOST_SHOWN]],
        )
    return tuple(examples), tuple(refusals)


def _parse(raw: bytes) -> _Line:
    raw = raw.removesuffix(b"\r")
    try:
        fields = strict_json(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    canonical(fields)  # half a surrogate pair is no text, and what cannot be hashed cannot stand in a block: ValueError
    return _Line.model_validate(fields)


def _explain(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)


def _example(line: _Line, number: int) -> GivenExample:
    return GivenExample(
        line=number, messages=tuple(turn.message() for turn in line.messages[:-1]), tools=line.tools,
        completion=line.messages[-1].answer,
    )  # fmt: skip


def _left_out(
    line: _Line, example: GivenExample, seen: set[str], max_tokens: int, secret_in: Callable[[str], str | None]
) -> tuple[str, str] | None:
    if 0 in (line.weight, line.messages[-1].weight):
        return "weight_zero", "the line's own weight says so"
    if _key(example) in seen:
        return "repeated", "the same example stands on an earlier line"
    texts = [*(message.content for message in example.messages), example.completion]
    if sum(len(text.encode()) for text in texts) > max_tokens * BYTES_PER_TOKEN:
        return "too_long", f"over about {max_tokens} tokens"
    found = next((kind for kind in map(secret_in, texts) if kind), None)
    return ("secret", found) if found else None


def _key(example: GivenExample) -> str:
    return digest([example.messages, example.tools, example.completion])


def _prompt(example: GivenExample) -> str:
    return digest([example.messages, example.tools])


def pairs_of(read: Read, given: GivenPairs, recipe: Recipe, author: str) -> Taught:
    """Pairs of all three splits. What is held out: the hold-out file, or the examples whose prompts' digests come first under the seed.

    All examples of one prompt go to one side. From 60 others on, a tenth is the validation part that stops the training. Raises
    ``TooFewSpans`` when less than ``recipe.min_spans`` examples are there, or less than ``recipe.min_holdout`` can be held out.
    """
    found = len(read.training) + len(read.holdout)
    if found < recipe.min_spans:
        raise _too_few(found, recipe.min_spans)
    refusals: list[Refusal] = []
    if given.holdout is not None:
        held = list(read.holdout)
        own = {_prompt(example) for example in held}
        rest = [example for example in read.training if _prompt(example) not in own]
        refusals = [
            Refusal(path=given.training.name, start=e.line, end=e.line, reason="held_out_duplicate", detail="its prompt is held out")
            for e in read.training
            if _prompt(e) in own
        ]  # fmt: skip
    else:
        want = max(recipe.min_holdout, round(recipe.holdout_share * len(read.training)))
        held, rest = _apart(read.training, want, f"{recipe.seed}:holdout")
    if len(held) < min(recipe.min_holdout, found) or not rest:
        raise _too_few(found, recipe.min_spans)
    checked: list[GivenExample] = []
    if len(rest) >= VALIDATION_FROM:
        checked, rest = _apart(rest, round(VALIDATION_SHARE * len(rest)), f"{recipe.seed}:validation")
    parts: tuple[tuple[Split, Sequence[GivenExample], GivenFile], ...] = (
        ("train", _first(rest, recipe.max_train_pairs, recipe.seed), given.training),
        ("validation", _first(checked, recipe.max_holdout_pairs, recipe.seed), given.training),
        ("holdout", _first(held, recipe.max_holdout_pairs, recipe.seed), given.holdout or given.training),
    )
    pairs = tuple(_pair(e, split, file, given.licence, author) for split, examples, file in parts for e in examples)
    return Taught(by="example", pairs=pairs, refusals=tuple(refusals), teacher=TEACHER)


def _too_few(found: int, needed: int) -> TooFewSpans:
    return TooFewSpans(
        f"{found} usable examples; at least {needed} are needed, with different prompts, some of them to hold out",
        "give more examples", found=found, needed=needed,
    )  # fmt: skip


def _apart(examples: Sequence[GivenExample], want: int, seed: str) -> tuple[list[GivenExample], list[GivenExample]]:
    """``want`` examples (at most two fifths) by whole prompts, in the order of ``sha256(seed, prompt)``; and the others."""
    groups: dict[str, int] = {}
    for example in examples:
        prompt = _prompt(example)
        groups[prompt] = groups.get(prompt, 0) + 1
    most, chosen, count = int(MOST_HELD_OUT * len(examples)), set[str](), 0
    for prompt in sorted(groups, key=lambda prompt: sha256(f"{seed}:{prompt}")):
        if count >= want:
            break
        if count + groups[prompt] <= most:
            chosen.add(prompt)
            count += groups[prompt]
    inside = [example for example in examples if _prompt(example) in chosen]
    return inside, [example for example in examples if _prompt(example) not in chosen]


def _first(examples: Sequence[GivenExample], most: int, seed: int) -> list[GivenExample]:
    """At most ``most`` of them, drawn by digest, in their order."""
    drawn = sorted(examples, key=lambda example: sha256(f"{seed}:draw:{_key(example)}"))[:most]
    return sorted(drawn, key=lambda example: example.line)


def _pair(example: GivenExample, split: Split, file: GivenFile, licence: str, author: str) -> Pair:
    origin = Provenance(
        repository="given", url=f"urn:sha256:{file.sha256}", commit="", path=file.name, blob=file.sha256, start=example.line,
        end=example.line, sha256=sha256(example.completion), licence=licence, author=author,
    )  # fmt: skip
    asked = next((message.content for message in reversed(example.messages) if message.role == "user"), "")
    return Pair(
        id=digest([origin, "given", example.messages, example.tools])[:16], form="given", instruction=asked,
        completion=example.completion, split=split, kind="example", name=f"line {example.line}", language="text", teacher=TEACHER,
        provenance=origin, messages=example.messages, tools=example.tools,
    )  # fmt: skip
