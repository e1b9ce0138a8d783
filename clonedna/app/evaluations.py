"""What was measured of a block again, on this machine: kept in the home, beside the block and never in it.

    evaluations/<block id>/quick.json, full.json     the latest of its kind
                          /pairs-<sha256[:16]>.json  on pairs that were given, by the file's digest

Only numbers, digests and the ids of pairs stand there: no code. They go when the block goes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.app.workspace import write_atomic
from clonedna.core.block import Evaluation
from clonedna.core.canonical import canonical
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value
from clonedna.evals.again import Reading


class Evaluated(Value):
    """One evaluation. ``readings``: stored beside now, empty for given pairs; ``reproduced``: all that can be compared agrees.

    ``pairs``: SHA-256 of the file that was given; ``contaminated``: the share of its pairs that the block was trained on, and
    ``overlaps`` how many of each kind.
    """

    block: str
    block_id: str
    kind: Literal["quick", "full", "pairs"]
    at: str
    base: BaseInfo
    version: str
    seed: int
    seconds: float
    evaluation: Evaluation
    readings: tuple[Reading, ...] = ()
    reproduced: bool | None = None
    pairs: str | None = None
    contaminated: float | None = None
    overlaps: dict[str, int] = Field(default_factory=dict)


class Evaluations:
    """The kept evaluations of one home."""

    def __init__(self, home: Path) -> None:
        self._root = home / "evaluations"

    def keep(self, evaluated: Evaluated) -> Path:
        """Write it, whole or not at all. Raises ``NoSpace``."""
        name = evaluated.kind if evaluated.pairs is None else f"pairs-{evaluated.pairs[:16]}"
        path = self._root / evaluated.block_id / f"{name}.json"
        write_atomic(path, canonical(evaluated) + b"\n")
        return path

    def of(self, block_id: str) -> tuple[Evaluated, ...]:
        """Newest first. A file that another version wrote in another form is passed over: it can be measured again."""
        found: list[Evaluated] = []
        for path in sorted((self._root / block_id).glob("*.json")):
            try:
                found.append(Evaluated.model_validate_json(path.read_bytes()))
            except (OSError, ValueError):
                continue
        return tuple(sorted(found, key=lambda one: one.at, reverse=True))

    def forget(self, block_id: str) -> None:
        shutil.rmtree(self._root / block_id, ignore_errors=True)
