"""Every route of the whole application names the scope that it needs, and lets in no other. No route is known here by its name but those
that are open, so that a new one cannot be forgotten."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from clonedna.app.service import Service
from clonedna.app.tokens import TokenOrder, Tokens
from clonedna.core.access import SCOPES
from clonedna.server.access import CLAIM, OPEN, Needs
from clonedna.server.api import application
from clonedna.server.changes import READING, is_change, may_change
from tests.serving import ServerParts

# The description says nothing of this home: any token reads it. The claim's code is its own proof.
WITHOUT_A_SCOPE = OPEN | {CLAIM, "/openapi.json"}
# What asks, converses or draws a challenge, and leaves nothing behind that the audit log should name.
NO_CHANGE = {
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /api/v1/chat",
    "POST /api/v1/chat/compare",
    "POST /api/v1/chat/threads",
    "POST /api/v1/developer/{handle}/challenge",
    "POST /api/v1/genome/analyze-requirements",
    "POST /api/v1/genome/search-layers",
    "POST /api/v1/genome/verify",
}
MOST_BODY = 4096


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    scopes: tuple[str, ...]
    most_body: int | None = MOST_BODY
    changes: bool = False

    @property
    def filled(self) -> str:
        """Its path with something in the place of each parameter."""
        return re.sub(r"\{[^}]*\}", "x0", self.path)


def routes_of(app: FastAPI) -> list[Route]:
    found: list[Route] = []
    for context in iter_route_contexts(app.routes):
        route: Any = context
        dependant = getattr(route, "dependant", None)
        needs = (
            tuple(one.call.scope for one in dependant.dependencies if isinstance(one.call, Needs)) if dependant else ()
        )
        for method in sorted(getattr(route, "methods", None) or {"ANY"}):
            most: int | None = getattr(route, "max_body_size", None)
            marked = bool(dependant) and any(one.call is may_change for one in dependant.dependencies)
            changes = marked or any(is_change(method, scope) for scope in needs)
            found.append(Route(method, getattr(route, "path", repr(route)), needs, most, changes))
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ServerParts:
    return ServerParts(tmp_path_factory.mktemp("home"), rate_limit=0, max_body_bytes=MOST_BODY)


@pytest.fixture(scope="module")
def app(parts: ServerParts) -> FastAPI:
    return application(Service(parts, "fake"))


@pytest.fixture(scope="module")
def routes(app: FastAPI) -> list[Route]:
    return routes_of(app)


@pytest.fixture(scope="module")
def tokens(parts: ServerParts) -> dict[str, str]:
    return {scope: Tokens(parts).new(TokenOrder(name=scope, scopes=(scope,))).token for scope in SCOPES}


@dataclass
class Answer:
    status: int
    body: bytes
    read: int = 0


async def ask(app: FastAPI, route: Route, token: str = "", pieces: int = 0, piece: bytes = b" " * 1024) -> Answer:
    """One request; only the head of the answer and its first piece are waited for, as a stream may have no end."""
    answer, done = Answer(0, b""), anyio.Event()

    async def receive() -> dict[str, Any]:
        if answer.read < pieces:
            answer.read += 1
            return {"type": "http.request", "body": piece, "more_body": answer.read < pieces}
        if pieces == 0 and not answer.read:
            answer.read = 1
            return {"type": "http.request", "body": b"", "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
        else:
            answer.body += message.get("body", b"")
            done.set()

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
    call = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": route.method, "path": route.filled,
        "raw_path": route.filled.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await app(call, receive, send)
                done.set()

            group.start_soon(run)
            await done.wait()
            group.cancel_scope.cancel()
    return answer


def each(app: FastAPI, routes: list[Route], judge: Callable[[Route], AsyncGenerator[str]]) -> list[str]:
    """What ``judge`` says against the routes."""

    async def collect() -> list[str]:
        return [f"{route.method} {route.path}: {wrong}" for route in routes async for wrong in judge(route)]

    return anyio.run(collect)


def test_there_are_routes_of_every_scope(routes: list[Route]) -> None:
    assert len(routes) > 40
    assert {scope for route in routes for scope in route.scopes} == set(SCOPES)


def test_every_route_names_one_scope(routes: list[Route]) -> None:
    nameless = [
        f"{route.method} {route.path}"
        for route in routes
        if route.path not in WITHOUT_A_SCOPE and len(route.scopes) != 1
    ]
    assert not nameless, "each route needs dependencies=[READ], [CHAT], [MINT] or [ADMIN] of clonedna.server.access"


def test_the_routes_without_a_scope_are_there(routes: list[Route]) -> None:
    assert {route.path for route in routes if not route.scopes} == WITHOUT_A_SCOPE


def test_every_change_is_recorded(routes: list[Route]) -> None:
    silent = {f"{route.method} {route.path}" for route in routes if route.method not in READING and not route.changes}
    assert silent == NO_CHANGE, (
        "a route that changes something needs the scope mint or admin, or CHANGES of clonedna.server.changes"
    )


def test_no_other_scope_and_no_stranger_gets_in(app: FastAPI, routes: list[Route], tokens: dict[str, str]) -> None:
    async def judge(route: Route) -> AsyncGenerator[str]:
        if route.path in OPEN | {CLAIM}:
            return
        for token in ("", "none", tokens["admin"][:-1] + "!"):
            answer = await ask(app, route, token)
            if answer.status != 401 or (b"unauthorised" not in answer.body and route.method != "HEAD"):
                yield f"{answer.status} without a token"
        for scope in SCOPES:
            answer = await ask(app, route, tokens[scope])
            if route.scopes and scope not in {*route.scopes, "admin"}:
                if answer.status != 403:
                    yield f"{answer.status} for {scope}"
            elif answer.status == 401 or (answer.status == 403 and b"has no scope" in answer.body):
                yield f"refused to {scope}"

    assert not each(app, routes, judge)


def test_no_route_reads_more_of_a_body_than_is_allowed(
    app: FastAPI, routes: list[Route], tokens: dict[str, str]
) -> None:
    """Sent in pieces, without a length."""

    async def judge(route: Route) -> AsyncGenerator[str]:
        if route.method in ("GET", "HEAD"):
            return
        if route.most_body is None:
            yield "no limit"
        elif route.most_body == MOST_BODY:
            answer = await ask(app, route, tokens["admin"], pieces=64)
            if answer.read * 1024 > MOST_BODY + 1024:
                yield f"read {answer.read} pieces, {answer.status}"

    assert not each(app, routes, judge)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "BREW"])
@pytest.mark.parametrize(
    "path",
    ["/", "/api/x", "/api/v1", "/v1/x", "/v2", "/api/v1/registry/../../x", "/%2e%2e/x", "/api//v1", "/favicon.ico"],
)
def test_what_is_nowhere_is_a_404_in_json(app: FastAPI, tokens: dict[str, str], method: str, path: str) -> None:
    answer = anyio.run(ask, app, Route(method, path, ()), tokens["admin"])
    assert (answer.status, b'"code":"not_found"' in answer.body) == (404, True)


def test_a_page_of_this_application_cannot_be_found_by_guessing_without_a_token(
    app: FastAPI, tokens: dict[str, str]
) -> None:
    for path in ("/", "/api/x", "/v1/x"):
        assert anyio.run(ask, app, Route("GET", path, ())).status == 401


def test_tokens_are_made_in_the_home_that_is_served(parts: ServerParts, tokens: dict[str, str], tmp_path: Path) -> None:
    assert sorted(one.name for one in Tokens(parts).list()) == sorted(SCOPES)
    assert Tokens(ServerParts(tmp_path)).list() == ()
