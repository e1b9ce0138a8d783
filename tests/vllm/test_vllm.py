"""A real vLLM beside the local engine on the same base, in fp32: tokens, scores, guides, calls, cancelling, unloading."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tokenizers import Tokenizer

from clonedna.core.errors import InputError, NotFound, Unavailable
from clonedna.core.model import Example, Guide, Layer, LoraSpec, Message, SampleChunk, SampleRequest
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.engine.vllm import VllmEngine, open_vllm
from tests.contract.engines import VLLM_BASE, VLLM_URL
from tests.unit.engine import small

pytestmark = pytest.mark.skipif(VLLM_URL is None, reason="needs a running vLLM: make test-vllm")
TURN = (Message(role="user", content="write a loop"),)
TEXTS = [*small.SENTENCES, "def f(", "class A", "import os\n"]
EXAMPLES = [Example(text=text[:5], completion=text[5:]) for text in small.SENTENCES]
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"], "additionalProperties": False}}}
    for name in ("count", "weigh")
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[VllmEngine]:
    engine = open_vllm(VLLM_BASE, url=VLLM_URL or "")
    yield engine
    anyio.run(engine.close)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalEngine]:
    engine = open_engine(VLLM_BASE, threads=1)
    yield engine
    anyio.run(engine.close)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_adapter(Path(VLLM_BASE), tmp_path_factory.mktemp("adapter") / "one", seed=1)


async def sampled(engine: VllmEngine | LocalEngine, **options: object) -> list[SampleChunk]:
    return [chunk async for chunk in engine.sample(SampleRequest(**({"messages": TURN, "max_tokens": 24} | options)))]


def no_spaces() -> tuple[tuple[int, float], ...]:
    """JSON may have white space between its parts without end, and a random model does not stop by itself."""
    tokenizer = Tokenizer.from_file(str(Path(VLLM_BASE) / "tokenizer.json"))
    return tuple((i, -100.0) for i in range(tokenizer.get_vocab_size()) if tokenizer.decode([i]).isspace())


def words(chunks: list[SampleChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_tokens_are_the_local_engine_s(
    served: VllmEngine, local: LocalEngine, adapter: Path, adapted: bool
) -> None:
    async def run() -> None:
        layers = ()
        if adapted:
            info = await served.load(adapter, owner="anna")
            assert (await local.load(adapter)).id == info.id
            layers = (Layer(adapter=info.id),)
        for text in TEXTS:
            here = await sampled(local, messages=(), prompt=text, layers=layers)
            there = await sampled(served, messages=(), prompt=text, layers=layers)
            assert [chunk.token for chunk in there] == [chunk.token for chunk in here], text
            assert words(there) == words(here)
            assert there[-1].model_copy(update={"cached_tokens": 0}) == here[-1].model_copy(update={"cached_tokens": 0})

    anyio.run(run)


def test_scores_are_the_local_engine_s_within_rounding(served: VllmEngine, local: LocalEngine, adapter: Path) -> None:
    async def run() -> None:
        info = await served.load(adapter)
        await local.load(adapter)
        long = Example(text="x", completion=" ".join(small.SENTENCES * 10))  # longer than the context
        for layers in ((), (Layer(adapter=info.id),)):
            here, there = await local.nll([*EXAMPLES, long], layers), await served.nll([*EXAMPLES, long], layers)
            assert [(s.tokens, s.bytes) for s in there] == [(s.tokens, s.bytes) for s in here]
            assert [s.nll for s in there] == pytest.approx([s.nll for s in here], rel=1e-4)

    anyio.run(run)


def test_logprobs_are_the_local_engine_s(served: VllmEngine, local: LocalEngine) -> None:
    async def run() -> None:
        asked = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6}
        here, there = await sampled(local, **asked), await sampled(served, **asked)
        for one, other in zip(here[:-1], there[:-1], strict=True):
            assert one.logprob
            assert other.logprob
            assert (other.logprob.token, other.logprob.text) == (one.logprob.token, one.logprob.text)
            assert [top.token for top in other.logprob.top] == [top.token for top in one.logprob.top]
            assert [top.logprob for top in other.logprob.top] == pytest.approx(
                [top.logprob for top in one.logprob.top], rel=1e-3
            )

    anyio.run(run)


@pytest.mark.parametrize(
    ("guide", "fits"),
    [
        (Guide(kind="regex", text="[0-9]{3}-[a-z]{2}"), lambda text: re.fullmatch("[0-9]{3}-[a-z]{2}", text)),
        (Guide(kind="choice", text='["yes", "no"]'), lambda text: text in ("yes", "no")),
        (Guide(kind="lark", text='start: "a" NUM "b"\nNUM: /[0-9]{2}/'), lambda text: re.fullmatch("a[0-9]{2}b", text)),
        (
            Guide(kind="json_schema", text='{"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"],'
                  ' "additionalProperties": false}'),
            lambda text: isinstance(json.loads(text)["b"], bool),
        ),
    ],
    ids=["regex", "choice", "lark", "json_schema"],
)  # fmt: skip
def test_a_guide_is_kept(served: VllmEngine, guide: Guide, fits) -> None:
    chunks = anyio.run(lambda: sampled(served, guide=guide, max_tokens=120, logit_bias=no_spaces()))
    assert chunks[-1].finish == "stop", words(chunks)
    assert fits(words(chunks)), words(chunks)


@pytest.mark.parametrize("options", [{"tool": "weigh"}, {"tool_choice": "required"}])
def test_a_call_is_well_formed(served: VllmEngine, options: dict[str, str]) -> None:
    text = words(anyio.run(lambda: sampled(served, tools=TOOLS, max_tokens=150, logit_bias=no_spaces(), **options)))
    called = re.match(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
    assert called, text
    told = json.loads(called[1])
    assert told["name"] == "weigh" if "tool" in options else told["name"] in ("count", "weigh")
    assert isinstance(told["arguments"]["n"], bool)


def test_end_tokens_are_forbidden_where_they_are_to_be_ignored(served: VllmEngine) -> None:
    chunks = anyio.run(lambda: sampled(served, ignore_eos=True, temperature=2.0, seed=3, max_tokens=100))
    assert chunks[-1].finish == "length"
    assert chunks[-1].completion_tokens == 100
    assert not {0, 2} & {chunk.token for chunk in chunks}


def test_a_stop_string_ends_the_answer_before_it(served: VllmEngine, local: LocalEngine) -> None:
    whole = words(anyio.run(sampled, local))
    stop = whole[len(whole) // 2 :][:3]
    here, there = (anyio.run(lambda e=engine: sampled(e, stop=(stop,))) for engine in (local, served))
    assert words(there) == words(here) == whole[: whole.index(stop)]
    assert there[-1].finish == "stop"


def test_leaving_early_frees_the_server(served: VllmEngine) -> None:
    async def run() -> None:
        stream = served.sample(SampleRequest(prompt="x", max_tokens=250, ignore_eos=True))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        with anyio.fail_after(10):
            while True:
                told = await anyio.to_thread.run_sync(lambda: served._wire.metrics(timeout=2.0))  # pyright: ignore[reportPrivateUsage]
                if told["vllm:num_requests_running"] == 0:
                    break
                await anyio.sleep(0.1)

    anyio.run(run)
    assert served.status.running == 0


def test_unloading_waits_for_requests_and_then_the_server_has_it_no_more(served: VllmEngine, adapter: Path) -> None:
    async def run() -> None:
        info = await served.load(adapter)
        layers = (Layer(adapter=info.id),)
        stream = served.sample(SampleRequest(prompt="x", max_tokens=60, ignore_eos=True, layers=layers))
        await anext(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.unload, info.id)
            await anyio.sleep(0.05)
            with pytest.raises(NotFound):
                await served.nll(EXAMPLES, layers)
            rest = [chunk async for chunk in stream]
        assert rest[-1].completion_tokens == 60
        assert not [one for one in served.status.adapters if one.id == info.id]
        again = await served.load(adapter)
        assert await served.nll(EXAMPLES[:1], [Layer(adapter=again.id)]) != await served.nll(EXAMPLES[:1])

    anyio.run(run)


def test_what_vllm_cannot_do_is_said(served: VllmEngine, adapter: Path, tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(Unavailable) as training:
            await served.train(LoraSpec(rank=4))
        assert training.value.hint
        info = await served.load(adapter)
        with pytest.raises(InputError, match="weight 1"):
            await served.nll(EXAMPLES, [Layer(adapter=info.id, weight=0.5)])
        big = small.make_adapter(Path(VLLM_BASE), tmp_path / "big", r=128)
        with pytest.raises(Unavailable) as refused:
            await served.load(big)
        assert "--max-lora-rank" in refused.value.hint

    anyio.run(run)
