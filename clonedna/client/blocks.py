"""The blocks of a server: what ``app.blocks.Blocks`` does for those of this machine."""

from __future__ import annotations

from urllib.parse import quote

from clonedna.app.blocks import BlockDetail
from clonedna.client.wire import Wire
from clonedna.core.errors import not_a_block

REGISTRY = "/api/v1/registry"


class RemoteBlocks:
    """Use cases over a server's registry."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def show(self, reference: str) -> BlockDetail:
        """A verified block's papers; ``path`` is on the server's machine."""
        return self._wire.get(f"{REGISTRY}/{segment(reference)}", BlockDetail)


def segment(reference: str) -> str:
    """A reference as one segment of a path. Raises ``BadReference`` for what no server could take as one."""
    if "/" in reference or reference in ("", ".", ".."):
        raise not_a_block(reference)
    return quote(reference, safe="@")
