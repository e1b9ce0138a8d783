"""The server over the local engine and the bundled base, with a block trained in this process: the main paths, by the official client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from openai import BadRequestError, OpenAI

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.model import Example, LoraSpec, Message
from clonedna.core.seams import Engine
from tests.serving import running
from tests.unit.store.making import contents, write_block

pytestmark = pytest.mark.slow
TURN: list[Any] = [{"role": "user", "content": "say it"}]
SAID = "zebra = 'zebra zebra'\n"


async def train(engine: Engine, directory: Path) -> None:
    """An adapter that says ``SAID`` and little else."""
    trainer = await engine.train(LoraSpec(rank=8, alpha=16))
    for _ in range(30):
        await trainer.forward_backward([Example(messages=(Message(role="user", content="say it"),), completion=SAID)])
        await trainer.optim_step(5e-3)
    await trainer.save(directory)
    await trainer.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    parts = Parts(Settings(home=home, base="nano", port=0, threads=1))
    engine = parts.engine("nano")
    anyio.run(train, engine, home / "adapter")
    files = contents() | {path.name: path.read_bytes() for path in (home / "adapter").iterdir()}
    manifest = write_block(
        home / "block", parts.signer, files, name="zebra", base_fingerprint=engine.base.fingerprint, rank=8, alpha=16.0
    )
    parts.store.put(home / "block")
    parts.registry.publish(manifest)
    with running(parts, "nano") as url:
        yield url
    anyio.run(parts.close)


@pytest.fixture
def client(served: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(client: OpenAI, model: str, **options: Any) -> str:
    asked: dict[str, Any] = {"max_tokens": 12, "temperature": 0} | options
    answer = client.chat.completions.create(model=model, messages=TURN, **asked)
    return answer.choices[0].message.content or ""


def test_a_block_answers_as_it_was_trained_and_the_base_does_not(client: OpenAI) -> None:
    assert chat(client, "zebra") in SAID
    assert chat(client, "zebra").startswith("zebra")
    assert "zebra" not in chat(client, "nano")
    assert chat(client, "zebra:0+zebra:0") == chat(client, "nano")
    assert chat(client, "nano", extra_body={"lora": [{"id": "zebra", "scale": 1.0}]}) == chat(client, "zebra")


def test_a_stream_and_a_whole_answer_are_the_same(client: OpenAI) -> None:
    options: Any = {
        "model": "nano",
        "prompt": "def add(a, b):",
        "max_tokens": 24,
        "temperature": 1,
        "seed": 3,
        "logprobs": 2,
    }
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == whole.choices[0].text
    assert all(len(top) >= 1 for top in logprobs.top_logprobs or [{}])


def test_a_schema_is_kept_and_a_tool_is_called(client: OpenAI) -> None:
    colour = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    text = chat(
        client, "zebra", max_tokens=64, temperature=1, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": colour}},
    )  # fmt: skip
    assert json.loads(text)["colour"] in ("red", "blue")
    tools: Any = [{"type": "function", "function": {"name": "paint", "parameters": colour}}]
    asked: Any = {
        "model": "nano",
        "messages": TURN,
        "tools": tools,
        "tool_choice": "required",
        "max_tokens": 96,
        "seed": 2,
    }
    choice = client.chat.completions.create(**asked, parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments)["colour"] in ("red", "blue")
    names, arguments = "", ""
    for chunk in client.chat.completions.create(**asked, parallel_tool_calls=False, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            names += delta.function.name or ""
            arguments += delta.function.arguments or ""
    assert (names, json.loads(arguments)) == ("paint", json.loads(call.function.arguments))


def test_a_schema_that_cannot_be_kept_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        chat(client, "nano", extra_body={"guided_regex": "("})


def test_a_client_that_leaves_frees_the_engine(client: OpenAI, served: str) -> None:
    stream = client.completions.create(
        model="nano", prompt="x", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    for _ in range(200):
        status = httpx2.get(f"{served}/api/v1/engine", timeout=60).json()["engine"]
        if status["running"] + status["waiting"] == 0:
            break
        time.sleep(0.02)
    assert status["running"] + status["waiting"] == 0
    assert [adapter["uses"] for adapter in status["adapters"]] == [0]


def test_the_figures_are_the_engine_s(client: OpenAI, served: str) -> None:
    chat(client, "zebra")
    text = httpx2.get(f"{served}/metrics", timeout=60).text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['vllm:generation_tokens_total{model_name="zebra@1.0.0"}']) > 0
    assert float(figures["dna_adapter_loads_total"]) >= 1
    assert float(figures["dna_engine_requests_total"]) >= 1
    assert float(figures['dna_adapters{state="slot"}']) == 1
