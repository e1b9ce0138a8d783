"""What a process would write to its log, for a test."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager

from clonedna.app import logs


@contextmanager
def logged(level: str) -> Generator[io.StringIO]:
    """All lines from ``level`` on, as JSON; the process's logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    made = io.StringIO()
    logs.configure(form="json", level=level, stream=made)
    try:
        yield made
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        for name in logs.OURS:
            logging.getLogger(name).setLevel(logging.NOTSET)
