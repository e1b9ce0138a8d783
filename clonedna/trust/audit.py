"""What was done with consent, blocks and all that a home keeps: append-only, hash-chained, each line and the newest place signed.

    audit/log.jsonl   one signed entry a line (a DSSE envelope as canonical JSON); each names the SHA-256 of the line before it
         /head.json   signed: how many lines there are, and the SHA-256 of the last

Changing or leaving out a line breaks the chain behind it; cutting off the end disagrees with the head. Whoever holds this machine's
key can write another history: compare the head with a copy kept elsewhere. Entries hold numbers, digests and logins, never e-mail.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.core.block import Envelope
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import Corrupt, DnaError
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.trust.files import disk_errors, locked, private_directory, write_private
from clonedna.trust.statements import stamp

ENTRY_TYPE = "application/vnd.clonedna.audit+json"
HEAD_TYPE = "application/vnd.clonedna.audit-head+json"
TRIAL_TYPE = "application/vnd.clonedna.audit-trial+json"  # to see whether the key can sign; kept nowhere
START = "0" * 64
Kind = Literal[
    "requested",
    "granted",
    "revoked",
    "block_revoked",
    "derived_refused",
    "purged",
    "refused",
    "tombstone_received",
    "rolled_back",
    "proved",
    "changed",
]


class Entry(Value):
    """One line. ``about``: what it concerns (``12@host``, a block's id); ``facts``: a few words more."""

    seq: int
    at: str
    kind: Kind
    about: str
    facts: dict[str, str] = Field(default_factory=dict)
    previous: str


class Head(Value):
    seq: int
    last: str


class AuditReport(Value):
    """What ``verify`` found. ``line``: the first that is wrong, from 1. ``unsigned_tail``: sound lines behind the signed head."""

    ok: bool
    entries: int
    fault: str = ""
    line: int | None = None
    unsigned_tail: int = 0


class AuditLog:
    """Several processes may write one log."""

    def __init__(self, directory: Path, signer: Signer, now: Callable[[], datetime]) -> None:
        self._directory, self._signer, self._now = directory, signer, now
        self._log, self._head = directory / "log.jsonl", directory / "head.json"

    def append(self, kind: Kind, about: str, **facts: str) -> Entry:
        """Add an entry; it is on the disk when this returns. Raises ``Corrupt`` when the log's end is damaged, ``NoSpace``."""
        private_directory(self._directory)
        with locked(self._directory), disk_errors(self._log):
            count, last = self._sound_end()
            entry = Entry(
                seq=count + 1, at=stamp(self._now()), kind=kind, about=about, facts=dict(sorted(facts.items())),
                previous=last,
            )  # fmt: skip
            line = canonical(self._signer.sign(canonical(entry), ENTRY_TYPE))
            with os.fdopen(
                os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab"
            ) as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            head = Head(seq=entry.seq, last=sha256(line))
            write_private(self._head, canonical(self._signer.sign(canonical(head), HEAD_TYPE)))
        return entry

    def envelopes(self) -> Iterator[Envelope]:
        """What is signed in the log, whether it can be believed or not; what cannot be read is left out."""
        for data in (*self._lines(), *([self._head.read_bytes()] if self._head.exists() else [])):
            with suppress(ValueError, RecursionError):
                yield Envelope.model_validate(strict_json(data))

    def ready(self) -> None:
        """Nothing, when an entry could be added now: the log's end is sound, and this machine's key can sign. Raises as ``append``, and
        ``KeyLocked``."""
        private_directory(self._directory)
        with locked(self._directory), disk_errors(self._log):
            self._sound_end()
            self._signer.sign(b"{}", TRIAL_TYPE)

    def page(self, *, before: int | None, limit: int) -> tuple[Entry, ...]:
        """At most ``limit`` entries, newest first, those older than entry ``before``. Raises ``Corrupt`` when one of them cannot be
        believed; that none is missing only ``verify`` tells."""
        with disk_errors(self._log):
            lines = self._lines()
        end = len(lines) if before is None else max(0, min(before - 1, len(lines)))
        first = max(0, end - limit)
        report = self._checked(lines[first:end], first=first)
        if not report.ok:
            raise Corrupt(f"the audit log is damaged: {report.fault}", "look at: dna audit --verify", line=report.line)
        return tuple(_claimed(line) for line in reversed(lines[first:end]))

    def chosen(self, wanted: Callable[[Entry], bool]) -> tuple[Entry, ...]:
        """Those that are ``wanted``, oldest first, each one signed; that none is missing only ``verify`` tells. Raises ``Corrupt``."""
        with disk_errors(self._log):
            lines = self._lines()
        try:
            # What a line claims is read first: of a long log few are wanted, and checking a signature takes longer than reading.
            claimed = [line for line in lines if wanted(_claimed(line))]
            return tuple(self._entry(line) for line in claimed)
        except (DnaError, ValueError, RecursionError) as error:
            raise Corrupt("the audit log is damaged", "look at: dna consent log --verify") from error

    def entries(self) -> tuple[Entry, ...]:
        """All, oldest first. Raises ``Corrupt`` when one cannot be believed."""
        report = self.verify()
        if not report.ok:
            raise Corrupt(f"the audit log is damaged: {report.fault}", "look at: dna consent log --verify")
        return tuple(_claimed(line) for line in self._lines()[: report.entries])

    def verify(self) -> AuditReport:
        """Every signature, the chain, and the signed head. Never raises for a damaged log: it says what is wrong."""
        with disk_errors(self._log):
            lines = self._lines()
        report = self._checked(lines, first=0)
        if not report.ok:
            return report
        try:
            head = self._read_head()
        except DnaError as error:
            return report.model_copy(
                update={"ok": False, "fault": f"the signed head cannot be believed: {error.message}"}
            )
        if head is None:
            # One line without a head: killed between the two writes of the very first entry.
            missing = "the signed head is missing" if len(lines) > 1 else ""
            return report.model_copy(update={"ok": not missing, "fault": missing, "unsigned_tail": len(lines)})
        if head.seq > len(lines):
            return report.model_copy(
                update={"ok": False, "fault": f"cut off: {len(lines)} of {head.seq} entries are there"}
            )
        if head.seq < 1 or sha256(lines[head.seq - 1]) != head.last:
            return report.model_copy(update={"ok": False, "fault": "entry and head disagree", "line": head.seq})
        return report.model_copy(update={"unsigned_tail": len(lines) - head.seq})

    def _lines(self) -> list[bytes]:
        if not self._log.exists():
            return []
        data = self._log.read_bytes()
        return data.removesuffix(b"\n").split(b"\n") if data else []

    def _sound_end(self) -> tuple[int, str]:
        """How many lines there are, and the digest of the last, when the log's end can be believed. Raises ``Corrupt``."""
        data = self._log.read_bytes() if self._log.exists() else b""
        head = self._read_head()
        if head is not None and data.endswith(b"\n") and data.count(b"\n") == head.seq:
            last = sha256(data[data.rfind(b"\n", 0, -1) + 1 : -1])
            if last == head.last:  # the signed head says so: as good as the last line's own signature
                return head.seq, last
        # A writer was killed between the two files, or this is the first line, or the log is damaged.
        lines = self._whole_lines()
        report = self._checked(lines[-1:], first=len(lines) - 1) if lines else AuditReport(ok=True, entries=0)
        behind = head.seq > len(lines) or sha256(lines[head.seq - 1]) != head.last if head else len(lines) > 1
        if not report.ok or behind:
            raise Corrupt("the audit log is damaged, so nothing is added to it", "look at: dna consent log --verify")
        return len(lines), sha256(lines[-1]) if lines else START

    def _whole_lines(self) -> list[bytes]:
        """All lines, after what a killed writer left of a last one was taken away: nobody was ever told that it was written."""
        if self._log.exists() and (data := self._log.read_bytes()) and not data.endswith(b"\n"):
            with self._log.open("rb+") as file:
                file.truncate(data.rfind(b"\n") + 1)
        return self._lines()

    def _checked(self, lines: list[bytes], *, first: int) -> AuditReport:
        previous = START
        for number, line in enumerate(lines, first + 1):
            try:
                entry = self._entry(line)
            except (DnaError, ValueError, RecursionError) as error:
                why = error.message if isinstance(error, DnaError) else "not an entry"
                return AuditReport(ok=False, entries=len(lines), fault=f"entry {number}: {why}", line=number)
            if (
                entry.seq != number
                or (number > first + 1 and entry.previous != previous)
                or (number == 1 and entry.previous != START)
            ):
                fault = f"entry {number} does not follow the one before it"
                return AuditReport(ok=False, entries=len(lines), fault=fault, line=number)
            previous = sha256(line)
        return AuditReport(ok=True, entries=len(lines))

    def _entry(self, line: bytes) -> Entry:
        envelope = Envelope.model_validate(strict_json(line))
        return Entry.model_validate(strict_json(self._signer.verify(envelope, ENTRY_TYPE)))

    def _read_head(self) -> Head | None:
        if not self._head.exists():
            return None
        try:
            envelope = Envelope.model_validate(strict_json(self._head.read_bytes()))
            return Head.model_validate(strict_json(self._signer.verify(envelope, HEAD_TYPE)))
        except (ValueError, RecursionError) as error:
            raise Corrupt("the audit log's head is damaged", "look at: dna consent log --verify") from error


def _claimed(line: bytes) -> Entry:
    """What a line says, whether it was checked or not."""
    envelope = Envelope.model_validate(strict_json(line))
    return Entry.model_validate(strict_json(base64.b64decode(envelope.payload, validate=True)))
