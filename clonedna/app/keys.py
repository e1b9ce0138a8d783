"""What a person does with keys: make, show, rotate, believe, disbelieve, list, and hand the log to others.

Before a key is given up as compromised, here or in somebody's newer log, everything that this machine holds and that the key signed is
written down as known before: blocks in the store, the consents in them, and the consents kept beside it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clonedna.app.given import read_given
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord, Envelope, SignatureEntry
from clonedna.core.canonical import sha256, strict_json
from clonedna.core.errors import BadReference, DnaError, InputError, NotFound
from clonedna.core.value import Value

if TYPE_CHECKING:
    from clonedna.trust.keylog import KeyLog
    from clonedna.trust.keys import KeyInfo, KeyRing

_HEX = re.compile(r"[0-9a-f]{64}")
MAX_LOG_BYTES = 2_000_000
_INSTEAD = "give the 64 hex digits of a public key in full, or a file written by: dna keys log --out FILE"
MAX_SIGNATURE_BYTES = 2_000_000


class OwnKey(Value):
    """This machine's key as others need it. ``seq``: its place in the log of ``identity``."""

    identity: str
    key_id: str
    public_key: str
    seq: int
    next: str
    trusted: tuple[str, ...]


class OfferedKey(Value):
    """An identity that is believed where this was asked; ``has_log``: whether its key log is there to be fetched."""

    identity: str
    key_ids: tuple[str, ...]
    own: bool
    has_log: bool


class OfferedKeys(Value):
    """``own``: the identity of the machine that answers; empty while it has none."""

    own: str = ""
    identities: tuple[OfferedKey, ...]


class OfferedLog(Value):
    """``log``: the key log's exact text; whoever takes it checks it, and compares ``identity`` with its owner."""

    identity: str
    key_id: str
    seq: int
    log: str


class LogLine(Value):
    """One entry of a key log; ``issued`` is its owner's clock."""

    seq: int
    action: str
    key_id: str
    next: str
    issued: str


class Keys:
    """Use cases over the key ring."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.ring = cast("KeyRing", parts.signer)

    def own(self) -> OwnKey:
        log = self.ring.log
        current = log.current
        return OwnKey(
            identity=log.identity, key_id=current.key_id, public_key=current.key, seq=current.seq, next=current.next,
            trusted=self.ring.trusted(),
        )  # fmt: skip

    def new(self, passphrase: str | None, *, replace: bool) -> OwnKey:
        """A new identity. Raises ``InputError`` when there is one and not ``replace``, or for an empty passphrase."""
        if passphrase == "":
            raise InputError("an empty passphrase protects nothing", "type one, or leave --passphrase out")
        self.ring.new(passphrase, replace=replace)
        return self.own()

    def rotate(self, *, compromised: bool) -> OwnKey:
        self.ring.rotate(compromised=compromised, held=self._held)
        return self.own()

    def trust(self, what: str, *, fingerprint: str | None = None) -> str:
        """Believe a key: 64 hex digits of a public key, or a file with a key log (or with those digits); gives the identity.

        ``fingerprint``: the identity, or the public key's id, that it must be, in full. Raises ``InputError``, ``KeyWeak``,
        ``KeyLogInvalid``, ``KeyLogOlder``.
        """
        data = what.encode("utf-8", "replace")
        if not _HEX.fullmatch(what.lower()):
            data = read_given(Path(what), MAX_LOG_BYTES, _INSTEAD)
        text = data.strip().lower()
        bare = bytes.fromhex(text.decode()) if re.fullmatch(rb"[0-9a-f]{64}", text) else None
        if fingerprint is not None:
            self._compare(fingerprint.strip().lower(), bare, data)
        if bare is not None:
            return self.ring.trust(bare)
        return self.ring.trust_log(data, held=self._held).identity

    def distrust(self, key_id: str) -> None:
        self.ring.distrust(key_id)

    def list(self) -> tuple[KeyInfo, ...]:
        """Every key of every identity seen here, this machine's own among them."""
        return self.ring.known()

    def log(self, identity: str | None = None) -> tuple[LogLine, ...]:
        return tuple(
            LogLine(seq=one.seq, action=one.action, key_id=one.key_id, next=one.next, issued=one.issued)
            for one in self._log(identity).entries
        )

    def write_log(self, out: Path, identity: str | None = None) -> str:
        """Write the log for others to trust; gives its identity. Raises ``BadReference`` when ``out`` exists."""
        log = self._log(identity)
        _write_new(out, log.to_bytes())
        return log.identity

    def offered(self) -> OfferedKeys:
        """The identities believed here, this machine's own first."""
        found: dict[str, list[KeyInfo]] = {}
        known = self.ring.known()
        own = next((one.identity for one in known if one.own), "")  # looking makes no key
        for one in known:
            if one.trusted:
                found.setdefault(one.identity, []).append(one)
        return OfferedKeys(
            own=own,
            identities=tuple(
                OfferedKey(
                    identity=identity, key_ids=tuple(one.key_id for one in held), own=identity == own, has_log=held[0].seq is not None
                )
                for identity, held in sorted(found.items(), key=lambda item: item[0] != own)
            ),
        )  # fmt: skip

    def offered_log(self, key_id: str) -> OfferedLog:
        """The log of the believed identity that has this key. Raises ``NotFound``, also where only a bare key is known."""
        whose = next(
            (one.identity for one in self.ring.known() if one.trusted and key_id in (one.identity, one.key_id)), None
        )
        if whose is None:
            raise NotFound(f"key {key_id[:64]!r} is not among those believed here", "see: GET /api/v1/keys")
        log = self.ring.log_of(whose)
        return OfferedLog(
            identity=log.identity, key_id=log.current.key_id, seq=log.current.seq, log=log.to_bytes().decode()
        )

    @staticmethod
    def write_offered(offered: OfferedLog, out: Path) -> str:
        """Check a log that a server offers, and write it for a person to compare and trust; gives its identity.

        Raises ``KeyLogInvalid``, ``KeyWeak``, ``BadReference`` when ``out`` exists.
        """
        from clonedna.trust import keylog

        log = keylog.read(offered.log.encode())
        _write_new(out, log.to_bytes())
        return log.identity

    def _log(self, identity: str | None) -> KeyLog:
        return self.ring.log if identity is None else self.ring.log_of(identity)

    @staticmethod
    def _compare(fingerprint: str, bare: bytes | None, data: bytes) -> None:
        from clonedna.trust import keylog

        found = sha256(bare) if bare is not None else keylog.read(data).identity
        if fingerprint != found:
            raise InputError(
                f"this key's fingerprint is {found}, not {fingerprint[:80]}",
                "give all 64 digits, as its owner reads them to you; if they differ, do not trust it",
            )

    def _held(self) -> Iterator[Envelope]:
        """Everything signed that this machine holds. What cannot be read is not known."""
        for manifest in self.parts.registry.manifests():
            try:
                path = self.parts.store.path(manifest.id)
                yield Envelope.model_validate(_small_json(path / "signature.json"))
                yield from _consent(path / "consent.json")
            except (DnaError, OSError, ValueError):
                continue
        for path in sorted((self.parts.settings.home / "consents").glob("*.json")):
            yield from _consent(path)
        for path in sorted((self.parts.settings.home / "tombstones").glob("*.json")):
            with suppress(OSError, ValueError):
                yield Envelope.model_validate(_small_json(path))
        yield from self.parts.audit.envelopes()


def _write_new(out: Path, data: bytes) -> None:
    """Raises ``BadReference`` when ``out`` exists or cannot be written."""
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise BadReference(f"cannot write {out}: {error.strerror}", "choose another place") from error


def _consent(path: Path) -> Iterator[Envelope]:
    from clonedna.trust.consents import PAYLOAD_TYPE

    try:
        record = ConsentRecord.model_validate(_small_json(path))
    except (OSError, ValueError):
        return
    if record.signature and record.key_id:
        yield Envelope(
            payload=base64.b64encode(record.statement.encode("utf-8", "surrogatepass")).decode(),
            payloadType=PAYLOAD_TYPE,
            signatures=(SignatureEntry(keyid=record.key_id, sig=record.signature),),
        )


def _small_json(path: Path) -> Any:
    with path.open("rb") as file:
        return strict_json(file.read(MAX_SIGNATURE_BYTES))
