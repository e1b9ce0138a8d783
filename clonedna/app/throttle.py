"""How often something may be done about one subject, in this process: what costs others (GitHub's answers) or helps guessing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from clonedna.core.errors import Overloaded

MOST_SUBJECTS = 10_000


class Throttle:
    """At most ``most`` times in ``seconds`` for each subject. Of many subjects, those that were met last are remembered. Any thread."""

    def __init__(self, most: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.seconds, self._clock = most, seconds, clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()
        self._alone = threading.Lock()

    def take(self, subject: str) -> None:
        """Count one more. Raises ``Overloaded`` with the seconds to wait."""
        now = self._clock()
        with self._alone:
            times = self._seen.pop(subject, deque())
            while times and now - times[0] >= self.seconds:
                times.popleft()
            wait = self.seconds - (now - times[0]) if len(times) >= self.most else 0.0
            if not wait:
                times.append(now)
            self._seen[subject] = times
            while len(self._seen) > MOST_SUBJECTS:
                self._seen.popitem(last=False)
        if wait:
            raise Overloaded(
                f"asked {self.most} times in {self.seconds / 60:.0f} minutes", "wait, then try again", retry_after=max(1, round(wait))
            )  # fmt: skip
