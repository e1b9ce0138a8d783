"""What is remembered of a database is what it holds now: whoever committed, however the file came to be another."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.store.database import Database
from clonedna.store.remembered import Remembered

COMMIT = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('UPDATE t SET n = n + 1'); c.commit()"


class Home:
    """A table of one number, and how often it was read."""

    def __init__(self, path: Path, most: int = 100) -> None:
        self.path, self.reads = path, 0
        make(path)
        self.kept = Remembered(Database(f"sqlite:///{path}"), most)

    def ask(self, key: str = "n") -> int:
        return self.kept.ask(key, self.read)[0]

    def read(self) -> tuple[int]:
        self.reads += 1
        return (number(self.path),)

    def commit(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE t SET n = n + 1")


def make(path: Path, start: int = 0) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.execute("INSERT INTO t VALUES (?)", (start,))


def number(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT n FROM t").fetchone()[0]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "a.sqlite")


def test_nothing_is_read_again_while_nothing_is_committed(home: Home) -> None:
    assert [home.ask() for _ in range(5)] == [0] * 5
    assert home.reads == 1
    assert home.kept.recall("n") == (0,)
    assert home.kept.recall("another") is None


def test_what_this_process_commits_is_seen_at_once(home: Home) -> None:
    for n in range(1, 6):
        home.ask()
        home.commit()
        assert home.kept.recall("n") is None
        assert home.ask() == n


def test_what_another_process_commits_is_seen_at_once(home: Home) -> None:
    assert home.ask() == 0
    subprocess.run([sys.executable, "-c", COMMIT, str(home.path)], check=True)
    assert home.ask() == 1


def test_what_was_taken_back_changes_nothing(home: Home) -> None:
    home.ask()
    with closing(sqlite3.connect(home.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE t SET n = 99")
        assert home.ask() == 0
        connection.execute("ROLLBACK")
    assert (home.ask(), home.reads) == (0, 1)


def test_what_is_committed_while_it_is_read_is_read_again(home: Home) -> None:
    def read() -> tuple[int]:
        found = home.read()
        home.commit()
        return found

    assert home.kept.ask("n", read) == (0,)
    assert home.ask() == 1


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.sampled_from(["here", "there", "a", "b", "checkpoint", "close"]), max_size=25))
def test_whatever_happens_in_whichever_order(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    home = Home(tmp_path_factory.mktemp("home") / "a.sqlite", most=3)
    other = Remembered(Database(f"sqlite:///{home.path}"))
    with closing(sqlite3.connect(home.path, isolation_level=None)) as writing:
        for step in steps:
            match step:
                case "here":
                    home.commit()
                case "there":
                    writing.execute("UPDATE t SET n = n + 1")
                case "checkpoint":
                    writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                case "close":
                    home.kept.close()
                case key:
                    assert home.ask(key) == other.ask(key, home.read)[0] == number(home.path)
    other.close()
    home.kept.close()


def test_a_file_that_was_replaced_is_read_anew(home: Home, tmp_path: Path) -> None:
    make(tmp_path / "b.sqlite", 50)
    assert home.ask() == 0
    os.replace(tmp_path / "b.sqlite", home.path)
    for leftover in ("-wal", "-shm"):
        Path(f"{home.path}{leftover}").unlink(missing_ok=True)
    assert home.ask() == 50
    home.commit()
    assert home.ask() == 51


def test_a_file_that_was_written_over_is_read_anew(home: Home, tmp_path: Path) -> None:
    home.ask()
    shutil.copyfile(home.path, tmp_path / "copy")
    home.path.write_bytes(b"nothing of SQLite's" * 500)
    assert home.kept.recall("n") is None
    with pytest.raises(sqlite3.Error):
        home.ask()


def test_of_a_file_that_is_gone_nothing_is_given(home: Home) -> None:
    home.ask()
    home.path.rename(home.path.with_name("away"))
    assert home.kept.recall("n") is None
    assert not home.path.exists(), "looking makes no file"


def test_it_keeps_at_most_so_many_rows(tmp_path: Path) -> None:
    home = Home(tmp_path / "a.sqlite", most=10)
    for i in range(20):
        home.ask(f"key {i}")
    assert [home.kept.recall(f"key {i}") is not None for i in range(20)] == [False] * 15 + [True] * 5
    home.kept.ask("too many", lambda: tuple(range(50)))
    assert home.kept.recall("too many") is None


def test_who_must_not_wait_does_not(home: Home) -> None:
    home.ask()
    with closing(sqlite3.connect(home.path, isolation_level=None)) as writing:
        writing.execute("BEGIN EXCLUSIVE")
        assert home.kept.recall("n") == (0,), "a writer does not keep readers out"
    watch = home.kept._watch
    with watch._lock:
        assert home.kept.recall("n") is None
    assert home.kept.recall("n") == (0,)


@pytest.mark.parametrize("url", ["postgresql://nobody@localhost:1/none", "sqlite://", "no address"])
def test_where_it_cannot_be_told_nothing_is_kept(url: str) -> None:
    kept, reads = Remembered(Database(url)), list[int]()

    def read() -> tuple[int, ...]:
        reads.append(1)
        return (len(reads),)

    asked: Callable[[], tuple[int, ...]] = lambda: kept.ask("n", read)  # noqa: E731
    assert [asked(), asked()] == [(1,), (2,)]
    assert kept.recall("n") is None
