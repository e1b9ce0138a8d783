"""Which version a name means after somebody went back: a file for each such name, so that the catalogue can be rebuilt from files.

    store/rollbacks/<name>.json   from which version back to which

The blocks in ``over`` are passed over: the accepted versions that were newer than ``to`` at that moment. All that comes later counts, also
under a number that was free again. Written whole or not at all; a file that cannot be read is an error, never ignored.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, NAME_PATTERN, VERSION_PATTERN
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import BadReference, Corrupt
from clonedna.core.value import Value
from clonedna.store.files import disk_errors, write_atomic

_NAME = re.compile(NAME_PATTERN)


class Rollback(Value):
    """``name`` means ``to``, or what is accepted below it, until another version than those in ``over`` (ids) is accepted."""

    format: Literal["dna-rollback/1"] = "dna-rollback/1"
    name: str = Field(pattern=NAME_PATTERN)
    to: str = Field(pattern=VERSION_PATTERN)
    over: tuple[Annotated[str, Field(pattern=DIGEST_PATTERN)], ...] = Field(min_length=1)


def number(version: str) -> tuple[int, int, int]:
    """A version as three numbers that can be compared."""
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


class Rollbacks:
    """The records under a store's root. Several processes may read; who writes holds the home's lock."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "rollbacks"

    def get(self, name: str) -> Rollback | None:
        """The record of ``name``. Raises ``Corrupt`` for one that is not what was written."""
        path = self._path(name)
        with disk_errors(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            found = Rollback.model_validate(strict_json(data))
        except (ValueError, RecursionError) as error:
            raise _damaged(path) from error
        if found.name != name:
            raise _damaged(path)
        return found

    def names(self) -> frozenset[str]:
        """All names that were rolled back."""
        with disk_errors(self._directory):
            there = os.listdir(self._directory) if self._directory.is_dir() else ()
        return frozenset(name.removesuffix(".json") for name in there if _NAME.fullmatch(name.removesuffix(".json")))

    def put(self, record: Rollback) -> None:
        """Keep it; of one name the last counts. Raises ``NoSpace``, ``Unavailable``."""
        path = self._path(record.name)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical(record))

    def remove(self, name: str) -> None:
        """Every version of ``name`` counts again."""
        path = self._path(name)
        with disk_errors(path):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):  # a name is part of a path
            raise BadReference(f"{name[:80]!r} is no block's name", "see: dna ls")
        return self._directory / f"{name}.json"


def _damaged(path: Path) -> Corrupt:
    return Corrupt(f"the record {path.name} of a rollback is damaged", "move it away, then: dna rollback NAME VERSION")
