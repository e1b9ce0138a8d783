"""A server's home: what ``app.usage.Home`` does for that of this machine."""

from __future__ import annotations

from clonedna.app.usage import DAY, Pruned, Usage
from clonedna.client.wire import Wire

STORE = "/api/v1/store"


class RemoteHome:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def usage(self) -> Usage:
        """Bytes by kind there."""
        return self._wire.get(f"{STORE}/usage", Usage)

    def prune(self, *, dry_run: bool = False, older_than: float = 30 * DAY, blocks: bool = False) -> Pruned:
        """Remove there what nothing refers to. ``older_than`` in seconds."""
        ask = {"dry_run": dry_run, "older_than_days": older_than / DAY, "blocks": blocks}
        return self._wire.post(f"{STORE}/prune", Pruned, ask)
