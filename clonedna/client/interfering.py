"""Which blocks of a server would harm each other: what ``app.interfering.Interfering`` does there."""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.app.interfering import Conflicts
from clonedna.client.wire import Wire
from clonedna.core.errors import InputError


class RemoteInterfering:
    """Over one connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def conflicts(
        self, references: Sequence[str], *, observe: bool = False, measured: bool = False, on: str | None = None
    ) -> Conflicts:
        """By what is known there. Raises ``InputError`` for what takes the base: that is asked for on that machine."""
        if observe or measured or on is not None:
            raise InputError(
                "observing and measuring run on the machine of the blocks",
                "leave out --observe, --measure and --on, or give the command there", param="observe",
            )  # fmt: skip
        return self._wire.get("/api/v1/genome/conflicts", Conflicts, query={"block": list(references)})
