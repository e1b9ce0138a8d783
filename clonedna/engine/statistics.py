"""What an engine counts while it serves: tokens, requests, times between tokens. Written by the owner's thread, read by anyone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clonedna.core.model import Spread

if TYPE_CHECKING:
    from clonedna.engine.requests import Sampling

LATEST = 4096


def spread(values: Sequence[float]) -> Spread:
    """Count, median and 95th percentile (nearest rank) of ``values``."""
    ordered = sorted(values)
    if not ordered:
        return Spread(n=0)

    def rank(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)

    return Spread(n=len(ordered), p50=rank(0.5), p95=rank(0.95))


class Statistics:
    """Counts since the engine was opened; times in milliseconds, of the latest ``LATEST`` tokens."""

    def __init__(self) -> None:
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        self.gaps: deque[float] = deque(maxlen=LATEST)
        self.gaps_training: deque[float] = deque(maxlen=LATEST)
        self.first: deque[float] = deque(maxlen=LATEST)
        self.durations: deque[float] = deque(maxlen=64)

    def token(self, sampling: Sampling, now: float, *, training: bool) -> None:
        """A token was computed for ``sampling`` at ``now`` (``time.monotonic()``)."""
        if sampling.count == 0:
            self.prompt_tokens += len(sampling.prompt)
            self.first.append((now - sampling.asked) * 1e3)
        else:
            (self.gaps_training if training else self.gaps).append((now - sampling.told) * 1e3)
        self.completion_tokens += 1
        sampling.told = now

    def ended(self, sampling: Sampling) -> None:
        self.requests += 1
        self.durations.append(sampling.told - sampling.asked)

    def retry_after(self, waiting: int, running: int) -> int:
        """Seconds until a request that comes now might be taken: an estimate from the latest requests' durations, 1 to 60."""
        known = list(self.durations)
        average = sum(known) / len(known) if known else 1.0
        return max(1, min(60, math.ceil(average * (waiting + 1) / max(1, running))))
