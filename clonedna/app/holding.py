"""Who was given a block from this home: noted before the first byte leaves, and told to the person whose work it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING

from clonedna.app.parts import Parts, factory
from clonedna.core.developers import Holder, HolderWay
from clonedna.trust.statements import stamp

if TYPE_CHECKING:
    from clonedna.store.holders import SqlHolders

MOST_LETTERS = 200
AT_ONCE = 500


class Holding:
    """Use cases over one process's parts. From any thread."""

    def __init__(self, parts: Parts) -> None:
        self._kept: SqlHolders = factory("holders", "sql")(parts.database)
        self._now: Callable[[], datetime] = factory("consents", "now")

    def note(self, block_id: str, way: HolderWay, who: str) -> None:
        """``who`` is about to be given this block. Raises what the database raises: what cannot be noted must not be given."""
        self._kept.note(block_id, way, who[:MOST_LETTERS], stamp(self._now()))

    def of(self, block_ids: Collection[str]) -> dict[str, tuple[Holder, ...]]:
        """Who was given each of these blocks, revoked ones among them; a block that nobody was given is not in it."""
        wanted, found = sorted(block_ids), dict[str, tuple[Holder, ...]]()
        for start in range(0, len(wanted), AT_ONCE):
            found |= self._kept.of(wanted[start : start + AT_ONCE])
        return found
