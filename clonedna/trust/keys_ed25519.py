"""Ed25519 and DSSE, strictly: which public keys may be used at all, what exactly is signed, and one spelling of each envelope.

A key's id is the SHA-256 of its raw public key. Keys under which somebody other than the owner could make a signature (points of low
order, encodings that are not canonical) and 32 bytes that are no point at all are refused wherever they turn up.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from clonedna.core.block import SignatureEntry
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import KeyWeak, SignatureInvalid

KEY_BYTES, SIGNATURE_BYTES = 32, 64
PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, PRIME) % PRIME
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# The y coordinates of edwards25519's eight points of order 1, 2, 4 and 8 (the test derives them from the curve's equation).
LOW_ORDER_Y = frozenset({0, 1, PRIME - 1, _ORDER_8, PRIME - _ORDER_8})
_AGAIN = "get the signed file again"


def is_weak(public_key: bytes) -> bool:
    """Whether 32 raw bytes are a key that must not be used: low order, or not the canonical encoding of a point (RFC 8032, 5.1.3).

    A low-order key (14 encodings, six of them not canonical) lets anybody make one signature that fits many messages or all.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return len(public_key) != KEY_BYTES or y >= PRIME or y in LOW_ORDER_Y


def is_point(public_key: bytes) -> bool:
    """Whether some x makes the encoded y a point of edwards25519, -x² + y² = 1 + d x² y² (RFC 8032, 5.1). Of random bytes, half are."""
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    square = (y * y - 1) * pow(_D * y * y + 1, -1, PRIME) % PRIME
    return square == 0 or pow(square, (PRIME - 1) // 2, PRIME) == 1


def sound(public_key: bytes) -> bytes:
    """``public_key`` itself. Raises ``KeyWeak`` for what must not be used as a key."""
    if is_weak(public_key) or not is_point(public_key):
        raise KeyWeak(
            f"{public_key.hex()[:64]} is no sound public key: others could sign for it, or nobody can",
            "do not trust whoever gave it to you; a key's id is not its public key: dna keys show prints both",
            key=public_key.hex()[:64],
        )
    return public_key


def public_bytes(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE v1's pre-authentication encoding (https://github.com/secure-systems-lab/dsse, protocol.md).

    ``"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload``, lengths in bytes as ASCII decimals.
    """
    kind = payload_type.encode("utf-8", "surrogatepass")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def decode(text: str, what: str) -> bytes:
    """Canonical standard base64, as this room writes it: no other text decodes to the same bytes. Raises ``SignatureInvalid``."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureInvalid(f"{what} is not base64: {error}", _AGAIN) from error
    if base64.b64encode(data).decode() != text:
        raise SignatureInvalid(f"{what} is not in canonical base64", _AGAIN)
    return data


def entry_of(private: Ed25519PrivateKey, payload_type: str, payload: bytes) -> SignatureEntry:
    """One signature of an envelope."""
    signature = private.sign(pae(payload_type, payload))
    return SignatureEntry(keyid=sha256(public_bytes(private)), sig=base64.b64encode(signature).decode())


def check_entry(entry: SignatureEntry, public_key: bytes, payload_type: str, payload: bytes) -> None:
    """Raises ``SignatureInvalid`` unless ``entry`` is ``public_key``'s signature, and ``KeyWeak`` for a key that must not be used."""
    signature = decode(entry.sig, "the signature")
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureInvalid(f"a signature of {len(signature)} bytes, not {SIGNATURE_BYTES}", _AGAIN)
    sound(public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, pae(payload_type, payload))
    except InvalidSignature:
        raise SignatureInvalid(
            f"the signature is not by key {entry.keyid[:12]}", _AGAIN, key=entry.keyid[:64]
        ) from None


def canonical_json(data: bytes) -> Any:
    """The value of canonical JSON (RFC 8785) in UTF-8; raises ``ValueError`` for any other spelling of it, duplicate keys included."""
    try:
        value = strict_json(data.decode())
        same = canonical(value) == data
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not same:
        raise ValueError("not canonical JSON")
    return value
