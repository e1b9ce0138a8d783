"""Which adapters keep their place in memory when there is not enough for all: arithmetic on ages, priorities and shares, no I/O.

Each owner (a persona, say) has a share of half the budget: ``0.5 * budget / owners * (0.5 + priority)``. The greatest score goes
first: ``age / (10 * priority)``, doubled for an owner beyond the share. A priority above 0.9 is never put out; what was loaded less
than 30 seconds ago goes only when nothing older can. Memory that only churns (more than 10 evictions a minute, fewer than 3 in 10
requests served from memory, a working set of fewer than 5) admits nothing of priority 0.8 or less until it calms down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

PINNED = 0.9
HYSTERESIS = 30.0
WINDOW = 60.0


@dataclass(slots=True)
class Held:
    """An adapter in memory as the policy sees it; times in seconds of one clock."""

    id: str
    bytes: int
    owner: str
    priority: float
    used: float
    loaded: float
    busy: bool = False

    @property
    def pinned(self) -> bool:
        return self.priority > PINNED


@dataclass(slots=True)
class Policy:
    """``budget`` in bytes. Keeps a minute of what happened to see thrashing."""

    budget: int
    _evicted: deque[float] = field(default_factory=deque)
    _asked: deque[tuple[float, str, bool]] = field(default_factory=deque)

    def victims(self, held: Sequence[Held], needed: int, now: float) -> list[str] | None:
        """Whom to put out so that ``needed`` more bytes fit, the first to go first; ``None`` when that cannot be had."""
        excess = sum(one.bytes for one in held) + needed - self.budget
        if excess <= 0:
            return []
        free = [one for one in held if not one.busy and not one.pinned]
        free.sort(key=lambda one: (now - one.loaded < HYSTERESIS, -self.score(one, held, now)))
        chosen: list[str] = []
        for one in free:
            chosen.append(one.id)
            excess -= one.bytes
            if excess <= 0:
                return chosen
        return None

    def score(self, one: Held, held: Sequence[Held], now: float) -> float:
        """How much ``one`` deserves to go: older, less important, of a greedy owner."""
        owners = {other.owner for other in held}
        share = 0.5 * self.budget / len(owners) * (0.5 + one.priority)
        own = sum(other.bytes for other in held if other.owner == one.owner)
        return (now - one.used) / max(1e-3, 10 * one.priority) * (2 if own > share else 1)

    def asked(self, id: str, hit: bool, now: float) -> None:
        self._asked.append((now, id, hit))
        self._forget(now)

    def evicted(self, now: float) -> None:
        self._evicted.append(now)

    def _forget(self, now: float) -> None:
        while self._evicted and now - self._evicted[0] > WINDOW:
            self._evicted.popleft()
        while self._asked and now - self._asked[0][0] > WINDOW:
            self._asked.popleft()

    def thrashing(self, now: float) -> bool:
        self._forget(now)
        if len(self._evicted) <= 10 or not self._asked:
            return False
        hits = sum(hit for _, _, hit in self._asked) / len(self._asked)
        return hits < 0.3 and len({id for _, id, _ in self._asked}) < 5

    def admits(self, priority: float, now: float) -> bool:
        return priority > 0.8 or not self.thrashing(now)
