"""Who is let in: keys, loopback names, origins, bodies, numbers; and what is said to the others."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request

from clonedna.app.serving import Serving
from clonedna.core.errors import BadConfig, InputError, Refused, Unavailable
from clonedna.server import access, main
from clonedna.server.access import is_loopback
from tests.serving import ScriptedEngine, ServerParts

KEY = "0123456789abcdef-key"
ADMIN = "0123456789abcdef-admin"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def ask(home: Path, work: Callable[[httpx2.AsyncClient, FastAPI], Awaitable[None]], **settings: Any) -> ScriptedEngine:
    """Run ``work`` with a client of an application in this process; gives its engine."""
    parts = ServerParts(home, **settings)

    async def call() -> None:
        app = main.create_app(Serving(parts, "fake"), parts.settings)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            await work(client, app)

    anyio.run(call)
    assert isinstance(parts.fake, ScriptedEngine)
    return parts.fake


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("LOCALHOST.", True), ("::1", True), ("[::1]", True),
     ("0.0.0.0", False), ("192.0.2.1", False), ("localhost.example.org", False), ("127.0.0.1.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known(host: str, here: bool) -> None:
    assert is_loopback(host) == here


def test_without_a_key_only_loopback_names_and_no_foreign_pages_get_in(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"):
            assert (await client.get("/v1/models", headers={"Host": host})).status_code == 200, host
        for host in (
            "evil.example.org",
            "evil.example.org:8000",
            "127.0.0.1.evil.example.org",
            "192.0.2.1:8000",
            "[",
            "",
            "a@b:c",
        ):
            answer = await client.get("/v1/models", headers={"Host": host})
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error"), host
        for origin, status in (
            ("http://127.0.0.1:8000", 200),
            ("http://evil.example.org", 403),
            ("null", 403),
            ("http://127.0.0.1:9", 403),
        ):
            answer = await client.get("/version", headers={"Origin": origin})
            assert answer.status_code == status, origin
            assert "access-control-allow-origin" not in answer.headers
        form = await client.post(
            "/v1/load_lora_adapter",
            content='{"lora_name": "x", "lora_path": "y"}',
            headers={"content-type": "text/plain"},
        )
        assert form.status_code == 400

    ask(tmp_path, work)


def test_with_a_key_everything_but_health_needs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path, headers={"Host": "anywhere.example.org"})).status_code == 200
        for path in (
            "/v1/models",
            "/metrics",
            "/version",
            "/api/v1/engine",
            "/openapi.json",
            "/nowhere",
            "/v1/nowhere",
        ):
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
                          {"Authorization": b"Bearer \xff\xfe"}, {"Authorization": "Bearer"}):  # fmt: skip
                answer = await client.get(path, headers=given)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "unauthorised"
            known = await client.get(path, headers={"Authorization": f"bearer {KEY}", "Host": "any.example.org"})
            assert known.status_code == (404 if "nowhere" in path else 200)

    with caplog.at_level(logging.DEBUG):
        ask(tmp_path, work, api_key=KEY, admin_key=ADMIN)
    assert KEY not in caplog.text


def test_a_body_too_large_is_refused_whole_or_in_pieces(tmp_path: Path) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(8):
            yield b" " * 1024

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        kind = {"content-type": "application/json"}
        for content in (b" " * 5000, pieces()):
            answer = await client.post("/v1/chat/completions", content=content, headers=kind)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200

    ask(tmp_path, work, max_body_bytes=4096)


def test_a_route_may_take_a_larger_body_than_the_others(tmp_path: Path) -> None:
    router = APIRouter()

    @router.post("/v1/large", max_body_size=8192)
    async def large(request: Request) -> int:
        return len(await request.body())

    async def work() -> None:
        parts = ServerParts(tmp_path, max_body_bytes=4096)
        app = main.create_app(Serving(parts, "fake"), parts.settings, routers=[router], larger={"/v1/large": 8192})
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client:
            assert (await client.post("/v1/large", content=b" " * 8000)).json() == 8000
            assert (await client.post("/v1/large", content=b" " * 9000)).status_code == 413
            assert (await client.post("/v1/completions", content=b" " * 8000)).status_code == 413

    anyio.run(work)


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> AsyncGenerator[bytes]:
        yield b"{"
        await anyio.sleep(60)

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        kind = {"content-type": "application/json"}
        answer = await client.post("/v1/completions", content=nothing(), headers=kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too_slow")
        assert app.state.traffic.now == 0

    monkeypatch.setattr(access, "BODY_SECONDS", 0.05)
    ask(tmp_path, work)


def test_too_many_at_a_time_are_told_when_to_ask_again(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        app.state.traffic.now = 1
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert (await client.get("/healthz")).status_code == 200
        assert 'dna_http_refused_total{reason="overloaded"} 1.0' in (await client.get("/metrics")).text
        app.state.traffic.now = 0
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert app.state.traffic.now == 0

    ask(tmp_path, work, max_requests=1)


def test_a_server_that_stops_is_alive_but_not_ready(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        app.state.traffic.draining = True
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")

    ask(tmp_path, work)


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timed_out")
        stream = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert (stream.status_code, stream.json()["error"]["code"]) == (503, "timed_out")

    class Slow(ScriptedEngine):
        def __init__(self) -> None:
            super().__init__()
            self.delay = 30.0

    engine = ask(tmp_path, work, request_timeout=0.05, engine=Slow())
    assert engine.opened == engine.closed == 2


def test_errors_have_their_route_s_shape_and_no_secrets(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for path in ("/v1/nowhere", "/v1/models/nobody", "/v1"):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert set(answer.json()["error"]) == {"message", "type", "param", "code", "hint"}
        for path in ("/api/v1/nowhere", "/nowhere", "/api/"):
            answer = await client.get(path)
            assert (answer.status_code, set(answer.json()["error"])) == (404, {"code", "message", "hint", "request_id"})
        assert (await client.put("/v1/models")).status_code == 405
        for content in (b"", b"{", b"[]", b'"x"', b"\xff", b'{"model": NaN}', b"[" * 100_000):
            answer = await client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400, content[:20]
            assert answer.json()["error"]["type"] == "invalid_request_error"
        secret = await client.post("/v1/chat/completions", json=CHAT | {"temperature": "my-secret"})
        assert "my-secret" not in secret.text

    ask(tmp_path, work)


def test_a_fault_of_ours_is_logged_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "inner words" not in answer.text

    async def models(self: Serving) -> None:
        raise RuntimeError("inner words")

    monkeypatch.setattr(Serving, "models", models)
    ask(tmp_path, work)
    assert "inner words" in caplog.text


def test_metrics_count_what_was_answered(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        await client.post("/v1/chat/completions", json=CHAT | {"n": 2, "ignore_eos": True})
        plain = {"model": "fake", "prompt": "ab", "max_tokens": 3, "ignore_eos": True}
        await client.post("/v1/completions", json=plain | {"stream": True})
        text = (await client.get("/metrics")).text
        for line in (
            'vllm:prompt_tokens_total{model_name="fake"} 4.0', 'vllm:generation_tokens_total{model_name="fake"} 7.0',
            'vllm:request_success_total{finished_reason="length",model_name="fake"} 3.0',
            'vllm:time_to_first_token_seconds_count{model_name="fake"} 3.0',
            'vllm:inter_token_latency_seconds_count{model_name="fake"} 4.0',
            'vllm:e2e_request_latency_seconds_count{model_name="fake"} 2.0',
            'vllm:num_requests_running{model_name="fake"} 0.0', 'vllm:num_requests_waiting{model_name="fake"} 0.0',
            'vllm:kv_cache_usage_perc{model_name="fake"} 0.0', 'vllm:prefix_cache_queries_total{model_name="fake"} 0.0',
            "dna_adapter_loads_total 0.0", "dna_http_requests 0.0", 'dna_adapters{state="slot"} 0.0',
        ):  # fmt: skip
            assert f"\n{line}\n" in text, line

    ask(tmp_path, work)


def test_the_background_is_left_when_the_server_stops(tmp_path: Path) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def background() -> AsyncGenerator[None]:
        steps.append("in")
        yield
        steps.append("out")

    parts = ServerParts(tmp_path)

    async def work() -> None:
        app = main.create_app(Serving(parts, "fake"), parts.settings, background=background)
        async with app.router.lifespan_context(app):
            steps.append("serving")

    anyio.run(work)
    assert steps == ["in", "serving", "out"]


def test_where_to_listen_is_checked_first(tmp_path: Path) -> None:
    def listen(**settings: Any) -> None:
        main.listen(ServerParts(tmp_path, **settings).settings).close()

    with pytest.raises(Refused, match="no key"):
        listen(host="0.0.0.0")
    listen(host="0.0.0.0", api_key=KEY)
    with pytest.raises(BadConfig):
        listen(admin_key=ADMIN)
    with pytest.raises(InputError):
        listen(host="192.0.2.1", api_key=KEY)
    with main.listen(ServerParts(tmp_path).settings) as taken:
        taken.listen()
        parts = ServerParts(tmp_path)
        settings = parts.settings.model_copy(update={"port": taken.getsockname()[1]})
        with pytest.raises(Unavailable, match="taken"):
            main.listen(settings)
