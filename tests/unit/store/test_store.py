"""The store: whole blocks or none, whatever dies, fills up or is put twice; and a tombstone wins over every copy."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import BlockCorrupt, BlockNotFound, BlockRevoked, BlockUntrusted, NoSpace, Unavailable
from clonedna.store.blocks import LIMITS, PAYLOAD_TYPE
from clonedna.store.store import SETTLED_NS, DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import write_block


@pytest.fixture
def store(tmp_path: Path, ring: KeyRing) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", ring)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def kept(tmp_path: Path) -> list[str]:
    """Every file under the store but its lock."""
    root = tmp_path / "store"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock")


def test_opening_a_store_writes_nothing(tmp_path: Path, store: DirectoryStore) -> None:
    assert store.ids() == ()
    assert store.revoked() == frozenset()
    assert not (tmp_path / "store").exists()


def test_what_is_put_is_a_copy_that_verifies(block: Path, store: DirectoryStore) -> None:
    block_id = store.put(block)
    assert content(store.path(block_id)) == content(block)
    (block / "README.md").write_text("changed later")
    assert store.verify(block_id).id == block_id
    assert store.ids() == (block_id,)


def test_the_first_manifest_of_the_same_files_stays(tmp_path: Path, ring: KeyRing, store: DirectoryStore) -> None:
    write_block(tmp_path / "a", ring)
    write_block(tmp_path / "b", ring, created_at="2030-01-01T00:00:00Z")
    assert store.put(tmp_path / "a") == store.put(tmp_path / "b")
    assert store.verify(store.ids()[0]).created_at == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_a_damaged_block_is_not_put_and_leaves_nothing(
    block: Path, store: DirectoryStore, tmp_path: Path, name: str
) -> None:
    (block / name).write_bytes((block / name).read_bytes() + b"x")
    with pytest.raises(BlockCorrupt) as caught:
        store.put(block)
    assert caught.value.facts["file"] == name
    assert kept(tmp_path) == []


def test_a_strangers_block_is_not_put(block: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", KeyRing(tmp_path / "other"))
    with pytest.raises(BlockUntrusted):
        store.put(block)
    assert kept(tmp_path) == []


def test_a_signed_block_with_a_false_id_is_not_put(
    block: Path, ring: KeyRing, store: DirectoryStore, tmp_path: Path
) -> None:
    fields = {**strict_json((block / "manifest.json").read_bytes()), "id": "0" * 64}
    (block / "manifest.json").write_bytes(canonical(fields))
    (block / "signature.json").write_bytes(canonical(ring.sign(canonical(fields), PAYLOAD_TYPE)))
    with pytest.raises(BlockCorrupt) as caught:
        store.put(block)
    assert caught.value.facts["file"] == "manifest.json"
    assert kept(tmp_path) == []


def test_a_source_that_changes_between_check_and_copy_is_refused(
    block: Path, store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        real(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.parent.name == "incoming":  # the check is done, the copy begins
            (block / "README.md").write_text("changed meanwhile")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(BlockCorrupt) as caught:
        store.put(block)
    assert caught.value.facts["file"] == "README.md"
    assert kept(tmp_path) == []


def test_damage_in_the_store_is_found_when_read_and_when_put_again(block: Path, store: DirectoryStore) -> None:
    block_id = store.put(block)
    target = store.path(block_id) / "pairs.jsonl"
    target.write_bytes(target.read_bytes()[:-1])
    for act in (lambda: store.verify(block_id), lambda: store.put(block)):
        with pytest.raises(BlockCorrupt) as caught:
            act()
        assert caught.value.facts["file"] == "pairs.jsonl"
    store.delete(block_id)
    assert store.put(block) == block_id
    store.verify(block_id)


def test_a_block_under_another_blocks_name_is_refused(block: Path, store: DirectoryStore, tmp_path: Path) -> None:
    block_id = store.put(block)
    shutil.move(store.path(block_id), tmp_path / "store/blocks" / ("0" * 64))
    with pytest.raises(BlockCorrupt):
        store.verify("0" * 64)


@pytest.mark.parametrize("block_id", ["", "..", "../blocks", "0" * 64, "0" * 63, "0" * 64 + "\n", "A" * 64])
def test_what_is_no_stored_id_is_not_found_and_deletes_nothing(
    block: Path, store: DirectoryStore, tmp_path: Path, block_id: str
) -> None:
    store.put(block)
    before = kept(tmp_path)
    for act in (store.path, store.verify):
        with pytest.raises(BlockNotFound):
            act(block_id)
    store.delete(block_id)
    assert kept(tmp_path) == before


# Full disks.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", range(1, 14))
def test_a_disk_that_fills_up_at_any_fsync_leaves_no_part_of_a_block(
    block: Path, store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    calls, real = 0, os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if at > len(LIMITS) + 2:  # ten files, their directory, the directory they are renamed into: there is no thirteenth
        store.put(block)
        return
    with pytest.raises(NoSpace) as caught:
        store.put(block)
    assert caught.value.hint
    left = kept(tmp_path)
    assert len(left) in (0, len(LIMITS))  # the last fsync comes after the rename: the block is whole then
    assert all(name.startswith("blocks/") for name in left)
    monkeypatch.undo()
    store.verify(store.put(block))


def test_other_failures_of_the_disk_have_a_code_too(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(Unavailable):
        DirectoryStore(tmp_path / "store", ring).put(block)


# Killed processes.

KILLED = """
import os, signal, sys
from pathlib import Path
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
root, keys, block = map(Path, sys.argv[1:4])
if sys.argv[4] == "wait":
    def stop(*_):
        print("ready", flush=True)
        sys.stdin.read()
    Path.rename = stop
else:
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
DirectoryStore(root, KeyRing(keys)).put(block)
"""


def test_what_a_killed_put_left_is_no_block_and_is_cleared_at_the_next_start(
    block: Path, ring: KeyRing, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(ring._directory), str(block), "kill"]
    assert subprocess.run(arguments, timeout=60).returncode == -signal.SIGKILL
    assert len([name for name in kept(tmp_path) if name.startswith("incoming/")]) == len(LIMITS)
    store = DirectoryStore(tmp_path / "store", ring)
    assert kept(tmp_path) == []
    assert store.ids() == ()
    store.verify(store.put(block))


def test_a_put_that_is_still_running_is_not_cleared(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(ring._directory), str(block), "wait"]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        store = DirectoryStore(tmp_path / "store", ring)
        assert len(kept(tmp_path)) == len(LIMITS)
        store.verify(store.put(block))  # and others may put meanwhile
        running.kill()
    DirectoryStore(tmp_path / "store", ring)
    assert all(name.startswith("blocks/") for name in kept(tmp_path))


def test_two_that_put_the_same_block_at_once_both_succeed(
    block: Path, ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = DirectoryStore(tmp_path / "store", ring), DirectoryStore(tmp_path / "store", ring)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", real)
        second.put(block)  # between the first one's copy and its rename
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    block_id = first.put(block)
    assert first.ids() == (block_id,)
    assert len(kept(tmp_path)) == len(LIMITS)


# Revocation.


def test_a_revoked_block_is_never_put_or_given_again(
    block: Path, store: DirectoryStore, ring: KeyRing, tmp_path: Path
) -> None:
    block_id = store.put(block)
    store.revoke(block_id)
    tombstone = (tmp_path / "store/revoked" / f"{block_id}.json").read_bytes()
    store.revoke(block_id)
    assert (tmp_path / "store/revoked" / f"{block_id}.json").read_bytes() == tombstone
    store.delete(block_id)
    again = DirectoryStore(tmp_path / "store", ring)
    assert again.revoked() == {block_id}
    for act in (lambda: again.path(block_id), lambda: again.put(block)):
        with pytest.raises(BlockRevoked):
            act()


def test_each_tombstone_is_seen_at_once_whoever_wrote_it(
    store: DirectoryStore, ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, ids = DirectoryStore(tmp_path / "store", ring), [f"{n:064x}" for n in range(30)]
    for n, block_id in enumerate(ids):  # many in one step of the disk's clock
        other.revoke(block_id)
        assert store.revoked() == set(ids[: n + 1])
    folder = tmp_path / "store/revoked"
    assert store.revoked() is not store.revoked(), "it changed a moment ago"
    time.sleep(0.05)  # steps of a disk's clock are shorter
    monkeypatch.setattr(time, "time_ns", lambda: folder.stat().st_ctime_ns + 2 * SETTLED_NS)
    assert store.revoked() is store.revoked(), "it is not listed again while nothing changes"
    other.revoke("f" * 64)
    assert store.revoked() == {*ids, "f" * 64}
    (folder / f"{ids[0]}.json").unlink()
    assert store.revoked() == {*ids[1:], "f" * 64}


def test_a_tombstone_counts_whatever_is_in_it_and_for_blocks_never_seen(
    block: Path, store: DirectoryStore, tmp_path: Path
) -> None:
    block_id = store.put(block)
    (tmp_path / "store/revoked").mkdir()
    (tmp_path / "store/revoked" / f"{block_id}.json").write_bytes(b"torn")
    with pytest.raises(BlockRevoked):
        store.path(block_id)
    store.revoke("0" * 64)
    assert store.revoked() == {block_id, "0" * 64}
    with pytest.raises(BlockNotFound):
        store.revoke("../../evil")
