"""Rotation: one log, each key promised by the one before; nobody is led back, and a lost key counts only for what was known."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clonedna.core.block import Envelope
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import (
    BadConfig,
    BlockUntrusted,
    InputError,
    KeyCompromised,
    KeyLogInvalid,
    KeyLogOlder,
    KeyWeak,
    NotFound,
)
from clonedna.trust import keylog
from clonedna.trust.keylog import PAYLOAD_TYPE, KeyLog, begin, read
from clonedna.trust.keys import KeyRing
from clonedna.trust.keys_ed25519 import entry_of, public_bytes

TYPE = "application/example"
NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


@pytest.fixture
def other(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "other")


def new() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def key_id(key: Ed25519PrivateKey) -> str:
    return sha256(public_bytes(key))


# The log by itself.


@pytest.fixture
def keys() -> list[Ed25519PrivateKey]:
    return [new() for _ in range(4)]


@pytest.fixture
def log(keys: list[Ed25519PrivateKey]) -> KeyLog:
    made = begin(keys[0], key_id(keys[1]), NOW)
    made = made.followed(keys[0], keys[1], key_id(keys[2]), compromised=False, issued=NOW)
    return made.followed(keys[1], keys[2], key_id(keys[3]), compromised=True, issued=NOW)


def test_a_log_is_read_as_it_was_written(log: KeyLog, keys: list[Ed25519PrivateKey]) -> None:
    assert read(log.to_bytes()) == log
    assert log.identity == key_id(keys[0])
    assert [log.status(n) for n in range(3)] == ["rotated", "compromised", "current"]
    assert [log.position(key_id(key)) for key in keys] == [0, 1, 2, None]


def test_a_key_that_was_not_promised_cannot_follow(log: KeyLog, keys: list[Ed25519PrivateKey]) -> None:
    """What a thief of the current key alone would have to do."""
    with pytest.raises(KeyLogInvalid) as caught:
        log.followed(keys[2], new(), key_id(new()), compromised=False, issued=NOW)
    assert caught.value.facts["seq"] == 3


def test_the_promised_key_cannot_follow_without_the_key_before(log: KeyLog, keys: list[Ed25519PrivateKey]) -> None:
    with pytest.raises(KeyLogInvalid):
        log.followed(new(), keys[3], key_id(new()), compromised=True, issued=NOW)


def rewritten(log: KeyLog, at: int, by: list[Ed25519PrivateKey], **changes: Any) -> bytes:
    """The log with one entry changed and signed again by ``by``."""
    fields = log.entries[at].model_dump() | changes
    payload = canonical({name: value for name, value in fields.items() if value != "drop"})
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(), payloadType=changes.get("kind", PAYLOAD_TYPE),
        signatures=tuple(entry_of(key, PAYLOAD_TYPE, payload) for key in by),
    )  # fmt: skip
    envelopes = [*log.envelopes]
    envelopes[at] = envelope
    return canonical({"format": "dna-keylog/1", "entries": envelopes})


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 2}, {"seq": 0}, {"action": "new"}, {"previous": None}, {"previous": "0" * 64}, {"identity": "0" * 64},
        {"extra": 1}, {"issued": "drop"}, {"format": "dna-keylog/2"}, {"key": "zz"}, {"action": "other"},
    ],
)  # fmt: skip
def test_an_entry_that_says_something_else_is_refused_though_both_keys_signed_it(
    log: KeyLog, keys: list[Ed25519PrivateKey], changes: dict[str, Any]
) -> None:
    assert read(rewritten(log, 1, keys[:2])).identity == log.identity
    with pytest.raises(KeyLogInvalid) as caught:
        read(rewritten(log, 1, keys[:2], **changes))
    assert caught.value.facts["seq"] == 1


def test_a_key_that_comes_twice_is_refused(keys: list[Ed25519PrivateKey]) -> None:
    with pytest.raises(KeyLogInvalid):
        begin(keys[0], key_id(keys[0]), NOW)
    log = begin(keys[0], key_id(keys[1]), NOW)
    with pytest.raises(KeyLogInvalid):
        log.followed(keys[0], keys[1], key_id(keys[0]), compromised=False, issued=NOW)


def test_one_signature_too_few_or_in_another_order_is_refused(log: KeyLog, keys: list[Ed25519PrivateKey]) -> None:
    for by in ([keys[0]], [keys[1]], [keys[1], keys[0]], [*keys[:2], keys[0]], [], [keys[0], new()]):
        with pytest.raises(KeyLogInvalid):
            read(rewritten(log, 1, by))


@pytest.mark.parametrize("raw", [bytes(32), (1).to_bytes(32, "little"), b"\xff" * 32])
def test_a_weak_key_in_a_log_is_refused(log: KeyLog, keys: list[Ed25519PrivateKey], raw: bytes) -> None:
    with pytest.raises(KeyWeak):
        read(rewritten(log, 1, keys[:2], key=raw.hex()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d + b"\n", lambda d: d[:-1], lambda d: b"", lambda d: b"[]", lambda d: d.replace(b":", b": ", 1),
        lambda d: b'{"format":"dna-keylog/1",' + d[1:], lambda d: canonical({"format": "dna-keylog/1", "entries": []}),
        lambda d: b"[" * 100_000, lambda d: d + b" " * keylog.MAX_BYTES,
        lambda d: canonical(strict_json(d) | {"entries": strict_json(d)["entries"][1:]}),
        lambda d: canonical(strict_json(d) | {"entries": strict_json(d)["entries"][::-1]}),
        lambda d: canonical(strict_json(d) | {"entries": [strict_json(d)["entries"][n] for n in (0, 2)]}),
    ],
)  # fmt: skip
def test_any_other_file_is_no_log(log: KeyLog, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(KeyLogInvalid):
        read(spoil(log.to_bytes()))


# A ring that rotates.


def test_a_rotated_key_signs_no_more_and_what_it_signed_stays_valid(ring: KeyRing, tmp_path: Path) -> None:
    before, first, promised = ring.sign(b"x", TYPE), ring.key_id, ring.log.current.next
    assert ring.rotate().identity == first
    after = ring.sign(b"y", TYPE)
    assert after.signatures[0].keyid == ring.key_id == promised != first
    for one in (ring, KeyRing(tmp_path / "keys")):
        assert (one.verify(before, TYPE), one.verify(after, TYPE)) == (b"x", b"y")
    assert not (tmp_path / f"keys/private/{first}.pem").exists()
    assert ring.trusted() == (first,)


def test_of_a_compromised_key_only_what_was_held_stays_valid(ring: KeyRing, tmp_path: Path) -> None:
    held, lost = ring.sign(b"held", TYPE), ring.sign(b"lost", TYPE)
    ring.rotate(compromised=True, held=lambda: [held])
    again = KeyRing(tmp_path / "keys")
    assert again.verify(held, TYPE) == b"held"
    with pytest.raises(KeyCompromised) as caught:
        again.verify(lost, TYPE)
    assert caught.value.hint
    again.rotate()  # and it stays so
    assert again.verify(held, TYPE) == b"held"
    with pytest.raises(KeyCompromised):
        again.verify(lost, TYPE)


def test_what_a_stranger_signed_is_not_kept_as_held(ring: KeyRing, other: KeyRing) -> None:
    ring.rotate(compromised=True, held=lambda: [other.sign(b"x", TYPE)])
    assert [one.kept for one in ring.known()] == [0, 0]


def test_rotation_without_the_promised_key_is_refused_and_changes_nothing(ring: KeyRing, tmp_path: Path) -> None:
    envelope, path = ring.sign(b"x", TYPE), tmp_path / f"keys/private/{ring.log.current.next}.pem"
    path.rename(tmp_path / "safe.pem")
    with pytest.raises(BadConfig) as caught:
        ring.rotate()
    assert str(path) in caught.value.message
    assert ring.sign(b"x", TYPE) == envelope
    (tmp_path / "safe.pem").rename(path)  # it may well be kept elsewhere
    ring.rotate()


# Whom others are.


def test_a_trusted_log_brings_its_keys_and_a_newer_one_the_newer_keys(ring: KeyRing, other: KeyRing) -> None:
    first = other.sign(b"1", TYPE)
    ring.trust_log(other.log.to_bytes())
    other.rotate()
    second = other.sign(b"2", TYPE)
    assert ring.verify(first, TYPE) == b"1"
    with pytest.raises(BlockUntrusted):
        ring.verify(second, TYPE)
    ring.trust_log(other.log.to_bytes())
    assert (ring.verify(first, TYPE), ring.verify(second, TYPE)) == (b"1", b"2")
    assert ring.log_of(other.log.identity) == other.log


def test_an_older_log_than_the_one_seen_is_refused_even_after_distrust(ring: KeyRing, other: KeyRing) -> None:
    old = other.log.to_bytes()
    other.rotate(compromised=True)
    ring.trust_log(other.log.to_bytes())
    for _ in range(2):
        with pytest.raises(KeyLogOlder) as caught:
            ring.trust_log(old)
        assert (caught.value.facts["seen"], caught.value.facts["given"]) == (1, 0)
        if ring.trusted():
            ring.distrust(other.log.identity)


def test_another_story_of_the_same_identity_is_refused(ring: KeyRing, other: KeyRing, tmp_path: Path) -> None:
    other.sign(b"x", TYPE)
    shutil.copytree(tmp_path / "other", tmp_path / "twin")
    twin = KeyRing(tmp_path / "twin")
    other.rotate()
    twin.rotate(compromised=True)
    ring.trust_log(other.log.to_bytes())
    twin.rotate()
    with pytest.raises(KeyLogOlder):
        ring.trust_log(twin.log.to_bytes())


def test_who_learns_of_a_compromise_keeps_what_it_holds_and_refuses_the_rest(ring: KeyRing, other: KeyRing) -> None:
    ring.trust_log(other.log.to_bytes())
    held, lost = other.sign(b"held", TYPE), other.sign(b"lost", TYPE)
    stolen = other.public_key
    other.rotate(compromised=True)
    ring.trust_log(other.log.to_bytes(), held=lambda: [held])
    assert ring.verify(held, TYPE) == b"held"
    ring.trust_log(other.log.to_bytes(), held=lambda: [lost])  # too late: it is refused already
    with pytest.raises(KeyCompromised):
        ring.verify(lost, TYPE)
    with pytest.raises(KeyCompromised):
        ring.trust(stolen)


def test_a_bare_key_is_absorbed_by_its_log_so_that_a_compromise_reaches_it(ring: KeyRing, other: KeyRing) -> None:
    other.rotate()
    bare = other.public_key
    envelope = other.sign(b"x", TYPE)
    assert ring.trust(bare) == other.key_id
    other.rotate(compromised=True)
    ring.trust_log(other.log.to_bytes())
    assert ring.trusted() == (other.log.identity,)
    with pytest.raises(KeyCompromised):
        ring.verify(envelope, TYPE)


def test_distrust_by_any_key_of_the_identity_and_trust_again(ring: KeyRing, other: KeyRing) -> None:
    envelope = other.sign(b"x", TYPE)
    other.rotate()
    ring.trust_log(other.log.to_bytes())
    ring.distrust(other.key_id)
    with pytest.raises(BlockUntrusted):
        ring.verify(envelope, TYPE)
    with pytest.raises(NotFound):
        ring.distrust(other.key_id)
    assert ring.trust(other.public_key) == other.log.identity
    assert ring.verify(envelope, TYPE) == b"x"


def test_a_key_of_one_identity_cannot_begin_another(ring: KeyRing, tmp_path: Path) -> None:
    keys = [new() for _ in range(4)]
    one = begin(keys[0], key_id(keys[1]), NOW).followed(
        keys[0], keys[1], key_id(keys[2]), compromised=False, issued=NOW
    )
    ring.trust_log(one.to_bytes())
    with pytest.raises(KeyLogInvalid):
        ring.trust_log(begin(keys[1], key_id(keys[3]), NOW).to_bytes())


def test_every_key_is_listed_with_its_standing(ring: KeyRing, other: KeyRing) -> None:
    ring.rotate(compromised=True)
    ring.trust(other.public_key)
    found = {(one.seq, one.status, one.own, one.trusted) for one in ring.known()}
    assert found == {
        (0, "compromised", True, True),
        (1, "current", True, True),
        (None, "current", False, True),
    }
    with pytest.raises(InputError):
        ring.distrust(ring.key_id)
