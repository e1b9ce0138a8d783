"""Sessions and kin in the database, on SQLite and PostgreSQL: a nonce opens one session, and who was made from whom is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedna.core.block import Candidate, Lineage
from clonedna.core.canonical import sha256
from clonedna.core.developers import KeptSession
from clonedna.core.errors import ConsentInvalid, Corrupt, Overloaded
from clonedna.store import developers as module
from clonedna.store.database import Database
from clonedna.store.developers import SqlSessions
from clonedna.store.kin import AT_ONCE, Kin
from clonedna.store.registry import Row, SqlRegistry
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.databases import KINDS, new_url
from tests.unit.store.making import rejected, write_block

NOW, LATER = "2026-03-04T05:00:00Z", "2026-03-04T05:30:00Z"


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(new_url(request.param, tmp_path))


def session(number: int = 1, **changes: object) -> KeptSession:
    fields: dict[str, object] = {
        "digest": sha256(str(number)), "nonce": f"{number:032x}", "host": "github.com", "account_id": 2**40, "login": "ada-example",
        "key": "SHA256:x", "proved_at": NOW, "expires_at": LATER,
    }  # fmt: skip
    return KeptSession.model_validate(fields | changes)


def test_a_session_is_kept_until_it_ends(database: Database) -> None:
    kept = SqlSessions(database)
    kept.open(session(), NOW)
    assert SqlSessions(database).get(sha256("1"), NOW) == session()
    assert kept.get(sha256("2"), NOW) is None
    assert kept.get(sha256("1"), LATER) is None


def test_of_many_at_once_one_opens_a_session_with_a_nonce(database: Database) -> None:
    kept, faults = SqlSessions(database), list[object]()
    kept.open(session(99), NOW)

    def attempt(number: int) -> None:
        try:
            kept.open(session(number, nonce="a" * 32), NOW)
        except ConsentInvalid as error:
            faults.append(error.facts["fault"])

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert faults == ["replayed"] * 3


def test_sessions_have_a_bound_and_make_room(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    kept = SqlSessions(database)
    kept.open(session(1), NOW)
    kept.open(session(2), NOW)
    with pytest.raises(Overloaded):
        kept.open(session(3), NOW)
    kept.open(session(3, expires_at="2026-03-04T06:00:00Z"), LATER)
    assert kept.get(sha256("3"), LATER) is not None


# Kin.

Add = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path, ring: KeyRing) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", ring)


@pytest.fixture
def add(database: Database, store: DirectoryStore, ring: KeyRing, tmp_path: Path) -> Add:
    registry = SqlRegistry(database, store)

    def put(name: str, *parents: str, **changes: Any) -> str:
        lineage = Lineage(parents=parents, relation="merged" if parents else "minted")
        made = write_block(tmp_path / name, ring, note=name, name=name, lineage=lineage, **changes)
        store.put(tmp_path / name)
        registry.publish(made)
        return made.id

    return put


def test_children_and_names_are_found(database: Database, store: DirectoryStore, add: Add) -> None:
    first = add("first")
    second, other = add("second", first), add("other", first, gate=rejected())
    third = add("third", second)
    kin = Kin(database, store)
    assert {(one.manifest.id, one.status) for one in kin.children([first])} == {
        (second, "registered"),
        (other, "rejected"),
    }
    assert {one.manifest.id for one in kin.children([second, first, *(["0" * 64] * AT_ONCE)])} == {second, other, third}
    assert kin.children([third]) == kin.children([]) == ()
    assert {one.manifest.name for one in kin.named([first, third, "0" * 64])} == {"first", "third"}
    store.revoke(second)
    assert {(one.manifest.id, one.status) for one in kin.children([first])} == {
        (second, "revoked"),
        (other, "rejected"),
    }


def test_blocks_are_found_by_handle_in_any_capitals(database: Database, store: DirectoryStore, add: Add) -> None:
    add("one", candidate=Candidate(handle="Ada-Example", name="Ada", consent_verified=False))
    add("two", candidate=Candidate(handle="bob", name="Bob", consent_verified=False))
    kin = Kin(database, store)
    assert [one.manifest.name for one in kin.of_handles(["ada-example", "%"])] == ["one"]
    assert kin.of_handles([]) == ()


def test_a_damaged_row_is_an_error(database: Database, store: DirectoryStore, add: Add) -> None:
    first = add("first")
    with database.session() as changing:
        row = changing.get(Row, first)
        assert row is not None
        row.manifest = "{}"
    with pytest.raises(Corrupt):
        Kin(database, store).named([first])
