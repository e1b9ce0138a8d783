"""What breaks under a server ends in an error with a code and a next step, and the server goes on: it is killed, its disk is full, its
database is held by somebody else, its clock goes back. Uploads that are cut have tests beside the transfer (``test_sharing.py``)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clonedna.app.doctor import Doctor
from clonedna.app.parts import FACTORIES
from clonedna.client import Client
from clonedna.core.errors import DnaError, NoSpace, TimedOut, Unavailable
from clonedna.store import database, threads
from tests.integration.test_serve import serving
from tests.serving import ServerParts, add_block, running

pytestmark = pytest.mark.slow
WRITERS, READERS, ENOUGH = 3, 3, 20


def titles(client: Client) -> set[str]:
    found: set[str] = set()
    after = None
    while True:
        page = client.threads.list(limit=20, after=after)
        found |= {thread.title for thread in page.threads}
        if page.next is None:
            return found
        after = page.next


def test_a_server_that_is_killed_keeps_what_it_said_that_it_has(tmp_path: Path) -> None:
    """Readers and writers at once, ``kill -9`` in the middle, twice; nothing that was answered is lost, nothing is half there."""
    parts = ServerParts(tmp_path, min_free_bytes=0)
    for name in ("ada", "bob"):
        add_block(parts, name)
    kept: set[str] = set()
    for turn in range(2):
        with serving(tmp_path, "--base", "fake", DNA_MIN_FREE_BYTES="0", DNA_LOG_LEVEL="error") as (process, ready):
            errors = _use_until_enough(ready["url"], turn, kept, process.kill)
        assert errors, "somebody was in the middle of it"
        assert {type(error) for error in errors} <= {Unavailable, TimedOut}
        assert all(error.hint for error in errors)
    with serving(tmp_path, "--base", "fake", DNA_MIN_FREE_BYTES="0") as (_, ready), Client(ready["url"]) as client:
        assert kept <= titles(client)
        assert len(kept) >= 2 * ENOUGH
        for name in ("ada", "bob"):
            assert client.details.verify(name).id == parts.registry.resolve(name).id
        assert client.audit.verify().ok
        findings = {finding.name: finding.status for finding in client.doctor.examine().findings}
        assert findings["database"] == findings["keys"] == "ok"
    assert not list(tmp_path.rglob("*.tmp"))


def _use_until_enough(url: str, turn: int, kept: set[str], kill: Callable[[], None]) -> list[DnaError]:
    """Read and write until ``ENOUGH`` was kept, then kill the server under it; gives what the clients were told."""
    errors: list[DnaError] = []
    lock, enough = threading.Lock(), threading.Event()
    said = 0

    def work(number: int, once: Callable[[Client, int], None]) -> None:
        with Client(url) as client:
            client.wire.pause = lambda _: None
            for i in range(10_000):
                try:
                    once(client, i)
                except DnaError as error:
                    errors.append(error)
                    return

    def write(number: int) -> Callable[[Client, int], None]:
        def once(client: Client, i: int) -> None:
            nonlocal said
            title = f"{turn}-{number}-{i}"
            client.threads.create(model="ada", title=title)
            with lock:
                kept.add(title)
                said += 1
                if said >= ENOUGH:
                    enough.set()

        return once

    def read(client: Client, _: int) -> None:
        assert client.blocks.show("ada").manifest.name == "ada"
        client.threads.list(limit=5)

    workers = [threading.Thread(target=work, args=(n, write(n))) for n in range(WRITERS)]
    workers += [threading.Thread(target=work, args=(n, read)) for n in range(READERS)]
    for thread in workers:
        thread.start()
    assert enough.wait(120)
    kill()
    for thread in workers:
        thread.join(60)
        assert not thread.is_alive()
    return errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes root and mount(8)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_it_still_reads_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    parts = ServerParts(small_disk / "home", min_free_bytes=0)
    add_block(parts, "ada")
    with running(parts, whole=True) as url, Client(url) as client:
        client.wire.pause = lambda _: None
        client.threads.create(model="ada", title="before")
        filling = small_disk / "filling"
        with filling.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        errors: list[DnaError] = []
        for i in range(50):  # the database may have a little room in pages of its own
            try:
                client.threads.create(model="ada", title="x" * 100 + str(i))
            except DnaError as error:
                errors.append(error)
        assert errors
        assert {type(error) for error in errors} == {NoSpace}, [(e.code, e.message) for e in errors[:3]]
        assert errors[0].hint
        assert client.blocks.show("ada").manifest.name == "ada"
        assert "before" in titles(client)
        filling.unlink()
        client.threads.create(model="ada", title="after")
        assert {"before", "after"} <= titles(client)


@contextmanager
def held(path: Path) -> Generator[None]:
    """Another process has begun to write to the database, and does not end."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE'); print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate("\n", timeout=20)


def test_a_database_that_somebody_holds_is_waited_for_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    parts = ServerParts(tmp_path, min_free_bytes=0)
    add_block(parts, "ada")
    with running(parts, whole=True) as url, Client(url) as client:
        client.wire.pause = lambda _: None
        client.threads.create(model="ada", title="before")
        with held(tmp_path / "registry.sqlite"):
            with pytest.raises(TimedOut) as caught:
                client.threads.create(model="ada", title="meanwhile")
            assert caught.value.hint
            assert client.blocks.show("ada").manifest.name == "ada"
            assert titles(client) == {"before"}
            with client.wire.stream("GET", "/metrics") as answer:
                text = b"".join(answer.iter_bytes()).decode()
            assert 'dna_database_errors_total{code="timed_out"} 1.0' in text
            assert "dna_database_up 1.0" in text
        client.threads.create(model="ada", title="after")
        assert titles(client) == {"before", "after"}


def test_a_damaged_database_is_said_and_built_again_from_the_files(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, min_free_bytes=0)
    add_block(parts, "ada")
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    (tmp_path / "registry.sqlite").write_bytes(b"\0" * 100 + os.urandom(20_000))
    with running(ServerParts(tmp_path, min_free_bytes=0), whole=True) as url, Client(url) as client:
        with pytest.raises(DnaError) as caught:
            client.blocks.show("ada")
        assert (caught.value.code, "reindex" in caught.value.hint) == ("corrupt", True)
    (found,) = [one for one in Doctor(parts).examine().findings if one.name == "database"]
    assert (found.status, "reindex" in found.fix) == ("fail", True)
    for path in tmp_path.glob("registry.sqlite*"):
        path.unlink()
    again = ServerParts(tmp_path, min_free_bytes=0)
    assert again.reindex() == ()
    with running(again, whole=True) as url, Client(url) as client:
        assert client.blocks.show("ada").manifest.name == "ada"


BACK = timedelta(0)


def moment() -> str:
    """``clonedna.store.threads.moment`` by a clock that the test moves."""
    return (datetime.now(UTC) - BACK).isoformat(timespec="microseconds").replace("+00:00", "Z")


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - BACK


def test_a_clock_that_goes_back_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is asked for the time of threads, of what is recorded and of tokens; pages stay whole, the log of changes stays good."""
    module = sys.modules[__name__]
    monkeypatch.setattr(threads, "moment", moment)
    monkeypatch.setitem(FACTORIES["consents"], "now", f"{__name__}:utc_now")
    parts = ServerParts(tmp_path, min_free_bytes=0)
    add_block(parts, "ada")
    wanted: set[str] = set()
    with running(parts, whole=True) as url, Client(url) as client:
        for days in (0, 400, 1, 30_000, 0):
            monkeypatch.setattr(module, "BACK", timedelta(days=days) if days < 20_000 else timedelta(days=19_000))
            for i in range(12):
                wanted.add(f"{days}-{i}")
                client.threads.create(model="ada", title=f"{days}-{i}")
            assert titles(client) == wanted
            assert client.blocks.show("ada").manifest.name == "ada"
        assert client.audit.verify().ok
        with client.wire.stream("GET", "/metrics") as answer:
            assert answer.status_code == 200
