"""The OpenAPI description against the whole application: no request made of it ends in a fault of ours, and answers are as described.

``SCHEMA_EXAMPLES=200 python -m pytest tests/unit/server/test_schema.py`` tries more: so many times as many bodies as usual, in percent.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from clonedna.app.personas import PersonaOrder, Personas
from clonedna.app.service import Service
from clonedna.server.api import application
from tests.genomes import signed
from tests.serving import ServerParts, add_block

SHARE = int(os.environ.get("SCHEMA_EXAMPLES", "100")) / 100
SAMPLED = {"/v1/chat/completions", "/v1/completions"}
SENSIBLE = {
    "/v1/chat/completions": {"model": "ada", "max_completion_tokens": 4, "messages": [{"role": "user", "content": "x"}], "n": 2},
    "/v1/completions": {"model": "ada", "max_tokens": 4, "prompt": ["x", "y"], "n": 2},
}  # fmt: skip
KEPT = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stream",
    "stop",
    "stream_options",
    "ignore_eos",
    "presence_penalty",
}
# What is there: most paths that are made up name nothing.
THERE = {"reference": "ada", "name": "ada", "a": "ada", "b": "bob", "model": "ada", "handle": "ada"}
ASKED = {"/api/v1/registry/search": {"q": "ada"}}
FILES = "/api/v1/registry/{reference}/files/{name}"
# What these want is not in this home: real weights to compare, a consent that lets a block leave, an account of GitHub.
ELSEWHERE = {
    "/api/v1/registry/compare/{a}/{b}", "/api/v1/registry/diff/{a}/{b}", "/api/v1/registry/{reference}/download",
    "/api/v1/consent/{handle}", "/api/v1/consent/{handle}/check", "/api/v1/personas/{name}/export", "/api/v1/genome/conflicts",
}  # fmt: skip
KEY, ADMIN = "key-of-clients-0123456789", "key-of-admins-0123456789"
HEADERS = {"Host": "127.0.0.1", "Authorization": f"Bearer {ADMIN}"}


@asynccontextmanager
async def nothing_begins(_: FastAPI) -> AsyncGenerator[None]:
    """What runs jobs is there once in a process, and these are collected in processes that have servers with jobs of other tests."""
    yield


@cache
def operations() -> dict[str, Any]:
    """Every operation of an application with two blocks. Its jobs do not run: what is begun here is only kept."""
    home = tempfile.TemporaryDirectory(prefix="clonedna-schema-")
    parts = ServerParts(Path(home.name), github_url="http://127.0.0.1:9", rate_limit=0, api_key=KEY, admin_key=ADMIN)
    add_block(parts, "ada")
    add_block(parts, "bob", says="xyz")
    Personas(parts).create(PersonaOrder(name="ada", binds="ada"))
    parts.genomes.put(signed(parts.signer, "ada"))
    app = application(Service(parts, "fake"))
    app.router.lifespan_context = nothing_begins
    app.state.home = home  # lives as long as the application
    api = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    return {found.ok().label: found.ok() for found in api.get_all_operations()}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up address is asked for by no test: names are not looked up."""
    lookup = socket.getaddrinfo

    def here(host: Any, *arguments: Any, **named: Any) -> Any:
        if host in ("127.0.0.1", "localhost", "::1"):
            return lookup(host, *arguments, **named)
        raise socket.gaierror(socket.EAI_NONAME, "no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", here)


def modes(route: str) -> list[GenerationMode]:
    bodies = route.startswith(("POST", "PUT", "PATCH")) and "{" not in route
    return [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if bodies else [])]


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # schemathesis itself does
@pytest.mark.parametrize(
    ("route", "mode"),
    [pytest.param(route, mode, id=f"{route} {mode.value}") for route in operations() for mode in modes(route)],
)
def test_every_route_answers_as_described(route: str, mode: GenerationMode) -> None:
    operation = operations()[route]
    most = (
        8 if mode == GenerationMode.NEGATIVE or operation.path in SAMPLED else 4 if not route.startswith("GET") else 2
    )

    @settings(
        max_examples=max(1, round(most * SHARE)), deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        for one in variants(case, operation.path):
            answer = one.call(headers=HEADERS, timeout=60)
            refuse_faults(answer)
            one.validate_response(
                answer, checks=[status_code_conformance, response_schema_conformance, content_type_conformance]
            )
            seen.append(answer.status_code)

    seen: list[int] = []
    check()
    if route.startswith("GET") and mode == GenerationMode.POSITIVE and set(_names(operation.path)) <= set(THERE):
        assert {200, 206} & set(seen) or operation.path in ELSEWHERE


def variants(case: schemathesis.Case, path: str) -> Generator[schemathesis.Case]:
    """The case as it was made up, and more sensible ones of it."""
    if path.endswith("/recalibrate") and isinstance(case.body, dict) and case.body.get("lab") is True:
        case.body = case.body | {"lab": False}  # fitting takes seconds, and has its own tests
    yield case
    if isinstance(case.body, dict) and path in SAMPLED:
        # Most made-up bodies contradict themselves; the same one without its odder wishes should go all the way.
        kept = {key: value for key, value in case.body.items() if key in KEPT} | SENSIBLE[path]
        for case.body in (kept, kept | {"stream": True}):
            yield case
    if path in ASKED:
        case.query = dict(ASKED[path])
        yield case
    if names := [name for name in _names(path) if name in THERE]:
        # What would take a block away is done to one that nobody else needs.
        gone = case.method == "DELETE" or path.endswith(("/revoke", "/rollback"))
        known = THERE | ({"name": "README.md"} if path == FILES else {})
        case.path_parameters = {**case.path_parameters, **{n: "bob" if gone else known[n] for n in names}}
        yield case


def _names(path: str) -> list[str]:
    return [part.partition("}")[0] for part in path.split("{")[1:]]


def refuse_faults(answer: Any) -> None:
    """500 is a fault of ours; 503 is what is away (there is no network here), and says so."""
    assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.text[:500])
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] not in ("internal", ""), answer.text[:500]
