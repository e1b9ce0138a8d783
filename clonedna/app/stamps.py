"""Whether anything about a directory's files changed, as far as the file system tells.

What this cannot see is a change that keeps a file's ctime, which needs the rights of the disk's administrator.
"""

from __future__ import annotations

import os
from pathlib import Path

from clonedna.core.errors import BlockNotFound

Stamp = tuple[tuple[str, int, int, int, int], ...]


def stamp(directory: Path) -> Stamp:
    """Name, inode, size, mtime and ctime of a block's directory and of what is in it. Raises ``BlockNotFound``."""
    try:
        return _stamp(directory)
    except OSError as error:
        raise BlockNotFound(f"block {directory.name[:12]} cannot be read: {error.strerror}", "see: dna ls") from error


def stamp_of_any(directory: Path) -> Stamp:
    """The same of a directory that may not be there: then nothing."""
    try:
        return _stamp(directory)
    except FileNotFoundError:
        return ()


def _stamp(directory: Path) -> Stamp:
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    found.append((".", directory.stat()))
    return tuple(sorted((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found))
