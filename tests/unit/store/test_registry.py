"""The catalogue: what a reference means, what a name may be given to, and that files alone rebuild it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from clonedna.core.block import BlockRef, GateVerdict, Manifest
from clonedna.core.catalogue import Filters, ListQuery
from clonedna.core.errors import (
    BadConfig,
    BadReference,
    BlockCorrupt,
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    Corrupt,
    TimedOut,
    Unavailable,
)
from clonedna.store import database as module
from clonedna.store.database import Database
from clonedna.store.lines import SqlLines
from clonedna.store.registry import SqlRegistry
from clonedna.store.rollbacks import Rollback, Rollbacks
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.databases import KINDS, new_url
from tests.unit.store.making import rejected, write_block


class Bench:
    """A store and a registry, and blocks for them."""

    def __init__(self, home: Path, ring: KeyRing, url: str) -> None:
        self.home, self.ring, self.url, self.made = home, ring, url, 0
        self.store = DirectoryStore(home / "store", ring)
        self.registry = self.open()

    def open(self) -> SqlRegistry:
        return SqlRegistry(Database(self.url), self.store)

    def put(self, **changes: object) -> Manifest:
        self.made += 1
        changes.setdefault("created_at", f"2026-01-02T03:{self.made:02d}:00Z")
        made = write_block(self.home / f"made-{self.made}", self.ring, note=str(self.made), **changes)
        self.store.put(self.home / f"made-{self.made}")
        return made

    def publish(self, **changes: object) -> Manifest:
        made = self.put(**changes)
        self.registry.publish(made)
        return made

    def drop_database(self) -> None:
        if self.url.startswith("sqlite"):
            for path in self.home.glob("registry.sqlite*"):
                path.unlink()
        else:
            self.url = new_url("postgres", self.home)
        self.registry = self.open()


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path, ring: KeyRing) -> Bench:
    return Bench(tmp_path, ring, new_url(request.param, tmp_path))


@pytest.fixture
def sqlite(tmp_path: Path, ring: KeyRing) -> Bench:
    """Where the matter is SQLite's own."""
    return Bench(tmp_path, ring, new_url("sqlite", tmp_path))


def test_what_another_process_changed_is_seen_at_the_next_reading(bench: Bench) -> None:
    """Two of everything, as two processes have it; what one of them read before is read again when the other changed it."""
    there = DirectoryStore(bench.home / "store", bench.ring)
    other = SqlRegistry(Database(bench.url), there)
    lines = SqlLines(Database(bench.url), bench.store)
    seen: list[tuple[object, ...]] = []

    def look() -> tuple[object, ...]:
        page = lines.page(ListQuery())
        found = tuple(one for one, _ in lines.match("parsers", (), Filters(), 9))
        meant = tuple(one.version for one in bench.registry.manifests("ada"))
        return (
            tuple(line.version for line in page.blocks),
            page.total,
            len(found),
            meant,
            bench.registry.next_version("ada")[0],
        )

    def changed() -> tuple[object, ...]:
        seen.append(look())
        assert look() == seen[-1], "nothing changed between"
        return seen[-1]

    assert changed() == ((), 0, 0, (), "1.0.0")
    made = [bench.put(version=f"1.{n}.0", specialization="parsers") for n in range(3)]
    for one in made[:2]:
        other.publish(one)
    assert changed() == (("1.1.0", "1.0.0"), 2, 2, ("1.1.0", "1.0.0"), "1.2.0")
    assert bench.registry.resolve("ada") == made[1]
    other.publish(made[2])
    assert bench.registry.resolve("ada") == made[2]
    Rollbacks(bench.home / "store").put(Rollback(name="ada", to="1.1.0", over=(made[2].id,)))
    assert bench.registry.resolve("ada") == made[1]
    there.revoke(made[1].id)  # the tombstone alone, as it comes from another machine
    assert bench.registry.resolve("ada") == made[0]
    assert changed() == (("1.2.0", "1.0.0"), 3, 2, ("1.2.0", "1.0.0"), "1.3.0")
    other.revoke(made[2].id)
    assert changed() == (("1.0.0",), 2, 1, ("1.0.0",), "1.3.0")
    other.forget(made[0].id)
    with pytest.raises(BlockRevoked):
        bench.registry.resolve("ada")
    assert changed()[0] == ()
    for one in (bench.registry, other, lines):
        one.close()


# What a reference means.


def test_a_name_is_its_newest_version_by_number_not_by_text(bench: Bench) -> None:
    made = {version: bench.publish(version=version) for version in ("1.9.0", "1.10.0", "1.2.0")}
    assert bench.registry.resolve("ada") == made["1.10.0"]
    assert bench.registry.resolve("ada@1.2.0") == made["1.2.0"]


def test_eight_digits_or_more_are_an_id(bench: Bench) -> None:
    made, other = bench.publish(), bench.publish(name="bob")
    for length in (8, 12, 63, 64):
        assert bench.registry.resolve(made.id[:length]) == made
        assert bench.registry.resolve(other.id[:length]) == other
    with pytest.raises(BlockNotFound):
        bench.registry.resolve(made.id[:7])


def test_digits_that_fit_several_blocks_are_ambiguous(bench: Bench) -> None:
    made = [bench.publish(name=f"ada-{n}") for n in range(2)]
    shared = "12345678"
    with bench.registry._session() as session:  # two ids that begin alike are beyond making
        for n, one in enumerate(made):
            session.execute(
                text("UPDATE blocks SET id = :new WHERE id = :old"),
                {"new": shared + one.id[8:-1] + str(n), "old": one.id},
            )
    with pytest.raises(BadReference) as caught:
        bench.registry.resolve(shared)
    assert "ada-0@1.0.0" in caught.value.hint
    assert bench.registry.resolve(shared + made[1].id[8:-1] + "1").name == "ada-1"


def test_a_name_that_looks_like_an_id_is_ambiguous_and_never_hides_a_whole_id(bench: Bench) -> None:
    made = bench.publish()
    imposter = bench.publish(name=made.id[:12])
    with pytest.raises(BadReference):
        bench.registry.resolve(made.id[:12])
    assert bench.registry.resolve(f"{made.id[:12]}@1.0.0") == imposter
    bench.publish(name=made.id)
    assert bench.registry.resolve(made.id) == made
    assert bench.publish(name="deadbeef") == bench.registry.resolve("deadbeef")


@pytest.mark.parametrize(
    "reference",
    ["", " ", "Ada", "ada@", "@1.0.0", "ada@1", "ada@latest", "ada@1.0.0\n", "../ada", "a" * 65, "ada%", "-a"],
)
def test_what_cannot_be_a_reference_is_refused(bench: Bench, reference: str) -> None:
    bench.publish()
    with pytest.raises(BadReference) as caught:
        bench.registry.resolve(reference)
    assert caught.value.hint


def test_an_unknown_name_is_answered_with_the_closest(bench: Bench) -> None:
    bench.publish(name="ada-example")
    with pytest.raises(BlockNotFound) as caught:
        bench.registry.resolve("ada-exmaple")
    assert caught.value.facts["closest"] == ["ada-example"]
    with pytest.raises(BlockNotFound) as caught:
        bench.registry.resolve("ada-example@9.9.9")
    assert "1.0.0" in caught.value.hint
    with pytest.raises(BlockNotFound) as caught:
        bench.registry.resolve("zzz")
    assert caught.value.facts["closest"] == []


# Rejected blocks.


def test_a_rejected_block_is_kept_and_used_only_by_digits_and_knowingly(bench: Bench) -> None:
    made = bench.publish(gate=rejected("no sure gain"))
    assert bench.registry.manifests() == (made,)
    for reference, unsafe in (
        ("ada", False),
        ("ada@1.0.0", False),
        (made.id, False),
        ("ada", True),
        ("ada@1.0.0", True),
    ):
        with pytest.raises(BlockRejected, match="no sure gain") as caught:
            bench.registry.resolve(reference, unsafe=unsafe)
        assert made.id[:12] in caught.value.hint
    assert bench.registry.resolve(made.id[:8], unsafe=True) == made


def test_a_rejected_block_takes_no_version_and_hides_no_accepted_one(bench: Bench) -> None:
    first = bench.publish()
    bench.publish(version="1.1.0", gate=rejected())
    assert bench.registry.next_version("ada") == ("1.1.0", "1.0.0")
    assert bench.registry.resolve("ada") == first
    second = bench.publish(version="1.1.0")
    bench.publish(version="1.1.0", gate=rejected())
    assert bench.registry.resolve("ada") == bench.registry.resolve("ada@1.1.0") == second


def test_what_all_names_mean_is_what_each_means(bench: Bench) -> None:
    for version in ("1.9.0", "1.10.0", "1.11.0", "1.2.0"):
        bench.publish(version=version)
    bench.publish(version="1.12.0", gate=rejected())
    bench.registry.revoke(bench.registry.resolve("ada@1.11.0").id)
    over = (bench.registry.resolve("ada@1.10.0").id,)
    bench.publish(name="bob")
    bench.publish(name="carol", gate=rejected())
    gone = bench.publish(name="dan")
    bench.store.revoke(gone.id)  # the catalogue does not know yet
    lines = SqlLines(Database(bench.url), bench.store)
    for _ in range(2):
        assert lines.meant() == {name: bench.registry.resolve(name).id for name in ("ada", "bob")}
        Rollbacks(bench.home / "store").put(Rollback(name="ada", to="1.9.0", over=over))
    assert [(line.name, line.version) for line in lines.accepted()][:1] == [("bob", "1.0.0")]
    assert {line.name for line in lines.accepted()} == {"ada", "bob"}


# Publishing.


def test_a_version_belongs_to_one_block(bench: Bench) -> None:
    first = bench.publish()
    with pytest.raises(BadReference, match=r"ada@1\.0\.0"):
        bench.registry.publish(bench.put())
    assert bench.registry.manifests() == (first,)


def test_publishing_twice_changes_nothing_and_names_what_is_there(bench: Bench) -> None:
    made = bench.put()
    first = bench.registry.publish(made)
    assert first == BlockRef(name="ada", version="1.0.0", id=made.id, status="registered")
    assert bench.registry.publish(made) == first
    assert (
        bench.registry.publish(made.model_copy(update={"version": "2.0.0", "created_at": "2030-01-01T00:00:00Z"}))
        == first
    )
    assert bench.registry.manifests() == (made,)
    with pytest.raises(BadReference, match="stored as 'ada'"):
        bench.registry.publish(made.model_copy(update={"name": "bob"}))


def test_what_is_not_in_the_store_or_damaged_there_is_not_published(bench: Bench, tmp_path: Path) -> None:
    made = bench.put()
    (bench.store.path(made.id) / "README.md").write_bytes(b"x")
    with pytest.raises(BlockCorrupt):
        bench.registry.publish(made)
    bench.store.delete(made.id)
    with pytest.raises(BlockNotFound):
        bench.registry.publish(made)
    assert bench.registry.manifests() == ()


def test_versions_go_up_by_a_minor_and_a_revoked_one_is_not_given_again(bench: Bench) -> None:
    assert bench.registry.next_version("ada") == ("1.0.0", None)
    bench.publish()
    assert bench.registry.next_version("ada") == ("1.1.0", "1.0.0")
    newest = bench.publish(version="1.10.3")
    assert bench.registry.next_version("ada") == ("1.11.0", "1.10.3")
    assert bench.registry.next_version("bob") == ("1.0.0", None)
    bench.registry.revoke(newest.id)
    assert bench.registry.next_version("ada") == ("1.11.0", "1.0.0")


def test_manifests_are_newest_first(bench: Bench) -> None:
    made = [bench.publish(name=name) for name in ("c", "a", "b")]
    assert bench.registry.manifests() == tuple(reversed(made))


# Revocation.


def test_a_revoked_block_is_gone_under_every_name_and_from_every_list(bench: Bench) -> None:
    made = bench.publish()
    bench.registry.revoke(made.id)
    for registry in (bench.registry, bench.open()):
        for reference in ("ada", "ada@1.0.0", made.id, made.id[:8]):
            for unsafe in (False, True):
                with pytest.raises(BlockRevoked):
                    registry.resolve(reference, unsafe=unsafe)
        assert registry.manifests() == ()
    with pytest.raises(BlockRevoked):
        bench.registry.publish(made)


def test_an_older_version_is_found_when_the_newest_is_revoked(bench: Bench) -> None:
    first, second = bench.publish(), bench.publish(version="1.1.0")
    bench.registry.revoke(second.id)
    assert bench.registry.resolve("ada") == first
    with pytest.raises(BlockRevoked):
        bench.registry.resolve("ada@1.1.0")


def test_a_tombstone_that_the_catalogue_never_heard_of_counts_at_once(bench: Bench) -> None:
    made = bench.publish()
    bench.store.revoke(made.id)  # by another process, which died before it told the database
    with pytest.raises(BlockRevoked):
        bench.registry.resolve("ada")
    bench.registry.forget(made.id)
    bench.store.delete(made.id)
    with pytest.raises(BlockRevoked):
        bench.registry.resolve(made.id[:12])
    with pytest.raises(BlockNotFound):
        bench.registry.resolve("ada")


# Rebuilding.


def test_the_files_alone_rebuild_the_catalogue(bench: Bench) -> None:
    bench.publish()
    second = bench.publish(version="1.1.0")
    gone = bench.publish(name="bob")
    bench.publish(name="carol", gate=rejected("forgot too much"))
    bench.registry.revoke(gone.id)
    before = bench.registry.manifests()
    bench.drop_database()
    assert bench.registry.manifests() == ()
    assert bench.registry.reindex() == ()
    assert bench.registry.manifests() == before
    assert bench.registry.resolve("ada") == second
    with pytest.raises(BlockRevoked):
        bench.registry.resolve("bob")
    with pytest.raises(BlockRejected):
        bench.registry.resolve("carol")
    assert bench.registry.reindex() == ()
    assert bench.registry.manifests() == before


def test_rebuilding_leaves_out_what_does_not_verify_and_says_so(bench: Bench) -> None:
    good, bad = bench.publish(), bench.publish(name="bob")
    path = bench.store.path(bad.id) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    (refusal,) = bench.registry.reindex()
    assert (refusal.path, refusal.reason) == (bad.id, "block_corrupt")
    assert "adapter_model.safetensors" in refusal.detail
    assert bench.registry.manifests() == (good,)


def test_rebuilding_forgets_what_the_store_lost_and_keeps_the_older_of_two_claims(bench: Bench) -> None:
    lost, older = bench.publish(name="bob"), bench.publish()
    bench.store.delete(lost.id)
    newer = bench.put()
    (refusal,) = bench.registry.reindex()
    assert (refusal.path, refusal.reason) == (newer.id, "version_taken")
    assert bench.registry.manifests() == (older,)


def test_a_block_published_while_the_catalogue_is_rebuilt_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.publish()
    real, late = bench.store.ids, list[Manifest]()

    def ids() -> tuple[str, ...]:
        found = real()
        late.append(bench.publish(name="bob"))
        return found

    monkeypatch.setattr(bench.store, "ids", ids)
    bench.registry.reindex()
    assert bench.registry.manifests() == (late[0], first)


# The database.


def test_nothing_is_made_before_something_is_asked(sqlite: Bench) -> None:
    assert not (sqlite.home / "registry.sqlite").exists()


def test_sqlite_is_set_up_for_several_processes(sqlite: Bench) -> None:
    sqlite.publish()
    with sqlite.registry._session() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert session.execute(text("PRAGMA busy_timeout")).scalar() == module.BUSY_SECONDS * 1000


PUBLISH = """
import sys
from pathlib import Path
from clonedna.store.database import Database
from clonedna.store.registry import SqlRegistry
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
home, keys = map(Path, sys.argv[1:3])
store = DirectoryStore(home / "store", KeyRing(keys))
registry = SqlRegistry(Database(sys.argv[3]), store)
for block_id in sys.argv[4:]:
    registry.publish(store.verify(block_id))
"""


def test_two_processes_publish_at_once(bench: Bench) -> None:
    ids = [bench.put(name=f"ada-{n}").id for n in range(12)]
    arguments = [sys.executable, "-c", PUBLISH, str(bench.home), str(bench.ring._directory), bench.url]
    started = [subprocess.Popen([*arguments, *part]) for part in (ids[:8], ids[4:])]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    assert len(bench.registry.manifests()) == 12


def test_a_held_database_is_timed_out(sqlite: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sqlite.put()
    monkeypatch.setattr(module, "BUSY_SECONDS", 0)
    with sqlite.registry._session() as session:
        session.execute(text("DELETE FROM blocks"))
        with pytest.raises(TimedOut):
            sqlite.open().publish(made)


def test_a_damaged_database_says_how_to_rebuild_it(sqlite: Bench) -> None:
    sqlite.publish()
    (sqlite.home / "registry.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt) as caught:
        sqlite.open().manifests()
    assert "reindex" in caught.value.hint


def test_a_database_of_another_shape_says_how_to_rebuild_it(sqlite: Bench) -> None:
    sqlite.publish()
    with sqlite.registry._session() as session:
        session.execute(text("ALTER TABLE blocks DROP COLUMN licence"))
    with pytest.raises(Corrupt) as caught:
        sqlite.registry.manifests()
    assert "reindex" in caught.value.hint


def test_a_damaged_entry_says_how_to_rebuild_it(bench: Bench) -> None:
    bench.publish()
    with bench.registry._session() as session:
        session.execute(text("UPDATE blocks SET manifest = '{}'"))
    with pytest.raises(Corrupt, match="damaged"):
        bench.registry.resolve("ada")


def test_an_address_that_leads_nowhere_has_a_code(bench: Bench) -> None:
    with pytest.raises(Unavailable):
        SqlRegistry(Database("sqlite:////nowhere/at/all.sqlite"), bench.store).manifests()
    for url in ("no address", "nosuch://host/db", "sqlite+nosuch:///x"):
        with pytest.raises(BadConfig):
            SqlRegistry(Database(url), bench.store).manifests()


def test_the_gate_decides_the_status(bench: Bench) -> None:
    for verdict, status in ((GateVerdict(status="accepted"), "registered"), (rejected(), "rejected")):
        assert bench.registry.publish(bench.put(name=status, gate=verdict)).status == status
