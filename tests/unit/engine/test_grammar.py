"""What a grammar lets through, token by token, without a model: a driver with random logits stands for one that knows nothing."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import clonedna
from clonedna.core.errors import InputError, Internal, Overloaded
from clonedna.core.model import Guide, SampleRequest
from clonedna.engine.grammar import Grammars, Guidance, incomplete, overlap
from clonedna.engine.grammar_trial import PATIENCE
from tests import schemas

NANO = Path(clonedna.__file__).parent / "bases" / "nano"
STOPS = {0, 2}
OPEN, CLOSE, FIM = 3, 4, 9
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather of a place.",
        "parameters": {
            "type": "object", "required": ["place", "days"], "additionalProperties": False,
            "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "$defs": {"place": {"type": "string", "maxLength": 12}},
        },
    },
}  # fmt: skip
STOP = {
    "type": "function",
    "function": {"name": "stop", "parameters": {"type": "object", "additionalProperties": False}},
}
TOOLS = (WEATHER, STOP)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(NANO, local_files_only=True)


@cache
def grammars() -> Grammars:
    return Grammars(tokenizer(), STOPS, 4096)


@cache
def plain_grammars() -> Grammars:
    """A base that has no tokens of its own for tool calls."""
    described = json.loads(tokenizer().backend_tokenizer.to_str())
    for token in described["added_tokens"][OPEN : CLOSE + 1]:
        token["content"] = token["content"].replace("tool_call", "other")
    described["model"]["vocab"] = {
        text.replace("tool_call>", "other>"): index for text, index in described["model"]["vocab"].items()
    }
    return Grammars(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described))), STOPS, 4096)


def asked(**options: Any) -> SampleRequest:
    return SampleRequest(prompt="x", **options)


def guide(kind: str, text: str = "", using: Grammars | None = None) -> Guidance:
    made = (using or grammars()).compile(asked(guide=Guide(kind=kind, text=text)))  # type: ignore[arg-type]
    assert made is not None
    return made


def tools(choice: str = "required", using: Grammars | None = None, **options: Any) -> Guidance:
    made = (using or grammars()).compile(asked(**{"tools": TOOLS, "tool_choice": choice} | options))
    assert made is not None
    return made


def said(tokens: list[int]) -> str:
    return str(tokenizer().decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@cache
def lean() -> np.ndarray[Any, Any]:
    """As models do, the driver likes to close what is open; else strings would be very long."""
    pieces = [grammars().piece(token) for token in range(4096)]
    return np.array([4.0 if any(c in piece for c in b'"}]') else 0.0 for piece in pieces])


def drive(guidance: Guidance, seed: int, most: int = 3000) -> tuple[str, bool]:
    """What random logits say, and whether it came to its end."""
    draw = np.random.default_rng(seed)
    tokens: list[int] = []
    while len(tokens) < most:
        mask = guidance.mask()
        logits = draw.standard_normal(4096) * 3 + lean()
        if mask is not None:
            logits[~mask.numpy()] = -np.inf
        token = int(logits.argmax())
        if token in STOPS:
            return said(tokens), True
        guidance.accept(token)
        tokens.append(token)
        if guidance.finished:
            return said(tokens), True
    return said(tokens), False


def take(guidance: Guidance, text: str) -> None:
    """Accept ``text``, by the longest tokens that are allowed."""
    rest = text.encode()
    while rest:
        mask = guidance.mask()
        fitting = [
            token
            for token in range(12, 4096)
            if (mask is None or mask[token]) and rest.startswith(grammars().piece(token))
        ]
        assert fitting, rest
        token = max(fitting, key=lambda one: len(grammars().piece(one)))
        guidance.accept(token)
        rest = rest[len(grammars().piece(token)) :]


def allowed(guidance: Guidance) -> set[int]:
    mask = guidance.mask()
    return set(range(4096)) if mask is None else {int(token) for token in mask.nonzero()}


def read(text: str) -> Any:
    """JSON; a number beyond binary64, which JSON and its schemas allow, as the largest one."""
    return json.loads(text, parse_float=lambda digits: max(-1e308, min(1e308, float(digits))))


def calls(text: str) -> list[dict[str, Any]]:
    parts = text.split("<tool_call>")
    assert all("</tool_call>" in part for part in parts[1:]), text
    return [json.loads(part.split("</tool_call>")[0]) for part in parts[1:]]


def check_call(call: dict[str, Any]) -> None:
    function = {"weather": WEATHER, "stop": STOP}[call["name"]]["function"]
    assert list(call) == ["name", "arguments"]
    jsonschema_rs.validator_for(function["parameters"]).validate(call["arguments"])


# Schemas


@pytest.mark.parametrize("hundred", [0, 100])
def test_random_schemas_are_kept_by_random_logits(hundred: int) -> None:
    for seed in range(hundred, hundred + 100):
        schema = schemas.schema(seed)
        text, ended = drive(guide("json_schema", json.dumps(schema)), seed)
        assert ended, (schema, text)
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(read(text))


def test_nano_itself_keeps_random_schemas_greedily() -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(NANO, local_files_only=True, dtype=torch.float32).eval()
    for seed in range(3):
        schema = schemas.schema(seed, tight=True)
        guidance = guide("json_schema", json.dumps(schema))
        ids = tokenizer()("<|im_start|>user\nAnswer in JSON.<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        start, kept, new = len(ids), None, ids
        with torch.inference_mode():
            while len(ids) < 900 and not guidance.finished:
                out = model(input_ids=torch.tensor([new]), past_key_values=kept, use_cache=True)
                mask = guidance.mask()
                assert mask is not None
                token = int(out.logits[0, -1].masked_fill(~mask, float("-inf")).argmax())
                if token in STOPS:
                    break
                guidance.accept(token)
                kept, new = out.past_key_values, [token]
                ids = [*ids, token]
        assert len(ids) < 900, schema
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(read(said(ids[start:])))


def test_json_is_written_with_one_space_and_no_more() -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2}, "b": {}}}'
    guidance = guide("json_schema", schema)
    take(guidance, '{"a": [1, 1], "b": null}')
    assert guidance.finished
    for start, wrong in (("{", " "), ('{"a":', "  "), ('{"a": [1,', "\n"), ('{"a": [1, 1]', " ")):
        guidance = guide("json_schema", schema)
        take(guidance, start)
        assert not any(grammars().piece(token).startswith(wrong.encode()) for token in allowed(guidance))


def test_the_end_may_come_exactly_when_the_whole_fits() -> None:
    guidance = guide("json_schema", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    for piece in ('{"', 'n":', " ", "1", "2"):
        take(guidance, piece)
        assert not allowed(guidance) & STOPS
        assert not guidance.finished
    take(guidance, "}")
    assert guidance.finished
    assert allowed(guidance) == STOPS
    number = guide("json_schema", '{"type": "integer"}')
    take(number, "12")
    assert allowed(number) > STOPS
    assert not number.finished


@pytest.mark.parametrize("stop", sorted(STOPS))
def test_every_token_that_ends_a_turn_is_taken_at_the_end(stop: int) -> None:
    guidance = guide("json_schema", '{"type": "integer"}')
    take(guidance, "7")
    guidance.accept(stop)
    assert guidance.finished


def test_special_tokens_are_in_no_string_and_their_names_are_text() -> None:
    guidance = guide("json_schema", '{"type": "string"}')
    take(guidance, '"a')
    assert not allowed(guidance) & set(range(12))
    for name in ("</tool_call>", "<|im_end|>", "<tool_call>"):
        text, ended = drive(guide("json_schema", json.dumps({"const": name})), 0)
        assert ended
        assert json.loads(text) == name


def test_a_token_that_is_not_allowed_is_a_fault_of_ours() -> None:
    for token in (OPEN, 0, -1, 4096, 10**9):
        guidance = guide("json_schema", '{"type": "object"}')
        with pytest.raises(Internal, match="not allowed"):
            guidance.accept(token)
    guidance = guide("json_object")
    take(guidance, "{")
    allowed(guidance)
    with pytest.raises(Internal):
        guidance.accept(2)


def test_masks_have_the_width_of_the_logits_and_stay_the_same() -> None:
    wide = Grammars(tokenizer(), STOPS, 5000)
    mask = guide("json_object", using=wide).mask()
    assert mask is not None
    assert mask.shape == (5000,)
    assert mask.dtype == torch.bool
    assert not mask[4096:].any()
    guidance = guide("json_object")
    before = guidance.mask()
    assert before is not None
    copied = before.clone()
    take(guidance, "{")
    assert torch.equal(before, copied)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf"),
        ({"type": "string", "format": "isbn"}, "isbn"),
        ({"type": "string", "pattern": "(?=a)b"}, "look"),
        ({"type": "text"}, "text"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "file:///etc/passwd"}, "passwd"),
        ({"$schema": "http://127.0.0.1:9/own", "type": "integer"}, "127.0.0.1"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "string", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"const": 2**53 + 1}, "2\\^53"),
        ({"$ref": "#"}, "nowhere"),
    ],
)
def test_what_a_schema_asks_and_cannot_get_is_named(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        guide("json_schema", json.dumps(schema))
    assert caught.value.hint


def test_annotations_and_words_that_are_none_of_json_schemas_bind_nothing() -> None:
    schema = {
        "title": "T", "description": "words", "default": 3, "examples": [4], "$comment": "c", "deprecated": True,
        "contentEncoding": "base64", "x-own": {"a": 1}, "nullable": True, "readOnly": True, "type": "boolean",
    }  # fmt: skip
    guidance = guide("json_schema", json.dumps(schema))
    take(guidance, "true")
    assert guidance.finished


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", "{"), ("json_schema", "[" * 100_000), ("json_schema", '"text"'), ("json_schema", "false"),
        ("json_schema", '{"maximum": NaN}'), ("json_schema", '{"const": "\\ud800"}'), ("choice", "[]"), ("choice", '["a", ""]'),
        ("choice", '{"a": 1}'), ("choice", "yes"), ("regex", "[a"), ("regex", r"(a)\1"), ("regex", "a$b"), ("lark", ""),
        ("lark", "start: missing"), ("lark", 'begin: "a"'), ("lark", "start: <|no_such_token|>"), ("json_object", "x" * 300_000),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused(kind: str, text: str) -> None:
    with pytest.raises(InputError):
        guide(kind, text)


def test_recursion_is_kept() -> None:
    tree = {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object", "required": ["v"], "additionalProperties": False,
                "properties": {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/tree"}, "r": {"$ref": "#/$defs/tree"}},
            }
        },
    }  # fmt: skip
    guidance = guide("json_schema", json.dumps(tree))
    take(guidance, '{"v": 1, "l": {"v": 2, "r": {"v": 3}}, "r": {"v": 4}}')
    assert guidance.finished


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29", "2024-13"), ("date-time", "2024-01-02T03:04:05.6Z", "2024-01-02T25"), ("time", "23:59:59Z", "24"),
        ("uri", "https://a.example/b?c#d", "ht tp"),
    ],
)  # fmt: skip
def test_formats_are_kept(name: str, good: str, bad: str) -> None:
    schema = json.dumps({"type": "string", "format": name})
    guidance = guide("json_schema", schema)
    take(guidance, f'"{good}"')
    assert guidance.finished
    with pytest.raises(AssertionError):
        take(guide("json_schema", schema), f'"{bad}')


# Other guides


def test_choices_that_begin_alike_and_need_escapes() -> None:
    words = ["a", "ab", 'é"x\\\n', "日本", "</tool_call>", " lead", "\u0001"]
    for word in words:
        guidance = guide("choice", json.dumps(words))
        take(guidance, word)
        assert allowed(guidance) & STOPS
        assert guidance.finished == (word != "a")
    assert {drive(guide("choice", json.dumps(words)), seed)[0] for seed in range(40)} <= set(words)


def test_a_regex_is_a_full_match() -> None:
    guidance = guide("regex", "[a-c]{2}/x?")
    assert not allowed(guidance) & STOPS
    take(guidance, "ab/")
    assert allowed(guidance) >= STOPS
    take(guidance, "x")
    assert guidance.finished
    empty = guide("regex", "")
    assert allowed(empty) == STOPS
    assert empty.finished


def test_lark_grammars_count_brackets() -> None:
    guidance = guide("lark", 'start: expr\nexpr: "(" expr* ")"')
    take(guidance, "(()(()")
    assert not allowed(guidance) & STOPS
    take(guidance, "))")
    assert guidance.finished


def test_no_answer_ends_inside_a_character() -> None:
    for seed in range(30):
        text, _ = drive(guide("regex", ".{1,6}"), seed, most=200)
        assert "\ufffd" not in text
    guidance = guide(
        "lark", "start: A\nA: ~/(a|b)*/"
    )  # of a negation the library says that it matches parts of characters
    first = next(token for token in range(12, 4096) if grammars().piece(token)[-1:] == b"\xe6")
    guidance.accept(first)
    assert not allowed(guidance) & STOPS


def test_how_much_of_a_character_is_missing() -> None:
    for text in ("a", "é", "日", "🙂", "x🙂"):
        raw = text.encode()
        assert incomplete(0, raw) == 0
        for cut in range(1, len(raw)):
            missing = incomplete(0, raw[:cut])
            assert (missing == 0) == (raw[:cut].decode(errors="ignore").encode() == raw[:cut])
            assert incomplete(missing, raw[cut:]) == 0


# Tools


@pytest.mark.parametrize("using", [grammars, plain_grammars])
def test_required_calls_are_well_formed_from_the_first_token(using: Callable[[], Grammars]) -> None:
    names: set[str] = set()
    for seed in range(20):
        text, ended = drive(tools(using=using()), seed)
        assert ended, text
        assert text.startswith("<tool_call>\n")
        assert text.endswith("\n</tool_call>")
        for call in calls(text):
            check_call(call)
            names.add(call["name"])
    assert names == {"weather", "stop"}


def test_a_named_tool_is_called_once_and_then_all_is_said() -> None:
    for seed in range(10):
        text, ended = drive(tools(tool="weather"), seed)
        assert ended
        (call,) = calls(text)
        check_call(call)
        assert call["name"] == "weather"
    with pytest.raises(InputError, match="nobody"):
        tools(tool="nobody")


def test_several_calls_may_follow_one_another() -> None:
    guidance = tools()
    guidance.accept(OPEN)
    take(guidance, '\n{"name": "stop", "arguments": {}}\n')
    assert allowed(guidance) == {CLOSE}
    guidance.accept(CLOSE)
    assert allowed(guidance) > STOPS
    assert not guidance.finished
    take(guidance, "\n")
    assert allowed(guidance) == {OPEN}


def test_words_are_free_until_a_call_begins() -> None:
    guidance = tools("auto")
    assert guidance.mask() is None
    take(guidance, "Let me look < tool_call> <tool")
    assert guidance.mask() is None
    guidance.accept(OPEN)
    mask = guidance.mask()
    assert mask is not None
    assert not mask[sorted(STOPS)].any()
    take(guidance, '\n{"name": "weather", "arguments": {"place": "Rome", "days": 3}}\n')
    guidance.accept(CLOSE)
    assert guidance.mask() is None
    take(guidance, "Once more:")
    guidance.accept(OPEN)
    text, _ = drive(guidance, 1, most=60)
    assert text.startswith('\n{"name": "')
    assert not guidance.finished


@pytest.mark.parametrize("using", [grammars, plain_grammars])
def test_a_call_that_is_spelled_letter_by_letter_begins_too(using: Callable[[], Grammars]) -> None:
    for seed in range(5):
        guidance = tools("auto", using=using())
        for letter in "so <tool_call>":
            take(guidance, letter)
        mask = guidance.mask()
        assert mask is not None
        begins = {grammars().piece(token)[:1] for token in allowed(guidance)}
        assert begins == {b"\n"}
        tokens: list[int] = []
        draw = np.random.default_rng(seed)
        while (mask := guidance.mask()) is not None and len(tokens) < 2000:
            logits = np.where(mask.numpy(), draw.standard_normal(4096) * 3 + lean(), -np.inf)
            tokens.append(int(logits.argmax()))
            guidance.accept(tokens[-1])
        inside, closed, _ = said(tokens).partition("</tool_call>")
        assert closed
        check_call(json.loads(inside))


def test_a_token_that_would_begin_a_call_wrongly_is_barred() -> None:
    wrong = [token for token in range(12, 4096) if grammars().piece(token) in (b">(", b"><", b">=", b">>")]
    assert wrong
    guidance = tools("auto")
    take(guidance, "<tool_call")
    assert not allowed(guidance) & set(wrong)
    with pytest.raises(Internal):
        guidance.accept(wrong[0])
    right = [token for token in range(12, 4096) if grammars().piece(token) == b">\n"]
    for token in right:
        guidance = tools("auto")
        take(guidance, "<tool_call")
        guidance.accept(token)
        take(guidance, '{"name": "stop"')


def test_none_and_no_tools_guide_nothing() -> None:
    assert grammars().compile(asked()) is None
    assert grammars().compile(asked(tools=TOOLS, tool_choice="none")) is None


@pytest.mark.parametrize(
    "given",
    [
        ({"type": "function", "function": {"parameters": {}}},), ({"type": "function"},), ({"name": ""},),
        ({"name": "a", "parameters": {"type": "string"}},), ({"name": "a", "parameters": [1]},),
        ({"name": "a", "parameters": {"type": "object", "uniqueItems": True, "not": {}}},),
        ({"name": "a", "parameters": {"type": "object", "description": "x" * 600_000}},),
    ],
)  # fmt: skip
def test_what_is_no_tool_is_refused(given: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(InputError):
        tools(tools=given)


def test_a_format_and_tools_exclude_each_other() -> None:
    with pytest.raises(InputError):
        grammars().compile(asked(guide=Guide(kind="json_object"), tools=TOOLS))


def test_names_and_arguments_of_any_letters() -> None:
    name = 'größe "x" \\ 日本'
    text, ended = drive(
        tools(tools=({"name": name, "parameters": {"type": ["object", "null"], "maxProperties": 0}},)), 0
    )
    assert ended
    assert calls(text)[0] == {"name": name, "arguments": {}}


# What is hostile


def chain(links: int) -> str:
    defs = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(links)} | {str(links): {"type": "integer"}}
    return json.dumps({"$ref": "#/$defs/0", "$defs": defs})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", chain(5000)),  # ends a process whose stack is not larger than usual
        ("lark", "start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(12_000)) + '\na12000: "x"'),
        ("lark", "start: A\nA: " + " & ".join(f"/(.*x){{{i}}}.*/" for i in range(2, 60))),  # hours
        ("json_schema", '{"type": "integer", "multipleOf": 1000003}'),
        ("regex", "a?" * 2000 + "a" * 2000),
        ("lark", 'start: "yes" B\nB: /' + "a?" * 2000 + "a" * 2000 + "/"),  # the second step alone takes half a minute
        ("json_schema", '{"type": "array", "items": ' * 500 + "{}" + "}" * 500),
    ],
)
def test_what_asks_too_much_is_refused_in_bounded_time(kind: str, text: str) -> None:
    begun = time.monotonic()
    with pytest.raises((InputError, Overloaded)):
        drive(guide(kind, text), 0)
    assert time.monotonic() - begun < 2 * PATIENCE  # of a bound, not a measurement
    take(guide("json_schema", '{"type": "null"}'), "null")  # and others are still served


def test_the_process_that_tries_grammars_goes_with_the_engine() -> None:
    own = Grammars(tokenizer(), STOPS, 4096)
    guide("json_schema", '{"const": 1}', using=own)
    process = own._trials._process
    assert process is not None
    assert process.poll() is None
    del own
    gc.collect()
    assert process.returncode is not None


def test_one_grammar_serves_many_threads() -> None:
    results: dict[int, str] = {}

    def work(i: int) -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"const": i % 3}},
            "required": ["n"],
            "additionalProperties": False,
        }
        results[i] = drive(guide("json_schema", json.dumps(schema)), i)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: f'{{"n": {i % 3}}}' for i in range(24)}


def test_overlaps_with_the_opening() -> None:
    assert [overlap(text) for text in (b"", b"<", b"a<tool", b"<tool_call", b"<tool_call>", b"<<")] == [
        0,
        1,
        5,
        10,
        0,
        1,
    ]


def test_tokens_added_without_being_marked_special_are_control_all_the_same() -> None:
    described = json.loads(tokenizer().backend_tokenizer.to_str())
    for token in described["added_tokens"]:
        token["special"] = token["id"] in STOPS
    own = Grammars(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described))), STOPS, 4096)
    guidance = tools(using=own)
    assert allowed(guidance) == {OPEN}
    string = guide("json_schema", '{"type": "string"}', using=own)
    take(string, '"a')
    assert not allowed(string) & set(range(12))


def test_bytes_that_are_tokens_of_a_sentencepiece_vocabulary() -> None:
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *'abcdeflnrstu0123456789{}[]:,"',
        "\u2581a",
    ]
    described = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None, "pre_tokenizer": None,
        "added_tokens": [
            {"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for i in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "merges": ["\u2581 a"],
            "vocab": {name: index for index, name in enumerate(names)},
        },
    }  # fmt: skip
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))
    own = Grammars(fast, {2}, len(names))
    draw = np.random.default_rng(0)
    for value in ("a", "é日 </s>", 12, [True, None], {"a b": "\n"}):
        guidance, tokens = guide("json_schema", json.dumps({"const": value}), using=own), []
        while not guidance.finished:
            mask = guidance.mask()
            assert mask is not None
            tokens.append(int(draw.choice(mask.nonzero().flatten().numpy())))
            if tokens[-1] == 2:
                break
            guidance.accept(tokens[-1])
        assert json.loads(b"".join(own.piece(token) for token in tokens if token != 2)) == value


def test_a_tokenizer_without_bytes_cannot_be_guided() -> None:
    words = Tokenizer(WordLevel({"a": 0, "</s>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="tokenizer"):
        Grammars(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"), {1}, 3)


def test_a_base_without_an_end_cannot_be_guided() -> None:
    with pytest.raises(InputError):
        Grammars(tokenizer(), (), 4096)
