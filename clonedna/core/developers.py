"""What is kept of a person who proved that an account is theirs, and of who was given their blocks."""

from __future__ import annotations

from typing import Literal

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


HolderWay = Literal["downloaded", "file", "pushed", "hub"]
"""``file``: one file of the person's work alone; ``hub``: put into a repository of a hub."""


class Holder(Value):
    """Somebody who was given a block from here, ``times`` times. ``who``: a token by its name and id, a key, a server or a repository."""

    way: HolderWay
    who: str
    first_at: str
    last_at: str
    times: int
