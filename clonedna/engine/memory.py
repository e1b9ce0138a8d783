"""Whether something fits: estimates made before work begins, so that the answer is an error with figures and not a dead process."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil

from clonedna.core.errors import NoMemory

RESERVE = 256 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process can still take: what the system calls available, or less where a container's limit is nearer."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def require(needed: int, what: str, *, free: int | None = None) -> None:
    """Raise ``NoMemory`` with the figures unless ``needed`` bytes and a reserve of 256 MiB are available."""
    free = available() if free is None else free
    if needed + RESERVE > free:
        raise NoMemory(
            f"{what} needs about {needed / 2**20:.0f} MiB (+ {RESERVE >> 20} MiB reserve), {free / 2**20:.0f} MiB are available",
            "close other programs, use a smaller base or rank, or a machine with more memory",
            needed_bytes=needed, available_bytes=free,
        )  # fmt: skip


def give_back_early() -> None:
    """Let the C library take every tensor beyond 1 MiB from the system by itself, and give it back when it is freed.

    Otherwise the activations of training steps of many lengths leave holes that are never filled: on a base of 896 x 4 layers eight
    trainers reached 1,667 MiB where one reached 1,124, and with this 1,138 against 968. The price was a quarter more CPU time, about a
    tenth with huge pages (which the room's ``__init__`` asks torch for). For the whole process, from the first training on; reading
    files into memory becomes slower by it too. Does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)
        mallopt(_TRIM_THRESHOLD, 128 << 20)  # setting one switches the library's own adjusting off for both
