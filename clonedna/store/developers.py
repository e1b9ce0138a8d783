"""Sessions of people who proved that an account is theirs, in the database, so that every process over it knows them.

A nonce opens one session: the second attempt, in whichever process, is refused by the table itself. A session outlives the challenge that
opened it, so when it is gone its nonce is too old to be used again.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from clonedna.core.developers import KeptSession
from clonedna.core.errors import ConsentInvalid, Overloaded
from clonedna.store.database import Base, Conflict, Database

MOST = 10_000


class SessionRow(Base):
    """One session."""

    __tablename__ = "developer_sessions"
    __table_args__ = (Index("developer_nonce_once", "nonce", unique=True),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    nonce: Mapped[str]
    host: Mapped[str]
    account_id: Mapped[int] = mapped_column(BigInteger)
    login: Mapped[str]
    key: Mapped[str]
    proved_at: Mapped[str]
    expires_at: Mapped[str] = mapped_column(index=True)


class SqlSessions:
    """Kept sessions. Processes and threads may share one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, session: KeptSession, now: str) -> None:
        """Keep one more; those that are over go. Raises ``ConsentInvalid`` (replayed) when its nonce opened one before, ``Overloaded``."""
        try:
            with self._database.session() as made:
                made.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
                if (made.scalar(select(func.count()).select_from(SessionRow)) or 0) >= MOST:
                    raise Overloaded(f"{MOST} people are here already", "try again in some minutes", retry_after=60)
                made.add(SessionRow(**session.model_dump()))
        except Conflict:
            raise ConsentInvalid(
                "this challenge was answered before", "ask for a new one: dna developer challenge HANDLE", fault="replayed"
            ) from None  # fmt: skip

    def get(self, digest: str, now: str) -> KeptSession | None:
        """The session with this token's digest, while it lasts."""
        with self._database.session() as made:
            row = made.get(SessionRow, digest)
        if row is None or row.expires_at <= now:
            return None
        return KeptSession.model_validate({name: getattr(row, name) for name in KeptSession.model_fields})
