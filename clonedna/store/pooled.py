"""Connections that stay open, for what is read at every request: opening one costs more than the reading.

What a connection reads is what was committed last, by whichever process. When SQLite's file is another than the one that was opened (a home
was restored), the connections are opened anew; when it is gone, reading is an error.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import QueuePool

from clonedna.store.database import Database, errors

SIZE = 8


class Pooled:
    """At most ``SIZE`` open connections to one database. Threads may share one; they are closed when nobody holds it any more."""

    def __init__(self, database: Database) -> None:
        self._database, self._lock = database, threading.Lock()
        self._engine: Engine | None = None
        self._file: tuple[int, int] | None = None

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A connection to read by, each statement by itself. Raises as ``Database.session``."""
        with errors(self._database.failures):
            engine = self._open()
            with engine.connect() as connection:
                yield connection

    def close(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    def _open(self) -> Engine:
        with self._lock:
            there = _file(self._database)
            if self._engine is not None and there == self._file:
                return self._engine
            if self._engine is not None:
                self._engine.dispose()
            _ = self._database.engine  # in its present form
            # A server that was restarted has closed its end: seen before it is used (a file has no other end).
            self._engine = self._database.open(
                poolclass=QueuePool, pool_size=SIZE, max_overflow=0, pool_pre_ping=self._database.is_postgres,
                isolation_level="AUTOCOMMIT",
            )  # fmt: skip
            weakref.finalize(self, self._engine.dispose)
            self._file = _file(self._database)
            return self._engine


def _file(database: Database) -> tuple[int, int] | None:
    """Which file SQLite's database is; ``None`` where there is none."""
    path = database.path
    try:
        found = os.stat(path) if path else None
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found else None
