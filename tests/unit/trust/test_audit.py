"""The audit log: what was written stays, and whatever is changed, left out or cut off is seen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from clonedna.core.errors import BlockUntrusted, Corrupt, SignatureInvalid
from clonedna.trust.audit import AuditLog
from clonedna.trust.keys import KeyRing
from clonedna.trust.tombstones import Tombstones

ID, OTHER = "a" * 64, "b" * 64


def now() -> datetime:
    return datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def log(tmp_path: Path, ring: KeyRing) -> AuditLog:
    made = AuditLog(tmp_path / "audit", ring, now)
    for number in range(4):
        made.append("granted", f"{number}@github.com", evidence="ssh")
    return made


def lines(tmp_path: Path) -> list[bytes]:
    return (tmp_path / "audit/log.jsonl").read_bytes().splitlines(keepends=True)


def write(tmp_path: Path, kept: list[bytes]) -> None:
    (tmp_path / "audit/log.jsonl").write_bytes(b"".join(kept))


def test_a_sound_log(log: AuditLog) -> None:
    report = log.verify()
    assert (report.ok, report.entries, report.unsigned_tail) == (True, 4, 0)
    assert [(entry.seq, entry.about) for entry in log.entries()] == [(n + 1, f"{n}@github.com") for n in range(4)]


def test_no_log_is_a_sound_one(tmp_path: Path, ring: KeyRing) -> None:
    report = AuditLog(tmp_path / "audit", ring, now).verify()
    assert (report.ok, report.entries) == (True, 0)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_line_that_was_left_out(log: AuditLog, tmp_path: Path, gone: int) -> None:
    kept = lines(tmp_path)
    del kept[gone]
    write(tmp_path, kept)
    assert (log.verify().ok, log.verify().line) == (False, gone + 1)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_an_end_that_was_cut_off(log: AuditLog, tmp_path: Path, left: int) -> None:
    write(tmp_path, lines(tmp_path)[:left])
    assert "cut off" in log.verify().fault
    with pytest.raises(Corrupt):
        log.append("granted", "5@github.com")


def test_every_changed_byte_is_seen(log: AuditLog, tmp_path: Path) -> None:
    whole = (tmp_path / "audit/log.jsonl").read_bytes()
    for place in range(0, len(whole), 29):
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / "audit/log.jsonl").write_bytes(bytes(changed))
        assert not log.verify().ok, place


def test_lines_in_another_order_or_twice(log: AuditLog, tmp_path: Path) -> None:
    one, two, three, four = lines(tmp_path)
    for kept in ([one, three, two, four], [one, two, two, three, four], [one, two, three, four, four]):
        write(tmp_path, kept)
        assert not log.verify().ok


def test_a_head_that_is_missing_old_or_somebody_elses(log: AuditLog, tmp_path: Path) -> None:
    head = tmp_path / "audit/head.json"
    older = head.read_bytes()
    log.append("revoked", "1@github.com")
    head.write_bytes(older)
    assert (log.verify().ok, log.verify().unsigned_tail) == (
        True,
        1,
    )  # killed between line and head: the line itself is signed
    log.append("revoked", "2@github.com")
    assert log.verify().unsigned_tail == 0
    stranger = KeyRing(tmp_path / "stranger")
    AuditLog(tmp_path / "elsewhere", stranger, now).append("granted", "1@github.com")
    head.write_bytes((tmp_path / "elsewhere/head.json").read_bytes())
    assert not log.verify().ok
    head.unlink()
    assert not log.verify().ok


def test_a_line_by_a_stranger_is_seen(log: AuditLog, tmp_path: Path) -> None:
    AuditLog(tmp_path / "elsewhere", KeyRing(tmp_path / "stranger"), now).append("granted", "1@github.com")
    write(tmp_path, [*lines(tmp_path), (tmp_path / "elsewhere/log.jsonl").read_bytes()])
    assert log.verify().line == 5


def test_a_line_that_was_cut_by_a_kill_is_taken_away_by_the_next(log: AuditLog, tmp_path: Path) -> None:
    write(tmp_path, [*lines(tmp_path), b'{"payload": "ab'])
    assert not log.verify().ok
    assert log.append("purged", "1@github.com").seq == 5
    assert (log.verify().ok, log.verify().entries) == (True, 5)


def test_a_tombstone_is_signed_and_holds_nothing_of_a_person(tmp_path: Path, ring: KeyRing) -> None:
    stones = Tombstones(tmp_path / "stones", ring, now)
    made = stones.make(ID, "consent-revoked")
    assert stones.make(ID, "holder") == made == stones.get(ID)
    assert set(made.model_dump()) == {"format", "id", "revoked_at", "reason", "because"}
    assert stones.get(OTHER) is None
    assert stones.get("../x") is None


def test_a_tombstone_travels_between_machines_that_trust_each_other(tmp_path: Path, ring: KeyRing) -> None:
    theirs = KeyRing(tmp_path / "keys")
    Tombstones(tmp_path / "theirs", theirs, now).make(ID, "derived", OTHER)
    data = Tombstones(tmp_path / "theirs", theirs, now).data(ID)
    ours = Tombstones(tmp_path / "ours", ring, now)
    with pytest.raises(BlockUntrusted):
        ours.accept(data)
    ring.trust(theirs.public_key)
    assert ours.accept(data).because == OTHER
    for bad in (b"", b"{}", data[:-9], data + b" " * 20_000):
        with pytest.raises(Corrupt):
            ours.accept(bad)
    with pytest.raises((SignatureInvalid, Corrupt)):
        ours.accept(data.replace(b'"payload":"ey', b'"payload":"eY'))
    path = tmp_path / "ours" / f"{OTHER}.json"
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        ours.get(OTHER)


def test_a_log_goes_on_after_its_key_was_given_up(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    log = AuditLog(tmp_path / "audit", ring, now)
    for number in range(3):
        log.append("granted", f"{number}@github.com", evidence="ssh")
    ring.rotate(compromised=True, held=log.envelopes)
    log.append("changed", "-", what="dna keys rotate")
    assert [entry.about for entry in log.entries()] == ["0@github.com", "1@github.com", "2@github.com", "-"]
    assert log.verify().ok


def test_pages_are_newest_first_and_an_entry_that_cannot_be_believed_is_an_error(log: AuditLog, tmp_path: Path) -> None:
    assert [entry.seq for entry in log.page(before=None, limit=2)] == [4, 3]
    assert [entry.seq for entry in log.page(before=3, limit=9)] == [2, 1]
    assert log.page(before=1, limit=9) == ()
    assert [entry.seq for entry in log.page(before=99, limit=1)] == [4]
    kept = lines(tmp_path)
    kept[1] = kept[1].replace(b"audit", b"other")
    write(tmp_path, kept)
    assert [entry.seq for entry in log.page(before=None, limit=2)] == [4, 3]
    with pytest.raises(Corrupt):
        log.page(before=3, limit=1)


def test_whether_an_entry_could_be_written_changes_nothing(log: AuditLog, tmp_path: Path) -> None:
    before = lines(tmp_path)
    log.ready()
    assert lines(tmp_path) == before
    write(tmp_path, before[:-1])
    with pytest.raises(Corrupt):
        log.ready()
