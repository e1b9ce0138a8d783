"""What is read and written without FastAPI's own steps is what FastAPI reads and writes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clonedna.app.service import Service
from clonedna.core.catalogue import ListQuery, SearchQuery
from clonedna.server import errors
from clonedna.server.api import application
from clonedna.server.main import Application
from clonedna.server.reading import Asked, Routes, told
from tests.serving import ServerParts, add_block

NAMES = [*SearchQuery.model_fields, *ListQuery.model_fields, "unknown"]
VALUES = [
    "",
    "0",
    "1",
    "48",
    "101",
    "-1",
    "1.5",
    "nan",
    "name",
    "newest",
    "text",
    "self",
    "python",
    "a b",
    "\0",
    "ä",
    "x" * 600,
    "true",
]


@pytest.fixture(scope="module")
def both() -> Generator[TestClient]:
    """The same question asked in our way and in FastAPI's."""
    app = FastAPI()
    errors.install(app)
    for kind in (ListQuery, SearchQuery):
        ours = Asked(kind)

        def quick(query: Any) -> Any:
            return told(query)

        def slow(query: Any) -> Any:
            return query

        quick.__annotations__["query"] = Annotated[kind, Depends(ours)]
        slow.__annotations__["query"] = Annotated[kind, Query()]
        app.get(f"/quick/{kind.__name__}", openapi_extra=ours.described, response_model=kind)(quick)
        app.get(f"/slow/{kind.__name__}", response_model=kind)(slow)
    with TestClient(app) as client:
        yield client


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5))
@example([("skills", "http"), ("skills", "sockets"), ("q", "a"), ("q", "b")])
@example([("unknown", "1"), ("unknown", "2")])
@example([("limit", "7"), ("limit", "8"), ("sort", "name")])
@example([("maturity", "0.5"), ("score", "-3")])
def test_a_query_is_read_and_refused_as_fastapi_does(both: TestClient, query: list[tuple[str, str]]) -> None:
    for kind in ("ListQuery", "SearchQuery"):
        quick, slow = (both.get(f"/{way}/{kind}", params=query) for way in ("quick", "slow"))
        assert (quick.status_code, quick.json()) == (slow.status_code, slow.json())
        assert quick.content == slow.content
        assert quick.headers["content-type"] == slow.headers["content-type"]


def test_the_description_is_the_same(both: TestClient) -> None:
    paths = both.get("/openapi.json").json()["paths"]
    for kind in ("ListQuery", "SearchQuery"):
        quick, slow = paths[f"/quick/{kind}"]["get"], paths[f"/slow/{kind}"]["get"]
        assert quick["parameters"] == slow["parameters"]
        assert quick["responses"]["200"] == slow["responses"]["200"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Application, TestClient]:
    home: Path = tmp_path_factory.mktemp("home")
    parts = ServerParts(home, min_free_bytes=0)
    for name in ("ada", "bob"):
        add_block(parts, name)
    app = application(Service(parts, "fake"))
    return app, TestClient(app, base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("", ""), ("?limit=1", ""), ("?sort=name", ""), ("/search?q=ada&mode=text", "/search"), ("/ada", "/{reference}"),
        ("/ada/card", "/{reference}/card"), ("/ada/versions", "/{name}/versions"), ("/ada/files", "/{reference}/files"),
        ("/ada/evaluations", "/{reference}/evaluations"),
    ],
)  # fmt: skip
def test_what_a_route_answers_is_what_it_says(served: tuple[Application, TestClient], path: str, template: str) -> None:
    """Read back by its ``response_model`` and written again, it is the same."""
    app, client = served
    answer = client.get(f"/api/v1/registry{path}")
    assert answer.status_code == 200, answer.text
    said = app.openapi()["paths"][f"/api/v1/registry{template}"]["get"]["responses"]["200"]["content"][
        "application/json"
    ]
    name = said["schema"]["$ref"].rpartition("/")[2]
    model = next(
        one for one in models(app) if name in (one.__name__, f"{one.__module__}.{one.__name__}".replace(".", "__"))
    )
    assert told(model.model_validate_json(answer.content)).body == answer.content


def models(app: Application) -> list[Any]:
    from fastapi.routing import iter_route_contexts

    found = (getattr(one, "response_model", None) for one in iter_route_contexts(app.routes))
    return [one for one in found if hasattr(one, "model_validate_json")]


def test_a_router_is_looked_through_for_its_own_paths_alone() -> None:
    inner, outer = Routes(prefix="/a"), FastAPI()

    @inner.get("/{name}")
    def one(name: str) -> str:
        return name

    @inner.post("")
    def none() -> None: ...

    outer.include_router(inner)
    client = TestClient(outer)
    assert client.get("/a/x").json() == "x"
    assert client.get("/a").status_code == 405
    assert [client.get(path).status_code for path in ("/b/x", "/", "/a/x/y", "/ab")] == [404] * 4
    assert TestClient(outer, root_path="/behind").get("/behind/a/x").json() == "x"
