"""Ed25519 keys of this machine and those it trusts; DSSE envelopes signed and verified with them.

    keys/private.pem        this machine's key (PKCS8, mode 0600), made when it is first needed
        /trusted/<id>.pub   one trusted public key each: 64 hex digits of the raw 32 bytes

A key's id is the SHA-256 of its raw public key. This machine's own key is always trusted. Keys under which somebody other than
the owner could make a signature (points of low order, encodings that are not canonical) are refused wherever they turn up.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from clonedna.core.block import DIGEST_PATTERN, Envelope, SignatureEntry
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, BlockUntrusted, InputError, NotFound, SignatureInvalid
from clonedna.trust.files import disk_errors, locked, private_directory, write_private

SIGNATURE_BYTES = 64
PRIME = 2**255 - 19
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# The y coordinates of edwards25519's eight points of order 1, 2, 4 and 8 (the test derives them from the curve's equation).
LOW_ORDER_Y = frozenset({0, 1, PRIME - 1, _ORDER_8, PRIME - _ORDER_8})
_KEY_ID = re.compile(DIGEST_PATTERN)


def is_weak(public_key: bytes) -> bool:
    """Whether 32 raw bytes are a key that must not be used: low order, or not the canonical encoding of a point (RFC 8032, 5.1.3).

    A low-order key (14 encodings, six of them not canonical) lets anybody make one signature that fits many messages or all.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return len(public_key) != 32 or y >= PRIME or y in LOW_ORDER_Y


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE v1's pre-authentication encoding (https://github.com/secure-systems-lab/dsse, protocol.md).

    ``"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload``, lengths in bytes as ASCII decimals.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def decode(text: str, what: str) -> bytes:
    """Canonical standard base64, as this room writes it: no other text decodes to the same bytes. Raises ``SignatureInvalid``."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureInvalid(f"{what} is not base64: {error}", "get the signed file again") from error
    if base64.b64encode(data).decode() != text:
        raise SignatureInvalid(f"{what} is not in canonical base64", "get the signed file again")
    return data


class KeyRing:
    """This machine's key and the keys it trusts; fulfils ``core.seams.Signer``. Nothing is written before a key is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._private_file = directory / "private.pem"
        self._trusted = directory / "trusted"

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        private_directory(self._directory)
        private_directory(self._trusted)
        with locked(self._directory):
            if not self._private_file.exists():
                pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                write_private(self._private_file, pem)
            key = self._read_private()
            own = key.public_key().public_bytes_raw()
            # Also when the key was there: the process that made it may have died before this line.
            if not self._trusted_file(sha256(own)).exists():
                write_private(self._trusted_file(sha256(own)), own.hex().encode() + b"\n")
        return key

    def _read_private(self) -> Ed25519PrivateKey:
        with disk_errors(self._private_file):
            mode, pem = self._private_file.stat().st_mode, self._private_file.read_bytes()
        if mode & 0o077:
            raise BadConfig(f"{self._private_file} can be read by others (mode {mode & 0o777:o})", "chmod 600 it")
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadConfig(
                f"{self._private_file} is not a private key", "restore it, or move it away: a new key is made"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadConfig(f"{self._private_file} is not an Ed25519 key", "move it away: a new key is made")
        return key

    @property
    def public_key(self) -> bytes:
        """This machine's raw public key (32 bytes), to give to others; made if there is none. Raises ``BadConfig``, ``NoSpace``."""
        return self._private.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """SHA-256 of ``public_key``, hex; the key is made if there is none."""
        return sha256(self.public_key)

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        """A DSSE envelope over exactly ``payload``. Raises ``BadConfig`` when the key file is damaged, ``NoSpace``."""
        signature = self._private.sign(pae(payload_type, payload))
        return Envelope(
            payload=base64.b64encode(payload).decode(),
            payloadType=payload_type,
            signatures=(SignatureEntry(keyid=self.key_id, sig=base64.b64encode(signature).decode()),),
        )

    def verify(self, envelope: Envelope, payload_type: str) -> bytes:
        """The payload's exact bytes, when the envelope's one signature is by a trusted key.

        Raises ``BlockUntrusted`` (key not known here) or ``SignatureInvalid`` (anything else about the envelope).
        """
        again = "get the signed file again"
        if envelope.payloadType != payload_type:
            raise SignatureInvalid(f"signed as {envelope.payloadType!r}, not {payload_type!r}", again)
        if len(envelope.signatures) != 1:
            raise SignatureInvalid(f"{len(envelope.signatures)} signatures where there must be one", again)
        entry = envelope.signatures[0]
        payload, signature = decode(envelope.payload, "the payload"), decode(entry.sig, "the signature")
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureInvalid(f"a signature of {len(signature)} bytes, not {SIGNATURE_BYTES}", again)
        try:
            Ed25519PublicKey.from_public_bytes(self._trusted_key(entry.keyid)).verify(
                signature, pae(payload_type, payload)
            )
        except InvalidSignature:
            raise SignatureInvalid(f"the signature is not by key {entry.keyid[:12]}", again, key=entry.keyid) from None
        return payload

    def trust(self, public_key: bytes) -> str:
        """Trust a raw public key (32 bytes) from now on; gives its id. Raises ``InputError`` for a weak one, ``NoSpace``."""
        if len(public_key) != 32:
            raise InputError(
                f"an Ed25519 public key has 32 bytes, not {len(public_key)}",
                "give the 64 hex digits that its owner shows",
            )
        if is_weak(public_key):
            raise InputError(
                "this public key is weak: anybody can sign for it",
                "do not trust whoever gave it to you",
                key=public_key.hex(),
            )
        key_id = sha256(public_key)
        private_directory(self._directory)
        private_directory(self._trusted)
        write_private(self._trusted_file(key_id), public_key.hex().encode() + b"\n")
        return key_id

    def distrust(self, key_id: str) -> None:
        """Forget a trusted key: nothing that it signed verifies any more. Raises ``NotFound``; ``InputError`` for this machine's own."""
        if key_id not in self.trusted():
            raise NotFound(f"key {key_id!r} is not among the trusted ones", "see: dna keys show")
        if self._private_file.exists() and key_id == self.key_id:
            raise InputError(
                "this is this machine's own key", f"move {self._private_file} away first: a new key is made then"
            )
        with disk_errors(self._trusted_file(key_id)):
            self._trusted_file(key_id).unlink(missing_ok=True)

    def trusted(self) -> tuple[str, ...]:
        """The ids of the trusted keys, sorted."""
        return tuple(sorted(path.stem for path in self._trusted.glob("*.pub") if _KEY_ID.match(path.stem)))

    def _trusted_file(self, key_id: str) -> Path:
        return self._trusted / f"{key_id}.pub"

    def _trusted_key(self, key_id: str) -> bytes:
        """The raw key behind ``key_id``, checked against it. Raises ``BlockUntrusted``."""
        ask = "ask its owner for the public key, then: dna keys trust"
        # The pattern first: an id is part of a path.
        if not _KEY_ID.fullmatch(key_id) or not self._trusted_file(key_id).is_file():
            raise BlockUntrusted(f"signed by key {key_id[:12]!r}, which is not trusted here", ask, key=key_id[:64])
        try:
            key = bytes.fromhex(self._trusted_file(key_id).read_text("ascii"))
        except (OSError, ValueError) as error:
            raise BlockUntrusted(f"the trusted key {key_id[:12]} cannot be read: {error}", ask, key=key_id) from error
        if sha256(key) != key_id:
            raise BlockUntrusted(f"the file of the trusted key {key_id[:12]} holds another key", ask, key=key_id)
        if is_weak(key):
            raise BlockUntrusted(
                f"key {key_id[:12]} is weak: anybody can sign for it", "distrust it: dna keys distrust", key=key_id
            )
        return key
