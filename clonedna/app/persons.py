"""How the records of one person are recognised on this machine: by the account's number, by digests of addresses, by logins with care.

A login is not a person: it is renamed, and then somebody else's. A consent that names an account decides by its number alone. Where nothing
but a login is known (a ``local-only`` block of a handle), and other accounts are known here to have had it, the one counts that was last
seen with it before the block was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from clonedna.core.block import ConsentRecord, SourceRecord
from clonedna.core.canonical import sha256
from clonedna.trust.consents_state import AccountState


class Person:
    """One person: an account (``state``), and ``digests`` of addresses. ``rivals``: accounts that are known here, it may be among them."""

    def __init__(
        self, state: AccountState | None = None, digests: Iterable[str] = (), rivals: Sequence[AccountState] = ()
    ) -> None:
        self.state, self.digests, self.logins, self.mails = state, set(digests), set[str](), set[str]()
        self._named: dict[str, str] = {}  # digests of addresses that have a login and no number, and that login
        if state is not None:
            self._rivals = [one for one in rivals if one.host == state.host and one.account_id != state.account_id]
            self.logins = {one.login.casefold() for one in state.logins}
            host = f"users.noreply.{state.host.partition(':')[0]}"
            self.numbered = (f"{state.account_id}+", f"@{host}")
            self.mails = {f"{login}@{host}" for login in self.logins}
            self._named = {sha256(f"{login}@{host}"): login for login in self.logins}
            names = {f"{state.account_id}+{login}@{host}" for login in self.logins}
            self.digests |= {sha256(name) for name in names} | {sha256(f"{state.account_id}@{state.host}")}

    @property
    def principal(self) -> str:
        """``12@host`` of an account, else empty."""
        return f"{self.state.account_id}@{self.state.host}" if self.state is not None else ""

    def is_named(self, whose: str, at: str) -> bool:
        """Whether ``whose`` (``12@host``, or the digest of an address), as it was written at that time, is this person."""
        if whose in self._named:
            return self._had(self._named[whose], at)
        return bool(whose) and (whose == self.principal or whose in self.digests)

    def wrote(self, mail: str) -> bool:
        mail = mail.casefold()
        if self.state is not None and mail.startswith(self.numbered[0]) and mail.endswith(self.numbered[1]):
            return True
        return bool(mail) and (mail in self.mails or sha256(mail) in self.digests)

    def is_in(self, consent: ConsentRecord, source: SourceRecord | None, made_at: str) -> bool:
        """Whether a block of this consent and source, made at that time, is of this person's work."""
        if consent.mode == "granted" or consent.identity_digest in self.digests:
            return consent.identity_digest in self.digests
        login = self._named.get(consent.identity_digest) or self._page(source)
        return login is not None and self._had(login, made_at)

    def _page(self, source: SourceRecord | None) -> str | None:
        """The login whose own page the source is, under any login that was seen."""
        if self.state is None or source is None or source.repository is None:
            return None
        parts = urlsplit(source.repository.url)
        login = parts.path.strip("/").casefold()
        return login if parts.netloc.casefold() == self.state.host and login in self.logins else None

    def _had(self, login: str, at: str) -> bool:
        """Whether this account is the one that is known to have had ``login`` then."""
        assert self.state is not None
        seen = sorted(
            (one.at, state.account_id) for state in (self.state, *self._rivals) for one in state.logins if one.login.casefold() == login
        )  # fmt: skip
        before = [one for one in seen if one[0] <= at]
        return (before[-1] if before else seen[0])[1] == self.state.account_id
