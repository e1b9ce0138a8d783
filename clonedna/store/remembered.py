"""What was read of SQLite's database, kept for as long as nobody commits anything to it.

An open connection tells whether another one has committed since, in this process or any other (``PRAGMA data_version``). That is asked
before anything kept is given, and takes microseconds: what is given is what the database holds at that moment. A file that was replaced, or
written to by something other than SQLite, is read anew. PostgreSQL has no such question: nothing of it is kept.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from clonedna.store.database import Database

T = TypeVar("T")
MOST = 4096  # rows
Version = tuple[int, int, int, int, int, int]


class Watch:
    """One connection, by which nothing is ever written."""

    def __init__(self, database: Database) -> None:
        self._database, self._lock = database, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file, self._opened = (0, 0), 0

    def version(self, *, wait: bool = True) -> Version | None:
        """Equal twice: nothing was committed between. ``None`` where that cannot be told; without ``wait`` also while a thread asks."""
        if self._database.is_postgres or not self._lock.acquire(blocking=wait):
            return None
        try:
            path = self._database.path
            if path is None:
                return None
            there = os.stat(path)
            connection = self._open(path, (there.st_dev, there.st_ino))
            # All of it: a statement that is not at its end keeps the connection at the version that it began with.
            ((number,),) = connection.execute("PRAGMA data_version").fetchall()
        except (OSError, sqlite3.Error, SQLAlchemyError):  # who reads the database itself is told what is wrong with it
            return None
        finally:
            self._lock.release()
        return there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns, self._opened, number

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self, path: str, file: tuple[int, int]) -> sqlite3.Connection:
        if self._connection is not None and self._file == file:
            return self._connection
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        uri = f"{Path(path).absolute().as_uri()}?mode=rw"  # never makes one; WAL has a reader write beside the file
        made = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        weakref.finalize(self, made.close)
        self._connection, self._file, self._opened = made, file, self._opened + 1
        return made


class Remembered:
    """Answers of one database, at most ``most`` rows in all; those that were not asked for the longest go first. Threads may share one."""

    def __init__(self, database: Database, most: int = MOST) -> None:
        self._watch, self._most = Watch(database), most
        self._lock = threading.Lock()
        self._version: Version | None = None
        self._kept: OrderedDict[Hashable, tuple[Any, ...]] = OrderedDict()
        self._rows = 0

    def ask(self, key: Hashable, read: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
        """What ``read`` gives, or gave since the last commit. A key stands for one question; its rows are never changed by anybody."""
        version, found = self._look(key, wait=True)
        if found is not None:
            return found
        rows = read()
        # Read behind the question for the version: at worst it is newer than that, and is then not given again.
        with self._lock:
            if version is not None and version == self._version and key not in self._kept:
                self._kept[key] = rows
                self._rows += 1 + len(rows)
                while self._rows > self._most:
                    self._rows -= 1 + len(self._kept.popitem(last=False)[1])
        return rows

    def recall(self, key: Hashable) -> tuple[Any, ...] | None:
        """What ``ask`` would give, if that is known already: for who must not wait for a database."""
        return self._look(key, wait=False)[1]

    def close(self) -> None:
        """Close what is open; what is asked next opens it again."""
        self._watch.close()

    def _look(self, key: Hashable, *, wait: bool) -> tuple[Version | None, tuple[Any, ...] | None]:
        version = self._watch.version(wait=wait)
        if version is None:
            return None, None
        with self._lock:
            if version != self._version:
                self._version, self._rows = version, 0
                self._kept.clear()
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        return version, found
