"""The database's form: made, brought up from before migrations, taken down again, refused when it is newer, changed by one process
at a time."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from clonedna import store
from clonedna.core.errors import BadConfig
from clonedna.store import database as module
from clonedna.store.database import HEADS, MIGRATIONS, Base, Database
from tests.databases import KINDS, new_url

for _one in pkgutil.iter_modules(store.__path__, "clonedna.store."):
    if not _one.ispkg:
        import_module(_one.name)  # all tables


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(new_url(request.param, tmp_path))


def tables(database: Database) -> set[str]:
    return set(inspect(database.open()).get_table_names())


def test_the_migrations_end_where_the_program_says() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert frozenset(ScriptDirectory.from_config(config).get_heads()) == HEADS


def test_the_migrations_make_what_the_program_uses(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _ours})
        assert compare_metadata(context, Base.metadata) == []


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    """Not the words of blocks: they are in a table of the database's own kind, which SQLAlchemy does not describe."""
    return kind != "table" or name is None or not name.startswith("texts")


def test_up_and_down_and_up(database: Database) -> None:
    assert "blocks" in tables(database) or database.engine
    there = tables(database)
    database.downgrade("base")
    assert tables(database) == {"alembic_version"}
    database.upgrade()
    assert tables(database) == there


def test_a_home_from_before_migrations_keeps_its_rows(database: Database) -> None:
    with database.open().begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE blocks (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, version VARCHAR NOT NULL,"
                " status VARCHAR NOT NULL, created_at VARCHAR NOT NULL, base VARCHAR NOT NULL, licence VARCHAR NOT NULL,"
                " consent VARCHAR NOT NULL, handle VARCHAR NOT NULL, manifest VARCHAR NOT NULL)"
            )
        )
        connection.execute(
            text("INSERT INTO blocks VALUES ('1','a','1.0.0','registered','t','b','MIT','self','a','{}')")
        )
    with database.session() as session:
        assert session.execute(text("SELECT name FROM blocks")).scalars().all() == ["a"]
        assert session.execute(text("SELECT count(*) FROM alembic_version")).scalar() == len(HEADS)


def test_a_newer_programs_database_is_refused_and_left_alone(database: Database) -> None:
    with database.session() as session:
        session.execute(text("DELETE FROM alembic_version"))
        session.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
    again = Database(database.url)
    with pytest.raises(BadConfig, match="newer"), again.session():
        pass
    with again.open().connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["9999"]


OPEN = "import sys; from clonedna.store.database import Database; Database(sys.argv[1]).engine"


def test_several_processes_make_it_at_once(database: Database) -> None:
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", OPEN, database.url]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in started] == [0] * 4
    assert "blocks" in tables(database)


def test_an_open_database_does_not_load_the_migrations(database: Database) -> None:
    assert database.engine
    look = f"{OPEN}; assert 'alembic' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", look, database.url], timeout=60, check=False).returncode == 0


def test_the_busy_time_is_a_bound() -> None:
    assert 0 < module.BUSY_SECONDS <= 60
