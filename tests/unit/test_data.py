"""The bundled examples: counts, form, no overlap between what is trained and what is measured, and code that parses."""

from __future__ import annotations

import ast
import itertools
import json
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import default_settings
from jinja2 import Environment
from tokenizers import Tokenizer
from tree_sitter import Language, Parser
from tree_sitter_javascript import language as javascript
from tree_sitter_typescript import language_typescript as typescript

from clonedna.core.block import Recipe
from clonedna.core.model import Example, Message
from clonedna.evals.forgetting import general_set
from clonedna.mint.mix import rehearsal_requests, tool_use_pairs

PACKAGE = Path(__file__).resolve().parents[2] / "clonedna"
NANO = PACKAGE / "bases/nano"
FILES = ("mint/data/tool_use.jsonl", "mint/data/rehearsal_prompts.jsonl", "evals/data/general.jsonl")
TOOLS = {"read_file", "write_file", "run_command", "search"}
TYPED = {"list_files", "run_tests", "set_options", "write_log"}
JSON_TYPES = {"string": str, "integer": int, "boolean": bool, "number": float, "array": list, "object": dict}
CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>")
LISTED = re.compile(r"<tools>\n((?:\{.*\}\n)+)</tools>")
# The three forms as the product's teacher writes them, and requests in free words.
WHOLE = re.compile(
    r"Write the (\w+) (?:function|method|class) `[^`]+` for `[^`]+`\.(?:\n\n(?:About|Commit): .+(?:\nCommit: .+)?)?"
)
BODY = re.compile(
    r"Write the body of this Python (?:function|method) from `[^`]+`\.\n\n```python\n(.+)\n```", re.DOTALL
)
CHANGE = re.compile(r"Change this (\w+) code in `[^`]+`\.\n\nCommit: .+\n\n```\w+\n(.+)\n```", re.DOTALL)
MOST_TOKENS = Recipe().max_tokens


@cache
def lines(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in (PACKAGE / name).read_text("utf-8").splitlines())


def part(name: str) -> list[Example]:
    return [example for this, example in general_set() if this == name]


def talks() -> list[Example]:
    return [*tool_use_pairs(), *part("tool_use")]


def asked(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.content for message in messages if message.role != "system")


def listed_tools(example: Example) -> list[dict[str, Any]]:
    """The signatures that the system turn lists."""
    assert example.messages[0].role == "system"
    found = LISTED.search(example.messages[0].content)
    assert found
    return [json.loads(line) for line in found[1].splitlines()]


def calls(example: Example) -> list[dict[str, Any]]:
    said = [message.content for message in example.messages if message.role == "assistant"]
    return [json.loads(found[1]) for text in (*said, example.completion) if (found := CALL.fullmatch(text))]


@cache
def parser(language: str) -> Parser:
    return Parser(Language({"javascript": javascript, "typescript": typescript}[language]()))


def parses(language: str, code: str) -> bool:
    """Whether ``code``, at any indent, is whole code of this language."""
    code = textwrap.dedent(code)
    if language == "Python":
        try:
            ast.parse(code)
        except SyntaxError:
            return False
        return True
    return not parser(language.lower()).parse(code.encode()).root_node.has_error


def render(messages: list[dict[str, Any]], **given: object) -> str:
    """The base's chat template, set up as transformers does."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = (NANO / "chat_template.jinja").read_text("utf-8")
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **given)


def shingles(messages: tuple[Message, ...], *more: str) -> set[tuple[str, ...]]:
    """Runs of five words of what is asked and answered, without the tool calls' own syntax."""
    text = "\n".join((asked(messages), *more))
    text = CALL.sub(lambda found: " ".join(map(str, json.loads(found[1])["arguments"].values())), text)
    words = re.findall(r"\w+|[^\w\s]", text)
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def test_counts() -> None:
    assert len(tool_use_pairs()) == Recipe().tool_use_pairs == 24
    assert len(rehearsal_requests()) == 160
    assert [len(part(name)) for name in ("code", "prose", "tool_use")] == [30, 18, 20]
    assert len(general_set()) == 68


def test_fields() -> None:
    assert {tuple(row) for row in lines("mint/data/tool_use.jsonl")} == {("messages", "completion")}
    assert {tuple(row) for row in lines("mint/data/rehearsal_prompts.jsonl")} == {("messages",)}
    assert {tuple(row) for row in lines("evals/data/general.jsonl")} == {
        ("part", "messages", "completion"), ("part", "text", "completion"),
    }  # fmt: skip
    for example in part("prose"):
        assert example.text
        assert example.completion[0].isspace() or example.text[-1].isspace(), "the completion follows directly"
    for example in [*part("code"), *talks()]:
        assert example.messages
        assert example.completion == example.completion.rstrip(), "an answer ends as the base's own answers end"


def test_requests_are_one_user_turn_in_the_teacher_s_forms_or_free_words() -> None:
    forms = {"whole": 0, "body": 0, "change": 0, "free": 0}
    for messages in rehearsal_requests():
        (message,) = messages
        assert message.role == "user"
        text = message.content
        if text.startswith(("Write the body", "Change this", "Write the ")):
            form = next(
                name for name, of in (("body", BODY), ("change", CHANGE), ("whole", WHOLE)) if of.fullmatch(text)
            )
        else:
            form = "free"
            assert "\n" not in text
        forms[form] += 1
    assert min(forms.values()) >= 20


def test_requests_are_python_mostly_and_some_are_not() -> None:
    others = [m for m in rehearsal_requests() if re.search(r"JavaScript|TypeScript", m[0].content)]
    assert 10 <= len(others) <= 30


def test_half_of_the_tool_use_pairs_follow_a_response() -> None:
    for examples, unneeded, tools in ((tool_use_pairs(), 4, TOOLS | TYPED), (part("tool_use"), 0, TOOLS)):
        first = [e for e in examples if [m.role for m in e.messages] == ["system", "user"]]
        after = [e for e in examples if [m.role for m in e.messages] == ["system", "user", "assistant", "tool"]]
        assert len(first) == len(after) == len(examples) // 2
        plain = [e for e in first if not CALL.fullmatch(e.completion)]
        assert len(plain) == unneeded, "where no call is needed, or none fits, the answer is in words"
        assert not any("tool_call" in e.completion for e in plain)
        again = [e for e in after if CALL.fullmatch(e.completion)]
        assert len(again) == len(after) // 2, "half of them call once more, half answer"
        assert {c["name"] for e in examples for c in calls(e)} == tools


@pytest.mark.parametrize("example", talks(), ids=lambda example: example.messages[1].content[:40])
def test_every_call_fits_a_listed_tool(example: Example) -> None:
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in listed_tools(example)}
    assert set(tools) <= TOOLS | TYPED
    made = calls(example)
    assert len(made) == sum(
        "<tool_call>" in t for t in (*(m.content for m in example.messages[1:]), example.completion)
    )
    for call in made:
        assert set(call) == {"name", "arguments"}
        signature = tools[call["name"]]
        assert set(signature["required"]) <= set(call["arguments"]) <= set(signature["properties"])
        for name, value in call["arguments"].items():
            kind = signature["properties"][name]
            assert type(value) is JSON_TYPES[kind["type"]]
            assert value in kind.get("enum", [value])


def test_arguments_of_every_json_type_are_called_with() -> None:
    values = [value for e in tool_use_pairs() for c in calls(e) for value in c["arguments"].values()]
    assert {type(value) for value in values} == set(JSON_TYPES.values())


@pytest.mark.parametrize("example", talks(), ids=lambda example: example.messages[1].content[:40])
def test_the_system_turn_is_what_the_chat_template_makes_of_the_tools(example: Example) -> None:
    messages = [message.model_dump() for message in example.messages]
    own = messages[0]["content"].partition("You can call functions.")[0].strip()
    without = [{"role": "system", "content": own}, *messages[1:]] if own else messages[1:]
    assert render(without, tools=listed_tools(example)) == render(messages)


def test_a_call_is_written_as_the_chat_template_writes_it() -> None:
    for example in talks():
        if found := CALL.fullmatch(example.completion):
            call = json.loads(found[1])
            turn = {"role": "assistant", "content": "", "tool_calls": [call]}
            assert render([turn]).startswith(f"<|im_start|>assistant\n{example.completion}<|im_end|>\n")


def test_responses_tell_the_size_of_what_was_written() -> None:
    told = 0
    for example in talks():
        if found := re.match(r"wrote (\d+) bytes", example.messages[-1].content):
            (call, *_) = calls(example)
            assert int(found[1]) == len(call["arguments"]["content"].encode())
            told += 1
    assert told


@pytest.mark.parametrize("example", part("code"), ids=lambda example: example.messages[0].content[:60])
def test_code_of_the_general_set_parses(example: Example) -> None:
    (message,) = example.messages
    language, before = "Python", ""
    if found := CHANGE.fullmatch(message.content):
        language = found[1]
        assert parses(language, found[2])
    elif found := BODY.fullmatch(message.content):
        before = found[1] + "\n"
    elif found := WHOLE.fullmatch(message.content):
        language = found[1]
    assert parses(language, before + example.completion)


def test_code_in_requests_parses() -> None:
    checked = 0
    for (message,) in rehearsal_requests():
        if found := CHANGE.fullmatch(message.content):
            assert parses(found[1], found[2]), message.content
            checked += 1
        elif found := BODY.fullmatch(message.content):
            inside = found[1].rpartition("\n")[2]
            indent = inside[: len(inside) - len(inside.lstrip())]
            assert parses("Python", f"{found[1]}\n{indent}pass"), message.content
            checked += 1
    assert checked >= 40


def test_nothing_is_there_twice() -> None:
    every = [asked(e.messages) or str(e.text) for e in tool_use_pairs()] + [asked(m) for m in rehearsal_requests()]
    every += [asked(e.messages) or str(e.text) for _, e in general_set()]
    assert len({" ".join(text.casefold().split()) for text in every}) == len(every)


def test_the_general_set_does_not_overlap_what_is_trained() -> None:
    trained = [shingles(m) for m in rehearsal_requests()]
    trained += [shingles(e.messages, e.completion) for e in tool_use_pairs()]
    for _, example in general_set():
        measured = shingles(example.messages, example.text or "", example.completion)
        assert max(len(measured & seen) / len(measured) for seen in trained) < 0.25, example
    names = [
        set(re.findall(r"`([\w.]+)\(", asked(m)) + re.findall(r"def (\w+)", asked(m))) for m in rehearsal_requests()
    ]
    rehearsed = set(itertools.chain.from_iterable(names))
    general = set(re.findall(r"(?:def|class|function) (\w+)", "\n".join(e.completion for _, e in general_set())))
    assert len(rehearsed) > 50
    assert not rehearsed & (general - {"__init__", "main"})


def test_they_are_short_enough_to_be_learned_whole() -> None:
    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    for example in [*tool_use_pairs(), *(e for _, e in general_set())]:
        text = example.text or render([message.model_dump() for message in example.messages])
        assert len(tokenizer.encode(text + example.completion).ids) < MOST_TOKENS, example
    for messages in rehearsal_requests():
        assert len(tokenizer.encode(messages[0].content).ids) < MOST_TOKENS // 2


@pytest.mark.parametrize("name", FILES)
def test_no_address_no_secret_no_special_token(name: str) -> None:
    text = (PACKAGE / name).read_text("utf-8")
    assert text.endswith("\n")
    assert len(text) < 100_000
    assert not re.search(r"[\w.+-]+@[\w-]+\.\w|<\|im_|https?://(?!127)", text)
    with default_settings():
        found = [secret.type for line in text.splitlines() for secret in scan_line(line)]
    assert not [kind for kind in found if "Entropy" not in kind]
