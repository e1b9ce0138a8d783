"""What a person may know and undo of what was made of their work here: the audit of one developer.

Everybody sees what is public anyway: blocks that may be shared, their licence, how consent stands. Who proves that the account is theirs
(an SSH signature under a challenge, checked against the keys that the account publishes) gets a session of ``SESSION_MINUTES`` for this one
handle, sees every block with its papers, and may take everything back. The account's number counts, not the login.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from clonedna.app.consent import Revocation
from clonedna.app.developer_values import (
    Action,
    Audited,
    DeveloperBlock,
    DeveloperSession,
    DeveloperView,
    Gone,
    Holders,
    ToSign,
    sources_of,
)
from clonedna.app.holding import Holding
from clonedna.app.lineage import Loaded, graph_of
from clonedna.app.papers import consent_of, source_of
from clonedna.app.parts import Parts, factory
from clonedna.app.persons import Person
from clonedna.app.revoking import Revoking
from clonedna.app.throttle import Throttle
from clonedna.app.verdicts import unshareable
from clonedna.core.block import ConsentRecord, Manifest
from clonedna.core.canonical import sha256
from clonedna.core.developers import Holder, KeptSession
from clonedna.core.errors import ConsentInvalid, DnaError, InputError, Unauthorised
from clonedna.core.people import Account
from clonedna.trust.audit import Entry
from clonedna.trust.challenges import NAMESPACE, Challenge
from clonedna.trust.challenges import words as challenge_words
from clonedna.trust.consents_state import AccountState
from clonedna.trust.statements import NAMESPACE as CONSENT
from clonedna.trust.statements import Statement, parsed, stamp, words
from clonedna.trust.tombstones import Tombstone

if TYPE_CHECKING:
    from clonedna.store.developers import SqlSessions
    from clonedna.store.kin import Kin

SESSION_MINUTES = 30
ASKED_MINUTES, ASKED_MOST, ASKED_BY_ALL = 10, 20, 100
HOLDERS = "given out from here since that is recorded; copies that others gave on are not known"
_TOKEN = re.compile(r"dnad_[A-Za-z0-9_-]{43}")


class Developers:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._now: Callable[[], datetime] = factory("consents", "now")
        self._asked = Throttle(ASKED_MOST, ASKED_MINUTES * 60)
        self._by_all = Throttle(ASKED_BY_ALL, ASKED_MINUTES * 60)

    # Proving.

    def challenge(self, handle: str, action: Action = "prove") -> ToSign:
        """What this person has to sign: to prove the account (``prove``), or to take everything back at once (``revoke``).

        Raises ``InputError`` when nobody has this login, ``ConsentInvalid``, ``Unavailable``, ``Overloaded``.
        """
        handle = self._limited(handle)
        if action == "revoke":
            statement = self.parts.granted_consents.revocation(handle)
            return _to_sign(action, statement, words(statement), CONSENT, None)
        made = self.parts.challenges.make(handle)
        return _to_sign(action, made, challenge_words(made), NAMESPACE, made.expires)

    def prove(self, handle: str, statement: bytes, signature: bytes) -> DeveloperSession:
        """A session for who signed the challenge. Raises ``ConsentInvalid`` with the fault (``replayed``, ``expired``, ``wrong_key``, ...),
        ``Unavailable``, ``Overloaded``."""
        handle = self._limited(handle)
        proof = self.parts.challenges.proved(statement, signature)
        if proof.account.login.casefold() != handle.casefold():
            raise _other_handle(proof.account.login, handle)
        token = f"dnad_{secrets.token_urlsafe(32)}"
        now = self._now()
        ends = stamp(now + timedelta(minutes=SESSION_MINUTES))
        self._sessions.open(
            KeptSession(
                digest=sha256(token), nonce=proof.nonce, host=proof.account.host, account_id=proof.account.id, login=proof.account.login,
                key=proof.checked.key, proved_at=proof.at, expires_at=ends,
            ),
            stamp(now),
        )  # fmt: skip
        self.parts.audit.append(
            "proved", f"{proof.account.id}@{proof.account.host}", login=proof.account.login, key=proof.checked.key
        )
        return DeveloperSession(
            token=token, handle=proof.account.login, account_id=proof.account.id, host=proof.account.host, key=proof.checked.key,
            expires=ends,
        )  # fmt: skip

    # Looking.

    def show(self, handle: str, *, session: str = "") -> DeveloperView:
        """What is known of a developer here: everything with their ``session``, what is public without. From the disk alone.

        Raises ``Unauthorised`` for a session that is over, unknown, or another handle's.
        """
        handle = handle.removeprefix("@")
        if session:
            return self._whole(self._session(handle, session))
        return self._public(handle)

    def _public(self, handle: str) -> DeveloperView:
        consents, now = self.parts.granted_consents, self._now()
        state = consents.known(handle)
        if state is None:
            host = self.parts.accounts.host
            return DeveloperView(handle=handle, account_id=None, host=host, proven=False, standing="none", blocks=())
        kin: Kin = factory("registry", "kin")(self.parts.database, self.parts.store)
        named = [
            one.manifest for one in kin.of_handles([one.login for one in state.logins]) if one.status == "registered"
        ]
        person = self._person(state)
        shown = [self._block(one, state) for one in named if one.consent_mode == "granted" and self._is_of(person, one)]
        return DeveloperView(
            handle=state.logins[-1].login if state.logins else handle, account_id=state.account_id, host=state.host, proven=False,
            standing=state.status(now), blocks=_sorted([one for one in shown if one.shareable]),
        )  # fmt: skip

    def _whole(self, session: KeptSession) -> DeveloperView:
        state = self._state(session)
        person, everything = self._person(state), self.parts.registry.manifests()
        kin, shown, unreadable = Loaded(everything), list[DeveloperBlock](), list[str]()
        holders = Holding(self.parts).of([one.id for one in everything])
        for one in everything:
            if self._is_of(person, one):
                try:
                    shown.append(self._audited(one, state, kin, holders))
                except (DnaError, OSError):
                    unreadable.append(one.id)
        return DeveloperView(
            handle=session.login, account_id=session.account_id, host=session.host, proven=True, standing=state.status(self._now()),
            blocks=_sorted(shown), revoked=self._gone(person), unreadable=tuple(unreadable), given=state.current,
        )  # fmt: skip

    def _gone(self, person: Person) -> tuple[Gone, ...]:
        """Tombstones of this person's blocks, by what the audit log says of whose they were, oldest first."""
        found: dict[str, Tombstone] = {}

        def theirs(entry: Entry) -> bool:
            revoked = entry.kind in ("block_revoked", "derived_refused")
            return revoked and person.is_named(entry.facts.get("of", ""), entry.at)

        for entry in self.parts.audit.chosen(theirs):
            if (tombstone := self.parts.tombstones.get(entry.about)) is not None:
                found[tombstone.id] = tombstone
        holders = Holding(self.parts).of(found)
        return tuple(
            Gone(
                id=one.id, revoked_at=one.revoked_at, reason=one.reason, because=one.because, holders=_holders(holders.get(one.id, ()))
            )
            for one in found.values()
        )  # fmt: skip

    # Taking back.

    def revoke(self, handle: str, *, session: str = "", statement: bytes = b"", signature: bytes = b"") -> Revocation:
        """Take back everything of this person: by their ``session``, or by a revocation that they signed. It cannot be undone.

        Raises ``Unauthorised``, ``ConsentInvalid``, ``InputError`` when neither or both are given.
        """
        handle = handle.removeprefix("@")
        if bool(session) == bool(statement):
            raise InputError("who says so?", "give the session, or a signed revocation")
        consents = self.parts.granted_consents
        if session:
            kept = self._session(handle, session)
            account = Account(id=kept.account_id, login=kept.login, host=kept.host)
            given = consents.revoke_proven(
                account, f"asked for in a session that key {kept.key} opened at {kept.proved_at}"
            )
        else:
            said = parsed(statement)
            if said.login.casefold() != handle.casefold():
                raise _other_handle(said.login, handle)
            self._limited(handle)
            given = consents.revoke(statement, signature)
        return Revocation(given=given, effects=Revoking(self.parts).person(given))

    # What these need.

    @property
    def _sessions(self) -> SqlSessions:
        return factory("developers", "sql")(self.parts.database)

    def _limited(self, handle: str) -> str:
        handle = handle.removeprefix("@")
        self._by_all.take("")
        self._asked.take(handle.casefold())
        return handle

    def _session(self, handle: str, token: str) -> KeptSession:
        kept = self._sessions.get(sha256(token), stamp(self._now())) if _TOKEN.fullmatch(token) else None
        if kept is None or kept.login.casefold() != handle.casefold():
            raise Unauthorised(
                f"this session is over, or not one of {handle[:60]!r}",
                "prove the account again: dna developer challenge HANDLE",
            )
        return kept

    def _state(self, session: KeptSession) -> AccountState:
        """What is known of the session's account, with the login that it had when it was proved."""
        state = self.parts.granted_consents.state(session.host, session.account_id)
        if any(one.login.casefold() == session.login.casefold() for one in state.logins):
            return state
        account = Account(id=session.account_id, login=session.login, host=session.host)
        return state.seen(account, self._now())

    def _person(self, state: AccountState) -> Person:
        return Person(state, rivals=self.parts.granted_consents.states())

    def _is_of(self, person: Person, manifest: Manifest) -> bool:
        try:
            return Revoking(self.parts).is_of(person, manifest)
        except (DnaError, OSError, ValueError):  # revoked or removed meanwhile, or damaged: not shown as anybody's
            return False

    def _block(self, manifest: Manifest, state: AccountState) -> DeveloperBlock:
        consent = consent_of(self.parts.store.path(manifest.id))
        return DeveloperBlock(
            name=manifest.name, version=manifest.version, id=manifest.id, licence=manifest.license, mode=manifest.consent_mode,
            consent=self._standing(consent, state), until=consent.expires_at, shareable=unshareable(self.parts, manifest, consent) is None,
        )  # fmt: skip

    def _standing(
        self, consent: ConsentRecord, state: AccountState
    ) -> Literal["granted", "self-asserted", "none", "revoked", "expired"]:
        if consent.mode == "granted":
            standing = state.status(self._now())
            return standing if standing in ("granted", "revoked", "expired") else "none"
        return "self-asserted" if consent.mode == "self" else "none"

    def _audited(
        self, manifest: Manifest, state: AccountState, kin: Loaded, holders: Mapping[str, tuple[Holder, ...]]
    ) -> DeveloperBlock:
        path, graph = self.parts.store.path(manifest.id), graph_of(manifest, kin)
        audited = Audited(
            created_at=manifest.created_at, gate=manifest.gate.status, consent=consent_of(path), sources=sources_of(source_of(path)),
            pairs=manifest.candidate_pairs, holders=_holders(holders.get(manifest.id, ())),
            kin=tuple(one for one in graph.blocks if one.step != 0),
        )  # fmt: skip
        return self._block(manifest, state).model_copy(update={"audited": audited})


def _holders(found: tuple[Holder, ...]) -> Holders:
    return Holders(status="measured", how=HOLDERS, holders=found)


def _to_sign(action: Action, said: Challenge | Statement, told: str, namespace: str, expires: str | None) -> ToSign:
    return ToSign(
        action=action, handle=said.login, account_id=said.account_id, host=said.host, text=said.data().decode(), words=told,
        namespace=namespace, command=f"ssh-keygen -Y sign -n {namespace} -f KEY FILE", expires=expires,
    )  # fmt: skip


def _other_handle(said: str, handle: str) -> ConsentInvalid:
    return ConsentInvalid(
        f"this is by {said}, and {handle[:60]!r} was asked about", "ask for a challenge of this handle", fault="other_handle"
    )  # fmt: skip


def _sorted(blocks: Sequence[DeveloperBlock]) -> tuple[DeveloperBlock, ...]:
    return tuple(sorted(blocks, key=lambda one: (one.name, one.version, one.id)))
