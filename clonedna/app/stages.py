"""The stages of a use case that runs in the foreground, told as events: when each began, and when it ended with what came out."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from clonedna.core.events import Emit, StageFinished, StageStarted


@contextmanager
def told(emit: Emit, stage: str) -> Generator[dict[str, Any]]:
    """Tell when ``stage`` begins and ends; what is put into the dict goes with the end. A stage that fails is not told to have ended."""
    began = time.monotonic()
    emit(StageStarted(stage=stage))
    counts: dict[str, Any] = {}
    yield counts
    emit(StageFinished(stage=stage, seconds=round(time.monotonic() - began, 3), counts=counts))
