"""Folders for work on its way in, below ``staging`` of a home. Each goes at its end; of a killed process ``sweep`` removes it.

A folder is locked while its process works in it: the kernel drops a dead process's lock, so what is not locked is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from clonedna.app.workspace import space_errors

FOLDER = "staging"


@contextmanager
def staging(home: Path) -> Generator[Path]:
    """A new empty folder of one's own, removed at the end with all that is in it. Raises ``NoSpace``."""
    root = home / FOLDER
    folder = root / uuid.uuid4().hex
    with space_errors(folder):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(root, fcntl.LOCK_SH):  # so that nobody sweeps between the two steps
            folder.mkdir(mode=0o700)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def orphaned(home: Path) -> Iterator[Path]:
    """Folders that no process works in. Hold nothing else meanwhile: new ones wait until the iteration is done."""
    root = home / FOLDER
    if not root.is_dir():
        return
    with _locked(root, fcntl.LOCK_EX):
        for folder in sorted(root.iterdir()):
            if not folder.is_dir() or folder.is_symlink():
                yield folder
                continue
            try:
                with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    yield folder
            except (BlockingIOError, FileNotFoundError):
                continue


@contextmanager
def _locked(folder: Path, operation: int) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)
