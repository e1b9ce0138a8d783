"""Private keys on disk: a passphrase that is needed, never shown and hard to guess; files that only their owner can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.core.errors import BadConfig, DnaError, KeyLocked
from clonedna.trust.keys import KeyRing

TYPE = "application/example"
SECRET = "correct horse battery"


def pem(home: Path, ring: KeyRing) -> Path:
    return home / f"keys/private/{ring.key_id}.pem"


def test_a_protected_key_opens_with_its_passphrase_given_or_asked_for_once(tmp_path: Path) -> None:
    made = KeyRing(tmp_path / "keys", passphrase=SECRET)
    envelope = made.sign(b"x", TYPE)
    text = pem(tmp_path, made).read_text()
    assert text.startswith("scrypt-17-8-1 ")
    assert "ENCRYPTED" in text
    assert SECRET not in text
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        return SECRET

    ring = KeyRing(tmp_path / "keys", ask=ask)
    assert ring.key_id == made.key_id
    assert ring.verify(envelope, TYPE) == b"x"
    assert asked == []  # nothing of this needs the private key
    assert ring.sign(b"x", TYPE) == ring.sign(b"x", TYPE) == envelope
    assert len(asked) == 1


@pytest.mark.parametrize("given", [None, "", "wrong one"])
def test_without_it_or_with_another_nothing_is_signed_and_it_is_not_shown(tmp_path: Path, given: str | None) -> None:
    KeyRing(tmp_path / "keys").new(SECRET)
    with pytest.raises(KeyLocked) as caught:
        KeyRing(tmp_path / "keys", passphrase=given).sign(b"x", TYPE)
    said = str(caught.value.as_json())
    assert "DNA_KEY_PASSPHRASE" in said
    assert not any(secret in said for secret in (SECRET, "wrong one"))


def test_rotation_keeps_the_protection(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", passphrase=SECRET)
    ring.rotate()
    assert all("ENCRYPTED" in path.read_text() for path in (tmp_path / "keys/private").glob("*.pem"))
    with pytest.raises(KeyLocked):
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_key_that_others_can_read_or_write_is_refused_with_the_next_step(tmp_path: Path, mode: int) -> None:
    path = pem(tmp_path, KeyRing(tmp_path / "keys"))
    path.chmod(mode)
    with pytest.raises(BadConfig) as caught:
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    assert f"{mode:o}" in caught.value.message
    assert f"chmod 600 {path}" in caught.value.hint
    path.chmod(0o600)
    KeyRing(tmp_path / "keys").sign(b"x", TYPE)


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"scrypt-17-8-1 "]
)
def test_a_damaged_key_is_an_error_and_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = pem(tmp_path, KeyRing(tmp_path / "keys"))
    path.write_bytes(content)
    with pytest.raises(BadConfig):
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    assert path.read_bytes() == content


def test_another_key_a_link_or_nothing_in_its_place_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    path = pem(tmp_path, ring)
    following = path.with_name(f"{ring.log.current.next}.pem")
    right = path.read_bytes()
    path.write_bytes(following.read_bytes())
    with pytest.raises(BadConfig):
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    (tmp_path / "right.pem").write_bytes(right)
    path.unlink()
    with pytest.raises(BadConfig, match="is not there"):
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    path.symlink_to(tmp_path / "right.pem")
    with pytest.raises(DnaError) as caught:
        KeyRing(tmp_path / "keys").sign(b"x", TYPE)
    assert str(path) in caught.value.message
