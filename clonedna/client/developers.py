"""The developers of a server: what ``app.developers`` does for those of this machine."""

from __future__ import annotations

from collections.abc import Mapping

from clonedna.app.consent import Revocation
from clonedna.app.developer_values import Action, DeveloperSession, DeveloperView, ToSign
from clonedna.client.consent import handle_segment, text_of
from clonedna.client.wire import Wire

ROOT = "/api/v1/developer"


class RemoteDevelopers:
    """Use cases over a server. ``session``: the token that ``prove`` gave."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def challenge(self, handle: str, action: Action = "prove") -> ToSign:
        """What this person has to sign."""
        return self._wire.post(_at(handle, "/challenge"), ToSign, {"action": action})

    def prove(self, handle: str, statement: bytes, signature: bytes) -> DeveloperSession:
        """A session for who signed the challenge."""
        body = {"statement": text_of(statement), "signature": text_of(signature)}
        return self._wire.post(_at(handle, "/prove"), DeveloperSession, body)

    def show(self, handle: str, *, session: str = "") -> DeveloperView:
        """Everything with the session, what is public without."""
        return self._wire.ask("GET", _at(handle), DeveloperView, headers=_headers(session))

    def revoke(self, handle: str, *, session: str = "", statement: bytes = b"", signature: bytes = b"") -> Revocation:
        """Take back everything of this person there."""
        body = {"statement": text_of(statement), "signature": text_of(signature)}
        return self._wire.post(_at(handle, "/revoke"), Revocation, body, headers=_headers(session))


def _headers(session: str) -> Mapping[str, str] | None:
    return {"X-Developer-Session": session} if session else None


def _at(handle: str, what: str = "") -> str:
    return f"{ROOT}/{handle_segment(handle)}{what}"
