"""How many cores there are to share."""

from __future__ import annotations

import os


def cores() -> int:
    """Those that this process may use; where the system does not say, all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
