"""This machine's signing key and the identities it believes; DSSE envelopes signed and verified with them.

    keys/own                     the identity of this machine's key log, made when a key is first needed
        /private/<key id>.pem    its current key, and the next one, which the log has promised
        /trusted/<identity>.json one record for each identity that was ever seen here, this machine's own among them

An identity is the id of the first key of a key log (``keylog.py``). A record is kept when its identity is distrusted: so a log that is
older than the one seen is refused even then. This machine's own identity is always trusted.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, Envelope
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import (
    BadConfig,
    BlockUntrusted,
    DnaError,
    InputError,
    KeyCompromised,
    KeyLogInvalid,
    KeyLogOlder,
    KeyWeak,
    NotFound,
    SignatureInvalid,
)
from clonedna.core.value import Value
from clonedna.trust import keylog
from clonedna.trust.files import disk_errors, locked, private_directory, write_private
from clonedna.trust.keylog import KeyLog
from clonedna.trust.keys_ed25519 import (
    KEY_BYTES,
    LOW_ORDER_Y,
    PRIME,
    SIGNATURE_BYTES,
    canonical_json,
    check_entry,
    decode,
    entry_of,
    is_point,
    is_weak,
    pae,
    public_bytes,
    sound,
)
from clonedna.trust.keys_private import PrivateKeys

__all__ = [
    "LOW_ORDER_Y",
    "PRIME",
    "SIGNATURE_BYTES",
    "KeyInfo",
    "KeyRing",
    "Record",
    "decode",
    "is_point",
    "is_weak",
    "pae",
]

MAX_RECORD = 64_000_000
_KEY_ID = re.compile(DIGEST_PATTERN)
_ASK = "ask its owner for the key log (dna keys log --out FILE), then: dna keys trust FILE"


class KeyInfo(Value):
    """One key of an identity, as this machine knows it. ``seq`` is ``None`` for a bare key whose log was not seen."""

    identity: str
    key_id: str
    public_key: str
    seq: int | None
    status: Literal["current", "rotated", "compromised"]
    trusted: bool
    own: bool
    kept: int


class Record(Value):
    """What is known of an identity: a bare key (``log`` empty) or a log. ``kept``: SHA-256 of what compromised keys had signed
    (DSSE's encoding of it) and this machine held before it learned of the compromise."""

    format: Literal["dna-trust/1"] = "dna-trust/1"
    trusted: bool
    key: str = Field(pattern=DIGEST_PATTERN)
    log: tuple[Envelope, ...] = ()
    kept: tuple[str, ...] = ()


class _Known(NamedTuple):
    record: Record
    log: KeyLog | None

    def standing(self) -> tuple[tuple[bytes, Literal["current", "rotated", "compromised"]], ...]:
        """Raw public keys with their standing, in the order of the log."""
        if self.log is None:
            return ((bytes.fromhex(self.record.key), "current"),)
        return tuple((entry.public_key, self.log.status(entry.seq)) for entry in self.log.entries)


def utc_now() -> datetime:
    return datetime.now(UTC)


class KeyRing:
    """This machine's key and those it trusts; fulfils ``core.seams.Signer``. Nothing is written before a key is needed."""

    def __init__(
        self,
        directory: Path,
        *,
        passphrase: str | None = None,
        ask: Callable[[], str] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._directory, self._passphrase, self._now = directory, passphrase, now
        self._own_file, self._trusted = directory / "own", directory / "trusted"
        self._keys = PrivateKeys(directory / "private", passphrase, ask)
        self._cache: dict[str, tuple[tuple[int, int, int], _Known]] = {}
        self._open: tuple[str, Ed25519PrivateKey] | None = None

    # This machine's own key.

    @property
    def log(self) -> KeyLog:
        """This machine's key log; made, with its first key, if there is none. Raises ``BadConfig`` when it is damaged, ``NoSpace``."""
        return self._own_log() or self._begin(self._passphrase)

    @property
    def has_key(self) -> bool:
        """Whether this machine has a key; none is made. Raises ``BadConfig`` when its log is damaged."""
        return self._own_log() is not None

    @property
    def public_key(self) -> bytes:
        """The current raw public key (32 bytes). Needs no passphrase. Raises as ``log``."""
        return self.log.current.public_key

    @property
    def key_id(self) -> str:
        """SHA-256 of ``public_key``, hex."""
        return self.log.current.key_id

    def new(self, passphrase: str | None = None, *, replace: bool = False) -> KeyLog:
        """A new identity with its first key. Raises ``InputError`` when there is one and not ``replace``; then the old one stays trusted,
        and its private keys stay where they are."""
        if self._own_log() is not None and not replace:
            raise InputError(
                f"this machine has a key: {self.key_id}",
                "replace it within its identity: dna keys rotate; another identity: dna keys new --replace",
            )
        return self._begin(passphrase, replace=replace)

    def rotate(self, *, compromised: bool = False, held: Callable[[], Iterable[Envelope]] = tuple) -> KeyLog:
        """Put the promised key in the current one's place and promise another; the old private key is removed.

        ``compromised``: whatever the old key signed is refused from now on, but for ``held``, what this machine holds already.
        Raises ``BadConfig``, ``KeyLocked``, ``NoSpace``; a failure leaves the key as it was.
        """
        log = self.log
        with locked(self._directory):
            known = self._own_known()
            if known is None or known.log is None or known.log.entries != log.entries:
                raise BadConfig("the key was changed by another process meanwhile", "dna keys show, then try again")
            old, passphrase = self._keys.load(log.current.key_id)
            new, _ = self._keys.load(log.current.next)
            kept = self._marks(held(), {log.current.key_id}) if compromised else frozenset[str]()
            following = self._keys.make(passphrase)
            longer = log.followed(
                old, new, sha256(public_bytes(following)), compromised=compromised, issued=self._time()
            )
            kept_now = tuple(sorted({*known.record.kept, *kept}))
            self._write(log.identity, known.record.model_copy(update={"log": longer.envelopes, "kept": kept_now}))
            self._keys.remove(log.current.key_id)
        return longer

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        """A DSSE envelope over exactly ``payload``. Raises ``BadConfig`` (the key file), ``KeyLocked``, ``NoSpace``."""
        key_id = self.key_id
        if self._open is None or self._open[0] != key_id:
            self._open = key_id, self._keys.load(key_id)[0]
        return Envelope(
            payload=base64.b64encode(payload).decode(),
            payloadType=payload_type,
            signatures=(entry_of(self._open[1], payload_type, payload),),
        )

    # Whom this machine believes.

    def verify(self, envelope: Envelope, payload_type: str) -> bytes:
        """The payload's exact bytes, when the envelope's one signature is by a key of a trusted identity.

        Raises ``BlockUntrusted`` (key not known or not trusted here), ``KeyWeak``, ``KeyCompromised``, or ``SignatureInvalid`` (anything
        else about the envelope).
        """
        again = "get the signed file again"
        if envelope.payloadType != payload_type:
            raise SignatureInvalid(f"signed as {envelope.payloadType[:80]!r}, not {payload_type!r}", again)
        if len(envelope.signatures) != 1:
            raise SignatureInvalid(f"{len(envelope.signatures)} signatures where there must be one", again)
        entry = envelope.signatures[0]
        payload = decode(envelope.payload, "the payload")
        decode(entry.sig, "the signature")
        known, raw, status = self._trusted_key(entry.keyid)
        check_entry(entry, raw, payload_type, payload)
        if status == "compromised" and _mark(payload_type, payload) not in known.record.kept:
            raise KeyCompromised(
                f"key {entry.keyid[:12]} was given up as compromised, and this was not known here before",
                "ask its maker for another, signed with the new key; whether this was signed before the theft cannot be told",
                key=entry.keyid,
            )
        return payload

    def trust(self, public_key: bytes) -> str:
        """Trust a bare public key (32 bytes) from now on; gives its identity. Raises ``InputError`` (length), ``KeyWeak``,
        ``KeyCompromised`` (its log, seen here, gave it up), ``NoSpace``."""
        if len(public_key) != KEY_BYTES:
            raise InputError(
                f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}",
                "give the 64 hex digits that its owner's dna keys show prints",
            )
        key_id = sha256(sound(public_key))
        self._make_directories()
        with locked(self._directory):
            for identity, known in self._all().items():
                for raw, status in known.standing():
                    if raw != public_key:
                        continue
                    if status == "compromised":
                        raise KeyCompromised(f"key {key_id[:12]} was given up as compromised", _ASK, key=key_id)
                    self._write(identity, known.record.model_copy(update={"trusted": True}))
                    return identity
            self._write(key_id, Record(trusted=True, key=public_key.hex()))
        return key_id

    def trust_log(self, data: bytes, *, held: Callable[[], Iterable[Envelope]] = tuple) -> KeyLog:
        """Trust the identity of a key log, or bring what is known of it up to date. ``held``: as in ``rotate``.

        Raises ``KeyLogInvalid``, ``KeyWeak``, ``KeyLogOlder`` (shorter than the one seen, or another story), ``NoSpace``.
        """
        log = keylog.read(data)
        self._make_directories()
        with locked(self._directory):
            everybody = self._all()
            before = everybody.get(log.identity)
            if before is not None and before.log is not None and not log.extends(before.log):
                older = before.log.extends(log)
                raise KeyLogOlder(
                    f"key log {log.identity[:12]} "
                    + (f"ends at {log.current.seq}; {before.log.current.seq} was seen here" if older else "differs from the one seen here"),
                    "ask its owner for the newest: dna keys log --out FILE", seen=before.log.current.seq, given=log.current.seq,
                )  # fmt: skip
            ids = {entry.key_id for entry in log.entries}
            for identity, known in everybody.items():
                if (
                    identity != log.identity
                    and known.log is not None
                    and ids & {sha256(raw) for raw, _ in known.standing()}
                ):
                    raise KeyLogInvalid("a key of this log belongs to another identity seen here", "do not trust it")
            lost = {entry.key_id for entry in log.entries if log.status(entry.seq) == "compromised"}
            kept = self._marks(held(), lost) if lost else frozenset[str]()
            kept |= frozenset(before.record.kept) if before else frozenset()
            record = Record(trusted=True, key=log.entries[0].key, log=log.envelopes, kept=tuple(sorted(kept)))
            self._write(log.identity, record)
            for bare in ids & set(everybody) - {log.identity}:  # trusted by its own before its log was seen
                self._file(bare).unlink(missing_ok=True)
        return log

    def distrust(self, key_id: str) -> None:
        """Believe an identity (given by itself or by any of its keys) no longer; its log stays, so that no older one is taken later.

        Raises ``NotFound``; ``InputError`` for this machine's own.
        """
        identity = next(
            (one.identity for one in self.known() if key_id in (one.identity, one.key_id) and one.trusted), None
        )
        if identity is None:
            raise NotFound(f"key {key_id[:64]!r} is not among the trusted ones", "see: dna keys list")
        if identity == self._own_identity():
            raise InputError("this is this machine's own key", "dna keys rotate, or first dna keys new --replace")
        with locked(self._directory):
            self._write(identity, self._read(identity).record.model_copy(update={"trusted": False}))

    def trusted(self) -> tuple[str, ...]:
        """The identities that are trusted, sorted."""
        return tuple(sorted(identity for identity, known in self._all().items() if known.record.trusted))

    def known(self) -> tuple[KeyInfo, ...]:
        """Every key of every identity seen here, sorted by identity and log position."""
        own = self._own_identity()
        return tuple(
            KeyInfo(
                identity=identity, key_id=sha256(raw), public_key=raw.hex(), seq=None if known.log is None else seq,
                status=status, trusted=known.record.trusted, own=identity == own, kept=len(known.record.kept),
            )
            for identity, known in sorted(self._all().items())
            for seq, (raw, status) in enumerate(known.standing())
        )  # fmt: skip

    def log_of(self, identity: str) -> KeyLog:
        """The newest log seen of an identity. Raises ``NotFound``, also when only a bare key of it is known."""
        known = self._all().get(identity)
        if known is None or known.log is None:
            raise NotFound(f"no key log of {identity[:64]!r} was seen here", "see: dna keys list")
        return known.log

    # Files.

    def _own_identity(self) -> str | None:
        try:
            text = self._own_file.read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadConfig(f"{self._own_file} cannot be read", "restore it from a copy") from error
        if not _KEY_ID.fullmatch(text):
            raise BadConfig(f"{self._own_file} does not hold an identity", "restore it from a copy")
        return text

    def _own_known(self) -> _Known | None:
        identity = self._own_identity()
        if identity is None:
            return None
        try:
            known = self._read(identity)
        except DnaError as error:
            raise BadConfig(
                f"this machine's key log cannot be believed: {error.message}", "restore it from a copy"
            ) from error
        if known.log is None:
            raise BadConfig("this machine's key log is missing", "restore it from a copy")
        return known

    def _own_log(self) -> KeyLog | None:
        known = self._own_known()
        return known.log if known else None

    def _begin(self, passphrase: str | None, *, replace: bool = False) -> KeyLog:
        self._make_directories()
        with locked(self._directory):
            log = self._own_log()
            if log is None or replace:  # another process may have made it while this one waited
                first, following = self._keys.make(passphrase), self._keys.make(passphrase)
                log = keylog.begin(first, sha256(public_bytes(following)), self._time())
                self._write(log.identity, Record(trusted=True, key=log.entries[0].key, log=log.envelopes))
                write_private(self._own_file, log.identity.encode() + b"\n")
        return log

    def _make_directories(self) -> None:
        private_directory(self._directory)
        private_directory(self._trusted)

    def _time(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _file(self, identity: str) -> Path:
        return self._trusted / f"{identity}.json"

    def _write(self, identity: str, record: Record) -> None:
        write_private(self._file(identity), canonical(record))

    def _all(self) -> dict[str, _Known]:
        """Every record. Raises ``KeyLogInvalid``, ``KeyWeak`` for a damaged one: it is never overlooked, and never overwritten."""
        return {identity: self._read(identity) for identity in self._identities()}

    def _identities(self) -> list[str]:
        return sorted(path.stem for path in self._trusted.glob("*.json") if _KEY_ID.fullmatch(path.stem))

    def _read(self, identity: str) -> _Known:
        path = self._file(identity)
        with disk_errors(path):
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            held = self._cache.get(identity)
            if held is not None and held[0] == stamp:
                return held[1]
            data = path.read_bytes() if status.st_size <= MAX_RECORD else b""
        known = _parse(identity, data, path)
        self._cache[identity] = stamp, known
        return known

    def _trusted_key(self, key_id: str) -> tuple[_Known, bytes, Literal["current", "rotated", "compromised"]]:
        """Whose key it is, and the key. Raises ``BlockUntrusted``; ``KeyLogInvalid``, ``KeyWeak`` when its own record is damaged."""
        if _KEY_ID.fullmatch(key_id):
            for identity in self._identities():
                try:
                    known = self._read(identity)
                except (KeyLogInvalid, KeyWeak):
                    if identity == key_id:
                        raise
                    continue  # somebody else's damaged record: its keys are believed no more, the others still are
                for raw, status in known.standing():
                    if known.record.trusted and sha256(raw) == key_id:
                        return known, raw, status
        raise BlockUntrusted(f"signed by key {key_id[:12]!r}, which is not trusted here", _ASK, key=key_id[:64])

    def _marks(self, envelopes: Iterable[Envelope], lost: set[str]) -> frozenset[str]:
        """Of what is held here: digests of what verifies as things stand and is signed by a key that is about to be lost."""
        found: set[str] = set()
        for envelope in envelopes:
            try:
                payload = self.verify(envelope, envelope.payloadType)
            except DnaError:
                continue
            if envelope.signatures[0].keyid in lost:
                found.add(_mark(envelope.payloadType, payload))
        return frozenset(found)


def _mark(payload_type: str, payload: bytes) -> str:
    return sha256(pae(payload_type, payload))


def _parse(identity: str, data: bytes, path: Path) -> _Known:
    """Raises ``KeyLogInvalid``, ``KeyWeak``."""
    try:
        record = Record.model_validate(canonical_json(data))
    except ValueError as error:
        raise KeyLogInvalid(
            f"the trust record {path} is damaged",
            "look at it; move it away, and trust the key again (an older log could then be taken)",
        ) from error
    key = sound(bytes.fromhex(record.key))
    log = keylog.checked(record.log) if record.log else None
    if sha256(key) != identity or (log is not None and log.identity != identity):
        raise KeyLogInvalid(f"the trust record {path} is about another identity", "move it away")
    return _Known(record, log)
