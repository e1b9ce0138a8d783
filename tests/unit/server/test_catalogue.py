"""``/api/v1/registry``: pages and searches over HTTP; what is asked wrongly is 400 with a code, never 500."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.client import Client
from clonedna.core.block import Candidate
from clonedna.core.catalogue import ListQuery, SearchQuery
from clonedna.core.errors import InputError
from tests.serving import ServerParts, add_block, running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    parts = ServerParts(tmp_path_factory.mktemp("home"), encoder="hashed")
    for number, (name, about) in enumerate(
        {"ada": "http clients", "bob": "binary parsers", "search": "found words"}.items()
    ):
        person = Candidate(handle=name, name="Ada Example", expertise_domains=("Python",), consent_verified=False)
        add_block(
            parts,
            name,
            says=name,
            specialization=about,
            candidate=person,
            created_at=f"2026-01-0{number + 1}T00:00:00Z",
        )
    with running(parts, whole=True) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Generator[httpx2.Client]:
    with httpx2.Client(trust_env=False, timeout=60) as client:
        yield client


def ask(http: httpx2.Client, url: str, rest: str) -> tuple[int, Any]:
    answer = http.get(f"{url}/api/v1/registry{rest}")
    return answer.status_code, answer.json()


def test_a_page_is_light_and_names_the_next(http: httpx2.Client, url: str) -> None:
    status, page = ask(http, url, "?limit=2")
    assert (status, [one["name"] for one in page["blocks"]], page["total"]) == (200, ["search", "bob"], 3)
    status, rest = ask(http, url, f"?limit=2&cursor={page['next']}")
    assert ([one["name"] for one in rest["blocks"]], rest["next"]) == (["ada"], None)
    assert len(str(page)) < 2000


def test_filters_and_sort(http: httpx2.Client, url: str) -> None:
    assert [one["name"] for one in ask(http, url, "?sort=name&language=PYTHON")[1]["blocks"]] == [
        "ada",
        "bob",
        "search",
    ]
    assert ask(http, url, "?handle=bob&licence=MIT&status=registered")[1]["total"] == 1
    assert ask(http, url, "?score=0")[1]["total"] == 0


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
def test_searches(http: httpx2.Client, url: str, mode: str) -> None:
    status, found = ask(http, url, f"/search?q=binary+parsers&mode={mode}&domain=python&limit=1")
    assert (status, found["mode"], found["found"][0]["block"]["name"]) == (200, mode, "bob")
    assert found["encoder"] == (None if mode == "text" else "hashed-3-5@1")


def test_skills_are_given_again_for_more(http: httpx2.Client, url: str) -> None:
    _, found = ask(http, url, "/search?skills=http&skills=clients&mode=text")
    assert [one["block"]["name"] for one in found["found"]] == ["ada"]


WRONG = [
    "?limit=0", "?limit=101", "?limit=x", "?sort=size", "?cursor=x", f"?cursor={'x' * 1025}", "?maturity=2", "?maturity=nan",
    "?consent=maybe", "?status=revoked", "?name=a%00b", f"?name={'x' * 201}", "?nonsense=1", "?score=1e999", "/search", "/search?q=",
    "/search?q=x&mode=magic", "/search?q=%00", f"/search?q={'x' * 501}", "/search?" + "&".join(["skills=x"] * 9), "/search?skills=",
    "/search?q=x&limit=0", "/search?q=x&cursor=x",
]  # fmt: skip


@pytest.mark.parametrize("rest", WRONG, ids=lambda rest: rest[:30])
def test_what_is_asked_wrongly_is_400(http: httpx2.Client, url: str, rest: str) -> None:
    status, body = ask(http, url, rest)
    assert (status, body["error"]["code"]) == (400, "bad_input"), body
    assert body["error"]["hint"]


@given(text=st.text(max_size=60))
@settings(max_examples=40, deadline=None)
def test_any_words_have_an_answer(http: httpx2.Client, url: str, text: str) -> None:
    told = quote(text.encode("utf-8", "surrogatepass"))
    for rest in (
        f"/search?q={told}&mode=hybrid",
        f"/search?q=a&skills={told}&mode=text",
        f"?domain={told}",
        f"?cursor={told}",
    ):
        assert ask(http, url, rest)[0] in (200, 400), rest


def test_the_client_asks_the_same(url: str) -> None:
    with Client(url) as client:
        first = client.catalogue.page(ListQuery(sort="name", limit=1, language="python"))
        assert [one.name for one in first.blocks] == ["ada"]
        second = client.catalogue.page(ListQuery(sort="name", limit=1, language="python", cursor=first.next))
        assert [one.name for one in second.blocks] == ["bob"]
        found = client.catalogue.search(SearchQuery(skills=("http", "clients"), mode="text"))
        assert [one.block.name for one in found.found] == ["ada"]
        with pytest.raises(InputError):
            client.catalogue.page(ListQuery(cursor="x"))


def test_a_block_called_search_is_reached_by_its_version(http: httpx2.Client, url: str) -> None:
    assert ask(http, url, "/search@1.0.0")[0] == 200
