"""Keys and envelopes: made when needed, readable by the owner only, and nothing but the exact signed bytes verifies."""

from __future__ import annotations

import base64
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.block import Envelope, SignatureEntry
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import (
    BadConfig,
    BlockUntrusted,
    DnaError,
    InputError,
    KeyLogInvalid,
    KeyWeak,
    NotFound,
    SignatureInvalid,
)
from clonedna.trust.keys import LOW_ORDER_Y, PRIME, KeyRing, Record, is_point, is_weak, pae

TYPE = "application/example"


def changed(envelope: Envelope, **fields: object) -> Envelope:
    return envelope.model_copy(update=fields)


def resigned(envelope: Envelope, **fields: str) -> Envelope:
    return changed(envelope, signatures=(envelope.signatures[0].model_copy(update=fields),))


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


# The encoding that is signed.


def test_pae_is_the_one_printed_in_the_specification() -> None:
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(max_size=9), st.binary(max_size=9), st.text(max_size=9), st.binary(max_size=9))
def test_pae_tells_every_pair_of_type_and_payload_apart(a: str, b: bytes, c: str, d: bytes) -> None:
    assert (pae(a, b) == pae(c, d)) == ((a, b) == (c, d))


# This machine's key.


def test_the_key_is_made_when_first_needed_and_stays(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    with pytest.raises(BlockUntrusted):
        ring.verify(KeyRing(tmp_path / "other").sign(b"x", TYPE), TYPE)
    assert not (tmp_path / "keys").exists()
    envelope = ring.sign(b"x", TYPE)
    again = KeyRing(tmp_path / "keys")
    assert again.key_id == ring.key_id == envelope.signatures[0].keyid == sha256(ring.public_key)
    assert again.verify(envelope, TYPE) == b"x"


def test_only_the_owner_can_read_the_keys(ring: KeyRing, tmp_path: Path) -> None:
    ring.sign(b"x", TYPE)
    files = [path for path in (tmp_path / "keys").rglob("*") if path.is_file()]
    assert (
        len([path for path in files if path.suffix == ".pem"]) == 2
    )  # the current key and the one that the log promised
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys", tmp_path / "keys/private")} == {0o700}


def test_processes_that_start_together_make_one_key(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from clonedna.trust.keys import KeyRing; print(KeyRing(Path(sys.argv[1])).key_id)"
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "keys")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in started}
    assert said == {KeyRing(tmp_path / "keys").key_id}


def test_a_maker_that_died_half_way_leaves_no_key_and_the_next_one_makes_it(ring: KeyRing, tmp_path: Path) -> None:
    ring.sign(b"x", TYPE)
    (tmp_path / "keys/own").unlink()  # written last
    again = KeyRing(tmp_path / "keys")
    assert again.verify(again.sign(b"y", TYPE), TYPE) == b"y"


# Trust.


def test_an_unknown_key_is_untrusted_until_it_is_trusted_and_after_it_is_distrusted(
    ring: KeyRing, tmp_path: Path
) -> None:
    other = KeyRing(tmp_path / "other")
    envelope = other.sign(b"x", TYPE)
    with pytest.raises(BlockUntrusted):
        ring.verify(envelope, TYPE)
    assert ring.trust(other.public_key) == other.key_id
    assert ring.trusted() == (other.key_id,)
    assert ring.verify(envelope, TYPE) == b"x"
    ring.distrust(other.key_id)
    with pytest.raises(BlockUntrusted) as caught:
        ring.verify(envelope, TYPE)
    assert caught.value.hint
    with pytest.raises(NotFound):
        ring.distrust(other.key_id)


def test_the_own_key_cannot_be_distrusted_and_a_replaced_one_can(ring: KeyRing) -> None:
    envelope, old = ring.sign(b"x", TYPE), ring.key_id
    for act in (lambda: ring.distrust(old), ring.new):
        with pytest.raises(InputError):
            act()
    ring.new(replace=True)
    assert ring.key_id != old
    assert ring.verify(envelope, TYPE) == b"x"
    ring.distrust(old)
    with pytest.raises(BlockUntrusted):
        ring.verify(envelope, TYPE)


@pytest.mark.parametrize("content", ["", "zz", "{}", "11" * 32])
def test_a_damaged_record_is_not_believed_nor_overwritten_and_other_keys_still_are(
    ring: KeyRing, tmp_path: Path, content: str
) -> None:
    other = KeyRing(tmp_path / "other")
    ring.trust(other.public_key)
    path = tmp_path / f"keys/trusted/{other.key_id}.json"
    path.write_text(content)
    assert ring.verify(ring.sign(b"x", TYPE), TYPE) == b"x"
    for act in (
        lambda: ring.verify(other.sign(b"x", TYPE), TYPE), lambda: ring.trust(other.public_key),
        lambda: ring.trust_log(other.log.to_bytes()), ring.known,
    ):  # fmt: skip
        with pytest.raises(KeyLogInvalid) as caught:
            act()
        assert str(path) in caught.value.message
    assert path.read_text() == content


def test_a_damaged_record_of_its_own_is_an_error(ring: KeyRing, tmp_path: Path) -> None:
    ring.sign(b"x", TYPE)
    (tmp_path / f"keys/trusted/{ring.key_id}.json").write_text("{}")
    with pytest.raises(BadConfig):
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)


@pytest.mark.parametrize("keyid", ["", "../private", "A" * 64, "0" * 63, "0" * 64 + "\n", "../../" + "0" * 58])
def test_a_key_id_that_is_none_is_untrusted_and_reads_no_other_file(ring: KeyRing, keyid: str) -> None:
    with pytest.raises(BlockUntrusted):
        ring.verify(resigned(ring.sign(b"x", TYPE), keyid=keyid), TYPE)


# Envelopes.


@given(payload=st.binary(max_size=200), kind=st.text(max_size=20))
@settings(deadline=None)
def test_what_is_signed_comes_back(tmp_path_factory: pytest.TempPathFactory, payload: bytes, kind: str) -> None:
    ring = KeyRing(tmp_path_factory.getbasetemp() / "shared-keys")
    assert ring.verify(ring.sign(payload, kind), kind) == payload


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=300)
def test_a_flipped_bit_anywhere_in_an_envelope_is_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    ring = KeyRing(tmp_path_factory.getbasetemp() / "shared-keys")
    envelope = ring.sign(b"the payload of a test", TYPE)
    parts = [envelope.payload, envelope.payloadType, envelope.signatures[0].keyid, envelope.signatures[0].sig]
    raw = bytearray("\n".join(parts).encode())
    raw[place % len(raw)] ^= 1 << bit
    fields = raw.decode("latin-1").split("\n")
    if len(fields) != 4:
        return  # the bit was in what only this test puts between the fields, or made another such
    forged = Envelope(
        payload=fields[0], payloadType=fields[1], signatures=(SignatureEntry(keyid=fields[2], sig=fields[3]),)
    )
    with pytest.raises((SignatureInvalid, BlockUntrusted)):
        ring.verify(forged, TYPE)


def test_another_type_no_signature_or_two_are_refused(ring: KeyRing) -> None:
    envelope = ring.sign(b"x", TYPE)
    for forged in (
        changed(envelope, payloadType="application/other"),
        changed(envelope, signatures=()),
        changed(envelope, signatures=envelope.signatures * 2),
        resigned(envelope, sig=base64.b64encode(bytes(63)).decode()),
        resigned(envelope, sig=base64.b64encode(bytes(65)).decode()),
    ):
        with pytest.raises(SignatureInvalid):
            ring.verify(forged, TYPE)
    with pytest.raises(SignatureInvalid):
        ring.verify(envelope, "application/other")


def test_base64_in_any_other_spelling_is_refused(ring: KeyRing) -> None:
    envelope = ring.sign(b"\xff\xfe\xfd\xfb" * 4, TYPE)
    text = envelope.payload
    assert text.endswith("==")
    other_bits = text[:-3] + chr(ord(text[-3]) + 1) + "=="  # the bits that base64 leaves unused
    assert base64.b64decode(other_bits) == base64.b64decode(text)
    for spelling in (
        other_bits,
        text + "\n",
        " " + text,
        text.rstrip("="),
        text.replace("/", "_"),
        text + "====",
        "é" + text,
    ):
        with pytest.raises(SignatureInvalid):
            ring.verify(changed(envelope, payload=spelling), TYPE)
    malleable = resigned(
        envelope, sig=envelope.signatures[0].sig[:-3] + chr(ord(envelope.signatures[0].sig[-3]) + 1) + "=="
    )
    with pytest.raises(SignatureInvalid):
        ring.verify(malleable, TYPE)


# Weak keys.

D = -121665 * pow(121666, -1, PRIME) % PRIME


def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """Addition on edwards25519, -x² + y² = 1 + d x² y² (RFC 8032, 5.1)."""
    (x1, y1), (x2, y2) = p, q
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME) % PRIME,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME) % PRIME,
    )


def x_of(y: int) -> int:
    """An x with (x, y) on the curve."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (x * x - square) % PRIME == 0
    return x


def weak_encodings() -> list[bytes]:
    """Every 32 bytes that decode to a point of order 1, 2, 4 or 8, the non-canonical ones among them."""
    ys = [y for base in sorted(LOW_ORDER_Y) for y in (base, base + PRIME) if y < 2**255]
    return [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]


def test_the_low_order_points_are_the_eight_of_the_curve() -> None:
    points = {(x, y) for y in LOW_ORDER_Y for x in (x_of(y), -x_of(y) % PRIME)}
    assert len(points) == 8  # the curve's cofactor: there are no more
    for point in points:
        total = point
        for _ in range(3):
            total = add(total, total)
        assert total == (0, 1)


def test_every_weak_encoding_could_be_signed_for_by_anybody_and_is_refused(ring: KeyRing, tmp_path: Path) -> None:
    encodings = weak_encodings()
    assert len(set(encodings)) == 14
    ring.sign(b"x", TYPE)
    forgery = (1).to_bytes(32, "little") + bytes(32)
    for raw in encodings:
        assert is_weak(raw)
        with pytest.raises(KeyWeak):
            ring.trust(raw)
        # The library takes the forged signature for some payload; the ring takes it for none, even when the key was slipped in.
        payload = next(b"%d" % n for n in range(1000) if fits(raw, forgery, pae(TYPE, b"%d" % n)))
        record = Record(trusted=True, key=raw.hex())
        (tmp_path / f"keys/trusted/{sha256(raw)}.json").write_bytes(canonical(record))
        entry = SignatureEntry(keyid=sha256(raw), sig=base64.b64encode(forgery).decode())
        envelope = Envelope(payload=base64.b64encode(payload).decode(), payloadType=TYPE, signatures=(entry,))
        with pytest.raises(KeyWeak):
            ring.verify(envelope, TYPE)


def test_half_of_all_numbers_are_no_point_and_are_refused(ring: KeyRing) -> None:
    """A key's id typed in place of the key is one of them, every other time."""
    assert all(is_point(Ed25519PrivateKey.generate().public_key().public_bytes_raw()) for _ in range(20))
    none = [raw for n in range(40) if not is_point(raw := sha256(b"%d" % n).encode()[:31] + b"\0")]
    assert 8 < len(none) < 32
    for raw in none:
        with pytest.raises(KeyWeak):
            ring.trust(raw)


def fits(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@given(st.integers(PRIME, 2**255 - 1), st.integers(0, 1))
def test_encodings_that_are_not_canonical_are_weak(y: int, sign: int) -> None:
    assert is_weak((y | sign << 255).to_bytes(32, "little"))


def test_honest_keys_are_not_weak_and_other_lengths_are_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    for number in range(20):
        assert not is_weak(KeyRing(tmp_path / str(number)).public_key)
    for raw in (b"", bytes(31), bytes(33)):
        with pytest.raises(InputError):
            ring.trust(raw)


def test_a_full_disk_is_no_space_and_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DnaError) as caught:
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    assert caught.value.code == "no_space"
    left = {path.name for path in (tmp_path / "keys").rglob("*") if path.is_file()}
    assert left <= {".lock"}
