"""The packages that `bench/capability.py` may ask for, each with a short request in our own words, written before any was measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("capability_packages.txt")


class Package(NamedTuple):
    name: str
    request: str


def packages() -> tuple[Package, ...]:
    """All that are listed, installed here or not."""
    return tuple(Package(*line.split("\t")) for line in LIST.read_text("utf-8").splitlines())
