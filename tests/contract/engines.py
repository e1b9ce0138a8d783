"""Engines for the contract tests: each part's name and how to open it in a directory. A part with no gap is listed with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clonedna.core.fakes import FakeEngine
from clonedna.core.seams import Engine


def local(directory: Path) -> Engine:
    from clonedna.engine.local import open_engine
    from tests.unit.engine import small

    return open_engine(str(small.make_base(directory / "base")), threads=1)


def fake(directory: Path) -> Engine:
    return FakeEngine()


PARTS: dict[str, Callable[[Path], Engine]] = {"local": local, "fake": fake}

# What a part is known not to promise, by the name of the test.
GAPS: dict[str, frozenset[str]] = {
    "local": frozenset(),
    "fake": frozenset(),
}
