"""Pairs from a file: read strictly, every fault with its line, split so that no prompt stands on two sides."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings, strategies

from clonedna.core.block import GivenFile, GivenPairs, Recipe
from clonedna.core.errors import InputError, TooFewSpans
from clonedna.core.work import Refusal
from clonedna.mint.given import MOST_LINES, pairs_of, read_examples
from clonedna.mint.values import GivenExample, Read

FILE = GivenFile(sha256="a" * 64, name="examples.jsonl", bytes=1)
GIVEN = GivenPairs(training=FILE, licence="MIT")
RECIPE = Recipe(min_spans=10, min_holdout=3)


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def line(number: int, **more: Any) -> dict[str, Any]:
    return {"messages": [turn("user", f"ask {number}"), turn("assistant", f"answer {number}")]} | more


def read(*rows: Any, secret: str = "\0", tokens: int = 1000) -> tuple[tuple[GivenExample, ...], tuple[Refusal, ...]]:
    data = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    return read_examples(data, FILE, max_tokens=tokens, secret_in=lambda text: "a key" if secret in text else None)


def test_the_last_message_is_the_completion_and_the_rest_is_the_prompt() -> None:
    (example,), refused = read(
        {
            "messages": [
                turn("developer", "Be short."), turn("user", [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]),
                turn("assistant", "Hm.", weight=0), turn("user", "More."), turn("assistant", "No."),
            ],
            "tools": None,
        }
    )  # fmt: skip
    assert [(m.role, m.content) for m in example.messages] == [
        ("system", "Be short."), ("user", "Hi you"), ("assistant", "Hm."), ("user", "More."),
    ]  # fmt: skip
    assert example.completion == "No."
    assert not refused


def test_a_call_is_learnt_in_the_tool_call_format_and_tools_are_kept() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    (example,), _ = read(
        {"messages": [turn("user", "1?"), turn("assistant", None, tool_calls=[call])], "tools": [tool]}
    )
    assert example.completion == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert example.tools == (tool,)


@pytest.mark.parametrize(
    "bad",
    [
        b"not json", b"[]", b'"text"', b"\xff\xfe", b'{"messages": [], "messages": []}', b'{"x": NaN}', b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}',
        {"messages": []}, {"messages": [turn("assistant", "only")]}, {"prompt": "a", "completion": "b"},
        {"messages": [turn("user", "a"), turn("user", "b")]}, {"messages": [turn("user", "a"), turn("assistant", " ")]},
        {"messages": [turn("user", None), turn("assistant", "a")]}, {"messages": [turn("alien", "a"), turn("assistant", "a")]},
        {"messages": [turn("user", [{"type": "image_url", "image_url": {}}]), turn("assistant", "a")]},
        {"messages": [turn("user", "a"), turn("assistant", "a", function_call={})]}, line(1, weight=2), line(1, colour="red"),
        {"messages": [turn("user", "a", tool_calls=[]), turn("assistant", None, tool_calls=[
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "no"}}])]},
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_an_error_with_its_number(bad: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(line(1), bad, line(3))
    assert caught.value.facts["lines"] == ["2"]
    assert "line 2: " in caught.value.message


def test_all_bad_lines_are_told_and_blank_ones_are_none() -> None:
    with pytest.raises(InputError) as caught:
        read(b"x", b"", line(3), b"y")
    assert caught.value.facts["lines"] == ["1", "4"]
    assert len(read(line(1), b"", b"  ", line(2))[0]) == 2


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(InputError):
        read_examples(b"{}\n" * (MOST_LINES + 1), FILE, max_tokens=10, secret_in=lambda _: None)


def test_what_is_left_out_says_why() -> None:
    heavy = {"messages": [turn("user", "a"), turn("assistant", "b", weight=0)]}
    examples, refused = read(
        line(1), line(1), line(2, weight=0), heavy, {"messages": [turn("user", "x" * 4000), turn("assistant", "b")]},
        {"messages": [turn("user", "the KEY"), turn("assistant", "b")]}, secret="KEY",
    )  # fmt: skip
    assert len(examples) == 1
    assert [(r.start, r.reason) for r in refused] == [
        (2, "repeated"), (3, "weight_zero"), (4, "weight_zero"), (5, "too_long"), (6, "secret"),
    ]  # fmt: skip
    assert "KEY" not in "".join(r.model_dump_json() for r in refused)


def made(count: int, prompts: int | None = None) -> Read:
    rows = [line(i) for i in range(count)]
    for i, row in enumerate(rows):
        row["messages"][0]["content"] = f"ask {i % (prompts or count)}"
    return Read(training=read(*rows)[0], holdout=(), refusals=())


@settings(max_examples=30, deadline=None)
@drawn(count=strategies.integers(10, 90), prompts=strategies.integers(8, 90), seed=strategies.integers(0, 5))
def test_no_prompt_is_on_two_sides_and_nothing_is_lost(count: int, prompts: int, seed: int) -> None:
    try:
        taught = pairs_of(made(count, prompts), GIVEN, RECIPE.model_copy(update={"seed": seed}), "Ada")
    except TooFewSpans:
        assert count < 15 or prompts < 10  # too many share a prompt to hold three of them out
        return
    sides: dict[str, set[str]] = {}
    for pair in taught.pairs:
        sides.setdefault(pair.instruction, set()).add(pair.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert sorted(pair.provenance.start for pair in taught.pairs) == list(range(1, count + 1))
    held = [pair for pair in taught.pairs if pair.split == "holdout"]
    assert 3 <= len(held) <= 0.4 * count


def test_the_split_does_not_depend_on_the_order_of_lines() -> None:
    def held(read: Read) -> set[str]:
        return {pair.completion for pair in pairs_of(read, GIVEN, RECIPE, "Ada").pairs if pair.split == "holdout"}

    forwards = made(40)
    backwards = forwards.model_copy(update={"training": forwards.training[::-1]})
    assert held(forwards) == held(backwards)


def test_too_few_are_refused() -> None:
    with pytest.raises(TooFewSpans):
        pairs_of(made(9), GIVEN, RECIPE, "Ada")
    with pytest.raises(TooFewSpans):
        pairs_of(made(30, prompts=1), GIVEN, RECIPE, "Ada")


def test_a_pair_says_where_it_came_from() -> None:
    pair = pairs_of(made(12), GIVEN, RECIPE, "Ada").pairs[0]
    assert (pair.provenance.path, pair.provenance.blob, pair.provenance.commit) == ("examples.jsonl", "a" * 64, "")
    assert pair.provenance.licence == "MIT"
    assert pair.form == "given"
    assert pair.completion == f"answer {pair.provenance.start - 1}"
