"""How a server predicts similarity: what ``app.calibrating.Calibrating`` does there."""

from __future__ import annotations

from pathlib import Path

from clonedna.app.calibrating import Recalibrated, Shown
from clonedna.client.wire import Wire
from clonedna.core.errors import InputError
from clonedna.core.value import Value

GENOME = "/api/v1/genome"


class _Reset(Value):
    removed: bool


class RemoteCalibrating:
    """Over one connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def show(self) -> Shown:
        """The card in use there, and from how much."""
        return self._wire.get(f"{GENOME}/calibration", Shown)

    def recalibrate(self, given: Path | None = None, *, lab: bool = False, force: bool = False) -> Recalibrated:
        """Fit a new one there from that home's outcomes, or (``lab``) the bundled ones. Raises ``InputError`` for a file: none is sent."""
        if given is not None:
            raise InputError(
                "a server fits from its own outcomes",
                "leave --outcomes out, or run the command on that machine",
                param="outcomes",
            )
        return self._wire.post(f"{GENOME}/recalibrate", Recalibrated, {"lab": lab, "force": force})

    def reset(self) -> bool:
        """Forget that home's card; gives whether there was one."""
        return self._wire.delete(f"{GENOME}/calibration", _Reset).removed
