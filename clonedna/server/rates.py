"""How often one may ask: a bucket of requests for each token, and for each address that sends none.

A bucket holds at most ``burst`` and gets ``rate`` more each second. Buckets are kept in this process's memory, the most recently used
``MOST``: one that was dropped starts full again.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import Scope

from clonedna.core.errors import Overloaded

MOST = 10_000
_V6_NETWORK = 64  # one customer's addresses


class Rates:
    """Buckets of one kind. Only the event loop's thread uses them."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``rate``: requests a second, 0: no limit."""
        self.rate, self.burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, whose: str) -> None:
        """Take one request from a bucket. Raises ``Overloaded`` with the seconds until there is one again."""
        if self.rate == 0:
            return
        now = self._clock()
        left, since = self._buckets.pop(whose, (float(self.burst), now))
        left = min(self.burst, left + max(0.0, now - since) * self.rate)
        self._buckets[whose] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = (1 - left) / self.rate
            raise Overloaded(
                "too many requests in a short time", f"ask again in {max(1, round(wait))} s, and more slowly", retry_after=round(wait, 3)
            )  # fmt: skip


def address_of(scope: Scope) -> str:
    """Whose bucket a request without a token is in: its address, of IPv6 the network of one customer."""
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _V6_NETWORK), strict=False))
    return str(address)
