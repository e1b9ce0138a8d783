"""How fast this machine trained before: read from the event logs of its own finished jobs, never assumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clonedna.app.minting import Ordered
from clonedna.app.workspace import Workspace
from clonedna.core.errors import Internal
from clonedna.core.events import StageFinished, StageStarted

STAGE = "train"


@dataclass(frozen=True, slots=True)
class Pace:
    """``rate``: completion tokens a second over a whole training, by the wall clock; ``job``: where it was recorded."""

    rate: float
    job: str


def recorded_pace(jobs: Path, base: str, rank: int) -> Pace | None:
    """Of the latest finished training of adapters of this rank on this base; ``None`` when none is recorded.

    A training that was begun more than once is passed over: its last run's seconds are not those of all its tokens.
    """
    paces: list[tuple[str, Pace]] = []
    for directory in sorted(jobs.iterdir()) if jobs.is_dir() else []:
        workspace = Workspace(directory)
        try:
            order = workspace.read("order.json", Ordered).order
        except Internal:
            continue
        if order.base == base and order.recipe.lora.rank == rank and (told := _pace(workspace)):
            paces.append(told)
    return max(paces, key=lambda one: one[0])[1] if paces else None


def _pace(workspace: Workspace) -> tuple[str, Pace] | None:
    """``(when, pace)`` of one job."""
    begun = 0
    found: tuple[str, Pace] | None = None
    for _, at, event in workspace.events():
        if isinstance(event, StageStarted) and event.stage == STAGE:
            begun += 1
        elif isinstance(event, StageFinished) and event.stage == STAGE:
            tokens = event.counts.get("tokens")
            if isinstance(tokens, int) and tokens > 0 and event.seconds > 0:
                found = at, Pace(rate=tokens / event.seconds, job=workspace.id)
    return found if begun == 1 else None
