"""Small secret or signed files: written whole or not at all, readable by their owner only, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from clonedna.core.errors import NoSpace, Unavailable


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """``OSError`` as ``NoSpace`` (full disk or quota) or ``Unavailable``, naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left on the disk of {path.parent}", "free some space and try again") from error
        raise Unavailable(f"{path}: {error.strerror}", "check the permissions and the disk") from error


def private_directory(path: Path) -> None:
    """Make ``path`` (mode 0700). Raises ``NoSpace``, ``Unavailable``."""
    with disk_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write (mode 0600), fsync, rename, fsync the directory. A failure leaves the old content. Raises ``NoSpace``, ``Unavailable``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        with suppress(FileNotFoundError):  # left by a killed process that had our number
            temporary.unlink()
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Hold ``directory`` for one writer; the kernel lets go when the process dies. Raises ``Unavailable``, ``NoSpace``."""
    with disk_errors(directory):
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
