"""What is kept of how blocks stand to each other: what modules read on a block's own examples, and what two blocks were seen to do.

    interference/inputs/<block id>/covariance.safetensors   second moments, and observed.json: over what
                /notes/<digest>.json                        one for two blocks, a base, a composition and its weights

Covariances are made from a person's own pairs: they go when the block goes, and are never sent or shared. Notes are numbers and ids.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from clonedna.app.workspace import write_atomic
from clonedna.core.canonical import canonical, digest
from clonedna.core.genome import CompatibilityNote
from clonedna.core.interference import ConflictCard, Observed, Outcome
from clonedna.core.value import Value
from clonedna.genomes.conflicts import FEWEST, default_card, fit

FOLDER = "interference"
COVARIANCE = "covariance.safetensors"
MOST_NOTES = 5000  # of one home; the oldest make room
MOST_NOTE_BYTES = 1 << 16


class Noted(Value):
    """A note, and what was known of the pair before: of ``note.second`` put beside the first, and of the first beside the second."""

    note: CompatibilityNote
    outcomes: tuple[Outcome, ...] = ()


class InterferenceKept:
    """The kept files of one home."""

    def __init__(self, home: Path) -> None:
        self._root = home / FOLDER

    def inputs(self, block_id: str) -> Path | None:
        """The folder with a block's covariances, where they were observed."""
        folder = self.place(block_id)
        return folder if (folder / COVARIANCE).is_file() else None

    def place(self, block_id: str) -> Path:
        """Where they are, or would be."""
        return self._root / "inputs" / block_id

    def observed(self, block_id: str, told: Observed) -> None:
        """Say over what a block's covariances are. Raises ``NoSpace``."""
        write_atomic(self.place(block_id) / "observed.json", canonical(told) + b"\n")

    def note(self, noted: Noted) -> None:
        """Keep it in place of the one before on the same blocks, base, composition and weights. Raises ``NoSpace``."""
        note = noted.note
        name = digest([note.first, note.second, note.base_fingerprint, note.composition, list(note.weights)])
        write_atomic(self._root / "notes" / f"{name}.json", canonical(noted) + b"\n")
        paths = sorted(self._files(), key=lambda path: (_written(path), path.name))
        for old in paths[: max(0, len(paths) - MOST_NOTES)]:
            old.unlink(missing_ok=True)

    def notes(self, ids: Iterable[str] | None = None) -> tuple[Noted, ...]:
        """All that are whole, or those between ``ids``; in the order of their names."""
        wanted = None if ids is None else set(ids)
        found: list[Noted] = []
        for path in sorted(self._files()):
            noted = _read(path)
            if noted is not None and (wanted is None or {noted.note.first, noted.note.second} <= wanted):
                found.append(noted)
        return tuple(found)

    def card(self, base_fingerprint: str) -> ConflictCard:
        """Fitted on what was measured here on this base, once there is enough; else the one that ships."""
        outcomes = [
            outcome
            for noted in self.notes()
            if noted.note.base_fingerprint == base_fingerprint and noted.note.weights == (1.0, 1.0)
            for outcome in noted.outcomes
        ]
        if len(outcomes) < FEWEST:
            return default_card()
        return fit(outcomes, f"{len(outcomes)} pairs measured in this home on base {base_fingerprint[:12]}")

    def forget(self, block_id: str) -> None:
        """Everything of one block."""
        shutil.rmtree(self.place(block_id), ignore_errors=True)
        for path in list(self._files()):
            noted = _read(path)
            if noted is None or block_id in (noted.note.first, noted.note.second):
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        yield from (self._root / "notes").glob("[0-9a-f]*.json")


def _read(path: Path) -> Noted | None:
    try:
        if path.stat().st_size > MOST_NOTE_BYTES:
            return None
        return Noted.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _written(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
