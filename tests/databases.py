"""The databases that tests run on: SQLite in a file, and PostgreSQL where one was started for them (`make test-postgres`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.postgres.cluster import VARIABLE, fresh

KINDS = ("sqlite", "postgres")
SKIPPED = "no PostgreSQL was started for the tests: make test-postgres"


def new_url(kind: str, home: Path) -> str:
    """The address of a database of its own, not made yet or empty. Skips the test where there is no server for it."""
    if kind == "sqlite":
        return f"sqlite:///{home / 'registry.sqlite'}"
    server = os.environ.get(VARIABLE)
    if not server:
        pytest.skip(SKIPPED)
    return fresh(server)
