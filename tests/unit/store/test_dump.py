"""The database's rows go out and come back the same, from either database into either, as of one moment."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from clonedna.core.errors import BadConfig, Corrupt, InputError
from clonedna.store import dump as module
from clonedna.store.database import HEADS, Base, Database
from clonedna.store.dump import dump, load, tables
from clonedna.store.teams import SqlTeams
from clonedna.store.threads import SqlThreads
from clonedna.store.tokens import SqlTokens
from tests.databases import KINDS, new_url

MESSAGE = (
    "INSERT INTO messages (id, thread, number, role, text, created_at, reply_to, answer)"
    " VALUES (:id, :thread, :number, 'user', 'x', 'now', NULL, NULL)"
)
VALUES = [
    "x",
    1,
    1.5,
    None,
    True,
    b"\0\xff",
    datetime(2026, 1, 2, tzinfo=UTC),
    [1, "x"],
    {"a": {"b": 1}},
    {"$bytes": "eA=="},
]


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(new_url(request.param, tmp_path))


def filled(database: Database) -> Database:
    threads = SqlThreads(database)
    for number in range(3):
        threads.create(f'About {number} \N{SNOWMAN} "x"\n\\ \x01', model="ada")
    assert SqlTeams(database)
    with database.session() as session:
        thread = session.scalar(text("SELECT min(id) FROM threads"))
        for number in range(module.BATCH + 7):
            row = {"id": f"m{number}", "thread": thread, "number": number}
            session.execute(text(MESSAGE), row)
    return database


def rows(database: Database, table: str) -> list[tuple[Any, ...]]:
    with database.session() as session:
        return sorted((tuple(row) for row in session.execute(text(f"SELECT * FROM {table}"))), key=repr)


def dumped(database: Database, folder: Path, *, secrets: bool = False) -> tuple[dict[str, Path], tuple[str, ...]]:
    folder.mkdir()
    form = dump(database, folder, secrets=secrets)
    return {path.stem: path for path in folder.glob("*.jsonl")}, form


def test_what_is_dumped_is_all_but_what_files_say_and_what_lets_somebody_in(database: Database, tmp_path: Path) -> None:
    files, form = dumped(database, tmp_path / "out")
    assert frozenset(form) == HEADS
    # A new table is named here, or in ``dump``: what ``reindex`` makes, or what lets somebody in.
    assert set(files) == {"candidates", "holders", "messages", "slots", "teams", "threads"}
    assert set(Base.metadata.tables) - set(files) == (module.DERIVED | module.SECRET | module.BRIEF) - {"texts"}
    assert set(tables(secrets=True)) - set(files) == module.SECRET
    assert SqlTokens(database)


def test_there_and_back(database: Database, tmp_path: Path) -> None:
    files, form = dumped(filled(database), tmp_path / "out")
    (tmp_path / "new").mkdir()
    for kind in KINDS if database.is_postgres else KINDS[:1]:
        (tmp_path / "new" / kind).mkdir()
        other = Database(new_url(kind, tmp_path / "new" / kind))
        assert load(other, files, form) == 3 + module.BATCH + 7
        for table in files:
            assert rows(other, table) == rows(database, table)
        SqlThreads(other).create("one more")
        assert len(rows(other, "threads")) == 4
        with pytest.raises(InputError):
            load(other, files, form)


def test_all_of_it_or_nothing(database: Database, tmp_path: Path) -> None:
    files, form = dumped(filled(database), tmp_path / "out")
    (tmp_path / "new").mkdir()
    other = Database(new_url("postgres" if database.is_postgres else "sqlite", tmp_path / "new"))
    files["messages"].write_bytes(files["messages"].read_bytes() + b'{"id": "x"}\n')
    with pytest.raises(Corrupt):
        load(other, files, form)
    assert rows(other, "threads") == rows(other, "messages") == []
    with pytest.raises(BadConfig):
        load(other, files, ["9999"])


def test_it_is_of_one_moment(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that comes between the reading of two tables is in neither."""
    filled(database)
    plain, came = module._plain, list[str]()

    def meanwhile(value: Any) -> Any:
        if not came:
            came.append("x")
            SqlThreads(database).create("meanwhile")
        return plain(value)

    monkeypatch.setattr(module, "_plain", meanwhile)
    files, _ = dumped(database, tmp_path / "out")
    assert came
    first, *later = (name for name in tables(secrets=False) if files[name].stat().st_size)
    assert {first, *later} >= {"threads", "messages"}
    assert len(files["threads"].read_bytes().splitlines()) == 3
    assert len(rows(database, "threads")) == 4


@pytest.mark.parametrize("value", VALUES)
def test_every_kind_of_value(value: Any) -> None:
    assert module._value(json.loads(json.dumps(module._plain(value)))) == value
