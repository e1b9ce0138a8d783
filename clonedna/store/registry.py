"""Names for blocks: one table over what the store holds, fast to list and to search, and rebuilt from the files at any time.

The store is the truth: nothing is catalogued that the store does not hold and verify, and a tombstone there wins over any row here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Generator, Hashable, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from sqlalchemy import ColumnElement, Index, delete, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from clonedna.core.block import NAME_PATTERN, BlockRef, Manifest
from clonedna.core.canonical import canonical
from clonedna.core.errors import (
    BadReference,
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    Corrupt,
    DnaError,
    TimedOut,
    not_a_block,
)
from clonedna.core.work import Refusal
from clonedna.store import lines
from clonedna.store.database import Base, Conflict, Database
from clonedna.store.pooled import Pooled
from clonedna.store.remembered import Remembered
from clonedna.store.rollbacks import Rollback
from clonedna.store.rollbacks import number as _number

MIN_DIGITS = 8
MOST_NAMES = 500  # that a mistyped one is compared with
_REFERENCE = re.compile(rf"(?P<name>{NAME_PATTERN[1:-1]})(?:@(?P<version>\d{{1,9}}\.\d{{1,9}}\.\d{{1,9}}))?")
_DIGITS = re.compile(rf"[0-9a-f]{{{MIN_DIGITS},64}}")


class Shelf(Protocol):
    """What the catalogue needs of a store (``DirectoryStore`` has it)."""

    def verify(self, block_id: str) -> Manifest: ...
    def has(self, block_id: str) -> bool: ...
    def profile(self, block_id: str) -> str: ...
    def ids(self) -> tuple[str, ...]: ...
    def revoke(self, block_id: str) -> None: ...
    def is_revoked(self, block_id: str) -> bool: ...
    def revoked(self) -> frozenset[str]: ...
    def rollback(self, name: str) -> Rollback | None: ...


_TAKES_ITS_NAME = text("status != 'rejected'")


class Row(Base):
    """One block. ``manifest`` is the whole manifest; the other columns are copies to search by."""

    __tablename__ = "blocks"
    __table_args__ = (
        Index(
            "name_and_version_once",
            "name",
            "version",
            unique=True,
            sqlite_where=_TAKES_ITS_NAME,
            postgresql_where=_TAKES_ITS_NAME,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[str] = mapped_column(index=True)
    base: Mapped[str]
    licence: Mapped[str]
    consent: Mapped[str]
    handle: Mapped[str]
    manifest: Mapped[str]


class _Entry(NamedTuple):
    """A row as it was read."""

    id: str
    name: str
    version: str
    status: str
    created_at: str
    base: str
    licence: str
    consent: str
    handle: str
    manifest: str


_ENTRY = [getattr(Row, name) for name in _Entry._fields]


class SqlRegistry:
    """Fulfils ``core.seams.Registry``. Processes and threads may share one."""

    def __init__(self, database: Database, store: Shelf) -> None:
        self._database, self._store = database, store
        self._pool, self._kept = Pooled(database), Remembered(database)

    def close(self) -> None:
        """Close the connections that stay open; what is asked next opens others."""
        self._pool.close()
        self._kept.close()

    @contextmanager
    def _reading(self) -> Generator[Session]:
        """A session to read by, whose connection stays open for the next one."""
        with self._pool.reading() as connection, Session(connection) as session:
            yield session

    def _session(self) -> AbstractContextManager[Session]:
        return self._database.session()

    def publish(self, manifest: Manifest) -> BlockRef:
        """Catalogue the stored block ``manifest.id`` under the name and version of its *stored* manifest, which the result names.

        The same files may have been stored before with other times: the first manifest stays, and publishing it again changes nothing.
        Raises ``BlockNotFound`` (not in the store), ``BlockRevoked``, ``BadReference`` (the version is another block's, or these files
        are stored under another name), and what verifying it raises.
        """
        stored = self._store.verify(manifest.id)
        if self._store.is_revoked(stored.id):
            raise _revoked(stored.id)
        if stored.name != manifest.name:
            raise BadReference(
                f"block {stored.id[:12]} is stored as {stored.name!r}, not {manifest.name!r}", f"use {stored.name}"
            )
        row = row_of(stored)
        try:
            with self._session() as session:
                self._enter(session, row, stored)
        except Conflict:
            with self._session() as session:
                known = session.get(Row, stored.id)
            if known is None:
                raise BadReference(
                    f"{stored.name}@{stored.version} is another block already",
                    "mint it again: it gets the next version",
                    name=stored.name,
                ) from None
            row = known
        return _ref(row)

    def resolve(self, reference: str, *, unsafe: bool = False) -> Manifest:
        """``name`` (its newest accepted version, but for those that were rolled back), ``name@version``, or 8 to 64 hex digits of the id.

        ``unsafe`` lets a block pass that the gate rejected, and only when addressed by digits. Raises ``BadReference`` (not a reference,
        or it fits several), ``BlockNotFound`` (with the closest names), ``BlockRejected``, ``BlockRevoked``.
        """
        parts = _REFERENCE.fullmatch(reference)
        if parts is None:
            raise not_a_block(reference)
        digits = _DIGITS.fullmatch(reference) is not None
        # All 64 digits are an id, even if somebody named a block like that.
        named = [] if len(reference) == 64 and digits else self._meant(parts["name"], parts["version"])
        numbered = self._rows(("digits", reference), Row.id >= reference, Row.id < reference + "g") if digits else []
        meant = {row.id for row in numbered} | ({named[0].id} if named else set())
        if len(meant) > 1:
            found = [f"{row.name}@{row.version} ({row.id[:12]})" for row in (*named[:1], *numbered)]
            raise BadReference(
                f"{reference} may be {len(meant)} blocks", f"one of: {', '.join(found[:5])}", candidates=found[:20]
            )
        if not meant:
            raise self._unknown(reference, parts["name"], digits)
        row = (*numbered, *named)[0]
        if row.status == "revoked":
            raise _revoked(row.id)
        manifest = _manifest(row)
        if row.status == "rejected" and not (unsafe and numbered):
            raise BlockRejected(
                f"{row.name}@{row.version} was rejected by the gate: {'; '.join(manifest.gate.reasons) or 'no reason given'}",
                f"mint it again, or use it all the same by its id: {row.id[:12]} --unsafe", id=row.id, reasons=list(manifest.gate.reasons),
            )  # fmt: skip
        return manifest

    def manifests(self, name: str | None = None) -> tuple[Manifest, ...]:
        """All, or those of one name, newest first, rejected ones among them (``gate`` says so), without revoked ones."""
        found = self._rows(None) if name is None else self._rows(("name", name, None), Row.name == name)
        rows = sorted(found, key=lambda row: (row.created_at, _number(row.version), row.id), reverse=True)
        return tuple(_manifest(row) for row in rows if row.status != "revoked")

    def counts(self) -> dict[str, int]:
        """How many blocks are catalogued with each status, revoked ones among them."""
        with self._session() as session:
            found = session.execute(select(Row.status, func.count()).group_by(Row.status)).all()
            return {row[0]: row[1] for row in found}

    def next_version(self, name: str) -> tuple[str, str | None]:
        """The version that a new mint of ``name`` should get, and the newest registered one before it: 1.0.0, then a minor more.

        A revoked version is never given again; a rejected one may be.
        """
        rows = [row for row in self._rows(("name", name, None), Row.name == name) if row.status != "rejected"]
        if not rows:
            return "1.0.0", None
        major, minor, _ = max(_number(row.version) for row in rows)
        previous = max((row.version for row in rows if row.status == "registered"), key=_number, default=None)
        return f"{major}.{minor + 1}.0", previous

    def revoke(self, block_id: str) -> None:
        """Never resolve this block again: a tombstone in the store, then the row. Raises ``BlockNotFound`` when it is not an id."""
        self._store.revoke(block_id)
        with self._session() as session:
            session.execute(update(Row).where(Row.id == block_id).values(status="revoked"))
            lines.leave(session, (block_id,))

    def forget(self, block_id: str) -> None:
        """Take a block out of the catalogue; its tombstone, if it has one, stays. Unknown ids are ignored."""
        with self._session() as session:
            session.execute(delete(Row).where(Row.id == block_id))
            lines.leave(session, (block_id,))

    def reindex(self) -> tuple[Refusal, ...]:
        """Rebuild the catalogue from the store's files alone; gives the blocks that were left out, and why.

        A block that cannot be verified is left out; of two that claim the same name and version the older stays.
        """
        found, refused = self._read_store()
        seen = {row.id for row, _ in found} | {refusal.path for refusal in refused}
        try:
            with self._session() as session:
                self._alone(session)
                # What was published while we read the files stays, and what was removed then does not come back.
                gone = [
                    known for known in session.scalars(select(Row.id)) if known in seen or not self._store.has(known)
                ]
                for known in gone:
                    session.execute(delete(Row).where(Row.id == known))
                lines.leave_all(session, but=select(Row.id))
                for row, manifest in found:
                    if self._store.has(row.id):
                        self._enter(session, row, manifest)
        except Conflict:
            raise TimedOut("a block was published while the catalogue was rebuilt", "dna reindex again") from None
        return refused

    def _alone(self, session: Session) -> None:
        """Let nobody else write to the catalogue until the transaction ends."""
        if self._database.is_postgres:
            session.execute(text("LOCK TABLE blocks IN SHARE ROW EXCLUSIVE MODE"))
        else:
            session.execute(text("DELETE FROM blocks WHERE 0 = 1"))  # takes the write lock

    def _enter(self, session: Session, row: Row, manifest: Manifest) -> None:
        """The row of a block, and what it is listed and found by, unless a tombstone came meanwhile."""
        if self._store.is_revoked(row.id):
            row.status = "revoked"
        session.add(row)
        session.flush()
        if row.status != "revoked":
            lines.enter(session, manifest, self._store.profile(row.id))

    def _read_store(self) -> tuple[list[tuple[Row, Manifest]], tuple[Refusal, ...]]:
        """A row for each block of the store that verifies, and those that were left out."""
        manifests: list[Manifest] = []
        refused: list[Refusal] = []
        for block_id in self._store.ids():
            try:
                manifests.append(self._store.verify(block_id))
            except DnaError as error:
                refused.append(Refusal(path=block_id, reason=error.code, detail=error.message))
        revoked, taken, rows = self._store.revoked(), set[tuple[str, str]](), list[tuple[Row, Manifest]]()
        for manifest in sorted(manifests, key=lambda one: (one.created_at, one.id)):
            row = row_of(manifest, revoked=manifest.id in revoked)
            if row.status != "rejected":
                if (row.name, row.version) in taken:
                    refused.append(
                        Refusal(
                            path=row.id, reason="version_taken", detail=f"{row.name}@{row.version} is another block"
                        )
                    )
                    continue
                taken.add((row.name, row.version))
            rows.append((row, manifest))
        return rows, tuple(refused)

    def _rows(self, key: Hashable, *where: ColumnElement[bool]) -> list[_Entry]:
        """Rows as they stand now: a tombstone in the store counts even where the row does not know of it yet.

        ``key`` stands for the condition; ``None``: it is not one to be remembered.
        """
        found = self._read(where) if key is None else self._kept.ask(key, partial(self._read, where))
        return [row._replace(status="revoked") if self._store.is_revoked(row.id) else row for row in found]

    def _read(self, where: Sequence[ColumnElement[bool]]) -> tuple[_Entry, ...]:
        with self._pool.reading() as connection:
            return tuple(_Entry(*row) for row in connection.execute(select(*_ENTRY).where(*where)))

    def _meant(self, name: str, version: str | None) -> list[_Entry]:
        """As ``_named``; of a name alone, without the versions that a rollback passes over."""
        rows = self._named(name, version)
        back = self._store.rollback(name) if version is None and rows else None
        return rows if back is None else [row for row in rows if row.id not in back.over]

    def _named(self, name: str, version: str | None) -> list[_Entry]:
        """Rows of that name (and version), the one that is meant first: registered before revoked before rejected, newer before older."""
        where = [Row.name == name] if version is None else [Row.name == name, Row.version == version]
        standing = {"registered": 2, "revoked": 1, "rejected": 0}
        return sorted(
            self._rows(("name", name, version), *where),
            key=lambda row: (standing[row.status], _number(row.version), row.created_at),
            reverse=True,
        )

    def _unknown(self, reference: str, name: str, digits: bool) -> DnaError:
        if digits and any(block_id.startswith(reference) for block_id in self._store.revoked()):
            return _revoked(reference)
        versions = [row.version for row in self._named(name, None) if row.status == "registered"]
        with self._reading() as session:
            known = session.scalar(select(Row.id).where(Row.name == name).limit(1)) is not None
            # Close names begin alike: a bound, so that a mistyped name costs the same among ten thousand.
            alike = select(Row.name).where(Row.name.startswith(name[:1], autoescape=True)).distinct().limit(MOST_NAMES)
            names = () if known else session.scalars(alike.order_by(Row.name)).all()
        if known:
            return BlockNotFound(
                f"no block {reference}",
                f"versions of {name}: {', '.join(versions[:8]) or 'none'}",
                closest=versions[:8],
            )
        closest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        return BlockNotFound(
            f"no block {reference}",
            f"did you mean: {', '.join(closest)}?" if closest else "see: dna ls",
            closest=closest,
        )


def _revoked(block_id: str) -> BlockRevoked:
    return BlockRevoked(f"block {block_id[:12]} was revoked", "it cannot be used any more; see: dna ls", id=block_id)


def row_of(manifest: Manifest, *, revoked: bool = False) -> Row:
    accepted = "registered" if manifest.gate.status == "accepted" else "rejected"
    return Row(
        id=manifest.id, name=manifest.name, version=manifest.version, status="revoked" if revoked else accepted,
        created_at=manifest.created_at, base=manifest.base_model, licence=manifest.license, consent=manifest.consent_mode,
        handle=manifest.candidate.handle, manifest=canonical(manifest).decode(),
    )  # fmt: skip


def _manifest(row: _Entry) -> Manifest:
    try:
        return _read_manifest(row.manifest)
    except ValueError as error:
        raise Corrupt(f"the catalogue's entry for {row.id[:12]} is damaged", "rebuild it: dna reindex") from error


@lru_cache(maxsize=512)
def _read_manifest(text: str) -> Manifest:
    """The same text is always the same manifest."""
    return Manifest.model_validate_json(text)


def _ref(row: Row) -> BlockRef:
    return BlockRef.model_validate({"name": row.name, "version": row.version, "id": row.id, "status": row.status})
