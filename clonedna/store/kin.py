"""Which blocks were made from which, asked of the catalogue step by step: never all blocks at once, revoked ones among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sqlalchemy import func, or_, select

from clonedna.core.block import Manifest
from clonedna.core.errors import Corrupt
from clonedna.store.database import Database
from clonedna.store.registry import Row, Shelf

AT_ONCE = 50  # ids of one question


class Relative(NamedTuple):
    """A catalogued block and how it stands now."""

    manifest: Manifest
    status: Literal["registered", "rejected", "revoked"]


class Kin:
    """Reads the catalogue; one scan of it for each step down."""

    def __init__(self, database: Database, store: Shelf) -> None:
        self._database, self._store = database, store

    def named(self, ids: Sequence[str]) -> tuple[Relative, ...]:
        """Those of these blocks that are catalogued."""
        found: list[Relative] = []
        for some in _pieces(ids):
            with self._database.session() as session:
                rows = session.scalars(select(Row).where(Row.id.in_(some))).all()
            found += self._relatives(rows)
        return tuple(found)

    def of_handles(self, handles: Sequence[str]) -> tuple[Relative, ...]:
        """Blocks whose manifest names one of these handles, whatever their capitals."""
        wanted = [one.casefold() for one in handles]
        with self._database.session() as session:
            rows = session.scalars(select(Row).where(func.lower(Row.handle).in_(wanted))).all() if wanted else []
        return tuple(self._relatives(rows))

    def children(self, ids: Sequence[str]) -> tuple[Relative, ...]:
        """Blocks that one of these is a parent of."""
        wanted, found = set(ids), dict[str, Relative]()
        for some in _pieces(ids):
            with self._database.session() as session:
                # An id stands in a manifest as the block's own, a parent's or, in a merge, a parent's again: the values decide.
                rows = session.scalars(select(Row).where(or_(*(Row.manifest.contains(one) for one in some)))).all()
            found |= {
                one.manifest.id: one for one in self._relatives(rows) if wanted & set(one.manifest.lineage.parents)
            }
        return tuple(found.values())

    def _relatives(self, rows: Sequence[Row]) -> list[Relative]:
        revoked = self._store.revoked()
        return [_relative(row, gone=row.id in revoked) for row in rows]


def _relative(row: Row, *, gone: bool) -> Relative:
    try:
        manifest = Manifest.model_validate_json(row.manifest)
    except ValueError as error:
        raise Corrupt(f"the catalogue's entry for {row.id[:12]} is damaged", "rebuild it: dna reindex") from error
    if gone or row.status == "revoked":
        return Relative(manifest, "revoked")
    return Relative(manifest, "rejected" if row.status == "rejected" else "registered")


def _pieces(ids: Sequence[str]) -> list[list[str]]:
    return [list(ids[i : i + AT_ONCE]) for i in range(0, len(ids), AT_ONCE)]
