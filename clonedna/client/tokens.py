"""The tokens and the audit log of a server: what ``app.tokens.Tokens`` and ``app.audit.Audit`` do for those of this machine."""

from __future__ import annotations

from clonedna.app.audit import AuditPage, AuditReport
from clonedna.app.tokens import NewToken, Pairing, PairOrder, Token, TokenOrder
from clonedna.client.wire import Wire
from clonedna.core.access import token_name
from clonedna.core.value import Value

TOKENS, PAIRINGS, AUDIT = "/api/v1/tokens", "/api/v1/pairings", "/api/v1/audit"


class _Page(Value):
    tokens: tuple[Token, ...]


class RemoteTokens:
    """Use cases over a server's tokens. All but ``claim`` need the scope admin."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def new(self, order: TokenOrder) -> NewToken:
        """Make a token. Raises ``InputError`` when its name is taken, ``Refused`` when there are too many."""
        return self._wire.post(TOKENS, NewToken, order)

    def list(self) -> tuple[Token, ...]:
        """All that were not revoked, oldest first."""
        return self._wire.get(TOKENS, _Page).tokens

    def rotate(self, name: str) -> NewToken:
        """Another secret under the same name and id; the old one is refused from now on. Raises ``NotFound``."""
        return self._wire.post(f"{TOKENS}/{token_name(name)}/rotate", NewToken)

    def revoke(self, name: str) -> Token:
        """Refuse a token, or its pairing code, from now on. Raises ``NotFound``."""
        return self._wire.delete(f"{TOKENS}/{token_name(name)}", Token)

    def pair(self, order: PairOrder) -> Pairing:
        """A code with which one other machine can claim a token, once. Raises as ``new``."""
        return self._wire.post(PAIRINGS, Pairing, order)

    def claim(self, code: str) -> NewToken:
        """The token that a pairing code stands for. Raises ``Unauthorised``, ``Overloaded`` after too many attempts."""
        return self._wire.post(f"{PAIRINGS}/claim", NewToken, {"code": code})


class RemoteAudit:
    """A server's audit log; needs the scope admin."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def page(self, *, before: int | None = None, limit: int = 50) -> AuditPage:
        """A page of the log, newest first; those older than entry ``before``. Raises ``Corrupt`` when an entry cannot be believed."""
        return self._wire.get(AUDIT, AuditPage, query={"before": before, "limit": limit})

    def verify(self) -> AuditReport:
        """Whether the whole log is sound, as the server says; never raises for one that is not."""
        return self._wire.get(f"{AUDIT}/verdict", AuditReport)
