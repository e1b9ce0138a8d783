"""What each request leaves behind: an id, one line in the log, counts by the route's template; and never what was asked."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clonedna.app.service import Service
from clonedna.server.api import application
from tests.logs import logged
from tests.serving import ServerParts, add_block

CANARY = "canary-7f3c9d2e"
JSON = {"content-type": "application/json"}


class Server:
    """An application in this process, and what it wrote."""

    def __init__(self, client: httpx2.AsyncClient, stream: io.StringIO) -> None:
        self.client, self.stream = client, stream

    def lines(self, event: str = "request") -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.stream.getvalue().splitlines()) if line["event"] == event]

    async def figures(self) -> dict[tuple[str, ...], float]:
        """Each sample by its name and label values."""
        text = (await self.client.get("/metrics")).text
        return {
            (one.name, *one.labels.values()): one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }


@pytest.fixture
def stream() -> Generator[io.StringIO]:
    with logged("debug") as made:
        yield made


def ask(home: Path, stream: io.StringIO, work: Callable[[Server], Awaitable[None]], **settings: Any) -> None:
    parts = ServerParts(home, **settings)
    add_block(parts, "ada")

    @asynccontextmanager
    async def client() -> AsyncGenerator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(application(Service(parts, "fake")), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as made:
            yield made

    async def call() -> None:
        async with client() as made:
            await work(Server(made, stream))

    anyio.run(call)


def test_an_id_is_taken_or_made_and_returned_in_head_body_and_line(tmp_path: Path, stream: io.StringIO) -> None:
    async def work(server: Server) -> None:
        given = await server.client.get("/api/v1/registry/nobody", headers={"X-Request-ID": "my.id-0001"})
        assert given.headers["x-request-id"] == given.json()["error"]["request_id"] == "my.id-0001"
        assert given.headers["x-dna-api"].startswith("1.")
        for insane in ("short", "x" * 65, "two words", 'a"b"c"d"e', "øøøøøøøøø"):
            made = await server.client.get("/version", headers={"X-Request-ID": insane.encode()})
            assert re.fullmatch(r"[0-9a-f]{16}", made.headers["x-request-id"]), insane
        first, second, *_ = server.lines()
        assert (first["request_id"], first["status"], first["code"]) == ("my.id-0001", 404, "block_not_found")
        assert first["route"] == "/api/v1/registry/{reference}"
        assert (second["method"], second["route"], second["status"]) == ("GET", "/version", 200)
        assert second["bytes"] > 0

    ask(tmp_path, stream, work)


def test_requests_are_counted_by_template_and_refusals_by_reason(tmp_path: Path, stream: io.StringIO) -> None:
    async def work(server: Server) -> None:
        for path in ("/api/v1/registry/ada", "/api/v1/registry/nobody", f"/{CANARY}", f"/api/{CANARY}"):
            await server.client.get(path)
        await server.client.request("BREW", "/version")
        await server.client.get("/version", headers={"Host": "evil.example.org"})
        figures = await server.figures()
        route = "/api/v1/registry/{reference}"
        assert figures["dna_http_answers_total", "GET", route, "200"] == 1
        assert figures["dna_http_answers_total", "GET", route, "404"] == 1
        assert figures["dna_http_seconds_count", "GET", route] == 2
        assert figures["dna_http_answers_total", "GET", "unrouted", "404"] == 2
        assert figures["dna_http_answers_total", "other", "/version", "405"] == 1
        assert figures["dna_http_refused_total", "refused"] == 1
        assert figures["dna_errors_total", "block_not_found"] == 1
        assert not [key for key in figures if CANARY in str(key)]

    ask(tmp_path, stream, work)


def test_a_fault_of_ours_is_one_line_with_its_place(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(self: object, reference: str) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("clonedna.app.blocks.Blocks.show", show)
    monkeypatch.setattr("clonedna.app.blocks.Blocks.list", show)

    async def work(server: Server) -> None:
        answer = await server.client.get("/api/v1/registry/ada")
        assert answer.status_code == 500
        (fault,) = server.lines("unforeseen")
        assert fault["exception"] == "RuntimeError"
        assert fault["request_id"] == answer.headers["x-request-id"] == answer.json()["error"]["request_id"]
        assert "show" in fault["at"][-1]
        assert server.lines()[-1]["status"] == 500

    ask(tmp_path, stream, work)
    assert CANARY not in stream.getvalue()


KEY = f"key-{CANARY}-0123456789"


def test_nothing_that_is_asked_is_in_a_line(tmp_path: Path, stream: io.StringIO) -> None:
    """Through every route: in its path, query, headers and body, with the right key and a wrong one."""

    async def work(server: Server) -> None:
        paths = (await server.client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})).json()["paths"]
        asked = 0
        for path, operations in paths.items():
            url = re.sub(r"\{[^}]+\}", CANARY, path)
            for method in operations:
                for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {CANARY}"}):
                    with anyio.move_on_after(5):
                        await server.client.request(
                            method, url, params={"q": CANARY, "after": CANARY, "limit": CANARY},
                            headers=JSON | headers | {"User-Agent": CANARY, "Cookie": CANARY, "X-Request-ID": f"{CANARY}!"},
                            content=json.dumps(_body(CANARY)) if method in ("post", "put", "patch") else None,
                        )  # fmt: skip
                    asked += 1
        assert len(server.lines()) >= asked > 40

    ask(tmp_path, stream, work, api_key=KEY)
    assert CANARY not in stream.getvalue()


def _body(word: str) -> dict[str, Any]:
    fields = (
        "model",
        "prompt",
        "name",
        "lora_name",
        "lora_path",
        "handle",
        "target",
        "training_file",
        "text",
        "statement",
    )
    return dict.fromkeys(fields, word) | {"messages": [{"role": "user", "content": word}], "seed": 1, "max_tokens": 1}
