"""The database of one home: where it is, how it is opened, brought to its present form, and how its errors are told.

SQLite (WAL) by default, PostgreSQL by URL. Its form is changed by alembic alone (``clonedna/store/migrations``), when it is first opened:
upwards only, under a lock, by one process at a time. A database of a newer program is refused, not touched. A connection lives for one
call, so processes and threads may share a ``Database``.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from clonedna.core.errors import BadConfig, Corrupt, DnaError, NoSpace, TimedOut, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).parent / "migrations"
HEADS = frozenset(
    {"chat_and_teams", "developers", "holders", "lines", "tokens"}
)  # what the migrations end in; a test compares
_LOCK = 7_361_440_021  # our advisory lock in PostgreSQL: any number that is always the same
_PG_FULL, _PG_LOCKED, _PG_RACED = "53100", frozenset({"55P03", "57014"}), frozenset({"40001", "40P01"})


class Base(DeclarativeBase):
    """All tables of the database."""


class Conflict(Exception):
    """A row with this key, or with another value that must be unique, is there already. Never leaves the room."""


class Database:
    """One database, by SQLAlchemy's URL; made when first asked for. All errors are ``DnaError``, or ``Conflict``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures: Counter[str] = Counter()  # errors of sessions since this process started, by code

    @cached_property
    def engine(self) -> Engine:
        """The engine, of a database in its present form. Raises ``BadConfig``, ``Unavailable``, ``Corrupt``, ``NoSpace``, ``TimedOut``."""
        with errors(self.failures):
            engine = self.open()
            with engine.connect() as connection:
                there = _revisions(connection)
            if there != HEADS:
                self.upgrade(engine)
        return engine

    @property
    def is_postgres(self) -> bool:
        return self.url.startswith("postgresql")

    def form(self) -> tuple[frozenset[str], frozenset[str]]:
        """The form that the database is in, and the one that this program wants; nothing is changed. Raises as ``engine``."""
        with errors(), self.open().connect() as connection:
            return _revisions(connection), HEADS

    @staticmethod
    def known() -> frozenset[str]:
        """Every form that this program knows."""
        from alembic.script import ScriptDirectory

        return frozenset(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())

    @cached_property
    def path(self) -> str | None:
        """SQLite's file; ``None`` where there is none."""
        url = make_url(self.url)
        return url.database if url.get_backend_name() == "sqlite" and url.database != ":memory:" else None

    def open(self, **pool: Any) -> Engine:
        """An engine on the database as it is, whatever its form. ``pool``: how connections are kept (SQLAlchemy's); by default none is."""
        pool = pool or {"poolclass": NullPool}
        url = make_url(self.url)
        if url.get_backend_name() == "postgresql":
            # psycopg 3, whichever driver the URL leaves out; a server that does not answer is an error, not a wait without end.
            wait = {"connect_timeout": str(BUSY_SECONDS), "options": f"-c lock_timeout={BUSY_SECONDS * 1000}"}
            return create_engine(url.set(drivername="postgresql+psycopg"), connect_args=wait | dict(url.query), **pool)
        engine = create_engine(url, **pool)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine

    @contextmanager
    def session(self) -> Generator[Session]:
        """A session in a transaction of its own: committed at the end, rolled back by an exception."""
        with errors(self.failures), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def upgrade(self, engine: Engine | None = None, to: str = "heads") -> None:
        """Bring the tables to form ``to``; what is there already is left. Raises ``BadConfig`` for a newer program's database."""
        from alembic import command
        from alembic.util import CommandError

        with errors(), self._migrating(engine or self.open()) as config:
            try:
                command.upgrade(config, to)
            except CommandError as error:
                raise BadConfig(
                    f"the database was made by a newer version of this program: {error}", "update clone-dna"
                ) from error

    def downgrade(self, to: str) -> None:
        """Back to form ``to`` (``base``: no tables at all). What newer tables hold is lost."""
        from alembic import command

        with errors(), self._migrating(self.open()) as config:
            command.downgrade(config, to)

    @contextmanager
    def _migrating(self, engine: Engine) -> Generator[Config]:
        """alembic's configuration with a connection of ours, while no other process changes the database's form."""
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._alone(engine), engine.begin() as connection:
            config.attributes["connection"] = connection
            yield config

    @contextmanager
    def _alone(self, engine: Engine) -> Generator[None]:
        path = engine.url.database
        if self.is_postgres:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
                try:
                    yield
                finally:
                    connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
        elif path and path != ":memory:":
            with Path(f"{path}.lock").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
        else:
            yield


def _revisions(connection: Connection) -> frozenset[str]:
    """The form the database is in; nothing of a database that has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return frozenset()
    return frozenset(connection.scalars(text("SELECT version_num FROM alembic_version")))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def errors(seen: Counter[str] | None = None) -> Generator[None]:
    """SQLAlchemy's errors as ours, by the database's own codes, never by message text; counted in ``seen``."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict from error
    except DBAPIError as error:
        told = _told(error)
        if seen is not None:
            seen[told.code] += 1
        raise told from error
    except (SQLAlchemyError, ImportError, ValueError) as error:  # ImportError: the driver that the URL names
        raise BadConfig(
            f"the catalogue cannot be opened: {error}", "check the database's address and driver"
        ) from error
    except OSError as error:
        raise Unavailable(f"the catalogue cannot be used: {error.strerror}", "check the home's permissions") from error


def _told(error: DBAPIError) -> DnaError:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    state = getattr(error.orig, "sqlstate", None)
    if code == sqlite3.SQLITE_FULL or state == _PG_FULL:
        return NoSpace("no space left for the catalogue", "free some space and try again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state in _PG_LOCKED:
        return TimedOut(f"another process held the catalogue for {BUSY_SECONDS} s", "try again")
    if state in _PG_RACED:
        return TimedOut("another process changed the same at the same time", "try again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return Corrupt(f"the catalogue is damaged: {error.orig}", "move the database away, then: dna reindex")
    # A connection that PostgreSQL's server dropped or refused has no state; the address is in its message, a password never is.
    what = (
        "the database does not answer"
        if isinstance(error, OperationalError) and not code
        else "the catalogue cannot be used"
    )
    return Unavailable(f"{what}: {error.orig}", "check the database's address, permissions, and that it runs")
