"""An assembly that is killed anywhere ends in the bytes that it would have ended in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.genome_apply import STAGES
from clonedna.app.genome_values import KeptPlan
from tests.genomes import GenomeParts, given_lines
from tests.unit.app.test_genome_apply import closed, made, planned, resumed

INSIDE = 6
"""Places inside of trainings at which it is killed, beside every beginning and end of a stage."""


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KeptPlan]:
    """A home with two layers and a plan that trains a third."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    parts = made(home)
    kept = planned(parts, "alpha omega", given_lines("omega", "mno", 24))
    return closed(parts), kept


@pytest.fixture(scope="module")
def untouched(prepared: tuple[Path, KeptPlan], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Any]]:
    """What a run that nobody kills makes, and what it tells."""
    home, kept = prepared
    folder = tmp_path_factory.mktemp("untouched")
    shutil.copytree(home, folder / "home")
    events: list[Any] = []
    return resumed(GenomeParts(folder / "home"), kept, folder / "job", events.append), events


def test_a_kill_anywhere_ends_in_the_same_bytes(
    prepared: tuple[Path, KeptPlan], untouched: tuple[bytes, list[Any]], tmp_path: Path
) -> None:
    home, kept = prepared
    wanted, events = untouched
    own = [i for i, event in enumerate(events) if getattr(event, "stage", "") in STAGES]  # where stages begin and end
    for at in sorted({*own, *range(0, len(events), max(1, len(events) // INSIDE))}):
        place = tmp_path / str(at)
        shutil.copytree(home, place / "home")
        seen = iter(range(len(events) + 1))

        def emit(_: Any, seen: Iterator[int] = seen, at: int = at) -> None:
            if next(seen) == at:
                raise Killed

        with pytest.raises((Killed, BaseExceptionGroup)):  # a group where it came inside of one
            resumed(GenomeParts(place / "home"), kept, place / "job", emit)
        assert resumed(GenomeParts(place / "home"), kept, place / "job") == wanted, (
            f"killed at event {at}: {events[at]}"
        )
        shutil.rmtree(place)
