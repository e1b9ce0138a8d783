"""Consent on a server: what ``app.consent`` does for that of this machine, but for its log."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from clonedna.app.consent import Drafted, Given, Revocation, Standing
from clonedna.client.wire import Wire
from clonedna.core.block import ConsentRecord, Use
from clonedna.core.errors import InputError
from clonedna.core.value import Value

CONSENT = "/api/v1/consent"


class _Standings(Value):
    standings: tuple[Standing, ...]


class RemoteConsent:
    """Use cases over a server. Asking, giving and taking back need a key with the scope admin."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def ask(
        self, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int = 365, revoke: bool = False
    ) -> Drafted:
        """The statement that ``handle`` has to sign, for the server."""
        body = {
            "handle": handle,
            "repositories": list(repositories),
            "uses": list(uses),
            "days": days,
            "revoke": revoke,
        }
        return self._wire.post(f"{CONSENT}/request", Drafted, body)

    def give(self, statement: bytes, *, signature: bytes | None = None, at: str = "") -> Given:
        """Give the server a statement that was signed, or that stands ``at`` a place of the account."""
        body = {"statement": text_of(statement), "signature": text_of(signature or b""), "at": at}
        return self._wire.post(f"{CONSENT}/grant", Given, body)

    def check(self, handle: str, repositories: Sequence[str], use: Use) -> ConsentRecord:
        """The record under which the server may do this now."""
        return self._wire.get(
            f"{CONSENT}/{handle_segment(handle)}/check",
            ConsentRecord,
            query={"repository": list(repositories), "use": use},
        )

    def show(self, handle: str | None) -> tuple[Standing, ...]:
        """How one account stands there, or all; all need the scope admin."""
        if handle is None:
            return self._wire.get(CONSENT, _Standings).standings
        return (self._wire.get(f"{CONSENT}/{handle_segment(handle)}", Standing),)

    def take_back(self, statement: bytes, signature: bytes) -> Revocation:
        """Give the server a revocation that the person signed."""
        body = {"statement": text_of(statement), "signature": text_of(signature)}
        return self._wire.post(f"{CONSENT}/revoke", Revocation, body)

    def revoke(self, who: str) -> Revocation:
        """Take back in the server's own name."""
        return self._wire.post(f"{CONSENT}/revoke", Revocation, {"who": who})


def text_of(data: bytes) -> str:
    """What was signed, as the text that it must be. Raises ``InputError``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("this is no text, and so no statement", "give the file that was written or signed") from None


def handle_segment(handle: str) -> str:
    """A handle as one segment of a path. Raises ``InputError``."""
    plain = handle.removeprefix("@")
    if not plain or "/" in plain or plain in (".", ".."):
        raise InputError(f"{handle[:60]!r} is no handle", "give a GitHub handle")
    return quote(plain, safe="")
