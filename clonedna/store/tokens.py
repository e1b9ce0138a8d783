"""The tokens of a server, in its database, so that every process over the same home or database knows them at once.

A row has the digest of a secret, or, until somebody claims it, of a pairing code; never both, never a secret itself. Each change is one
statement that says what must still be true, so that of many at once exactly one takes effect.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult, Index, Row, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from clonedna.core.access import KeptToken
from clonedna.core.errors import InputError, NotFound, Refused
from clonedna.store.database import Base, Conflict, Database
from clonedna.store.pooled import Pooled
from clonedna.store.remembered import Remembered

MOST = 1000
_ANY = None  # the question whether there are any, beside those for ids


class TokenRow(Base):
    """One token, or one that waits to be claimed. ``scopes``: with a space between; times as ``2026-11-21T18:00:00Z``."""

    __tablename__ = "tokens"
    __table_args__ = (
        Index("token_name_once", "name", unique=True),
        Index("token_code_once", "code_digest", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[str]
    lifetime: Mapped[int | None]
    created_at: Mapped[str]
    expires_at: Mapped[str | None]
    used_at: Mapped[str | None]
    digest: Mapped[str | None]
    code_digest: Mapped[str | None]
    code_until: Mapped[str | None]


TABLE = TokenRow.__table__


class SqlTokens:
    """Kept tokens. Processes and threads may share one."""

    def __init__(self, database: Database) -> None:
        self._database, self._open, self._kept = database, Pooled(database), Remembered(database)

    def close(self) -> None:
        """Close the connections that reading keeps open. It can be used again afterwards."""
        self._open.close()
        self._kept.close()

    def add(self, token: KeptToken, now: str) -> None:
        """Keep one more. One of its name whose pairing code ran out gives way. Raises ``InputError`` (the name is taken), ``Refused``."""
        try:
            with self._database.session() as session:
                session.execute(
                    delete(TokenRow).where(
                        TokenRow.name == token.name, TokenRow.digest.is_(None), TokenRow.code_until <= now
                    )
                )
                _refuse_many(session)
                session.add(_row(token))
        except Conflict:
            raise InputError(
                f"there is a token called {token.name}",
                f"choose another name, or: dna tokens rotate {token.name}",
                param="name",
            ) from None

    def get(self, token_id: str) -> KeptToken | None:
        """The token with this id."""

        def read() -> tuple[KeptToken, ...]:
            with self._open.reading() as connection:
                return tuple(map(_kept, connection.execute(select(TABLE).where(TABLE.c.id == token_id))))

        return next(iter(self._kept.ask(token_id, read)), None)

    def recall(self, token_id: str) -> tuple[KeptToken, ...] | None:
        """``get`` for who must not wait: the token, or nothing, where that is known and nothing was committed since; else ``None``."""
        return self._kept.recall(token_id)

    def named(self, name: str) -> KeptToken:
        """The token of this name. Raises ``NotFound``."""
        with self._database.session() as session:
            return _kept(_named(session, name))

    def all(self) -> tuple[KeptToken, ...]:
        """All, oldest first."""
        with self._database.session() as session:
            rows = session.scalars(select(TokenRow).order_by(TokenRow.created_at, TokenRow.name))
            return tuple(_kept(row) for row in rows)

    def any(self) -> bool:
        """Whether there is one with a secret, expired ones among them."""

        def read() -> tuple[str, ...]:
            with self._open.reading() as connection:
                return tuple(connection.scalars(select(TABLE.c.id).where(TABLE.c.digest.is_not(None)).limit(1)))

        return bool(self._kept.ask(_ANY, read))

    def recall_any(self) -> bool | None:
        """``any`` for who must not wait; ``None`` where that is not known."""
        found = self._kept.recall(_ANY)
        return None if found is None else bool(found)

    def replace(self, name: str, digest: str, *, expires_at: str | None, lifetime: int | None) -> None:
        """Put another secret in the place of this token's. Raises ``NotFound`` (also for one that waits to be claimed)."""
        with self._database.session() as session:
            done = session.execute(
                update(TokenRow)
                .where(TokenRow.name == name, TokenRow.digest.is_not(None))
                .values(digest=digest, expires_at=expires_at, lifetime=lifetime, used_at=None)
            )
            if not _count(done):
                raise _unknown(name)

    def remove(self, name: str) -> KeptToken:
        """Forget a token, or one that waits to be claimed; gives what it was. Raises ``NotFound``."""
        with self._database.session() as session:
            row = _named(session, name)
            if not _count(session.execute(delete(TokenRow).where(TokenRow.id == row.id))):
                raise _unknown(name)
            return _kept(row)

    def waiting(self, code_digest: str, now: str) -> KeptToken | None:
        """The token that waits for this code, if the code has not run out."""
        with self._database.session() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.code_digest == code_digest, TokenRow.code_until > now))
            return _kept(row) if row else None

    def claim(self, code_digest: str, now: str, *, digest: str, expires_at: str | None) -> bool:
        """Put a secret in the code's place; ``False`` when the code is claimed, or has run out. Of many at once one gets it."""
        with self._database.session() as session:
            done = session.execute(
                update(TokenRow)
                .where(TokenRow.code_digest == code_digest, TokenRow.code_until > now)
                .values(digest=digest, code_digest=None, code_until=None, created_at=now, expires_at=expires_at)
            )
            return _count(done) == 1

    def used(self, token_id: str, at: str) -> None:
        """Note when a token was last used."""
        with self._database.session() as session:
            session.execute(update(TokenRow).where(TokenRow.id == token_id).values(used_at=at))


def _refuse_many(session: Session) -> None:
    if (session.scalar(select(func.count()).select_from(TokenRow)) or 0) >= MOST:
        raise Refused(f"there are {MOST} tokens already", "revoke those that nobody needs: dna tokens ls")


def _named(session: Session, name: str) -> TokenRow:
    row = session.scalar(select(TokenRow).where(TokenRow.name == name))
    if row is None:
        raise _unknown(name)
    return row


def _unknown(name: str) -> NotFound:
    return NotFound(f"no token is called {name[:80]!r}", "see: dna tokens ls")


def _count(done: Any) -> int:
    assert isinstance(done, CursorResult)
    return done.rowcount


def _row(token: KeptToken) -> TokenRow:
    return TokenRow(**token.model_dump() | {"scopes": " ".join(token.scopes)})


def _kept(row: TokenRow | Row[Any]) -> KeptToken:
    fields = {name: getattr(row, name) for name in KeptToken.model_fields}
    return KeptToken.model_validate(fields | {"scopes": tuple(row.scopes.split())})
