"""Consent that somebody else gives: asked for, granted with evidence, checked at every use, taken back. One account, one state.

none -> requested -> granted(scope, evidence, until) -> revoked | expired. A grant needs keys or places that the account has *now*; a
revocation may be signed by any key that was ever seen published for it, or by this machine. An account is its number: a new login of
the same number is noted, another number under an old login is refused. Every change is written to the audit log first.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from clonedna.core.block import ConsentRecord
from clonedna.core.canonical import sha256
from clonedna.core.errors import ConsentMissing, ConsentRevoked, InputError, Unavailable
from clonedna.core.people import Account
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.trust.audit import AuditLog
from clonedna.trust.consents_state import AccountState, Given, States, Status
from clonedna.trust.evidence import Accounts, Checked, Signers, verify_ssh
from clonedna.trust.files import locked, private_directory
from clonedna.trust.keys import KeyRing
from clonedna.trust.statements import VALID_FOR, Statement, Use, invalid, made, parsed, stamp, untimely

REVOCATION_TYPE = "application/vnd.clonedna.revocation+json"


class Standing(Value):
    """How an account stands: what ``dna consent show`` prints. ``notes``: logins that changed."""

    host: str
    account_id: int
    login: str
    status: Status
    current: Given | None
    requests: tuple[Statement, ...]
    notes: tuple[str, ...] = ()


class GrantedConsents:
    """Consents of accounts at one host. ``tool``: see ``evidence.verify_ssh``."""

    def __init__(
        self, directory: Path, signer: Signer, accounts: Accounts, audit: AuditLog, now: Callable[[], datetime], *, tool: str | None = ""
    ) -> None:  # fmt: skip
        self._states = States(directory / "accounts", signer)
        self._signer, self._accounts, self._audit, self._now, self._tool = signer, accounts, audit, now, tool

    def request(
        self, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int = 365, revoke: bool = False
    ) -> Statement:  # fmt: skip
        """A statement for this person to sign: a grant of ``uses`` of ``repositories`` for ``days``, or a revocation.

        Raises ``InputError`` when there is no such account, ``ConsentInvalid`` for a scope that cannot be, ``Unavailable``.
        """
        if not 1 <= days <= VALID_FOR.days:
            raise InputError(f"{days} days", f"a consent lasts 1 to {VALID_FOR.days} days")
        account, now = self.account(handle), self._now()
        ends = stamp(now + timedelta(days=days))
        scope = (
            None if revoke else {"repositories": sorted(set(repositories)), "uses": sorted(set(uses)), "until": ends}
        )
        with self._holding():
            state = self._states.read(account.host, account.id).seen(account, now)
            statement = self._statement(account, state, scope, ends)
            parsed(statement.data())
            self._audit.append(
                "requested", statement.principal, statement=sha256(statement.data()), action=statement.action
            )
            self._states.write(state.asked(statement))
        return statement

    def grant(self, data: bytes, *, signature: bytes | None = None, where: str = "") -> Given:
        """Accept a statement of consent with its evidence: an armoured SSH signature, or ``where`` the account published it.

        Raises ``ConsentInvalid`` with the fault, ``ConsentRevoked``, ``Unavailable``.
        """
        statement, now = parsed(data), self._now()
        try:
            return self._grant(statement, signature, where, now)
        except ConsentMissing as error:
            self._audit.append(
                "refused",
                statement.principal,
                fault=str(error.facts.get("fault", error.code)),
                serial=str(statement.serial),
            )
            raise

    def revocation(self, handle: str) -> Statement:
        """A statement that takes everything back, for this person to sign. Nothing is kept of it, so that it may be asked for often.

        Raises as ``account``.
        """
        account = self.account(handle)
        return self._statement(account, self._states.read(account.host, account.id), None, "")

    def _grant(self, statement: Statement, signature: bytes | None, where: str, now: datetime) -> Given:
        if statement.action != "grant":
            raise invalid(
                "malformed", "this statement takes consent back", "give it to: dna consent revoke --statement FILE"
            )
        self._check_addressed(statement)
        self._check_times(statement)
        state = self._states.read(statement.host, statement.account_id)
        self._check_order(state, statement)
        self._check_asked(state, statement)
        account = self._account_of(statement)
        keys = self._accounts.keys(account.login)
        if signature is not None:
            checked = verify_ssh(
                statement, signature, Signers(principal=statement.principal, keys=keys), tool=self._tool
            )
        elif where:
            checked = self._published(statement, account, where)
        else:
            raise invalid(
                "no_evidence",
                "nothing shows that they said this",
                "give --signature FILE.sig, or --at URL of the profile file",
            )
        with self._holding():
            state = self._states.read(statement.host, statement.account_id)
            self._check_order(state, statement)
            given = self._given(statement, checked, signature, where)
            self._audit.append(
                "granted", statement.principal, statement=sha256(statement.data()), evidence=checked.kind
            )
            self._states.write(state.seen(account, now, keys).with_given(given))
        return given

    def revoke(self, data: bytes, signature: bytes) -> Given:
        """Accept a revocation that the person signed, with any key that is or ever was published for the account.

        Raises ``ConsentInvalid`` with the fault.
        """
        statement, now = parsed(data), self._now()
        if statement.action != "revoke":
            raise invalid("malformed", "this statement gives consent", "give it to: dna consent grant FILE")
        self._check_addressed(statement)
        self._check_times(statement)
        try:
            account = self._accounts.by_id(statement.account_id)
            keys = self._accounts.keys(account.login) if account else ()
        except Unavailable:  # keys of earlier times are enough, so no network can keep somebody from revoking
            account, keys = None, ()
        with self._holding():
            state = self._states.read(statement.host, statement.account_id)
            self._check_order(state, statement)
            signers = Signers(principal=statement.principal, keys=tuple(sorted({*state.known_keys, *keys})))
            checked = verify_ssh(statement, signature, signers, tool=self._tool)
            given = self._given(statement, checked, signature, "")
            state = state.seen(account, now, keys) if account else state
            return self._revoked(state, given)

    def revoke_here(self, handle: str) -> Given:
        """Take a consent back in this machine's own name: whoever was given it may always let go of it. Needs no network.

        Raises ``ConsentMissing`` when nothing is known of ``handle`` here.
        """
        with self._holding():
            state = self._known(handle)
            if state is None:
                raise ConsentMissing(f"no consent of {handle[:60]!r} is known here", "see: dna consent show")
            account = Account(host=state.host, id=state.account_id, login=state.logins[-1].login)
            return self._taken_back_here(state, account, "signed with this machine's key")

    def revoke_proven(self, account: Account, how: str) -> Given:
        """Take a consent back for an account whose owner was seen to ask for it; ``how`` that was seen. Also where nothing was granted:
        then nothing of theirs is minted here any more."""
        with self._holding():
            state = self._states.read(account.host, account.id).seen(account, self._now())
            return self._taken_back_here(state, account, f"{how}; signed with this machine's key")

    def _taken_back_here(self, state: AccountState, account: Account, how: str) -> Given:
        statement = self._statement(account, state, None, "")
        envelope = self._signer.sign(statement.data(), REVOCATION_TYPE)
        checked = Checked(kind="minter", key=envelope.signatures[0].keyid, how=how)
        return self._revoked(state, self._given(statement, checked, envelope.signatures[0].sig.encode(), ""))

    def _revoked(self, state: AccountState, given: Given) -> Given:
        self._audit.append(
            "revoked", given.statement.principal, statement=sha256(given.statement.data()), by=given.kind
        )
        self._states.write(state.with_given(given))
        return given

    # What is asked at every use.

    def account(self, handle: str) -> Account:
        """Who has this login now. Raises ``InputError`` when nobody has, ``Unavailable``."""
        account = self._accounts.by_login(handle)
        if account is None:
            raise InputError(f"no account {handle[:60]!r} at {self._accounts.host}", "check the spelling of the handle")
        return account

    def standing(self, handle: str) -> Standing:
        """How the account stands that has this login now. Raises as ``account`` does."""
        account, now = self.account(handle), self._now()
        with self._holding():
            state = self._states.read(account.host, account.id)
            if state.logins and state.logins[-1].login != account.login:
                state = state.seen(account, now)
                self._states.write(state)
        return self._standing(state, account.login)

    def standings(self) -> tuple[Standing, ...]:
        """Of every account that is known here, from the disk alone."""
        return tuple(
            self._standing(state, state.logins[-1].login if state.logins else "?") for state in self._states.all()
        )

    def granted(
        self, handle: str, repositories: Sequence[str], use: Use, *, account_id: int | None = None
    ) -> ConsentRecord:  # fmt: skip
        """The record under which ``use`` of this person's ``repositories`` (``owner/name``) is allowed now: of those that the scope covers.

        The account is looked up at each call; ``account_id`` is whom the login was meant for. Raises ``ConsentMissing`` with the next
        command, ``ConsentRevoked``, ``ConsentInvalid`` (``expired``, ``reused_login``, ``out_of_scope``), ``Unavailable``.
        """
        standing = self.standing(handle)
        wanted = (
            " ".join(f"--repository {name}" for name in repositories)
            if 0 < len(repositories) <= 5
            else "--repository '*'"
        )
        ask = f"dna consent request {handle} {wanted} --use {use}" + (" --use serve" if use == "mint" else "")
        if account_id is not None and account_id != standing.account_id:
            raise invalid(
                "reused_login", f"{handle} is account {standing.account_id} today, and {account_id} was meant", ask
            )
        if standing.current is None:
            if other := self._held_by_another(handle, standing.account_id):
                raise invalid(
                    "reused_login", f"{handle} consented as account {other}; today the login is account {standing.account_id}'s", ask
                )  # fmt: skip
            if standing.status == "requested":
                raise ConsentMissing(
                    f"{handle} has not answered the request of {standing.requests[-1].issued}",
                    "when it is signed: dna consent grant FILE --signature FILE.sig", use=use,
                )  # fmt: skip
            raise ConsentMissing(f"{handle} has not consented to {use} {', '.join(repositories)}", ask, use=use)
        scope = standing.current.statement.scope
        covered = tuple(sorted(name for name in repositories if scope is not None and scope.covers(name)))
        self._check_use(standing.current, covered or repositories, use)
        return _record(standing.current, covered)

    def check(self, record: ConsentRecord, use: str) -> None:
        """Whether a block's record still covers ``use``; from the disk alone, so at every request.

        Raises ``ConsentRevoked``, ``ConsentMissing`` when this machine never verified it, ``ConsentInvalid`` (``edited_record``, ...).
        """
        statement = parsed(record.statement.encode("utf-8", "surrogatepass"))
        state = self._states.read(statement.host, statement.account_id)
        known = next(
            (one for one in state.given if one.statement == statement and one.signature == record.signature), None
        )
        current = state.current
        if current is not None and current.statement.action == "revoke":
            raise _taken_back(current)
        if known is None or current is None:
            raise ConsentMissing(
                f"this machine has not verified the consent of {statement.login}",
                "verify it here: dna consent grant FILE --signature FILE.sig", use=use,
            )  # fmt: skip
        expected = _record(known, record.repositories)
        if statement.minter != self._signer.key_id:
            # When and how another machine checked it is that machine's word, which it signed with the block; this one checked by itself.
            expected = expected.model_copy(update={"how": record.how})
        if not record.repositories or record != expected:
            raise invalid("edited_record", f"the record says something else than what {statement.login} signed")
        self._check_use(current, record.repositories, use)

    def refuse_revoked(self, emails: Sequence[str], digests: Sequence[str], handle: str) -> None:
        """Raises ``ConsentRevoked`` when the login, a no-reply address or an identity is one of somebody who took everything back."""
        wanted = {email.casefold() for email in emails if email}
        for state in self._states.all():
            if state.current is None or state.current.statement.action != "revoke":
                continue
            host = f"users.noreply.{state.host.partition(':')[0]}"
            logins = {login.login.casefold() for login in state.logins}
            numbered = any(mail.startswith(f"{state.account_id}+") and mail.endswith(f"@{host}") for mail in wanted)
            plain = any(
                mail.endswith(f"@{host}") and "+" not in mail and mail.partition("@")[0] in logins for mail in wanted
            )
            # A login stands for the account only as long as no other account is known to have it.
            named = bool(handle) and state.logins[-1].login.casefold() == handle.casefold()
            if numbered or plain or named:
                raise _taken_back(state.current)
        if set(digests) & self._states.identities():
            raise ConsentRevoked(
                "this person took back what was minted from their code", "choose somebody else's work, or your own"
            )

    def revoke_identities(self, digests: Sequence[str]) -> None:
        """Refuse every later mint of these identities (SHA-256 of case-folded e-mail addresses)."""
        with self._holding():
            self._states.add_identities(frozenset(digests))

    def state(self, host: str, account_id: int) -> AccountState:
        """Everything that is known here of one account. Raises ``Corrupt``."""
        return self._states.read(host, account_id)

    def states(self) -> tuple[AccountState, ...]:
        """Of every account that is known here. Raises ``Corrupt``."""
        return self._states.all()

    def known(self, handle: str) -> AccountState | None:
        """What is known of the account that was last seen with this login, from the disk alone. Raises ``Corrupt``."""
        return self._known(handle)

    # The single checks.

    def _check_addressed(self, statement: Statement) -> None:
        if statement.host != self._accounts.host:
            raise invalid(
                "other_host",
                f"the statement is about {statement.host}, and this machine asks {self._accounts.host}",
                "set github_url",
            )
        if statement.minter != self._signer.key_id and statement.minter not in _believed(self._signer):
            raise invalid(
                "other_minter", f"the statement is for key {statement.minter[:12]}, which this machine does not trust"
            )

    def _check_times(self, statement: Statement) -> None:
        fault = untimely(statement, self._now())
        if fault == "expired":
            raise invalid(
                fault, f"the consent of {statement.login} ended at {statement.scope.until if statement.scope else ''}"
            )
        if fault is not None:
            raise invalid(fault, f"the statement was issued at {statement.issued}, which is not now")

    def _check_order(self, state: AccountState, statement: Statement) -> None:
        if any(one.statement.nonce == statement.nonce for one in state.given):
            raise invalid("replayed", "this statement was given here before")
        last = max((one.statement.serial for one in state.given), default=0)
        if statement.serial < last or (statement.serial == last and statement.action == "grant"):
            raise invalid("lower_serial", f"serial {statement.serial}, and {last} was given already")

    def _check_asked(self, state: AccountState, statement: Statement) -> None:
        """Of what this machine asked for, exactly that; what another trusted machine asked for, it has to answer for."""
        if statement.minter != self._signer.key_id:
            return
        asked = next((one for one in state.requests if one.nonce == statement.nonce), None)
        if asked is None:
            raise invalid("not_requested", "this machine did not ask for this statement")
        if asked.login == statement.login and asked.scope != statement.scope:
            raise invalid("edited_scope", "its scope is not the one that was asked for")
        if asked != statement:
            raise invalid(
                "other_handle" if asked.login != statement.login else "edited_text",
                "it is not the statement that was asked for",
            )

    def _account_of(self, statement: Statement) -> Account:
        """The account as it stands now. Raises ``reused_login`` or ``account_gone``."""
        account = self._accounts.by_login(statement.login)
        if account is None:
            account = self._accounts.by_id(statement.account_id)
            if account is None:
                raise invalid("account_gone", f"account {statement.account_id} is not there any more")
        if account.id != statement.account_id:
            raise invalid(
                "reused_login", f"{statement.login} is account {account.id} today, and account {statement.account_id} is meant",
                f"ask again: dna consent request {statement.login}",
            )  # fmt: skip
        return account

    def _published(self, statement: Statement, account: Account, where: str) -> Checked:
        data = self._accounts.written_by(account, where)
        if data.removesuffix(b"\n").removesuffix(b"\r") != statement.data():
            raise invalid(
                "other_content", "what stands there is not this statement", "put exactly the statement's file there"
            )
        return Checked(kind="profile-file", how="the statement stands in a place that only the account can write")

    def _check_use(self, current: Given, repositories: Sequence[str], use: str) -> None:
        statement, scope = current.statement, current.statement.scope
        if scope is None:
            raise _taken_back(current)
        self._check_times(statement)
        missing = [name for name in repositories if not scope.covers(name)]
        if use not in scope.uses or missing:
            what = f"{', '.join(scope.uses)} of {', '.join(scope.repositories)}"
            raise invalid(
                "out_of_scope", f"{statement.login} consented to {what}, not to {use} {', '.join(missing or repositories)}",
                f"dna consent request {statement.login} --repository {(missing or list(repositories))[0]} --use {use}",
            )  # fmt: skip

    def _statement(
        self, account: Account, state: AccountState, scope: Mapping[str, object] | None, ends: str
    ) -> Statement:
        return made(text_of={
            "action": "revoke" if scope is None else "grant", "host": account.host, "account_id": account.id, "login": account.login,
            "scope": scope, "minter": self._signer.key_id, "nonce": secrets.token_hex(16), "serial": state.next_serial(),
            "issued": stamp(self._now()), "expires": None if scope is None else ends,
        })  # fmt: skip

    def _given(self, statement: Statement, checked: Checked, signature: bytes | None, where: str) -> Given:
        return Given(
            statement=statement, kind=checked.kind, how=checked.how, key=checked.key, at=stamp(self._now()),
            signature=(signature or b"").decode("ascii", "replace"), where=where,
        )  # fmt: skip

    def _standing(self, state: AccountState, login: str) -> Standing:
        notes = tuple(
            f"{before.login} is called {after.login} since it was looked up at {after.at}"
            for before, after in zip(state.logins, state.logins[1:], strict=False)
        )
        return Standing(
            host=state.host, account_id=state.account_id, login=login, status=state.status(self._now()), current=state.current,
            requests=state.requests, notes=notes,
        )  # fmt: skip

    def _known(self, handle: str) -> AccountState | None:
        """By the newest login that was seen, of several accounts the one that was seen with it last; ``12@host`` is an account's number."""
        found = [
            state
            for state in self._states.all()
            if f"{state.account_id}@{state.host}" == handle
            or (state.logins and state.logins[-1].login.casefold() == handle.casefold())
        ]
        return max(found, key=lambda state: state.logins[-1].at if state.logins else "", default=None)

    def _held_by_another(self, handle: str, account_id: int) -> int | None:
        for state in self._states.all():
            names = {login.login.casefold() for login in state.logins}
            if state.account_id != account_id and state.current is not None and handle.casefold() in names:
                return state.account_id
        return None

    @contextmanager
    def _holding(self) -> Generator[None]:
        private_directory(self._states.directory)
        with locked(self._states.directory):
            yield


def _believed(signer: Signer) -> frozenset[str]:
    """Ids of the keys that are believed: of a key ring also those that followed an identity's first one."""
    later = signer.known() if isinstance(signer, KeyRing) else ()
    return frozenset([*signer.trusted(), *(one.key_id for one in later if one.trusted and one.status != "compromised")])


def _taken_back(given: Given) -> ConsentRevoked:
    return ConsentRevoked(
        f"{given.statement.login} took back every consent on {given.statement.issued[:10]}",
        "nothing of theirs is used any more; only a newer statement of theirs can change that", serial=given.statement.serial,
    )  # fmt: skip


def _record(given: Given, repositories: tuple[str, ...]) -> ConsentRecord:
    """The record of a grant for some repositories, as it goes into a block; equal for equal grants."""
    statement, scope = given.statement, given.statement.scope
    assert scope is not None
    parts = (f"{given.how}, checked at {given.at}", f"key {given.key}" if given.key else "", given.where)
    return ConsentRecord(
        mode="granted", status="granted", uses=scope.uses, repositories=repositories, subject=statement.login,
        identity_digest=sha256(statement.principal), evidence="ssh" if given.kind == "ssh" else "profile-file", verified=True,
        how=", ".join(part for part in parts if part), statement=statement.data().decode(), signature=given.signature,
        key_id=statement.minter, issued_at=statement.issued, expires_at=scope.until,
    )  # fmt: skip
