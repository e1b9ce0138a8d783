"""A home whose vectors lie in PostgreSQL: the same answers as from files, several machines, and a server without the extension."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from clonedna.app.blocks import Blocks
from clonedna.app.catalogue import Catalogue
from clonedna.core.block import Capability
from clonedna.core.catalogue import SearchQuery
from clonedna.core.errors import BadConfig, Unavailable
from clonedna.store.database import Database
from clonedna.store.vectors_pg import PgVectors
from tests.databases import SKIPPED
from tests.postgres.cluster import VARIABLE, Cluster, Missing
from tests.serving import ServerParts, add_block
from tests.values import pair

pytestmark = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=SKIPPED)
TEXTS = ["sends requests", "draw a window", "files", ""]


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    try:
        made = Cluster(extension="vector")
    except Missing as reason:
        pytest.skip(str(reason))
    yield made
    made.remove()


def home(path: Path, url: str, **settings: Any) -> ServerParts:
    fields = {"database_url": SecretStr(url), "index": "pgvector", "encoder": "hashed", **settings}
    return ServerParts(path, **fields)


def fill(parts: ServerParts) -> dict[str, str]:
    drawn = [pair(f"draw_{n}", "pass\n", task=f"Draw a window, number {n}.") for n in range(9)]
    told = {"ada": ("sends http requests", []), "bob": ("various", drawn), "cyd": ("parses binary files", [])}
    return {
        name: add_block(parts, name, pairs=pairs, capability=Capability(text=text), specialization=text).id
        for name, (text, pairs) in told.items()
    }


def test_it_says_what_files_say(server: Cluster, tmp_path: Path) -> None:
    there, here = home(tmp_path / "a", server.new()), ServerParts(tmp_path / "b", encoder="hashed")
    assert fill(there) == fill(here)
    for row, other in zip(
        there.meanings.nearest([[one] for one in TEXTS], 3),
        here.meanings.nearest([[one] for one in TEXTS], 3),
        strict=True,
    ):
        assert [near.id for near in row] == [near.id for near in other]
        assert [near.best for near in row] == pytest.approx([near.best for near in other], abs=1e-6)
        assert [near.centroid_cosine is None for near in row] == [near.centroid_cosine is None for near in other]
    assert there.meanings.snapshot() == here.meanings.snapshot()
    assert not (tmp_path / "a" / "vectors").exists()


def test_what_one_home_removes_the_next_question_of_another_does_not_find(server: Cluster, tmp_path: Path) -> None:
    url = server.new()
    first = home(tmp_path, url)
    ids = fill(first)
    other = home(tmp_path, url)  # another process's view
    query = SearchQuery(q="requests", mode="semantic")
    assert len(Catalogue(other).search(query).found) == 3
    assert len(other.meanings.nearest([["requests"]], 9)[0]) == 3
    Blocks(first).remove("bob")
    with psycopg.connect(url) as connection:
        left = connection.execute("SELECT key FROM dna_vectors").fetchall()
    assert not [key for (key,) in left if key.startswith(ids["bob"])]
    first.store.revoke(ids["ada"])  # type: ignore[attr-defined]
    assert [near.id for near in other.meanings.nearest([["requests"]], 9)[0]] == [ids["cyd"]]
    assert [one.block.name for one in Catalogue(other).search(query).found] == ["cyd"]


def test_encoders_are_kept_apart_and_reindex_makes_all_again(server: Cluster, tmp_path: Path) -> None:
    url = server.new()
    parts = home(tmp_path, url)
    fill(parts)
    before = parts.meanings.nearest([[one] for one in TEXTS], 3)
    assert Catalogue(parts).encode("hashed:64").encoded == 3
    assert parts.meanings.nearest([[one] for one in TEXTS], 3) == before
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE dna_vectors")
    with pytest.raises(Unavailable):
        parts.meanings.nearest([[one] for one in TEXTS], 3)
    assert home(tmp_path, url).meanings.nearest([[one] for one in TEXTS], 3) == before
    assert Catalogue(parts).reindex().searched == ("exact", "exact")
    assert parts.meanings.nearest([[one] for one in TEXTS], 3) == before


def test_a_server_without_the_extension_is_told(tmp_path: Path) -> None:
    from tests.postgres.cluster import fresh

    url = fresh(os.environ[VARIABLE])
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    if found != (0,):
        pytest.skip("this PostgreSQL has pgvector")
    parts = home(tmp_path, url)
    fill(parts)
    with pytest.raises(Unavailable) as caught:
        parts.meanings.nearest([["x"]], 1)
    assert "pgvector" in caught.value.message
    assert caught.value.hint
    assert Catalogue(parts).search(SearchQuery(q="requests", mode="text")).found  # words go on


def test_another_database_is_refused() -> None:
    with pytest.raises(BadConfig):
        PgVectors(Database("sqlite://"), "blocks", "e@1", 8)
