"""Whether something fits: estimates made before work begins, so that the answer is an error with figures and not a dead process."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil

from clonedna.core.errors import NoMemory

RESERVE = 256 << 20
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


def give_back() -> None:
    """Give the system back every page that no tensor lies in, wherever it is.

    The activations of training steps of many lengths leave holes that are never filled: on a base of 896 x 4 layers eight trainers
    reached 1,512 MiB where one reached 1,127, and 1,188 with this before every step they share, for about a tenth more time: pages
    that come back are fresh ones. Does nothing where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
