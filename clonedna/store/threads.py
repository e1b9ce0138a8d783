"""Threads and their messages in the home's database.

Promises: a message's number is its place, given once, also when several processes write to one thread; a deleted thread takes its messages
along; threads and messages are bounded (``MOST_THREADS``, ``MOST_MESSAGES``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import ForeignKey, Text, UniqueConstraint, delete, func, select, tuple_, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from clonedna.core.chat import CURSOR_PATTERN, KeptMessage, Thread, ThreadPage
from clonedna.core.errors import InputError, NotFound, TimedOut
from clonedna.store.database import Base, Conflict, Database

MOST_THREADS = 20_000
MOST_MESSAGES = 2_000
TRIES = 5
_CURSOR = re.compile(CURSOR_PATTERN)


class ThreadRow(Base):
    """One thread. ``team``, ``persona``: ids, kept as they were also when the slot is gone. ``owner``: who began it."""

    __tablename__ = "threads"

    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    created_at: Mapped[str]
    updated_at: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    persona: Mapped[str | None]
    team: Mapped[str | None] = mapped_column(index=True)
    owner: Mapped[str] = mapped_column(index=True)


class MessageRow(Base):
    """One message; ``answer`` is JSON."""

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("thread", "number", name="number_once"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    thread: Mapped[str] = mapped_column(ForeignKey("threads.id", ondelete="CASCADE"))
    number: Mapped[int]
    role: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str]
    reply_to: Mapped[str | None]
    answer: Mapped[str | None] = mapped_column(Text)


class SqlThreads:
    """Processes and threads of a process may share one. ``owner``: whose there are; ``None``: everybody's."""

    def __init__(self, database: Database, owner: str | None = None) -> None:
        self._database, self._owner = database, owner

    def create(self, title: str, *, model: str = "", persona: str | None = None, team: str | None = None) -> Thread:
        """Raises ``InputError`` when there are too many."""
        now = moment()
        row = ThreadRow(
            id=new_id("thread"),
            title=title,
            created_at=now,
            updated_at=now,
            model=model,
            persona=persona,
            team=team,
            owner=self._owner or "",
        )
        with self._database.session() as session:
            if (session.scalar(select(func.count()).select_from(ThreadRow)) or 0) >= MOST_THREADS:
                raise InputError(f"{MOST_THREADS} threads are kept already", "delete some: dna threads rm")
            session.add(row)
        return _thread(row, 0)

    def page(
        self, *, limit: int, after: str | None = None, team: str | None = None, personas: Sequence[str] | None = None
    ) -> ThreadPage:
        """Last used first, those behind the cursor ``after``; ``personas``: with one of these. Raises ``InputError`` for a cursor that is
        none."""
        wanted = select(ThreadRow).order_by(ThreadRow.updated_at.desc(), ThreadRow.id.desc()).limit(limit + 1)
        if team is not None:
            wanted = wanted.where(ThreadRow.team == team)
        if personas is not None:
            wanted = wanted.where(ThreadRow.persona.in_(personas))
        if self._owner is not None:
            wanted = wanted.where(ThreadRow.owner == self._owner)
        if after is not None:
            wanted = wanted.where(tuple_(ThreadRow.updated_at, ThreadRow.id) < tuple_(*cursor(after)))
        with self._database.session() as session:
            rows = list(session.scalars(wanted))
            shown = rows[:limit]
            grouped = (
                select(MessageRow.thread, func.count())
                .where(MessageRow.thread.in_([row.id for row in shown]))
                .group_by(MessageRow.thread)
            )
            counts = {row[0]: int(row[1]) for row in session.execute(grouped)}
        more = len(rows) > limit
        return ThreadPage(
            threads=tuple(_thread(row, counts.get(row.id, 0)) for row in shown),
            next=f"{shown[-1].updated_at}~{shown[-1].id}" if more else None,
        )

    def get(self, thread: str) -> Thread:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            row = self._found(session, thread)
            count = session.scalar(select(func.count()).where(MessageRow.thread == thread)) or 0
        return _thread(row, count)

    def messages(self, thread: str, *, limit: int, after: int = 0) -> tuple[KeptMessage, ...]:
        """Up to ``limit`` messages behind number ``after``, in their order."""
        wanted = (
            select(MessageRow)
            .where(MessageRow.thread == thread, MessageRow.number > after)
            .order_by(MessageRow.number)
            .limit(limit)
        )
        with self._database.session() as session:
            self._found(session, thread)
            return tuple(_message(row) for row in session.scalars(wanted))

    def last(self, thread: str, limit: int) -> tuple[KeptMessage, ...]:
        """The last ``limit`` messages, in their order."""
        wanted = select(MessageRow).where(MessageRow.thread == thread).order_by(MessageRow.number.desc()).limit(limit)
        with self._database.session() as session:
            self._found(session, thread)
            return tuple(_message(row) for row in session.scalars(wanted))[::-1]

    def rename(self, thread: str, title: str) -> Thread:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            self._found(session, thread).title = title
        return self.get(thread)

    def delete(self, thread: str) -> None:
        """The thread with its messages. Raises ``NotFound``."""
        with self._database.session() as session:
            session.delete(self._found(session, thread))

    def delete_of(self, team: str) -> None:
        """All threads of a team."""
        with self._database.session() as session:
            session.execute(delete(ThreadRow).where(ThreadRow.team == team))

    def add(
        self, thread: str, role: Literal["user", "assistant"], text: str, *, reply_to: str | None = None, answer: str | None = None
    ) -> KeptMessage:  # fmt: skip
        """Put a message at a thread's end. Raises ``NotFound``, ``InputError`` for a thread that is full."""
        for _ in range(TRIES):
            try:
                return self._add(thread, role, text, reply_to, answer)
            except Conflict:  # another process took this number
                continue
        raise TimedOut(f"others kept writing to {thread}", "try again")

    def _found(self, session: Session, thread: str) -> ThreadRow:
        """Somebody else's is as good as none: nobody learns that it is there."""
        row = session.get(ThreadRow, thread)
        if row is None or self._owner not in (None, row.owner):
            raise _no_thread(thread)
        return row

    def _add(
        self, thread: str, role: Literal["user", "assistant"], text: str, reply_to: str | None, answer: str | None
    ) -> KeptMessage:
        now = moment()
        with self._database.session() as session:
            # Written first: so the transaction waits here for others, and not in the middle.
            touch = update(ThreadRow).where(ThreadRow.id == thread).values(updated_at=now)
            if self._owner is not None:
                touch = touch.where(ThreadRow.owner == self._owner)
            touched = session.execute(touch)
            if not touched.rowcount:  # type: ignore[attr-defined]
                raise _no_thread(thread)
            number = 1 + (session.scalar(select(func.max(MessageRow.number)).where(MessageRow.thread == thread)) or 0)
            if number > MOST_MESSAGES and role == "user":
                raise InputError(f"the thread has {MOST_MESSAGES} messages", "begin another one")
            row = MessageRow(
                id=new_id("message"), thread=thread, number=number, role=role, text=text, created_at=now, reply_to=reply_to,
                answer=answer,
            )  # fmt: skip
            session.add(row)
        return _message(row)


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"


def moment() -> str:
    """Now, as rows keep it: texts of one length, so that their order is the times'."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def cursor(text: str) -> tuple[str, str]:
    """The time and id in a page's ``next``. Raises ``InputError``."""
    time, _, row = text.partition("~")
    if not _CURSOR.fullmatch(text):
        raise InputError(f"{text[:80]!r} is no place in a list", "give the next of the page before", param="after")
    return time, row


def _no_thread(thread: str) -> NotFound:
    return NotFound(f"no thread {thread[:80]!r}", "see: dna threads ls")


def _thread(row: ThreadRow, messages: int) -> Thread:
    return Thread(
        id=row.id, title=row.title, created_at=row.created_at, updated_at=row.updated_at, model=row.model, persona=row.persona,
        team=row.team, messages=messages,
    )  # fmt: skip


def _message(row: MessageRow) -> KeptMessage:
    return KeptMessage.model_validate(
        {
            "id": row.id, "number": row.number, "role": row.role, "text": row.text, "created_at": row.created_at,
            "reply_to": row.reply_to, "answer": row.answer,
        }
    )  # fmt: skip
