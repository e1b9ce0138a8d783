"""Reading and writing files that nobody vouches for yet: bounded, regular, with one link; written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clonedna.core.block import FileEntry
from clonedna.core.errors import BlockCorrupt, BlockNotFound, NoSpace, Unavailable

CHUNK = 1 << 20


def corrupt(file: str, reason: str) -> BlockCorrupt:
    """A ``BlockCorrupt`` that names the file, with any odd character of the name escaped."""
    name = ascii(file)[1:-1]
    return BlockCorrupt(
        f"{name}: {reason}", "get the block again from where it came from, or mint it again", file=name, reason=reason
    )


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """``OSError`` as ``NoSpace`` (full disk or quota) or ``Unavailable``, naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left on the disk of {path.parent}", "free some space and try again") from error
        raise Unavailable(f"{path}: {error.strerror}", "check the permissions and the disk") from error


def closed_world(directory: Path, required: Collection[str], limits: Mapping[str, int]) -> None:
    """The directory holds all of ``required``, nothing that is not in ``limits``, each a regular file with one link within its limit.

    Stops at the first fault, so a directory with a million entries costs no more than one with two. Raises ``BlockNotFound`` when there
    is no such directory, ``BlockCorrupt`` otherwise.
    """
    seen: set[str] = set()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name not in limits:
                    raise corrupt(entry.name, "not a file of a block")
                _check(entry.name, entry.stat(follow_symlinks=False), limits[entry.name])
                seen.add(entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BlockNotFound(f"no block directory at {directory}", "see: dna ls") from error
    except OSError as error:
        raise Unavailable(f"{directory}: {error.strerror}", "check the permissions and the disk") from error
    for name in sorted(set(required) - seen):
        raise corrupt(name, "missing")


def _check(name: str, status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise corrupt(name, "not a regular file")
    if status.st_nlink != 1:
        raise corrupt(name, f"{status.st_nlink} links to it, where there must be one")
    if status.st_size > limit:
        raise corrupt(name, f"{status.st_size} bytes, more than the {limit} allowed")


@contextmanager
def open_regular(path: Path, limit: int) -> Generator[BinaryIO]:
    """``path`` open for reading, checked on the open file itself: regular, one link, within ``limit``; links are not followed.

    Raises ``BlockCorrupt`` (missing, link, too big), ``Unavailable``.
    """
    try:
        # O_NONBLOCK: a named pipe must not make us wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise corrupt(path.name, "missing" if error.errno == errno.ENOENT else "not a regular file") from error
        raise Unavailable(f"{path}: {error.strerror}", "check the permissions and the disk") from error
    with os.fdopen(handle, "rb") as file:
        _check(path.name, os.fstat(handle), limit)
        yield file


def read_small(path: Path, limit: int) -> bytes:
    """All of a file of at most ``limit`` bytes. Raises as ``open_regular``."""
    with open_regular(path, limit) as file, disk_errors(path):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise corrupt(path.name, f"more than the {limit} bytes allowed")
    return data


def _read(path: Path, file: BinaryIO) -> bytes:
    with disk_errors(path):
        return file.read(CHUNK)


def measure(path: Path, limit: int, copy: BinaryIO | None = None) -> FileEntry:
    """Size and SHA-256 of a file, and its bytes written to ``copy`` on the way (its ``OSError`` goes through). As ``open_regular``."""
    sha, size = hashlib.sha256(), 0
    with open_regular(path, limit) as file:
        while chunk := _read(path, file):
            size += len(chunk)
            if size > limit:
                raise corrupt(path.name, f"more than the {limit} bytes allowed")
            sha.update(chunk)
            if copy is not None:
                copy.write(chunk)
    return FileEntry(sha256=sha.hexdigest(), size=size)


@contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """A new file to write (mode 0644), fsynced at the end. It must not exist. Raises ``NoSpace``, ``Unavailable``."""
    with disk_errors(path), path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Write beside ``path``, then rename over it. A failure leaves what was there. Raises ``NoSpace``, ``Unavailable``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        temporary.unlink(missing_ok=True)  # left by a killed process that had our number
        try:
            with new_file(temporary) as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is not there is fine. Raises ``Unavailable``."""
    with disk_errors(path):
        path.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """``replacing`` with ``data``."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def flock(path: Path, operation: int) -> Generator[None]:
    """Hold an advisory lock on ``path``. Raises ``BlockingIOError`` when it is taken and ``operation`` does not wait."""
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)
