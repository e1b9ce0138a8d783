"""Who was given a block from here, in the home's database: a row for each block, way and receiver, whatever becomes of the block.

A revoked block's rows stay: they say who else may still have it. They hold what this machine calls the receiver, and no address.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Mapped, mapped_column

from clonedna.core.developers import Holder, HolderWay
from clonedna.store.database import Base, Conflict, Database


class HolderRow(Base):
    """One receiver of one block. ``times``: as often as it was begun to be given; times as ``2026-11-21T18:00:00Z``."""

    __tablename__ = "holders"

    block_id: Mapped[str] = mapped_column(primary_key=True)
    way: Mapped[str] = mapped_column(primary_key=True)
    who: Mapped[str] = mapped_column(primary_key=True)
    first_at: Mapped[str]
    last_at: Mapped[str]
    times: Mapped[int]


class SqlHolders:
    """Kept receivers. Processes and threads may share one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, block_id: str, way: HolderWay, who: str, at: str) -> None:
        """One more time that ``who`` is given the block. Raises what the database raises: then nothing should be given."""
        key = (HolderRow.block_id == block_id) & (HolderRow.way == way) & (HolderRow.who == who)
        again = update(HolderRow).where(key).values(last_at=at, times=HolderRow.times + 1)
        if self._one(again):
            return
        try:
            with self._database.session() as session:
                session.add(HolderRow(block_id=block_id, way=way, who=who, first_at=at, last_at=at, times=1))
        except Conflict:  # somebody was first a moment ago
            self._one(again)

    def of(self, block_ids: Collection[str]) -> dict[str, tuple[Holder, ...]]:
        """The receivers of each of these blocks that has any, first ones first."""
        found: dict[str, list[Holder]] = {}
        with self._database.session() as session:
            rows = session.scalars(
                select(HolderRow).where(HolderRow.block_id.in_(block_ids)).order_by(HolderRow.first_at, HolderRow.who)
            )
            for row in rows:
                holder = Holder.model_validate({name: getattr(row, name) for name in Holder.model_fields})
                found.setdefault(row.block_id, []).append(holder)
        return {block_id: tuple(each) for block_id, each in found.items()}

    def _one(self, statement: Any) -> bool:
        with self._database.session() as session:
            return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]
