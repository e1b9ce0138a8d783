"""Consent as people use it: ask for it, take the answer, look how it stands, take it back, read the log.

A statement lies in a file that its author can read and sign; nothing about it is kept anywhere else but on the machine that asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonedna.app.given import read_given
from clonedna.app.parts import Parts
from clonedna.app.revoking import Effects, Revoking
from clonedna.app.workspace import write_atomic
from clonedna.core.block import ConsentRecord, Use
from clonedna.core.errors import BadReference, BlockNotFound, ConsentMissing, InputError
from clonedna.core.value import Value
from clonedna.trust.audit import AuditReport, Entry
from clonedna.trust.consents_granted import Standing
from clonedna.trust.consents_state import Given
from clonedna.trust.statements import NAMESPACE, Statement, words
from clonedna.trust.tombstones import Tombstone

MAX_FILE = 64 * 1024


class Asked(Value):
    """A statement that was written to ``path``; ``command`` is what its author types to sign it, ``answer`` what you type then."""

    path: str
    statement: Statement
    words: str
    command: str
    answer: str


class Revocation(Value):
    """A consent that was taken back, if it was one of an account, and what followed."""

    given: Given | None
    effects: Effects


class Consent:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def request(
        self, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int = 365, revoke: bool = False,
        out: Path | None = None,
    ) -> Asked:  # fmt: skip
        """Write the statement that ``handle`` has to sign. Raises ``InputError``, ``ConsentInvalid``, ``Unavailable``."""
        handle = handle.removeprefix("@")
        if not revoke and not repositories:
            raise InputError(
                "say which repositories", "give --repository OWNER/NAME, or --repository '*' for all public ones"
            )
        if out is not None and out.exists():
            raise InputError(f"{out} exists already", "choose another name, or move it away")
        statement = self.parts.granted_consents.request(handle, repositories, uses, days=days, revoke=revoke)
        path = out or Path(f"{statement.action}-{statement.login}-{statement.serial}.json")
        if path.exists():
            raise InputError(f"{path} exists already", "give --out, or move it away")
        write_atomic(path, statement.data())
        answer = f"dna consent revoke --statement {path}" if revoke else f"dna consent grant {path}"
        return Asked(
            path=str(path), statement=statement, words=words(statement),
            command=f"ssh-keygen -Y sign -n {NAMESPACE} -f KEY {path}", answer=f"{answer} --signature {path}.sig",
        )  # fmt: skip

    def grant(self, path: Path, *, signature: Path | None = None, at: str = "") -> Given:
        """Take a signed statement, or one that stands ``at`` a place of the account. Without either, ``FILE.sig`` is looked for.

        Raises ``InputError`` for files that cannot be read, ``ConsentInvalid``, ``Unavailable``.
        """
        data = _read(path)
        beside = path.with_name(path.name + ".sig")
        if signature is None and not at and beside.exists():
            signature = beside
        return self.parts.granted_consents.grant(data, signature=_read(signature) if signature else None, where=at)

    def check(self, handle: str, repositories: Sequence[str], use: Use) -> ConsentRecord:
        """The record under which this use is allowed now; the account is looked up. Raises ``ConsentMissing`` and its subclasses."""
        return self.parts.granted_consents.granted(handle.removeprefix("@"), repositories, use)

    def show(self, handle: str | None) -> tuple[Standing, ...]:
        """How one account stands (looked up now), or all that are known here (from the disk)."""
        if handle is None:
            return self.parts.granted_consents.standings()
        return (self.parts.granted_consents.standing(handle.removeprefix("@")),)

    def revoke_signed(self, statement: Path, signature: Path) -> Revocation:
        """Take a revocation that the person signed, and carry it out. Raises ``ConsentInvalid``, ``InputError``."""
        given = self.parts.granted_consents.revoke(_read(statement), _read(signature))
        return Revocation(given=given, effects=Revoking(self.parts).person(given))

    def revoke(self, who: str) -> Revocation:
        """Take back in this machine's own name: of an account (``handle`` or ``12@host``), else of the person behind a block.

        Raises ``ConsentMissing`` when neither is known here.
        """
        revoking, handle = Revoking(self.parts), who.removeprefix("@")
        try:
            given = self.parts.granted_consents.revoke_here(handle)
        except ConsentMissing as missing:
            try:
                return Revocation(given=None, effects=revoking.identity(who))
            except (BlockNotFound, BadReference):
                raise missing from None
        return Revocation(given=given, effects=revoking.person(given))

    def revoke_block(self, reference: str) -> Effects:
        """Revoke one block and what was made from it. Raises what resolving it raises."""
        return Revoking(self.parts).block(reference)

    def follow(self, tombstone: Path) -> Tombstone:
        """Revoke what another machine's tombstone names. Raises ``BlockUntrusted``, ``SignatureInvalid``, ``Corrupt``."""
        return Revoking(self.parts).received(_read(tombstone))

    def log(self) -> tuple[Entry, ...]:
        """The audit log, oldest first. Raises ``Corrupt`` when it was tampered with."""
        return self.parts.audit.entries()

    def verify_log(self) -> AuditReport:
        """Whether the log is whole; never raises for one that is not."""
        return self.parts.audit.verify()


def scope_words(given: Given | None) -> tuple[str, str, str]:
    """Uses, repositories and end of what was granted; empty for a revocation and for nothing."""
    scope = given.statement.scope if given else None
    return (", ".join(scope.uses), ", ".join(scope.repositories), scope.until) if scope else ("", "", "")


def _read(path: Path) -> bytes:
    return read_given(path, MAX_FILE, "give the file that was written or signed")
