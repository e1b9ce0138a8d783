"""The official client, against a server on a real port."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from clonedna.core.errors import InputError, Overloaded, Unavailable
from tests.serving import ScriptedEngine, ServerParts, add_block, running

KEY = "0123456789abcdef-key"
ADMIN = "0123456789abcdef-admin"
TURN: list[Any] = [{"role": "user", "content": "x"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object", "properties": {}}}}
]  # fmt: skip
CALLS = ["Look: ", "<tool", '_call>\n{"name": "find", "argu', 'ments": {"q": "a', '"}}\n</tool_call>', "\n<tool_call>",
         '\n{"name": "find", "arguments": {}}\n</tool_call>']  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ServerParts]]:
    parts = ServerParts(tmp_path_factory.mktemp("home"), api_key=KEY, admin_key=ADMIN)
    add_block(parts, "ada", says="ab")
    add_block(parts, "bob", says="xyz", created_at="2026-02-02T03:04:05Z")
    with running(parts) as url:
        yield url, parts


@pytest.fixture
def client(served: tuple[str, ServerParts]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served[0]}/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def engine(served: tuple[str, ServerParts]) -> Iterator[ScriptedEngine]:
    """The engine as it is, and as it was afterwards."""
    engine = served[1].fake
    assert isinstance(engine, ScriptedEngine)
    engine.asked.clear()
    yield engine
    engine.pieces, engine.delay, engine.error, engine.fail_after = None, 0.0, None, 0


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something becomes true within some seconds."""
    for _ in range(500):
        if true():
            return True
        time.sleep(0.01)
    return False


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"fake", "ada", "ada@1.0.0", "bob"} <= set(listed)
    one = client.models.retrieve("ada@1.0.0")
    assert one == listed["ada@1.0.0"]
    assert one.model_extra is not None
    assert (one.model_extra["parent"], one.model_extra["block"]) == ("fake", "ada@1.0.0")
    assert one.model_extra["root"] in {m.model_extra["root"] for m in listed.values() if m.model_extra}


def test_a_chat_says_what_served_it(client: OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="bob", messages=[{"role": "developer", "content": "be kind"}, *TURN], max_tokens=4, temperature=0
    )
    parsed = answer.parse()
    assert parsed.choices[0].message.content == "yzxy"
    assert parsed.choices[0].finish_reason == "length"
    assert parsed.usage is not None
    assert (parsed.usage.completion_tokens, parsed.usage.total_tokens) == (4, parsed.usage.prompt_tokens + 4)
    assert parsed.model_extra is not None
    by = parsed.model_extra["served_by"]
    assert (by["base"], by["block"], by["weights_loaded"], by["remote"]) == ("fake", "bob@1.0.0", True, False)
    assert answer.headers["x-served-by"] == f"fake+bob@1.0.0#{by['block_id'][:12]}*1"


def test_the_base_alone_is_not_said_to_have_weights_of_a_block(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=TURN, max_tokens=1)
    assert answer.model_extra is not None
    assert answer.model_extra["served_by"] | {"base_fingerprint": ""} == {
        "base": "fake", "base_fingerprint": "", "block": None, "block_id": None, "weights_loaded": False, "layers": [],
        "retrieval": [], "remote": False, "genome": None,
    }  # fmt: skip


def test_a_stream_is_the_same_answer_in_pieces(client: OpenAI) -> None:
    options: Any = {"model": "bob", "messages": TURN, "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].model_extra is not None
    assert chunks[0].model_extra["served_by"]["block"] == "bob@1.0.0"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_its_usage_when_asked(client: OpenAI, engine: ScriptedEngine) -> None:
    engine.pieces = ["a", "b"]
    *_, last = client.chat.completions.create(
        model="fake", messages=TURN, stream=True, n=2, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (7, 4, 11)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 3


def test_options_reach_the_engine(client: OpenAI, engine: ScriptedEngine) -> None:
    client.chat.completions.create(
        model="ada", messages=TURN, n=2, seed=5, temperature=0.5, top_p=0.9, stop=["END", "\n\n"], max_completion_tokens=9,
        presence_penalty=0.1, frequency_penalty=0.2, logit_bias={"65": -100},
        extra_body={
            "top_k": 7, "min_p": 0.05, "repetition_penalty": 1.1, "ignore_eos": True, "chat_template_kwargs": {"thinking": False},
            "add_generation_prompt": True, "skip_special_tokens": True,
        },
    )  # fmt: skip
    first, second = engine.asked
    assert (first.temperature, first.top_p, first.top_k, first.min_p, first.max_tokens) == (0.5, 0.9, 7, 0.05, 9)
    assert (first.presence_penalty, first.frequency_penalty, first.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (first.stop, first.logit_bias, first.ignore_eos) == (("END", "\n\n"), ((65, -100.0),), True)
    assert (first.seed, second.seed) == (5, 6)
    assert first.layers == second.layers != ()


def test_without_options_openai_s_defaults_hold(client: OpenAI, engine: ScriptedEngine) -> None:
    client.chat.completions.create(model="fake", messages=TURN)
    client.chat.completions.create(model="fake", messages=TURN)
    client.completions.create(model="fake", prompt="x")
    chat, again, text = engine.asked
    assert (chat.temperature, chat.top_p, chat.stop, text.temperature) == (1.0, 1.0, (), 1.0)
    assert (chat.max_tokens, text.max_tokens) == (1024, 16)
    assert chat.seed != again.seed


def test_tokens_probabilities_have_both_shapes(client: OpenAI) -> None:
    chat = client.chat.completions.create(model="bob", messages=TURN, max_tokens=2, temperature=0, logprobs=True)
    listed = chat.choices[0].logprobs
    assert listed is not None
    assert listed.content is not None
    assert [(one.token, one.bytes) for one in listed.content] == [("y", [121]), ("z", [122])]
    assert all(one.logprob < 0 for one in listed.content)
    streamed = client.chat.completions.create(
        model="bob", messages=TURN, max_tokens=2, temperature=0, logprobs=True, stream=True
    )
    tokens = [one for chunk in streamed if (got := chunk.choices[0].logprobs) for one in got.content or []]
    assert tokens == listed.content
    old = (
        client.completions.create(model="bob", prompt="x", max_tokens=2, temperature=0, logprobs=0).choices[0].logprobs
    )
    assert old is not None
    assert (old.tokens, old.text_offset) == (["y", "z"], [0, 1])
    assert old.token_logprobs == [one.logprob for one in listed.content]


def test_completions_of_texts_and_tokens_keep_their_order(client: OpenAI) -> None:
    made = client.completions.create(model="bob", prompt=["x", "y"], n=2, max_tokens=2, temperature=0, echo=True)
    assert [choice.text for choice in made.choices] == ["xyz", "xyz", "yzx", "yzx"]
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (2, 8)
    assert client.completions.create(model="bob", prompt=[120], max_tokens=1, temperature=0).choices[0].text == "y"
    made = client.completions.create(model="bob", prompt=[[120], [121]], max_tokens=1, temperature=0)
    assert [choice.text for choice in made.choices] == ["y", "z"]
    texts: dict[int, str] = {}
    for chunk in client.completions.create(
        model="bob", prompt=["x", "y"], max_tokens=2, temperature=0, stream=True, echo=True
    ):
        texts[chunk.choices[0].index] = texts.get(chunk.choices[0].index, "") + chunk.choices[0].text
    assert texts == {0: "xyz", 1: "yzx"}


def test_tool_calls_come_as_messages_have_them(client: OpenAI, engine: ScriptedEngine) -> None:
    engine.pieces = CALLS
    choice = client.chat.completions.create(model="fake", messages=TURN, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look: ")
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("find", {"q": "a"}),
        ("find", {}),
    ]
    assert engine.asked[0].tools[0]["function"]["name"] == "find"
    history: list[Any] = [
        *TURN, choice.message.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "found"}]} for call in calls),
    ]  # fmt: skip
    engine.pieces = ["done"]
    assert client.chat.completions.create(model="fake", messages=history).choices[0].message.content == "done"
    said = engine.asked[-1].messages
    assert [message.role for message in said] == ["user", "assistant", "tool", "tool"]
    assert [call.name for call in said[1].tool_calls] == ["find", "find"]
    assert (said[2].content, said[2].tool_call_id) == ("found", calls[0].id)


def test_tool_calls_are_streamed_as_deltas(client: OpenAI, engine: ScriptedEngine) -> None:
    engine.pieces = CALLS
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    finish = None
    for chunk in client.chat.completions.create(model="fake", messages=TURN, tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            if call.id:
                names[call.index] = call.function.name or ""
            arguments.setdefault(call.index, []).append(call.function.arguments or "")
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    assert names == {0: "find", 1: "find"}
    assert json.loads("".join(arguments[0])) == {"q": "a"}
    assert len([piece for piece in arguments[0] if piece]) > 1


def test_the_choice_of_tools_reaches_the_engine(client: OpenAI, engine: ScriptedEngine) -> None:
    engine.pieces = CALLS
    named: Any = {"type": "function", "function": {"name": "find"}}
    for choice in ("none", "auto", "required", named):
        client.chat.completions.create(model="fake", messages=TURN, tools=TOOLS, tool_choice=choice)
    assert [(ask.tool_choice, ask.tool) for ask in engine.asked] == [
        ("none", None), ("auto", None), ("required", None), ("required", "find")
    ]  # fmt: skip
    answer = client.chat.completions.create(model="fake", messages=TURN, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.content == "".join(CALLS)
    client.chat.completions.create(model="fake", messages=TURN, tools=TOOLS, parallel_tool_calls=False)
    assert engine.asked[-1].stop == ("</tool_call>",)


def test_a_format_becomes_a_guide(client: OpenAI, engine: ScriptedEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    forms: list[tuple[str, Any]] = [
        ("json_object", {"response_format": {"type": "json_object"}}),
        ("json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}),
        ("json_schema", {"guided_json": schema}),
        ("json_schema", {"structured_outputs": {"json": json.dumps(schema)}}),
        ("regex", {"guided_regex": "a+"}),
        ("choice", {"structured_outputs": {"choice": ["a", "b"]}}),
        ("lark", {"guided_grammar": "start: A"}),
    ]
    for kind, extra in forms:
        client.chat.completions.create(model="fake", messages=TURN, max_tokens=1, extra_body=extra)
        guide = engine.asked[-1].guide
        assert guide is not None
        assert guide.kind == kind
        if kind == "json_schema":
            assert json.loads(guide.text) == schema
    client.chat.completions.create(model="fake", messages=TURN, max_tokens=1, response_format={"type": "text"})
    assert engine.asked[-1].guide is None


@pytest.mark.parametrize(
    "extra",
    [
        {"lora": [{"id": "ada", "scale": 0.25}, {"id": "bob", "scale": 0.75}]},
        {"merged_adapters": {"ids": ["ada", "bob"], "weights": [0.25, 0.75], "merge_strategy": "linear"}},
    ],
)
def test_a_blend_is_asked_for_by_request(extra: dict[str, Any], client: OpenAI, engine: ScriptedEngine) -> None:
    answer = client.chat.completions.create(model="fake", messages=TURN, max_tokens=1, extra_body=extra)
    assert [layer.weight for layer in engine.asked[-1].layers] == [0.25, 0.75]
    assert answer.model_extra is not None
    assert [layer["block"] for layer in answer.model_extra["served_by"]["layers"]] == ["ada@1.0.0", "bob@1.0.0"]


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"audio": {"voice": "x"}}, "audio"), ({"functions": [{"name": "f"}]}, "functions"), ({"min_tokens": 3}, "min_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"), ({"messages": []}, "messages"), ({"temperature": -1}, "temperature"),
        ({"n": 65}, "n"), ({"top_logprobs": 2}, "top_logprobs"), ({"stop": [""] * 2}, None), ({"stop": ["x"] * 17}, None),
        ({"tool_choice": "required"}, "tool_choice"), ({"tools": [*TOOLS, *TOOLS]}, "tools"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "tools"), ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"merged_adapters": {"ids": ["ada"], "weights": [1], "merge_strategy": "ties"}}, "merged_adapters.merge_strategy"),
        ({"merged_adapters": {"ids": ["ada", "bob"], "weights": [1]}}, "merged_adapters.weights"),
        ({"model": "ada", "lora": [{"id": "bob"}]}, None),
    ],
)  # fmt: skip
def test_what_cannot_be_done_as_asked_is_a_bad_request(
    extra: dict[str, Any], param: str | None, client: OpenAI, engine: ScriptedEngine
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=TURN, extra_body=extra)
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "bad_input")
    if param is not None:
        assert caught.value.param == param
    assert engine.asked == []


@pytest.mark.parametrize(
    "extra",
    [{"suffix": "x"}, {"best_of": 2}, {"prompt": [1], "echo": True}, {"echo": True, "logprobs": 1}, {"prompt": []}],
)
def test_what_completions_do_not_have_is_a_bad_request(extra: dict[str, Any], client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="fake", prompt="x", extra_body=extra)


def test_errors_have_the_client_s_classes(
    client: OpenAI, engine: ScriptedEngine, served: tuple[str, ServerParts]
) -> None:
    ask: Any = {"model": "fake", "messages": TURN}
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=TURN)
    assert missing.value.code == "block_not_found"
    for key in ("wrong-key-wrong-key", KEY[:-1], KEY + "x"):
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key=key).models.list()
    engine.error = Overloaded("too many wait", "ask again", retry_after=7)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as busy:
            client.chat.completions.create(**ask, stream=stream)
        assert busy.value.response.headers["retry-after"] == "7"
    engine.error = InputError("the prompt is too long", "send less")
    with pytest.raises(openai.BadRequestError, match="send less"):
        client.chat.completions.create(**ask, stream=True, n=3)
    engine.error = Unavailable("the engine is closed", "start it again")
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**ask)
    assert eventually(lambda: engine.opened == engine.closed)


def test_an_error_in_the_middle_of_a_stream_is_an_error_of_the_client(client: OpenAI, engine: ScriptedEngine) -> None:
    engine.pieces, engine.error, engine.fail_after = ["a", "b", "c"], Unavailable("it broke", "ask again"), 2
    text = ""

    def read() -> None:
        nonlocal text
        for chunk in client.chat.completions.create(model="fake", messages=TURN, stream=True):
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="it broke"):
        read()
    assert text == "ab"


def test_adapters_are_named_by_who_has_the_admin_key(client: OpenAI) -> None:
    body = {"lora_name": "mine", "lora_path": "ada@1.0.0"}
    with pytest.raises(openai.PermissionDeniedError):
        client.post("/load_lora_adapter", body=body, cast_to=str)
    admin = client.with_options(api_key=ADMIN)
    with pytest.raises(openai.PermissionDeniedError):
        admin.post("/load_lora_adapter", body=body | {"lora_path": "/etc"}, cast_to=str)
    assert "mine" in admin.post("/load_lora_adapter", body=body, cast_to=str)
    with pytest.raises(openai.BadRequestError):
        admin.post("/load_lora_adapter", body=body, cast_to=str)
    admin.post("/load_lora_adapter", body=body | {"load_inplace": True}, cast_to=str)
    answer = client.chat.completions.create(model="mine", messages=TURN, max_tokens=1)
    assert answer.model_extra is not None
    assert answer.model_extra["served_by"]["block"] == "ada@1.0.0"
    admin.post("/unload_lora_adapter", body={"lora_name": "mine"}, cast_to=str)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("mine")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_samples(
    stream: bool, served: tuple[str, ServerParts], engine: ScriptedEngine
) -> None:
    engine.pieces, engine.delay = ["a"] * 100_000, 0.01

    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{served[0]}/v1", api_key=KEY, max_retries=0) as client:
            if not stream:
                with anyio.move_on_after(0.3):
                    await client.chat.completions.create(model="fake", messages=TURN, n=3)
                return
            answer = await client.chat.completions.create(model="fake", messages=TURN, n=3, stream=True)
            await anext(aiter(answer))
            await answer.close()

    opened = engine.opened
    anyio.run(ask)
    assert engine.opened == opened + 3
    assert eventually(lambda: engine.closed == engine.opened)


def test_many_at_the_same_time_each_get_their_own(served: tuple[str, ServerParts]) -> None:
    async def work() -> list[str | None]:
        found: list[str | None] = [None] * 20
        async with AsyncOpenAI(base_url=f"{served[0]}/v1", api_key=KEY, max_retries=0) as client:

            async def one(i: int) -> None:
                answer = await client.completions.create(
                    model=("ada", "bob")[i % 2], prompt="ax"[i % 2], max_tokens=3, temperature=0
                )
                found[i] = answer.choices[0].text

            async with anyio.create_task_group() as group:
                for i in range(20):
                    group.start_soon(one, i)
        return found

    assert anyio.run(work) == ["bab", "yzx"] * 10
