"""The vllm engine against a fake server: what goes out, how answers are read, what refusals become. A real one: `make test-vllm`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.errors import (
    AdapterInvalid,
    BadConfig,
    DnaError,
    InputError,
    NotFound,
    Overloaded,
    TimedOut,
    Unauthorised,
    Unavailable,
    WrongBase,
)
from clonedna.core.model import Example, Guide, Layer, LoraSpec, Message, SampleChunk, SampleRequest
from clonedna.engine.bases import load_base
from clonedna.engine.vllm import VllmEngine, open_vllm
from tests.unit.engine import small
from tests.unit.engine.vllm_fake import State, serving

TURN = (Message(role="user", content="hello"),)
END = 2
OTHER = '{"data": [{"id": "other", "root": "/other", "parent": null, "max_model_len": 9}]}'
TOOLS = ({"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}, {"name": "weigh"})
Open = Callable[..., VllmEngine]


@pytest.fixture
def state(base: Path) -> State:
    return State(base, name="small-qwen2", tokens=[[70], [71], [72, 73]])


@pytest.fixture
def url(state: State) -> Iterator[str]:
    with serving(state) as url:
        yield url


@pytest.fixture
def remote(state: State, url: str) -> VllmEngine:
    return open_vllm(str(state.base), url=url)


async def sampled(engine: VllmEngine, **options: object) -> list[SampleChunk]:
    return [chunk async for chunk in engine.sample(SampleRequest(**({"messages": TURN, "max_tokens": 4} | options)))]


def test_the_base_is_what_its_files_say(remote: VllmEngine, base: Path) -> None:
    loaded = load_base(str(base))
    assert remote.base.fingerprint == loaded.fingerprint
    assert remote.base.parameters == sum(one.numel() for one in loaded.model.parameters())
    assert remote.base.context == loaded.context
    assert "not verified" in remote.base.device


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"longest": 100_000}, WrongBase),
        ({"refuse": {"/v1/models": (200, OTHER, {})}}, WrongBase),
        ({"refuse": {"/tokenize": (200, '{"tokens": [1, 2, 3]}', {})}}, WrongBase),
        ({"refuse": {"/v1/models": (200, "<html>", {})}}, Unavailable),
        ({"refuse": {"/v1/models": (200, '{"data": [{"id": "x"}]}', {})}}, Unavailable),
        ({"key": "secret"}, Unauthorised),
    ],
    ids=["longer", "other name", "other tokenizer", "no json", "no vllm", "key"],
)  # fmt: skip
def test_a_server_that_contradicts_the_base_is_refused(
    state: State, url: str, change: dict[str, object], error: type[DnaError]
) -> None:
    for name, value in change.items():
        setattr(state, name, value)
    with pytest.raises(error) as caught:
        open_vllm(str(state.base), url=url)
    assert caught.value.hint


def test_a_shorter_context_is_the_server_s(state: State, url: str) -> None:
    state.longest = 64
    assert open_vllm(str(state.base), url=f"{url}/v1/").base.context == 64


def test_the_key_is_sent(state: State, url: str) -> None:
    state.key = "secret"
    engine = open_vllm(str(state.base), url=url, key="secret")
    assert anyio.run(sampled, engine)[-1].finish == "length"


@pytest.mark.parametrize("url", ["ftp://there", "http://", "http://me:word@there", "nowhere"])
def test_what_is_no_url_is_refused(base: Path, url: str) -> None:
    with pytest.raises(InputError):
        open_vllm(str(base), url=url)


def test_nobody_there_is_unavailable(base: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        open_vllm(str(base), url="http://127.0.0.1:9")
    assert "docs/vllm.md" in caught.value.hint


def test_each_token_is_a_chunk_and_the_last_has_the_usage(remote: VllmEngine) -> None:
    *body, last = anyio.run(sampled, remote)
    assert [chunk.token for chunk in body] == [70, 71, 72, 73]
    assert (last.finish, last.completion_tokens, last.cached_tokens) == ("length", 4, 2)


def test_the_end_of_a_turn_is_no_part_of_the_completion(state: State, remote: VllmEngine) -> None:
    state.tokens, state.finish = [[70], [71, END]], "stop"
    chunks = anyio.run(sampled, remote)
    assert [chunk.token for chunk in chunks] == [70, 71, None]
    assert (chunks[-1].finish, chunks[-1].completion_tokens) == ("stop", 2)


def test_everything_that_the_server_may_have_a_default_for_is_said(state: State, remote: VllmEngine) -> None:
    anyio.run(lambda: sampled(remote, prompt=(5, 6, 7), messages=(), temperature=0.5, seed=9, ignore_eos=True,
                              logit_bias=((3, 1.5), (10**6, 1.0))))  # fmt: skip
    (body,) = state.bodies("/v1/completions")
    assert body["prompt"] == [5, 6, 7]
    assert (body["temperature"], body["seed"], body["min_tokens"], body["ignore_eos"]) == (0.5, 9, 4, True)
    assert body["logit_bias"] == {"3": 1.5}
    assert set(body["stop_token_ids"]) == {0, END}
    assert {"top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"} <= set(body)


def test_a_stop_string_ends_it_and_closes_the_connection(state: State, remote: VllmEngine) -> None:
    whole = "".join(chunk.text for chunk in anyio.run(sampled, remote))
    state.hold = threading.Event()
    chunks = anyio.run(lambda: sampled(remote, stop=(whole[:1],)))
    assert "".join(chunk.text for chunk in chunks) == ""
    assert chunks[-1].finish == "stop"


def test_logprobs_are_sorted_and_as_many_as_asked(remote: VllmEngine) -> None:
    first = anyio.run(lambda: sampled(remote, logprobs=True, top_logprobs=2))[0].logprob
    assert first
    assert (first.token, first.logprob) == (70, -1.0)
    assert [(top.token, top.logprob) for top in first.top] == [(6, -0.5), (70, -1.0)]


@pytest.mark.parametrize(
    ("guide", "sent"),
    [
        (Guide(kind="json_object"), {"json_object": True}),
        (Guide(kind="json_schema", text='{"type": "object"}'), {"json": {"type": "object"}}),
        (Guide(kind="regex", text="a+"), {"regex": "a+"}),
        (Guide(kind="choice", text='["a"]'), {"choice": ["a"]}),
        (Guide(kind="lark", text='start: "a"'), {"grammar": 'start: "a"'}),
    ],
)
def test_guides_go_out_as_structured_outputs(
    state: State, remote: VllmEngine, guide: Guide, sent: dict[str, object]
) -> None:
    anyio.run(lambda: sampled(remote, guide=guide))
    assert state.bodies("/v1/completions")[0]["structured_outputs"] == sent


@pytest.mark.parametrize(
    ("options", "must", "names"),
    [
        ({}, False, ["count", "weigh"]),
        ({"tool_choice": "required"}, True, ["count", "weigh"]),
        ({"tool": "weigh"}, True, ["weigh"]),
    ],
)
def test_tools_go_out_as_a_structural_tag(
    state: State, remote: VllmEngine, options: dict[str, str], must: bool, names: list[str]
) -> None:
    anyio.run(lambda: sampled(remote, tools=TOOLS, **options))
    form = json.loads(state.bodies("/v1/completions")[0]["structured_outputs"]["structural_tag"])["format"]
    assert form["at_least_one"] is must
    assert [json.loads(tag["begin"].partition('"name": ')[2].partition(",")[0]) for tag in form["tags"]] == names


def test_no_choice_of_tools_sends_none_and_what_cannot_go_together_is_refused(state: State, remote: VllmEngine) -> None:
    anyio.run(lambda: sampled(remote, tools=TOOLS, tool_choice="none"))
    assert "structured_outputs" not in state.bodies("/v1/completions")[0]
    for options in ({"guide": Guide(kind="json_object")}, {"tool": "absent"}):
        with pytest.raises(InputError):
            anyio.run(lambda o=options: sampled(remote, tools=TOOLS, **o))
    with pytest.raises(InputError):
        anyio.run(lambda: sampled(remote, guide=Guide(kind="choice", text="not json")))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InputError),
        (401, Unauthorised),
        (404, NotFound),
        (429, Overloaded),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_statuses_are_typed_errors_and_samples_are_not_sent_again(
    state: State, remote: VllmEngine, status: int, error: type[DnaError]
) -> None:
    state.refuse["/v1/completions"] = status, '{"error": {"message": "because"}}', {"retry-after": "7"}
    with pytest.raises(error, match="because") as caught:
        anyio.run(sampled, remote)
    assert type(caught.value) is error
    assert caught.value.facts == ({"retry_after": 7} if status == 429 else {})
    assert len(state.bodies("/v1/completions")) == 1
    assert remote.status.waiting == remote.status.running == 0


def test_a_stream_that_breaks_off_is_an_error(state: State, remote: VllmEngine) -> None:
    state.cut = 2
    with pytest.raises(Unavailable, match="early"):
        anyio.run(sampled, remote)


def test_an_error_in_a_stream_is_an_error(state: State, remote: VllmEngine) -> None:
    state.finish = "error"
    with pytest.raises(Unavailable):
        anyio.run(sampled, remote)


def test_silence_is_timed_out(state: State, url: str) -> None:
    state.hold = threading.Event()
    with pytest.raises(TimedOut):
        anyio.run(sampled, open_vllm(str(state.base), url=url, timeout=0.2))


def test_leaving_closes_the_connection(state: State, remote: VllmEngine) -> None:
    state.hold, state.tokens = threading.Event(), [[70]] * 3000

    async def run() -> None:
        stream = remote.sample(SampleRequest(messages=TURN, max_tokens=100))
        await anext(stream)
        assert remote.status.running == 1
        await stream.aclose()  # type: ignore[attr-defined]

    anyio.run(run)
    state.hold.set()
    assert state.gone.wait(10)
    assert remote.status.running == 0


def test_scores_sum_what_the_server_says_of_the_completion_alone(state: State, remote: VllmEngine) -> None:
    state.refuse["/v1/completions"], state.refusals = (503, "{}", {}), 2  # asked again: it changes nothing
    (score,) = anyio.run(remote.nll, [Example(text="def f(", completion="width, height):")])
    body = state.bodies("/v1/completions")[-1]
    assert score.nll == pytest.approx(0.5 * (score.tokens - 1) + 2.0)
    assert body["prompt_logprobs"] == 0
    assert len(state.bodies("/v1/completions")) == 3


def test_a_row_as_long_as_the_context_fits(state: State, remote: VllmEngine) -> None:
    (score,) = anyio.run(remote.nll, [Example(text="x", completion="width, height " * 200)])
    assert len(state.bodies("/v1/completions")[0]["prompt"]) == 255
    assert score.tokens == 255


def test_an_adapter_is_named_by_its_files_and_not_sent_twice(state: State, remote: VllmEngine, adapter: Path) -> None:
    first = anyio.run(lambda: remote.load(adapter, owner="anna smith"))
    assert anyio.run(remote.load, adapter).id == first.id
    assert state.adapters == {f"anna-smith@{first.id}": str(adapter.resolve())}
    assert len(state.bodies("/v1/load_lora_adapter")) == 1
    anyio.run(lambda: sampled(remote, layers=(Layer(adapter=first.id),)))
    assert state.bodies("/v1/completions")[0]["model"] == f"anna-smith@{first.id}"
    assert (remote.status.hits, remote.status.loads, len(remote.status.adapters)) == (1, 1, 1)


def test_a_server_that_was_started_anew_gets_it_again(state: State, remote: VllmEngine, adapter: Path) -> None:
    info = anyio.run(remote.load, adapter)
    state.adapters.clear()
    with pytest.raises(NotFound):
        anyio.run(lambda: sampled(remote, layers=(Layer(adapter=info.id),)))
    anyio.run(remote.load, adapter)
    assert anyio.run(lambda: sampled(remote, layers=(Layer(adapter=info.id),)))[-1].finish


def test_what_is_no_adapter_of_this_base_never_reaches_the_server(
    state: State, remote: VllmEngine, tmp_path: Path
) -> None:
    other = small.make_base(tmp_path / "other", hidden_size=96)
    with pytest.raises(AdapterInvalid):
        anyio.run(remote.load, small.make_adapter(other, tmp_path / "adapter"))
    assert not state.bodies("/v1/load_lora_adapter")


@pytest.mark.parametrize(("status", "hint"), [(404, "same path"), (400, "--max-lora-rank"), (500, "--max-lora-rank")])
def test_a_server_that_does_not_take_an_adapter_says_why(
    state: State, remote: VllmEngine, adapter: Path, status: int, hint: str
) -> None:
    state.refuse["/v1/load_lora_adapter"] = status, '{"error": {"message": "because"}}', {}
    with pytest.raises(Unavailable, match="because") as caught:
        anyio.run(remote.load, adapter)
    assert hint in caught.value.hint
    assert not remote.status.adapters


def test_unloading_waits_for_requests_in_flight(state: State, remote: VllmEngine, adapter: Path) -> None:
    state.hold = threading.Event()

    async def run() -> None:
        info = await remote.load(adapter)
        layers = (Layer(adapter=info.id),)
        stream = remote.sample(SampleRequest(messages=TURN, max_tokens=4, layers=layers))
        await anext(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(remote.unload, info.id)
            await anyio.sleep(0.1)
            assert state.adapters
            with pytest.raises(NotFound, match=info.id):
                await remote.nll([], layers)
            state.hold.set()
            assert [chunk async for chunk in stream][-1].finish == "length"
        assert not state.adapters
        await remote.unload(info.id)

    anyio.run(run)


def test_somebody_else_s_adapter_stays(state: State, url: str, adapter: Path) -> None:
    first, second = (open_vllm(str(state.base), url=url) for _ in range(2))
    anyio.run(first.load, adapter)
    info = anyio.run(second.load, adapter)
    anyio.run(second.unload, info.id)
    assert state.adapters
    anyio.run(first.close)
    assert not state.adapters
    with pytest.raises(Unavailable):
        anyio.run(first.nll, [])


def test_blends_and_training_are_refused_with_a_way_out(remote: VllmEngine, adapter: Path, other_adapter: Path) -> None:
    one, two = anyio.run(remote.load, adapter).id, anyio.run(remote.load, other_adapter).id
    for layers in ((Layer(adapter=one), Layer(adapter=two)), (Layer(adapter=one, weight=0.7),)):
        with pytest.raises(InputError) as caught:
            anyio.run(lambda given=layers: sampled(remote, layers=given))
        assert "dna merge" in caught.value.hint
    assert anyio.run(lambda: sampled(remote, layers=(Layer(adapter=one), Layer(adapter=two, weight=0))))
    with pytest.raises(Unavailable) as training:
        anyio.run(remote.train, LoraSpec(rank=4))
    assert training.value.hint


def test_status_tells_the_server_s_prefix_counts_since_opening(state: State, remote: VllmEngine) -> None:
    state.queries += 32
    remote._reading._read = float("-inf")  # pyright: ignore[reportPrivateUsage]
    assert remote.status.prefix_queries == 32


def test_settings_choose_the_engine(state: State, url: str, tmp_path: Path) -> None:
    chosen = Parts(Settings(home=tmp_path, engine="vllm", vllm_url=url)).engine(str(state.base))
    assert isinstance(chosen, VllmEngine)
    with pytest.raises(BadConfig):
        Parts(Settings(home=tmp_path, engine="vllm")).engine("nano")
