"""Consent as people use it: ask for it, take the answer, look how it stands, take it back, read the log.

Statements come and go as their exact bytes; ``consent_files`` keeps them in files that their authors can read and sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonedna.app.consent_files import Drafted, drafted, read_signed
from clonedna.app.parts import Parts
from clonedna.app.revoking import Effects, Revoking
from clonedna.core.block import ConsentRecord, Use
from clonedna.core.errors import BadReference, BlockNotFound, ConsentMissing, InputError
from clonedna.core.value import Value
from clonedna.trust.audit import AuditReport, Entry
from clonedna.trust.consents_granted import Standing
from clonedna.trust.consents_state import Given
from clonedna.trust.tombstones import Tombstone

__all__ = ["Consent", "Drafted", "Given", "Revocation", "Standing", "scope_words"]


class Revocation(Value):
    """A consent that was taken back, if it was one of an account, and what followed."""

    given: Given | None
    effects: Effects


class Consent:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def ask(
        self, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int = 365, revoke: bool = False
    ) -> Drafted:
        """The statement that ``handle`` has to sign; it is remembered here. Raises ``InputError``, ``ConsentInvalid``, ``Unavailable``."""
        handle = handle.removeprefix("@")
        if not revoke and not repositories:
            raise InputError(
                "say which repositories", "give --repository OWNER/NAME, or --repository '*' for all public ones"
            )
        return drafted(self.parts.granted_consents.request(handle, repositories, uses, days=days, revoke=revoke))

    def give(self, statement: bytes, *, signature: bytes | None = None, at: str = "") -> Given:
        """Take a statement that was signed, or that stands ``at`` a place of the account. Raises ``ConsentInvalid``, ``Unavailable``."""
        return self.parts.granted_consents.grant(statement, signature=signature, where=at)

    def check(self, handle: str, repositories: Sequence[str], use: Use) -> ConsentRecord:
        """The record under which this use is allowed now; the account is looked up. Raises ``ConsentMissing`` and its subclasses."""
        return self.parts.granted_consents.granted(handle.removeprefix("@"), repositories, use)

    def show(self, handle: str | None) -> tuple[Standing, ...]:
        """How one account stands (looked up now), or all that are known here (from the disk)."""
        if handle is None:
            return self.parts.granted_consents.standings()
        return (self.parts.granted_consents.standing(handle.removeprefix("@")),)

    def take_back(self, statement: bytes, signature: bytes) -> Revocation:
        """Take a revocation that the person signed, and carry it out. Raises ``ConsentInvalid``."""
        given = self.parts.granted_consents.revoke(statement, signature)
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
        return Revoking(self.parts).received(read_signed(tombstone))

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
