"""Tokens as people use them: make one, look at them, put a new secret in one's place, take it back; and pair another machine.

A token is shown once, when it is made. A pairing code is read from one machine's terminal and typed at another, which gets the token for
it: so no token has to be sent by mail or copied through a chat.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from clonedna.app.parts import Parts, factory
from clonedna.core.access import NAME, SCOPES, KeptToken, Scope, token_name
from clonedna.core.errors import NotFound, Unauthorised
from clonedna.core.value import Value
from clonedna.trust.statements import moment, stamp
from clonedna.trust.tokens import code_digest, new_code, new_id, new_token, token_digest

if TYPE_CHECKING:
    from clonedna.store.tokens import SqlTokens

DAYS, MOST_DAYS = 90, 3650
CODE_MINUTES, MOST_MINUTES = 10, 60


class TokenOrder(Value):
    """A token that is asked for. ``days`` until it expires, ``None``: never."""

    name: str = Field(pattern=NAME, examples=["ada-laptop"])
    scopes: tuple[Scope, ...] = Field(min_length=1, max_length=len(SCOPES), examples=[["read", "chat"]])
    days: int | None = Field(default=DAYS, ge=1, le=MOST_DAYS)


class PairOrder(TokenOrder):
    """A token that another machine is to claim within ``minutes``."""

    minutes: int = Field(default=CODE_MINUTES, ge=1, le=MOST_MINUTES)


class Token(Value):
    """What may be seen of a token. ``waiting``: for somebody to claim its pairing code, until ``code_until``. ``used_at`` is coarse."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    status: Literal["live", "expired", "waiting"]
    created_at: str
    expires_at: str | None
    used_at: str | None
    code_until: str | None


class NewToken(Value):
    """A token with its secret, which is shown this once."""

    token: str = Field(repr=False)
    about: Token


class Pairing(Value):
    """A pairing code, which is shown this once, and the token that it will become."""

    code: str = Field(repr=False)
    about: Token


class Tokens:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self._kept: SqlTokens = factory("tokens", "sql")(parts.database)
        self._now: Callable[[], datetime] = factory("consents", "now")

    def new(self, order: TokenOrder) -> NewToken:
        """Make a token. Raises ``InputError`` when its name is taken, ``Refused`` when there are too many."""
        now, token_id = self._now(), new_id()
        token = new_token(token_id)
        kept = _ordered(order, token_id, now).model_copy(update={"digest": token_digest(token)})
        self._kept.add(kept, stamp(now))
        return NewToken(token=token, about=self._seen(kept))

    def list(self) -> tuple[Token, ...]:
        """All that were not revoked, oldest first."""
        return tuple(self._seen(kept) for kept in self._kept.all())

    def rotate(self, name: str) -> NewToken:
        """Another secret under the same name and id, for as long again; the old one is refused from now on. Raises ``NotFound``."""
        now, kept = self._now(), self._kept.named(token_name(name))
        if kept.digest is None:
            raise NotFound(f"the token {name} waits for its pairing code", "revoke it, and make another")
        token, expires_at = new_token(kept.id), _end(now, kept.lifetime)
        self._kept.replace(name, token_digest(token), expires_at=expires_at, lifetime=kept.lifetime)
        after = kept.model_copy(update={"digest": token_digest(token), "expires_at": expires_at, "used_at": None})
        return NewToken(token=token, about=self._seen(after))

    def revoke(self, name: str) -> Token:
        """Refuse a token, or its pairing code, from now on; its name is free again. Raises ``NotFound``."""
        return self._seen(self._kept.remove(token_name(name)))

    def pair(self, order: PairOrder) -> Pairing:
        """A code with which one other machine can claim a token, once. Raises as ``new``."""
        now, code = self._now(), new_code()
        until = stamp(now + timedelta(minutes=order.minutes))
        kept = _ordered(order, new_id(), now).model_copy(update={"code_digest": code_digest(code), "code_until": until})
        self._kept.add(kept, stamp(now))
        return Pairing(code=code, about=self._seen(kept))

    def claim(self, code: str) -> NewToken:
        """The token that a pairing code stands for; the code is worth nothing from then on. Raises ``Unauthorised``, and does not say
        whether the code was wrong, claimed, revoked or too old."""
        now, wanted = self._now(), code_digest(code)
        kept = self._kept.waiting(wanted, stamp(now)) if wanted else None
        if wanted is not None and kept is not None:
            token, expires_at = new_token(kept.id), _end(now, kept.lifetime)
            if self._kept.claim(wanted, stamp(now), digest=token_digest(token), expires_at=expires_at):
                after = {
                    "digest": token_digest(token),
                    "code_digest": None,
                    "code_until": None,
                    "expires_at": expires_at,
                }
                return NewToken(
                    token=token, about=self._seen(kept.model_copy(update=after | {"created_at": stamp(now)}))
                )
        raise Unauthorised("this pairing code opens nothing", "ask for another one: dna tokens pair NAME --scope ...")

    def _seen(self, kept: KeptToken) -> Token:
        status = "waiting" if kept.digest is None else "expired" if expired(kept, self._now()) else "live"
        return Token(
            id=kept.id, name=kept.name, scopes=kept.scopes, status=status, created_at=kept.created_at,
            expires_at=kept.expires_at, used_at=kept.used_at, code_until=kept.code_until,
        )  # fmt: skip


def expired(kept: KeptToken, now: datetime) -> bool:
    """Whether its time is over. A time that cannot be read is one that is over."""
    end = moment(kept.expires_at) if kept.expires_at is not None else None
    return kept.expires_at is not None and (end is None or now >= end)


def _ordered(order: TokenOrder, token_id: str, now: datetime) -> KeptToken:
    scopes: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope in order.scopes)
    return KeptToken(
        id=token_id, name=order.name, scopes=scopes, lifetime=order.days, created_at=stamp(now), expires_at=_end(now, order.days)
    )  # fmt: skip


def _end(now: datetime, days: int | None) -> str | None:
    return None if days is None else stamp(now + timedelta(days=days))
