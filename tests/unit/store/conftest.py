"""A key ring, and one signed block that each test gets a copy of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clonedna.trust.keys import KeyRing
from tests.unit.store.making import write_block


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("ring") / "keys")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, ring: KeyRing) -> Path:
    """A block that no test may change."""
    directory = tmp_path_factory.mktemp("original") / "block"
    write_block(directory, ring)
    return directory


@pytest.fixture
def block(tmp_path: Path, original: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "block"))
