"""What people may type who look for a block, as a teacher of this home wrote it from the block's text: kept beside the block.

    queries/<block id>.json    at most eight lines, and who wrote them

They stand beside the text where blocks are looked for, as what its names mean does, and go when the block goes. A file that cannot be read
is none: it is written again by whoever asks a teacher again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from clonedna.app.workspace import write_atomic
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.value import Value

FOLDER = "queries"
MOST_QUERIES, MOST_LETTERS, MOST_BYTES = 8, 240, 1 << 16


class Kept(Value):
    """``by``: the teacher and its model."""

    queries: tuple[Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)], ...] = Field(max_length=MOST_QUERIES)
    by: str = Field(max_length=400)


class KeptQueries:
    """The kept lines of one home. Processes may share it: a file is there whole or not at all, and is never changed."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def state(self) -> int:
        """Another number whenever a block's lines came or went."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def blocks(self) -> frozenset[str]:
        """Ids of those that have some."""
        found = self._folder.glob("*.json") if self._folder.is_dir() else ()
        return frozenset(path.stem for path in found if not path.name.startswith("."))

    def of(self, block_id: str) -> tuple[str, ...]:
        """Of one block; none where there are none."""
        kept = self.read(block_id)
        return () if kept is None else kept.queries

    def read(self, block_id: str) -> Kept | None:
        """Of one block, with who wrote them."""
        try:
            with self._path(block_id).open("rb") as handle:
                data = handle.read(MOST_BYTES + 1)
            return Kept.model_validate(strict_json(data)) if len(data) <= MOST_BYTES else None
        except (OSError, ValueError, ValidationError, RecursionError):
            return None

    def keep(self, block_id: str, kept: Kept) -> None:
        """Raises ``NoSpace``."""
        write_atomic(self._path(block_id), canonical(kept) + b"\n")

    def forget(self, block_id: str) -> None:
        """Take those of one block off the disk, if there are any."""
        self._path(block_id).unlink(missing_ok=True)

    def _path(self, block_id: str) -> Path:
        return self._folder / f"{block_id}.json"
