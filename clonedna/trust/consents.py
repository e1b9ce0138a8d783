"""Consent as a mint uses it: ``self`` (self-asserted) and ``local-only`` here, ``granted`` by somebody else in ``consents_granted``.

``self``: the git identity configured here is among the authors, and a statement that says so is signed with this machine's key. Anybody
can configure any git identity, so the record is marked ``self-asserted`` and not verified: enough for minting and serving on one's own
machine, never for sharing. ``local-only`` claims nothing and can never be shared either. E-mail addresses are kept only as SHA-256.

    consents/<digest>.json   the record for one repository and set of identities; used again while it is valid
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, ConsentRecord, Envelope, SignatureEntry
from clonedna.core.canonical import canonical, digest, sha256, strict_json
from clonedna.core.errors import ConsentMissing, DnaError
from clonedna.core.people import Account
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.core.work import Identity
from clonedna.trust.consents_granted import GrantedConsents
from clonedna.trust.files import disk_errors, locked, private_directory, write_private
from clonedna.trust.statements import Use

PAYLOAD_TYPE = "application/vnd.clonedna.consent+json"
VALID_FOR = timedelta(days=365)
CLOCK_SKEW = timedelta(minutes=5)
AT_HOME = ("mint", "serve")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_ASK = "mint it again, or choose another mode with --consent"


class Statement(Value):
    """What is signed: this identity grants these uses of its work. ``identities``: digests of all authors that the mint names as one."""

    format: Literal["dna-consent/1"] = "dna-consent/1"
    action: Literal["grant"] = "grant"
    subject: str
    identity_digest: str = Field(pattern=DIGEST_PATTERN)
    identities: tuple[str, ...]
    repository: str
    uses: tuple[Literal["mint"], Literal["serve"]] = AT_HOME
    issued: str
    expires: str
    nonce: str
    serial: int = Field(ge=1)
    key_id: str
    evidence: Literal["self-asserted"] = "self-asserted"


def identity_digest(identity: Identity) -> str:
    """SHA-256 of the case-folded e-mail, or of ``name:`` and the case-folded name where there is none."""
    return sha256(identity.email.casefold() or f"name:{identity.name.casefold()}")


def utc_now() -> datetime:
    return datetime.now(UTC)


class SelfConsents:
    """Grants ``self`` and ``local-only``, and checks all modes; fulfils ``core.seams.Consents``.

    ``others``: who knows what other people granted; without it every such record is refused.
    """

    def __init__(
        self, directory: Path, signer: Signer, now: Callable[[], datetime] = utc_now, *, others: GrantedConsents | None = None
    ) -> None:  # fmt: skip
        self._directory, self._signer, self._now, self._others = directory, signer, now, others

    def granted(self, account: Account, repositories: Sequence[str], use: Use) -> ConsentRecord:
        """See ``GrantedConsents.granted``. Raises ``ConsentMissing`` where nobody knows of others' consents."""
        if self._others is None:
            raise ConsentMissing("this machine cannot verify a consent granted by somebody else", _ASK)
        return self._others.granted(account.login, repositories, use, account_id=account.id)

    def refuse_revoked(self, authors: Sequence[Identity], handle: str = "") -> None:
        """Raises ``ConsentRevoked`` when one of ``authors``, or the account called ``handle``, took everything back."""
        if self._others is not None:
            self._others.refuse_revoked([a.email for a in authors], [identity_digest(a) for a in authors], handle)

    def grant_self(self, you: Identity | None, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        """A self-asserted record for ``repository``; the stored one while it is valid.

        Raises ``ConsentMissing`` when ``you`` (this machine's git identity) is not one of ``authors``, or the stored record is damaged.
        """
        if you is None or not you.email:
            raise ConsentMissing(
                "git has no identity (name and e-mail) here", "git config user.email, or --consent local-only"
            )
        mine = next((author for author in authors if author.matches(you.name, you.email)), None)
        if mine is None:
            raise ConsentMissing(
                f"this machine's git identity ({you.name or 'no name'}) is not among the authors asked for",
                "mint your own work, ask the author, or use --consent local-only",
            )
        identities = tuple(sorted({identity_digest(author) for author in authors}))
        path = self._directory / f"{digest([identity_digest(you), identities, repository])}.json"
        private_directory(self._directory)
        with locked(self._directory):
            stored = self._read(path)
            last = self._verified(stored) if stored is not None else None
            if stored is not None and last is not None and self._untimely(last) is None:
                return stored
            record = self._grant(
                Statement(
                    subject=you.name or mine.name or "unnamed",
                    identity_digest=identity_digest(you),
                    identities=identities,
                    repository=repository,
                    issued=self._now().strftime(_TIME),
                    expires=(self._now() + VALID_FOR).strftime(_TIME),
                    nonce=secrets.token_hex(16),
                    serial=last.serial + 1 if last is not None else 1,
                    key_id=self._signer.key_id,
                )
            )
            write_private(path, canonical(record))
        return record

    def local_only(self, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        """Research on this machine: no statement, no times, equal for equal arguments. ``authors`` must not be empty."""
        return ConsentRecord(
            mode="local-only",
            status="none",
            uses=AT_HOME,
            repositories=(repository,),
            subject=next((author.name for author in authors if author.name), "unnamed"),
            identity_digest=identity_digest(authors[0]),
            evidence="none",
            verified=False,
            how="research on this machine: no consent was asked for, and the block can never be shared",
        )

    def check(self, record: ConsentRecord, use: str) -> None:
        """Raises ``ConsentMissing`` with the reason when ``record`` does not cover ``use``; the signed statement decides, not the record.

        For ``granted`` its subclasses ``ConsentInvalid`` and ``ConsentRevoked`` say more.
        """
        if record.mode == "granted" and self._others is not None:
            self._others.check(record, use)
            return
        if self._others is not None:
            self._others.refuse_revoked((), (record.identity_digest,), "")
        fault = self._fault(record, use)
        if fault is not None:
            raise ConsentMissing(
                f"no consent to {use} {', '.join(record.repositories)}: {fault}", _ASK, mode=record.mode, use=use
            )

    def _fault(self, record: ConsentRecord, use: str) -> str | None:
        if record.mode == "granted":
            return "this machine cannot verify a consent granted by somebody else"
        # Not what the record claims: these two modes never allow more than this.
        if use not in AT_HOME:
            return f"a {record.mode} record never covers {use!r}"
        if use not in record.uses:
            return f"the record covers only {', '.join(record.uses) or 'nothing'}"
        if record.mode == "local-only":
            return None if record.status == "none" and not record.statement else "a local-only record carries no grant"
        try:
            return self._untimely(self._verified(record))
        except ConsentMissing as error:
            return error.message

    def _untimely(self, statement: Statement) -> str | None:
        issued, expires = _time(statement.issued), _time(statement.expires)
        if issued is None or expires is None or not issued < expires <= issued + VALID_FOR:
            return "the statement's times are not valid"
        if self._now() < issued - CLOCK_SKEW:
            return f"it was issued in the future ({statement.issued})"
        return None if self._now() < expires else f"it expired at {statement.expires}"

    def _grant(self, statement: Statement) -> ConsentRecord:
        envelope = self._signer.sign(canonical(statement), PAYLOAD_TYPE)
        return self._record(statement, envelope.signatures[0].sig)

    def _verified(self, record: ConsentRecord) -> Statement:
        """The record's statement: signed by a trusted key, canonical, and saying what the record says. Raises ``ConsentMissing``."""
        envelope = Envelope(
            payload=base64.b64encode(record.statement.encode("utf-8", "surrogatepass")).decode(),
            payloadType=PAYLOAD_TYPE,
            signatures=(SignatureEntry(keyid=record.key_id, sig=record.signature),),
        )
        try:
            payload = self._signer.verify(envelope, PAYLOAD_TYPE)
            statement = Statement.model_validate(strict_json(payload))
        except DnaError as error:
            raise ConsentMissing(f"its statement cannot be believed: {error.message}", error.hint) from error
        except (ValueError, RecursionError) as error:
            raise ConsentMissing("what was signed is not a consent statement", _ASK) from error
        if (
            self._record(statement, record.signature) != record
        ):  # whose statement is the canonical text: also any other spelling
            raise ConsentMissing("the record says something else than its signed statement", _ASK)
        return statement

    @staticmethod
    def _record(statement: Statement, signature: str) -> ConsentRecord:
        return ConsentRecord(
            mode="self",
            status="granted",
            uses=statement.uses,
            repositories=(statement.repository,),
            subject=statement.subject,
            identity_digest=statement.identity_digest,
            evidence="self-asserted",
            verified=False,
            how="the git identity of the minting machine is among the authors; signed with its key; no account was checked",
            statement=canonical(statement).decode(),
            signature=signature,
            key_id=statement.key_id,
            issued_at=statement.issued,
            expires_at=statement.expires,
        )

    def _read(self, path: Path) -> ConsentRecord | None:
        if not path.exists():
            return None
        with disk_errors(path):
            data = path.read_bytes()
        try:
            return ConsentRecord.model_validate(strict_json(data))
        except (ValueError, RecursionError) as error:
            raise ConsentMissing(
                f"the stored consent {path} is damaged", "look at it, move it away, then mint again"
            ) from error


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
