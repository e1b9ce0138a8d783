"""Reading and writing files of a workspace from our own process, while whoever lives there may swap a folder for a link.

Promises: every path is opened by the kernel below the workspace's descriptor (``openat2`` with BENEATH, NO_SYMLINKS, NO_MAGICLINKS and
NO_XDEV: resolving and opening are one step, so there is nothing to race), only plain files, never more than was asked for; a file is
written under another name and renamed, so nobody reads half of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from clonedna.core.errors import NotFound, PathRefused, SandboxUnavailable, TooLarge

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_MOST_PATH, _MOST_PARTS = 1000, 30


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of ``openat2(2)``."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """A descriptor of ``path`` below ``directory`` (a descriptor), through no link. Raises ``OSError`` as ``openat2(2)`` says."""
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    found = _libc.syscall(_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return found


def read_beneath(workspace: Path, path: str, most: int) -> bytes:
    """A plain file's bytes. Raises ``NotFound``, ``PathRefused``, ``TooLarge`` (over ``most`` bytes), ``SandboxUnavailable``."""
    _parts(path)
    with _opened(workspace) as root, _named(path):
        # Non-blocking: a pipe without a writer would keep us waiting before we could see that it is one.
        file = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise PathRefused(f"{path!r} is no plain file", "name a plain file")
            with open(file, "rb", closefd=False) as stream:
                data = stream.read(most + 1)
        finally:
            os.close(file)
    if len(data) > most:
        raise TooLarge(f"{path!r} has more than {most} bytes", "ask for a larger bound, or write a smaller file")
    return data


def write_beneath(workspace: Path, path: str, data: bytes, most: int, owner: int | None) -> None:
    """Write ``data`` under ``path``, making folders on the way; ``owner``: the uid that shall own what is made (as root).

    Raises ``PathRefused``, ``TooLarge``, ``SandboxUnavailable``.
    """
    *folders, name = _parts(path)
    if len(data) > most:
        raise TooLarge(f"{path!r} would have {len(data)} bytes, more than {most}", "write a smaller file")
    temporary = f".{secrets.token_hex(8)}"
    with _opened(workspace) as root, _named(path), _folder(root, folders, owner) as parent:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=parent)
        try:
            with open(file, "wb") as stream:
                stream.write(data)
                os.fchmod(file, 0o644)
                if owner is not None:
                    os.fchown(file, owner, owner)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise


def remove_tree(directory: Path) -> None:
    """Remove ``directory`` with all that is in it, however deep, whatever its modes. Nobody may live there any more.

    Each folder is moved to the top before it is emptied, so neither depth nor the length of a path can stop this.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        waiting = [""]
        while waiting:
            top = waiting.pop()
            inside = root if not top else os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
            try:
                for name in os.listdir(inside):
                    if stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode):
                        os.chmod(name, 0o700, dir_fd=inside)
                        moved = f".{secrets.token_hex(16)}"
                        os.rename(name, moved, src_dir_fd=inside, dst_dir_fd=root)
                        waiting.append(moved)
                    else:
                        os.unlink(name, dir_fd=inside)
            finally:
                if inside != root:
                    os.close(inside)
            if top:
                os.rmdir(top, dir_fd=root)
    finally:
        os.close(root)
    directory.rmdir()


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    wrong = not path or "\0" in path or len(os.fsencode(path)) > _MOST_PATH or len(parts) > _MOST_PARTS
    if wrong or any(part in ("", ".", "..") for part in parts):
        raise PathRefused(f"{path[:100]!r} is no path below the workspace", "write it like 'folder/file.py'")
    return parts


@contextmanager
def _opened(workspace: Path) -> Generator[int]:
    root = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield root
    finally:
        os.close(root)


@contextmanager
def _folder(root: int, folders: list[str], owner: int | None) -> Generator[int]:
    """The innermost of ``folders``, each made where it is missing; each is opened below the one before it."""
    at = os.dup(root)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o755, dir_fd=at)
                made = True
            except FileExistsError:
                made = False
            inner = open_beneath(at, folder, os.O_RDONLY | os.O_DIRECTORY)
            os.close(at)
            at = inner
            if made and owner is not None:
                os.fchown(at, owner, owner)
        yield at
    finally:
        os.close(at)


@contextmanager
def _named(path: str) -> Generator[None]:
    """What the kernel says, in our words."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                raise NotFound(f"there is no {path!r} in the workspace", "check the name") from None
            case errno.ENOSYS | errno.EPERM if error.filename == path:
                raise SandboxUnavailable(
                    "this system has no openat2 (Linux 5.6 or newer), so files of a sandbox cannot be read safely",
                    "use a newer kernel",
                ) from None
            case _:
                raise PathRefused(f"{path!r}: {error.strerror}", "name a plain file below the workspace") from None
