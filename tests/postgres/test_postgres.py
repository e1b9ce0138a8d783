"""What only a PostgreSQL can show: it is killed and comes back while people publish and read; a whole home lives on it.

Run by `make test-postgres`, which starts one; each test here that ends a server starts one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from clonedna.app.catalogue import Catalogue
from clonedna.core.block import Manifest
from clonedna.core.catalogue import ListQuery, SearchQuery
from clonedna.core.errors import BadConfig, BlockRevoked, Unavailable
from clonedna.store.database import Database
from clonedna.store.registry import SqlRegistry
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.command import Dna
from tests.databases import SKIPPED, new_url
from tests.postgres.cluster import VARIABLE, Cluster
from tests.serving import ServerParts, add_block
from tests.unit.store.making import write_block

pytestmark = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=SKIPPED)


@pytest.fixture
def server() -> Generator[Cluster]:
    made = Cluster()
    yield made
    made.remove()


def stored(home: Path, count: int) -> tuple[DirectoryStore, list[Manifest]]:
    """A store with blocks that are in no catalogue yet."""
    ring = KeyRing(home / "keys")
    store, made = DirectoryStore(home / "store", ring), list[Manifest]()
    for number in range(count):
        directory = home / f"made-{number}"
        made.append(write_block(directory, ring, note=str(number), name=f"n{number}", specialization=f"thing {number}"))
        store.put(directory)
    return store, made


def test_a_server_that_is_killed_and_comes_back_is_gone_on_with(server: Cluster, tmp_path: Path) -> None:
    store, made = stored(tmp_path, 40)
    url = server.new()
    registry = SqlRegistry(Database(url), store)
    registry.publish(made[0])
    stop, said, faults = threading.Event(), Counter[str](), list[BaseException]()

    def until_stopped(work: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                work()
                said["done"] += 1
            except Unavailable as error:  # what a caller can wait for; anything else is a fault
                said[error.code if error.hint else "no hint"] += 1
                time.sleep(0.02)
            except BaseException as error:
                faults.append(error)
                return

    parts = ServerParts(tmp_path, database_url=url)
    catalogue, turn = Catalogue(parts), iter(range(10**9))
    works: list[Callable[[], object]] = [
        lambda: registry.publish(made[next(turn) % len(made)]),
        lambda: registry.resolve("n0"),
        lambda: catalogue.page(ListQuery()),
        lambda: catalogue.search(SearchQuery(q="thing", mode="text")),
    ]
    threads = [threading.Thread(target=until_stopped, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for end in (server.kill, server.stop):
        _wait(lambda: said["done"] > 20 or faults)
        end()
        before = said["unavailable"]
        _wait(lambda before=before: said["unavailable"] > before + 8 or faults)
        server.start()
        done = said["done"]
        _wait(lambda done=done: said["done"] > done + 20 or faults)
        said["done"] = 0
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not faults, faults
    assert set(said) <= {"done", "unavailable", "timed_out"}
    for manifest in made:
        registry.publish(manifest)
    assert catalogue.page(ListQuery()).total == len(made)


def _wait(until: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_no_server_is_unavailable_and_the_password_is_told_to_nobody(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 0)
    registry = SqlRegistry(Database(f"postgresql://ada:secret-word@/nothing?host={tmp_path}"), store)
    with pytest.raises(Unavailable) as caught:
        registry.manifests()
    assert caught.value.hint
    assert "secret-word" not in f"{caught.value.message}{caught.value.hint}"


WORK = """
import sys
from pathlib import Path
from clonedna.core.errors import TimedOut
from clonedna.store.database import Database
from clonedna.store.registry import SqlRegistry
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
home, what = Path(sys.argv[1]), sys.argv[3]
store = DirectoryStore(home / "store", KeyRing(home / "keys"))
registry = SqlRegistry(Database(sys.argv[2]), store)
if what == "reindex":
    for _ in range(4):
        assert registry.reindex() == ()
else:
    for block_id in sys.argv[4:]:
        registry.publish(store.verify(block_id))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_rebuild_and_publish_at_once(kind: str, tmp_path: Path) -> None:
    _, made = stored(tmp_path, 24)
    url = new_url(kind, tmp_path)
    ids = [manifest.id for manifest in made]
    words = [["reindex"], ["reindex"], ["publish", *ids[:16]], ["publish", *ids[8:]]]
    command = [sys.executable, "-W", "error", "-c", WORK, str(tmp_path), url]
    started = [subprocess.Popen([*command, *some]) for some in words]
    assert [process.wait(timeout=120) for process in started] == [0] * 4
    parts = ServerParts(tmp_path, **({"database_url": url} if kind == "postgres" else {}))
    assert {line.id for line in Catalogue(parts).page(ListQuery(limit=100)).blocks} == set(ids)
    assert len(parts.registry.manifests()) == 24


def test_a_whole_home_on_postgres(tmp_path: Path) -> None:
    url = new_url("postgres", tmp_path)
    parts = ServerParts(tmp_path, database_url=url)
    add_block(parts, "ada", specialization="http clients")
    add_block(parts, "bob", says="xyz", specialization="binary parsers")
    dna = Dna(tmp_path)
    dna.environment["DNA_DATABASE_URL"] = url
    assert [line["name"] for line in dna.json("ls", "--sort", "name")] == ["ada", "bob"]
    for mode in ("text", "semantic", "hybrid"):
        assert dna.json("search", "binary", "parsers", "--mode", mode)["found"][0]["block"]["name"] == "bob"
    dna("revoke", "bob", "--yes")
    assert [line["name"] for line in dna.json("ls")] == ["ada"]
    assert "bob" not in [one["block"]["name"] for one in dna.json("search", "binary")["found"]]
    assert dna.refused("show", "bob") == BlockRevoked.code
    fresh = new_url("postgres", tmp_path)
    dna.environment["DNA_DATABASE_URL"] = fresh
    assert dna.json("ls") == []
    done = dna.json("reindex")
    assert (done["blocks"], done["left_out"], done["encoded"]) == (1, [], 1)
    assert [line["name"] for line in dna.json("ls")] == ["ada"]
    assert not (tmp_path / "registry.sqlite").exists()


def test_a_newer_programs_database_is_refused() -> None:
    database = Database(new_url("postgres", Path()))
    with database.session() as session:
        session.connection().exec_driver_sql("INSERT INTO alembic_version VALUES ('9999')")
    with pytest.raises(BadConfig, match="newer"):
        _ = Database(database.url).engine
