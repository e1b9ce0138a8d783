"""A key log: who somebody is over time. The first key's id is the identity; each later key was promised by the one before it.

Entry n names key n, the hash of key n+1 (so that whoever steals key n cannot name the next one) and the digest of entry n-1, and is
signed by key n-1 and by key n itself; entry 0 by key 0. This is the pre-rotation of KERI (Samuel M. Smith, Key Event Receipt
Infrastructure, arXiv:1907.02143) without witnesses: one owner, one log, and everybody remembers the longest one they saw.

``rotated`` says that the key before was put away: what it signed stays valid. ``compromised`` says that somebody else may hold it. A
signature carries no time that could be believed, so "later" cannot be proven: whoever learns of it keeps what they knew before, and
refuses the rest.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, Envelope
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import DnaError, KeyLogInvalid, KeyWeak, SignatureInvalid
from clonedna.core.value import Value
from clonedna.trust.keys_ed25519 import canonical_json, check_entry, decode, entry_of, public_bytes, sound

FORMAT = "dna-keylog/1"
PAYLOAD_TYPE = "application/vnd.clonedna.keylog+json"
MAX_BYTES = 2_000_000
MAX_ENTRIES = 1000
_AGAIN = "get the log again from its owner: dna keys log --out FILE"

Action = Literal["new", "rotated", "compromised"]


class Entry(Value):
    """What one entry says. ``action`` is about the key *before* this one; ``issued`` is its owner's clock and proves nothing."""

    format: Literal["dna-keylog/1"] = FORMAT
    identity: str = Field(pattern=DIGEST_PATTERN)
    seq: int = Field(ge=0, lt=MAX_ENTRIES)
    action: Action
    key: str = Field(pattern=DIGEST_PATTERN)
    next: str = Field(pattern=DIGEST_PATTERN)
    previous: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    issued: str = Field(max_length=32)

    @property
    def public_key(self) -> bytes:
        return bytes.fromhex(self.key)

    @property
    def key_id(self) -> str:
        return sha256(self.public_key)


class _File(Value):
    format: Literal["dna-keylog/1"] = FORMAT
    entries: tuple[Envelope, ...] = Field(min_length=1, max_length=MAX_ENTRIES)


@dataclass(frozen=True)
class KeyLog:
    """A checked log. Make one with ``begin``, ``checked`` or ``read``; nothing else checks it."""

    envelopes: tuple[Envelope, ...]
    entries: tuple[Entry, ...]

    @property
    def identity(self) -> str:
        return self.entries[0].key_id

    @property
    def current(self) -> Entry:
        return self.entries[-1]

    def position(self, key_id: str) -> int | None:
        """Which entry named this key; ``None`` when none did."""
        return next((entry.seq for entry in self.entries if entry.key_id == key_id), None)

    def status(self, position: int) -> Literal["current", "rotated", "compromised"]:
        """What the entry after ``position`` says of its key."""
        if position == len(self.entries) - 1:
            return "current"
        return "compromised" if self.entries[position + 1].action == "compromised" else "rotated"

    def extends(self, older: KeyLog) -> bool:
        """Whether ``older`` is a beginning of this log (or all of it)."""
        return self.envelopes[: len(older.envelopes)] == older.envelopes

    def to_bytes(self) -> bytes:
        """The log as a file, canonical JSON."""
        return canonical(_File(entries=self.envelopes))

    def followed(
        self, old: Ed25519PrivateKey, new: Ed25519PrivateKey, next_id: str, *, compromised: bool, issued: str
    ) -> KeyLog:
        """This log with one entry more: ``new``, which the last entry promised. Raises ``KeyLogInvalid`` when it did not."""
        entry = Entry(
            identity=self.identity, seq=len(self.entries), action="compromised" if compromised else "rotated",
            key=public_bytes(new).hex(), next=next_id, previous=sha256(canonical(self.current)), issued=issued,
        )  # fmt: skip
        return checked((*self.envelopes, _signed(entry, old, new)))


def begin(first: Ed25519PrivateKey, next_id: str, issued: str) -> KeyLog:
    """A log of one entry: the identity is ``first``'s id."""
    raw = public_bytes(first)
    entry = Entry(identity=sha256(raw), seq=0, action="new", key=raw.hex(), next=next_id, issued=issued)
    return checked((_signed(entry, first),))


def read(data: bytes) -> KeyLog:
    """The log in a file. Raises ``KeyLogInvalid``, ``KeyWeak``."""
    if len(data) > MAX_BYTES:
        raise KeyLogInvalid(f"a key log of {len(data)} bytes, more than the {MAX_BYTES} allowed", _AGAIN)
    try:
        made = _File.model_validate(canonical_json(data))
    except ValueError as error:
        raise KeyLogInvalid("this is not a key log", _AGAIN) from error
    return checked(made.entries)


def checked(envelopes: tuple[Envelope, ...]) -> KeyLog:
    """Every entry follows from the one before. Raises ``KeyLogInvalid`` naming the entry (``facts["seq"]``), ``KeyWeak``."""
    entries: list[Entry] = []
    for seq, envelope in enumerate(envelopes):
        try:
            entries.append(_entry(envelope, entries))
        except KeyWeak:
            raise
        except DnaError as error:
            raise KeyLogInvalid(f"entry {seq} of the key log: {error.message}", _AGAIN, seq=seq) from error
    if not entries:
        raise KeyLogInvalid("a key log without an entry", _AGAIN)
    return KeyLog(envelopes, tuple(entries))


def _entry(envelope: Envelope, before: list[Entry]) -> Entry:
    if envelope.payloadType != PAYLOAD_TYPE:
        raise _invalid("not signed as an entry of a key log")
    payload = decode(envelope.payload, "the payload")
    try:
        entry = Entry.model_validate(canonical_json(payload))
    except ValueError as error:
        raise _invalid("not an entry of this format") from error
    raw = sound(entry.public_key)
    last = before[-1] if before else None
    signers = (raw,) if last is None else (last.public_key, raw)
    if entry.seq != len(before) or (entry.action == "new") != (last is None):
        raise _invalid("its number or action is not the one that comes here")
    if entry.identity != (before[0].key_id if before else entry.key_id):
        raise _invalid("it is about another identity")
    if entry.previous != (None if last is None else sha256(canonical(last))):
        raise _invalid("it does not name the entry before it")
    if last is not None and entry.key_id != last.next:
        raise _invalid("its key is not the one that the entry before it promised")
    if entry.key_id in {one.key_id for one in before} or entry.next in {entry.key_id, *(one.key_id for one in before)}:
        raise _invalid("a key comes twice")
    if tuple(one.keyid for one in envelope.signatures) != tuple(map(sha256, signers)):
        raise _invalid("it is not signed by exactly the key before it and its own")
    for one, key in zip(envelope.signatures, signers, strict=True):
        check_entry(one, key, PAYLOAD_TYPE, payload)
    return entry


def _invalid(message: str) -> SignatureInvalid:
    return SignatureInvalid(message, _AGAIN)


def _signed(entry: Entry, *keys: Ed25519PrivateKey) -> Envelope:
    payload = canonical(entry)
    return Envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=PAYLOAD_TYPE,
        signatures=tuple(entry_of(key, PAYLOAD_TYPE, payload) for key in keys),
    )
