"""What is kept of a person who proved that an account is theirs."""

from __future__ import annotations

from pydantic import Field

from clonedna.core.value import Value


class KeptSession(Value):
    """``digest``: SHA-256 of the session's token, which is kept nowhere. ``nonce``: of the challenge that was answered; ``key``: with which
    key, as ssh-keygen prints it. Times as ``2026-11-21T18:00:00Z``."""

    digest: str = Field(repr=False)
    nonce: str
    host: str
    account_id: int
    login: str
    key: str
    proved_at: str
    expires_at: str
