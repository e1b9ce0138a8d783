"""Private keys on disk: ``<key id>.pem``, PKCS8, mode 0600, with or without a passphrase.

With one, the PEM's own password is 32 bytes that scrypt (RFC 7914; n 2^17, r 8, p 1: 128 MiB) makes of it: what the library itself
puts between password and key (PBKDF2 with 2048 rounds) is no hindrance to somebody who tries words. The salt stands on a line
before the PEM. A passphrase is never an argument of a command, and neither it nor a key ever stands in an error.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, KeyLocked
from clonedna.trust.files import disk_errors, private_directory, write_private
from clonedna.trust.keys_ed25519 import public_bytes

MAX_BYTES = 10_000
_SALT = re.compile(rb"scrypt-17-8-1 ([0-9a-f]{32})\n")


class PrivateKeys:
    """The private keys in one directory. ``passphrase`` is used where one is needed; else ``ask`` is called, once."""

    def __init__(self, directory: Path, passphrase: str | None, ask: Callable[[], str] | None) -> None:
        self._directory, self._passphrase, self._ask = directory, passphrase, ask

    def path(self, key_id: str) -> Path:
        return self._directory / f"{key_id}.pem"

    def make(self, passphrase: str | None) -> Ed25519PrivateKey:
        """A new key, written. Raises ``NoSpace``, ``Unavailable``."""
        key = Ed25519PrivateKey.generate()
        private_directory(self._directory)
        write_private(self.path(sha256(public_bytes(key))), _to_pem(key, passphrase))
        return key

    def load(self, key_id: str) -> tuple[Ed25519PrivateKey, str | None]:
        """The key, and the passphrase that opened it. Raises ``BadConfig`` (missing, damaged, readable by others), ``KeyLocked``."""
        path = self.path(key_id)
        data = _read(path)
        salt = _SALT.match(data)
        passphrase = self._opened_by() if salt else None
        password = _stretch(passphrase, bytes.fromhex(salt[1].decode())) if salt and passphrase else None
        try:
            key = load_pem_private_key(data[salt.end() :] if salt else data, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if salt:
                raise KeyLocked(
                    f"{path} does not open with this passphrase",
                    "set DNA_KEY_PASSPHRASE to the right one, or unset it and type it when asked",
                ) from error
            raise BadConfig(f"{path} is not a private key", "restore it from a copy") from error
        if not isinstance(key, Ed25519PrivateKey) or sha256(public_bytes(key)) != key_id:
            raise BadConfig(f"{path} is not the key that it is named after", "restore it from a copy")
        return key, passphrase

    def remove(self, key_id: str) -> None:
        with disk_errors(self.path(key_id)), suppress(FileNotFoundError):
            self.path(key_id).unlink()

    def _opened_by(self) -> str:
        if self._passphrase is None and self._ask is not None:
            self._passphrase = self._ask()
        if not self._passphrase:
            raise KeyLocked(
                "the private key is protected by a passphrase",
                "set DNA_KEY_PASSPHRASE, or run the command in a terminal and type it",
            )
        return self._passphrase


def _read(path: Path) -> bytes:
    with disk_errors(path):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BadConfig(
                f"{path} is not there", "restore it from a copy, or begin anew: dna keys new --replace"
            ) from None
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise BadConfig(f"{path} is not a file of yours", "restore it from a copy, owned by you")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise BadConfig(
                    f"{path} can be read by others (mode {mode:o})",
                    f"chmod 600 {path}; if others may have read it: dna keys rotate --compromised",
                )
            return file.read(MAX_BYTES)


def _to_pem(key: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    salt = secrets.token_bytes(16)
    how = BestAvailableEncryption(_stretch(passphrase, salt))
    return b"scrypt-17-8-1 " + salt.hex().encode() + b"\n" + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def _stretch(passphrase: str, salt: bytes) -> bytes:
    """32 bytes as 64 hex digits: a PEM password may not hold zero bytes everywhere it is read."""
    return (
        Scrypt(salt=salt, length=32, n=2**17, r=8, p=1)
        .derive(passphrase.encode("utf-8", "surrogatepass"))
        .hex()
        .encode()
    )
