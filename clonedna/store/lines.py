"""The catalogue's lines: what a list or a search reads instead of manifests. One for each block that may be shown; none for a revoked one.

Lines, facets and words are written in the transaction that writes a block's row, and follow from the block's files alone.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Index,
    Integer,
    Select,
    String,
    and_,
    delete,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from clonedna.core.block import Manifest
from clonedna.core.canonical import canonical
from clonedna.core.catalogue import (
    LANGUAGES,
    BlockLine,
    BlockPage,
    Filters,
    ListQuery,
    Sort,
    domains_of,
    line_of,
    meaning_of,
)
from clonedna.core.errors import Corrupt, InputError
from clonedna.core.words import asked_words
from clonedna.store import texts
from clonedna.store.database import Base, Database
from clonedna.store.pooled import Pooled
from clonedna.store.remembered import Remembered
from clonedna.store.rollbacks import Rollback

_EXACT = String().with_variant(String(collation="C"), "postgresql")  # the same order everywhere: by code points
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


class Line(Base):
    """One block that may be listed: what lists are filtered and ordered by. ``version_key`` orders as versions do."""

    __tablename__ = "lines"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's own way; numbers are never given twice

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_EXACT, unique=True)
    name: Mapped[str] = mapped_column(_EXACT, index=True)
    version_key: Mapped[str] = mapped_column(_EXACT)
    status: Mapped[str] = mapped_column(_EXACT)
    created_at: Mapped[str] = mapped_column(_EXACT, index=True)
    base: Mapped[str] = mapped_column(_EXACT)
    licence: Mapped[str] = mapped_column(_EXACT)
    consent: Mapped[str] = mapped_column(_EXACT)
    handle: Mapped[str] = mapped_column(_EXACT)
    maturity: Mapped[float | None] = mapped_column(index=True)
    gain: Mapped[float | None] = mapped_column(index=True)


class Summary(Base):
    """What is told of a line: a ``BlockLine`` as JSON, and the text that is encoded. Apart, so that filters read little."""

    __tablename__ = "summaries"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    line: Mapped[str] = mapped_column(_EXACT)
    meaning: Mapped[str] = mapped_column(_EXACT)


class Facet(Base):
    """One thing that a block is about. ``kind``: ``domain``, or ``language`` for those that are one, too."""

    __tablename__ = "facets"
    __table_args__ = (Index("ix_facets_term", "kind", "term", "id"),)

    id: Mapped[str] = mapped_column(_EXACT, primary_key=True)
    kind: Mapped[str] = mapped_column(_EXACT, primary_key=True)
    term: Mapped[str] = mapped_column(_EXACT, primary_key=True)


class Tombstones(Protocol):
    """What is needed of the store."""

    def is_revoked(self, block_id: str) -> bool: ...
    def revoked(self) -> frozenset[str]: ...
    def rolled_back(self) -> frozenset[str]: ...
    def rollback(self, name: str) -> Rollback | None: ...


# What is written.


def enter(session: Session, manifest: Manifest, profile: str = "") -> None:
    """Give a block its line, in place of one that it has. ``profile``: the text of its ``profile.md``."""
    leave(session, (manifest.id,))
    shown, domains = line_of(manifest), domains_of(manifest)
    line = Line(
        id=shown.id, name=shown.name, version_key=version_key(shown.version), status=shown.status, created_at=shown.created_at,
        base=shown.base, licence=shown.licence, consent=shown.consent, handle=shown.handle, maturity=shown.maturity, gain=shown.gain,
    )  # fmt: skip
    session.add(line)
    session.add_all(Facet(id=shown.id, kind="domain", term=term) for term in domains)
    session.add_all(Facet(id=shown.id, kind="language", term=term) for term in domains if term in LANGUAGES)
    session.flush()
    session.add(Summary(number=line.number, line=canonical(shown).decode(), meaning=meaning_of(manifest)))
    found = texts.Words(
        title=f"{shown.name} {shown.handle} {shown.person}", subject=f"{shown.specialization} {' '.join(domains)}",
        told=manifest.capability.text[:20_000], profile=profile,
    )  # fmt: skip
    texts.add(session, line.number, found)


def enter_known(session: Session) -> None:
    """Lines for all rows of ``blocks`` that are there: for a database from before lines. A damaged row gets none until `dna reindex`."""
    rows = session.execute(text("SELECT manifest FROM blocks WHERE status != 'revoked' ORDER BY created_at")).scalars()
    for data in rows.all():
        try:
            manifest = Manifest.model_validate_json(data)
        except ValueError:
            continue
        enter(session, manifest)
    session.flush()


def leave(session: Session, ids: Collection[str]) -> None:
    """Take blocks out of lists and searches; unknown ids are ignored."""
    for block_id in ids:
        numbers = session.scalars(select(Line.number).where(Line.id == block_id)).all()
        if numbers:
            texts.drop(session, numbers)
            session.execute(delete(Summary).where(Summary.number.in_(numbers)))
            session.execute(delete(Line).where(Line.id == block_id))
            session.execute(delete(Facet).where(Facet.id == block_id))


def leave_all(session: Session, *, but: Select[str]) -> None:
    """Only the blocks of ``but`` keep their lines."""
    numbers = session.scalars(select(Line.number).where(Line.id.not_in(but))).all()
    texts.drop(session, numbers)
    session.execute(delete(Line).where(Line.id.not_in(but)))
    session.execute(delete(Summary).where(Summary.number.not_in(select(Line.number))))
    session.execute(delete(Facet).where(Facet.id.not_in(but)))


def version_key(version: str) -> str:
    """Text that orders as versions do: each number with the count of its digits before it."""
    return "".join(f"{len(part):03d}{part}" for part in version.split("."))[:120]


# What is read.


class SqlLines:
    """Lists and searches lines. A tombstone in the store counts even where the database does not know of it yet."""

    def __init__(self, database: Database, store: Tombstones) -> None:
        self._pool, self._kept, self._store = Pooled(database), Remembered(database), store

    def close(self) -> None:
        """Close the connections that stay open; what is asked next opens others."""
        self._pool.close()
        self._kept.close()

    @contextmanager
    def _session(self) -> Generator[Session]:
        """To read by: each statement sees what was committed last."""
        with self._pool.reading() as connection, Session(connection) as session:
            yield session

    def page(self, query: ListQuery) -> BlockPage:
        """Lines in the order asked for. A page never repeats or leaves out a block because others came or went between two pages.

        Raises ``InputError`` for a cursor of another sort, or none of ours.
        """
        after = None if query.cursor is None else _read_cursor(query.cursor, query.sort)
        (total,) = self._kept.ask(("total", *_filters(query)), partial(self._count, query))
        shown, more = list[_Found](), True
        while more and len(shown) < query.limit:
            room = query.limit - len(shown)
            found = self._kept.ask((query, room, after), partial(self._fetch, query, after, room + 1))
            more, found = len(found) > room, found[:room]
            if found:
                after = found[-1].place
            revoked = self._store.revoked()
            shown += (one for one in found if one.id not in revoked)
        following = _write_cursor(query.sort, after) if more and after is not None else None
        return BlockPage(blocks=tuple(_line(one.id, one.told) for one in shown), next=following, total=total)

    def _count(self, filters: Filters) -> tuple[int]:
        with self._pool.reading() as connection:
            return (connection.scalar(select(func.count()).select_from(Line).where(*_conditions(filters))) or 0,)

    def _fetch(self, query: ListQuery, after: Place | None, most: int) -> tuple[_Found, ...]:
        """The lines behind a place, in their order."""
        columns: Select[*Place] = select(Line.id, Line.number, *_columns(query.sort))
        wanted = _sorted(columns.where(*_conditions(query)), query.sort, after).limit(most)
        with self._pool.reading() as connection:
            found = connection.execute(wanted).all()
            # Apart, so that what is sorted is little.
            texts_of = select(Summary.number, Summary.line).where(Summary.number.in_([row[1] for row in found]))
            told = dict(iter(connection.execute(texts_of))) if found else {}
        return tuple(_Found(row[0], told.get(row[1], ""), tuple(row[2:])) for row in found)

    def match(self, question: str, skills: Sequence[str], filters: Filters, most: int) -> tuple[tuple[str, float], ...]:
        """Blocks by their words, the best first, with the database's rank (higher is better)."""
        any_of = asked_words(question)
        all_of = list(dict.fromkeys(word for skill in skills for word in asked_words(skill, wholes=False)))
        if not (any_of or all_of):
            return ()
        key = ("match", *any_of, None, *all_of, None, *_filters(filters), most)
        found = self._kept.ask(key, partial(self._match, any_of, all_of, filters, most))
        revoked = self._store.revoked()
        return tuple(one for one in found if one[0] not in revoked)

    def _match(
        self, any_of: Sequence[str], all_of: Sequence[str], filters: Filters, most: int
    ) -> tuple[tuple[str, float], ...]:
        with self._session() as session:
            ranked = texts.matching(session, any_of, all_of).subquery("ranked")
            wanted = (
                select(Line.id, ranked.c.rank).join(ranked, ranked.c.number == Line.number).where(*_conditions(filters))
                .order_by(ranked.c.rank, Line.created_at.desc(), Line.id).limit(most)
            )  # fmt: skip
            return tuple((block_id, -rank) for block_id, rank in session.execute(wanted))

    def chosen(self, ids: Sequence[str]) -> dict[str, BlockLine]:
        """The lines of those that have one and were not revoked."""
        found = self._kept.ask(("chosen", *ids), partial(self._chosen, ids)) if ids else ()
        revoked = self._store.revoked()
        return {block_id: _line(block_id, told) for block_id, told in found if block_id not in revoked}

    def _chosen(self, ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
        wanted = select(Line.id, Summary.line).join(Summary, Summary.number == Line.number).where(Line.id.in_(ids))
        with self._pool.reading() as connection:
            return tuple((block_id, told) for block_id, told in connection.execute(wanted))

    def passing(self, filters: Filters, among: Sequence[str] | None = None) -> frozenset[str]:
        """All blocks that pass (``among`` these). One that was revoked a moment ago may be among them; it has no line in ``chosen``."""
        if among is not None:
            return frozenset(self._passing(filters, Line.id.in_(among)))
        return frozenset(self._kept.ask(("passing", *_filters(filters)), partial(self._passing, filters)))

    def _passing(self, filters: Filters, *more: ColumnElement[bool]) -> tuple[str, ...]:
        with self._pool.reading() as connection:
            return tuple(connection.scalars(select(Line.id).where(*_conditions(filters), *more)))

    def accepted(self) -> tuple[BlockLine, ...]:
        """Every accepted block that was not revoked, newest first: for what needs all at once."""
        wanted = (
            select(Line.id, Summary.line)
            .join(Summary, Summary.number == Line.number)
            .where(Line.status == "registered")
        )
        with self._session() as session:
            found = session.execute(
                wanted.order_by(Line.created_at.desc(), Line.version_key.desc(), Line.id.desc())
            ).all()
        revoked = self._store.revoked()
        return tuple(_line(block_id, told) for block_id, told in found if block_id not in revoked)

    def meant(self) -> dict[str, str]:
        """For each name, the block that it means now, as ``SqlRegistry.resolve`` has it; names that mean none are not there."""
        wanted = (
            select(Line.id, Line.name).where(Line.status == "registered").order_by(Line.version_key, Line.created_at)
        )
        with self._session() as session:
            found = session.execute(wanted).all()
        gone = set(self._store.revoked())
        for name in self._store.rolled_back():
            back = self._store.rollback(name)
            gone |= set(back.over) if back is not None else set()
        return {name: block_id for block_id, name in found if block_id not in gone}

    def state(self) -> tuple[int, int]:
        """How many lines there are and the highest number given: equal twice, nothing came or went between."""
        ((count, last),) = self._kept.ask("state", self._state)
        return count, last

    def _state(self) -> tuple[tuple[int, int]]:
        with self._pool.reading() as connection:
            count, last = connection.execute(select(func.count(), func.max(Line.number)).select_from(Line)).one()
        return ((count, last or 0),)

    def gone(self) -> frozenset[str]:
        """Ids of all tombstones, the database may know of them or not."""
        return self._store.revoked()

    def meanings(self) -> dict[str, str]:
        """Of each block, the text that an encoder reads."""
        with self._session() as session:
            found = session.execute(select(Line.id, Summary.meaning).join(Summary, Summary.number == Line.number)).all()
        return dict(iter(found))


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    exact = {
        Line.base: filters.base, Line.licence: filters.licence, Line.consent: filters.consent, Line.status: filters.status,
        Line.name: filters.name, Line.handle: filters.handle,
    }  # fmt: skip
    made: list[ColumnElement[bool]] = [column == value for column, value in exact.items() if value is not None]
    for column, least in ((Line.maturity, filters.maturity), (Line.gain, filters.score)):
        if least is not None:
            made.append(column >= least)
    for kind, term in (("domain", filters.domain), ("language", filters.language)):
        if term is not None:
            have = select(Facet.id).where(Facet.kind == kind, Facet.term == term.strip().casefold())
            made.append(Line.id.in_(have))
    return made


def _filters(filters: Filters) -> tuple[Any, ...]:
    """Equal for filters that let the same pass."""
    return tuple(getattr(filters, name) for name in Filters.model_fields)


Place = tuple[Any, ...]
MEASURED = ("maturity", "gain")
_ORDERS: dict[Sort, tuple[tuple[str, bool], ...]] = {  # columns, and whether the greatest comes first
    "newest": (("created_at", True), ("version_key", True), ("id", True)),
    "name": (("name", False), ("version_key", True), ("id", True)),
    "maturity": (("maturity", True), ("id", True)),
    "gain": (("gain", True), ("id", True)),
}


class _Found(NamedTuple):
    """A line that was found: what is told of it, as JSON, and its place in the order."""

    id: str
    told: str
    place: Place


def _columns(sort: Sort) -> list[Any]:
    return [getattr(Line, name) for name, _ in _ORDERS[sort]]


def _sorted(wanted: Select[*Place], sort: Sort, after: Place | None) -> Select[*Place]:
    """Ordered, nothing last; from the line behind ``after`` on."""
    columns = list(zip(_columns(sort), (down for _, down in _ORDERS[sort]), strict=True))
    first = columns[0][0]
    ordered = wanted.order_by(
        *(_ordered(column, down, name) for (column, down), (name, _) in zip(columns, _ORDERS[sort], strict=True))
    )
    if after is None:
        return ordered
    behind: list[ColumnElement[bool]] = []
    for at, (column, down) in enumerate(columns):
        same = [earlier == value for (earlier, _), value in zip(columns[:at], after, strict=False)]
        if after[at] is None:  # the first column alone may hold nothing: behind that comes nothing else
            continue
        further = column < after[at] if down else column > after[at]
        behind.append(and_(*same, or_(further, column.is_(None)) if sort in MEASURED and at == 0 else further))
    if after[0] is None:
        return ordered.where(first.is_(None), columns[1][0] < after[1])
    return ordered.where(or_(*behind))


def _ordered(column: Any, down: bool, name: str) -> Any:
    """SQLite puts nothing last by itself, and then reads an index; PostgreSQL has to be told."""
    return column.desc().nulls_last() if name in MEASURED else column.desc() if down else column.asc()


def _write_cursor(sort: Sort, place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps([sort, *place], separators=(",", ":")).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, sort: Sort) -> Place:
    wrong = InputError("this cursor is of no page of this list", "give the one that the page before named as next")
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise wrong from None
    kinds: list[tuple[type, ...]] = [(float, type(None)) if name in MEASURED else (str,) for name, _ in _ORDERS[sort]]
    if not (isinstance(found, list) and len(found) == len(kinds) + 1 and found[0] == sort):
        raise wrong
    for value, kind in zip(found[1:], kinds, strict=True):
        if not isinstance(value, kind) or (isinstance(value, str) and not _sound(value)):
            raise wrong
        if isinstance(value, float) and value - value != 0:  # no number a database orders
            raise wrong
    return tuple(found[1:])


def _sound(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _line(block_id: str, told: str) -> BlockLine:
    try:
        return _read_line(told)
    except ValueError as error:
        raise Corrupt(f"the catalogue's line for {block_id[:12]} is damaged", "rebuild it: dna reindex") from error


@lru_cache(maxsize=4096)
def _read_line(told: str) -> BlockLine:
    """The same text is always the same line."""
    return BlockLine.model_validate_json(told)
