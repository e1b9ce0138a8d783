"""The versions of a name on a server: what ``app.versions`` does for those of this machine, but for minting the next one."""

from __future__ import annotations

from clonedna.app.versions import RolledBack, VersionLine
from clonedna.client.blocks import REGISTRY, segment
from clonedna.client.wire import Wire
from clonedna.core.value import Value


class _Versions(Value):
    versions: tuple[VersionLine, ...]


class RemoteVersions:
    """Use cases over a server's registry."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self, name: str) -> tuple[VersionLine, ...]:
        """All versions of ``name``, newest first, rejected ones among them."""
        return self._wire.get(f"{REGISTRY}/{segment(name)}/versions", _Versions).versions

    def rollback(self, name: str, version: str | None = None) -> RolledBack:
        """Have ``name`` mean ``version`` there. Needs a key with the scope admin."""
        body = {} if version is None else {"version": version}
        return self._wire.post(f"{REGISTRY}/{segment(name)}/rollback", RolledBack, body)
