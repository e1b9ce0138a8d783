"""Kept tokens: one of a name, one claim of a code, and what must be gone is gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import text

from clonedna.core.access import KeptToken
from clonedna.core.errors import Corrupt, InputError, NotFound, Refused, Unavailable
from clonedna.store import tokens as module
from clonedna.store.database import Database
from clonedna.store.tokens import SqlTokens
from tests.databases import KINDS, SKIPPED, new_url
from tests.postgres.cluster import VARIABLE, cluster

NOW, LATER = "2026-03-04T05:00:00Z", "2026-03-04T06:00:00Z"


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[SqlTokens]:
    made = SqlTokens(Database(new_url(request.param, tmp_path)))
    yield made
    made.close()


@pytest.fixture
def in_file(tmp_path: Path) -> SqlTokens:
    return SqlTokens(Database(new_url("sqlite", tmp_path)))


def token(name: str = "ada", **changes: object) -> KeptToken:
    fields: dict[str, object] = {
        "id": f"id-{name}", "name": name, "scopes": ("read", "chat"), "lifetime": 90, "created_at": NOW, "expires_at": LATER,
        "digest": "d" * 64,
    }  # fmt: skip
    return KeptToken.model_validate(fields | changes)


def waiting(name: str = "ada", until: str = LATER) -> KeptToken:
    return token(name, digest=None, code_digest="c" * 64, code_until=until)


def test_what_is_kept_comes_back(kept: SqlTokens) -> None:
    for one in (token(), token("bob", lifetime=None, expires_at=None), waiting("eve")):
        kept.add(one, NOW)
        assert kept.get(one.id) == one
        assert kept.named(one.name) == one
    assert [one.name for one in kept.all()] == ["ada", "bob", "eve"]
    assert kept.get("nobody") is None


def test_a_name_is_taken_once(kept: SqlTokens) -> None:
    kept.add(token(), NOW)
    with pytest.raises(InputError, match="ada"):
        kept.add(token(id="another"), NOW)
    kept.remove("ada")
    kept.add(token(id="another"), NOW)
    assert kept.named("ada").id == "another"


def test_a_name_whose_code_ran_out_is_free(kept: SqlTokens) -> None:
    kept.add(waiting(until=LATER), NOW)
    with pytest.raises(InputError):
        kept.add(token(id="second"), NOW)
    kept.add(token(id="second"), LATER)
    assert [one.id for one in kept.all()] == ["second"]


def test_there_is_an_end_to_how_many(kept: SqlTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    kept.add(token("a"), NOW)
    kept.add(token("b"), NOW)
    with pytest.raises(Refused, match="2 tokens"):
        kept.add(token("c"), NOW)


def test_whether_there_is_one_counts_secrets_alone(kept: SqlTokens) -> None:
    assert not kept.any()
    kept.add(waiting(), NOW)
    assert not kept.any()
    kept.add(token("bob", expires_at=NOW), NOW)
    assert kept.any()


def test_a_replaced_secret_is_gone(kept: SqlTokens) -> None:
    kept.add(token(), NOW)
    kept.used("id-ada", LATER)
    kept.replace("ada", "e" * 64, expires_at=None, lifetime=None)
    after = kept.named("ada")
    assert (after.digest, after.expires_at, after.used_at) == ("e" * 64, None, None)
    kept.add(waiting("eve"), NOW)
    for name in ("eve", "nobody"):
        with pytest.raises(NotFound):
            kept.replace(name, "f" * 64, expires_at=None, lifetime=None)
    with pytest.raises(NotFound):
        kept.remove("nobody")


def test_a_code_is_claimed_in_its_time_alone(kept: SqlTokens) -> None:
    kept.add(waiting(until=LATER), NOW)
    assert kept.waiting("c" * 64, LATER) is None
    assert not kept.claim("c" * 64, LATER, digest="e" * 64, expires_at=None)
    assert kept.waiting("c" * 64, NOW) is not None
    assert kept.claim("c" * 64, NOW, digest="e" * 64, expires_at=None)
    assert not kept.claim("c" * 64, NOW, digest="f" * 64, expires_at=None)
    after = kept.named("ada")
    assert (after.digest, after.code_digest, after.code_until) == ("e" * 64, None, None)


def test_of_fifty_claims_at_once_one_gets_it(kept: SqlTokens) -> None:
    kept.add(waiting(), NOW)
    start, won = threading.Barrier(50), list[int]()

    def claim(number: int) -> None:
        start.wait(30)
        if kept.claim("c" * 64, NOW, digest=f"{number:064}", expires_at=None):
            won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(won) == 1
    assert kept.named("ada").digest == f"{won[0]:064}"


def test_what_another_connection_committed_is_read_at_once(kept: SqlTokens) -> None:
    other = SqlTokens(Database(kept._database.url))
    for _ in range(20):
        other.add(token(), NOW)
        assert kept.get("id-ada") is not None
        assert kept.any()
        other.remove("ada")
        assert kept.get("id-ada") is None
        assert not kept.any()
    kept.close()
    assert not kept.any()


def test_a_database_that_was_put_in_the_place_of_another_is_read(in_file: SqlTokens, tmp_path: Path) -> None:
    in_file.add(token(), NOW)
    assert in_file.get("id-ada") is not None
    restored = SqlTokens(Database(f"sqlite:///{tmp_path / 'restored.sqlite'}"))
    restored.add(token("bob"), NOW)
    restored.close()
    for path in tmp_path.glob("registry.sqlite-*"):
        path.unlink()
    (tmp_path / "restored.sqlite").rename(tmp_path / "registry.sqlite")
    assert in_file.get("id-ada") is None
    assert in_file.get("id-bob") is not None


def test_a_database_that_is_gone_is_an_error_and_not_one_without_tokens(in_file: SqlTokens, tmp_path: Path) -> None:
    in_file.add(token(), NOW)
    for path in tmp_path.glob("registry.sqlite*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(Corrupt):
            in_file.any()


def test_no_statement_is_made_of_what_was_given(kept: SqlTokens) -> None:
    kept.add(token(), NOW)
    for name in ("x' OR '1'='1", "ada'; DROP TABLE tokens; --"):
        with pytest.raises(NotFound):
            kept.remove(name)
        assert kept.waiting(name, NOW) is None
    with kept._database.session() as session:
        assert session.execute(text("SELECT count(*) FROM tokens")).scalar() == 1


def test_a_postgres_that_was_killed_is_an_error_and_is_found_again() -> None:
    if not os.environ.get(VARIABLE):
        pytest.skip(SKIPPED)
    with cluster(durable=True) as server:
        kept = SqlTokens(Database(server.new()))
        kept.add(token(), NOW)
        assert kept.get("id-ada") is not None
        server.kill()
        with pytest.raises(Unavailable):
            kept.get("id-ada")
        server.start()
        assert kept.get("id-ada") is not None
        kept.close()
