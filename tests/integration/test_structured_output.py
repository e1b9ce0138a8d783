"""Grammars on the bundled base: what ends with ``stop`` parses and fits, whatever the schema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import anyio
import jsonschema_rs
import pytest

from clonedna.core.errors import InputError
from clonedna.core.model import Guide, Message, SampleRequest
from clonedna.engine.local import LocalEngine, open_engine
from tests import schemas

pytestmark = pytest.mark.slow
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file", "description": "Read a file.",
        "parameters": {
            "type": "object", "required": ["path"], "additionalProperties": False,
            "properties": {"path": {"type": "string", "maxLength": 24}, "lines": {"type": "integer", "minimum": 1, "maximum": 99}},
        },
    },
}  # fmt: skip
OTHER = {
    "type": "function",
    "function": {"name": "stop_now", "parameters": {"type": "object", "additionalProperties": False}},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    opened = open_engine("nano", threads=1)
    yield opened
    anyio.run(opened.close)


def schema_of(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose smallest and largest instances are short."""
    kinds = ["integer", "number", "string", "pattern", "boolean", "null", "enum", "const", "any"]
    kind = draw.choice(kinds + (["object", "array", "ref"] * 3 if depth < 3 else []))
    if kind == "integer":
        low = draw.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 200)}
    if kind == "number":
        return (
            {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.25}
            if draw.random() < 0.3
            else {"enum": [0.5, -2e3]}
        )
    if kind == "string":
        return {"type": "string", "minLength": draw.randint(0, 3), "maxLength": draw.randint(3, 12)}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(["^[a-f]{2,4}$", "^\\d{3}-\\d{2}$", "^(yes|no)$"])}
    if kind == "enum":
        return {"enum": draw.sample(["red", 'gr"een', "blü", 4, None, True], draw.randint(1, 4))}
    if kind == "const":
        return {"const": draw.choice(["x", 7, [1, 2], {"k": "v"}])}
    if kind == "any":
        return {"anyOf": [schema_of(draw, 3) for _ in range(draw.randint(2, 3))]}
    if kind == "array":
        low = draw.randint(0, 2)
        return {
            "type": "array",
            "items": schema_of(draw, depth + 1),
            "minItems": low,
            "maxItems": low + draw.randint(0, 2),
        }
    if kind == "ref":
        return {"$defs": {"one": schema_of(draw, 3)}, "$ref": "#/$defs/one"} if depth == 0 else schema_of(draw, 3)
    if kind == "object":
        names = draw.sample(["name", "size", "kind", "tags", "a b", "ünï"], draw.randint(1, 4))
        properties = {name: schema_of(draw, depth + 1) for name in names}
        needed = [name for name in names if draw.random() < 0.6]
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
    return {"type": kind}


async def answer(engine: LocalEngine, **options: Any) -> tuple[str, str | None]:
    asked = {
        "messages": (Message(role="user", content="Read setup.py and say what is in it."),),
        "max_tokens": 600,
    } | options
    text, finish = "", None
    async for chunk in engine.sample(SampleRequest(**asked)):
        text, finish = text + chunk.text, chunk.finish
    return text, finish


def test_two_hundred_random_schemas_are_kept_by_all_answers(engine: LocalEngine) -> None:
    draw = random.Random(7)
    wanted = [schema_of(draw) for _ in range(200)]
    answers: dict[int, tuple[str, str | None]] = {}

    async def one(i: int) -> None:
        guide = Guide(kind="json_schema", text=json.dumps(wanted[i]))
        answers[i] = await answer(engine, guide=guide, temperature=(i % 3) * 0.7, seed=i)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for i in range(len(wanted)):
                group.start_soon(one, i)

    anyio.run(run)
    for i, schema in enumerate(wanted):
        text, finish = answers[i]
        assert finish == "stop", (schema, text)
        assert jsonschema_rs.is_valid(schema, json.loads(text)), (schema, text)


def test_calls_and_schemas_are_kept_beside_grammars_that_ask_too_much(engine: LocalEngine) -> None:
    """What would take minutes, gigabytes or the whole stack is refused, and the others have their answers in the meantime."""
    chain = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(5000)} | {"5000": {"type": "integer"}}
    hostile = [
        Guide(kind="json_schema", text=json.dumps({"$ref": "#/$defs/0", "$defs": chain})),
        Guide(kind="regex", text="a?" * 2000 + "a" * 2000),
        Guide(kind="lark", text='start: "yes" B\nB: /' + "a?" * 2000 + "a" * 2000 + "/"),
        Guide(kind="lark", text="start: A\nA: " + " & ".join(f"/(.*x){{{i}}}.*/" for i in range(2, 60))),
        Guide(kind="json_schema", text='{"type": "integer", "multipleOf": 1000003}'),
    ]
    wanted = [schemas.schema(seed, tight=True) for seed in range(60)]
    answers: dict[int, tuple[str, str | None]] = {}
    called: list[str] = []
    refused: list[InputError] = []

    async def keep(i: int) -> None:
        guide = Guide(kind="json_schema", text=json.dumps(wanted[i]))
        answers[i] = await answer(engine, guide=guide, temperature=0.8, seed=i)

    async def call(seed: int) -> None:
        text, finish = await answer(engine, tools=(TOOL, OTHER), tool_choice="required", temperature=0.9, seed=seed)
        assert finish == "stop"
        called.append(text)

    async def break_it(guide: Guide) -> None:
        try:
            await answer(engine, guide=guide)
        except InputError as error:
            refused.append(error)

    async def run() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for guide in hostile:
                    group.start_soon(break_it, guide)
                for i in range(len(wanted)):
                    group.start_soon(keep, i)
                for seed in range(20):
                    group.start_soon(call, seed)

    anyio.run(run)
    assert len(refused) == len(hostile)
    for i, schema in enumerate(wanted):
        text, finish = answers[i]
        assert finish == "stop", (schema, text)
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(json.loads(text))
    for text in called:
        for part in text.split("</tool_call>")[:-1]:
            assert json.loads(part.partition("<tool_call>\n")[2])["name"] in ("read_file", "stop_now")


@pytest.mark.parametrize("options", [{"tool_choice": "required"}, {"tool": "read_file"}, {"tool": "stop_now"}])
@pytest.mark.parametrize("seed", range(6))
def test_a_required_call_is_well_formed(engine: LocalEngine, options: dict[str, Any], seed: int) -> None:
    text, finish = anyio.run(lambda: answer(engine, tools=(TOOL, OTHER), temperature=0.9, seed=seed, **options))
    assert finish == "stop"
    for part in text.split("</tool_call>")[:-1]:
        opening, _, call = part.strip("\n").partition("\n")
        fields = json.loads(call)
        assert opening == "<tool_call>"
        wanted = {"read_file": TOOL, "stop_now": OTHER}[fields["name"]]["function"]["parameters"]
        assert jsonschema_rs.is_valid(wanted, fields["arguments"])
        assert options.get("tool") in (None, fields["name"])
    assert text.endswith("</tool_call>")


def test_with_auto_words_stay_free_and_an_opened_call_is_kept(engine: LocalEngine) -> None:
    closed = 0
    for seed in range(8):
        text, finish = anyio.run(lambda s=seed: answer(engine, tools=(TOOL,), temperature=1.0, seed=s))
        if "<tool_call>" in text and finish == "stop":
            call = text.split("<tool_call>")[1].split("</tool_call>")[0]
            assert json.loads(call)["name"] == "read_file"
            closed += 1
    assert closed > 0


def test_none_does_not_tell_of_tools(engine: LocalEngine) -> None:
    with_tools, _ = anyio.run(lambda: answer(engine, tools=(TOOL,), tool_choice="none", max_tokens=30))
    assert with_tools == anyio.run(lambda: answer(engine, max_tokens=30))[0]


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("json_schema", '{"$ref": "http://example.com/x"}', "example.com"),
        ("json_schema", '{"type": "object", "unevaluatedProperties": false}', "unevaluatedProperties"),
        ("json_schema", "[" * 100_000, "not JSON"),
        ("json_schema", "3", "object"),
        ("json_schema", '{"a":"' + "x" * (300 << 10) + '"}', "characters"),
        ("regex", "(a", "regex"),
        ("lark", "start: nothing", "nothing"),
        ("choice", "[]", "choices"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_a_token(engine: LocalEngine, kind: str, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        anyio.run(lambda: answer(engine, guide=Guide(kind=kind, text=text)))  # type: ignore[arg-type]


def test_other_guides_are_kept_and_neighbours_are_free(engine: LocalEngine) -> None:
    async def run() -> list[tuple[str, str | None]]:
        results: dict[int, tuple[str, str | None]] = {}
        guides = [Guide(kind="regex", text="[a-c]{3}"), Guide(kind="choice", text='["yes", "no \\"q\\""]'), None]

        async def one(i: int) -> None:
            results[i] = await answer(engine, guide=guides[i], max_tokens=24)

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(one, i)
        return [results[i] for i in range(3)]

    (regex, _), (choice, _), free = anyio.run(run)
    assert len(regex) == 3
    assert set(regex) <= set("abc")
    assert choice in ("yes", 'no "q"')
    assert free == anyio.run(lambda: answer(engine, max_tokens=24))
