"""The OpenAPI description against the application: no request made of it ends in a fault of ours, and answers are as described."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from clonedna.app.service import Service
from clonedna.app.serving import Serving
from clonedna.server import fine_tuning
from clonedna.server.main import create_app
from tests.serving import ServerParts, add_block

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance, content_type_conformance]
SAMPLED = {"/v1/chat/completions", "/v1/completions"}
SENSIBLE = {
    "/v1/chat/completions": {"model": "ada", "max_completion_tokens": 4, "messages": [{"role": "user", "content": "x"}], "n": 2},
    "/v1/completions": {"model": "ada", "max_tokens": 4, "prompt": ["x", "y"], "n": 2},
}  # fmt: skip
# What these need is not there: adapters, and files that were uploaded.
CANNOT = {"POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter", "POST /v1/fine_tuning/jobs"}
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
ROUTES = [
    "GET /v1/models", "GET /v1/models/{model}", "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter", "POST /v1/files", "GET /v1/files", "GET /v1/files/{file_id}", "GET /v1/files/{file_id}/content",
    "DELETE /v1/files/{file_id}", "POST /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs", "GET /v1/fine_tuning/jobs/{job_id}",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel", "POST /v1/fine_tuning/jobs/{job_id}/resume",
    "GET /v1/fine_tuning/jobs/{job_id}/events", "GET /v1/fine_tuning/jobs/{job_id}/checkpoints", "GET /healthz", "GET /readyz",
    "GET /metrics", "GET /version", "GET /api/v1/engine",
]  # fmt: skip


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    parts = ServerParts(tmp_path_factory.mktemp("home"))
    add_block(parts, "ada")
    # Without the background: no file id that is made up here exists, so no job begins.
    tuning = Service(parts, "fake").tuning
    app = create_app(
        Serving(parts, "fake"),
        parts.settings,
        routers=[fine_tuning.router(tuning)],
        larger=fine_tuning.larger(parts.settings),
    )
    api = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "127.0.0.1"})
    return {found.ok().label.replace(":path", ""): found.ok() for found in api.get_all_operations()}


def test_every_route_is_described(operations: dict[str, Any]) -> None:
    assert set(operations) == set(ROUTES)


@pytest.mark.parametrize(
    ("route", "mode"),
    [(route, GenerationMode.POSITIVE) for route in ROUTES]
    + [(route, GenerationMode.NEGATIVE) for route in ROUTES if route.startswith("POST") and "{" not in route],
)
def test_every_route_answers_as_described(route: str, mode: GenerationMode, operations: dict[str, Any]) -> None:
    operation = operations[route]

    @settings(
        max_examples=8 if route.startswith("POST") else 2, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        bodies = [case.body]
        if isinstance(case.body, dict) and operation.path in SAMPLED:
            # Most made-up bodies contradict themselves; the same one without its odder wishes should go all the way.
            kept = {key: value for key, value in case.body.items() if key in KEPT} | SENSIBLE[operation.path]
            bodies += [kept, kept | {"stream": True}]
        for case.body in bodies:
            response = case.call(headers={"Host": "127.0.0.1"})
            seen.append(response.status_code)
            case.validate_response(response, checks=CHECKS)

    seen: list[int] = []
    check()
    if mode == GenerationMode.POSITIVE and route not in CANNOT and "{" not in route:
        assert 200 in seen
