"""Whether a server's machine is fit: what ``app.doctor.Doctor`` says there."""

from __future__ import annotations

from clonedna.app.doctor import Diagnosis
from clonedna.client.wire import Wire


class RemoteDoctor:
    """Looks at the machine of a server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def examine(self, *, deep: bool = False) -> Diagnosis:
        """Every check, as the server finds it. Needs scope ``admin``."""
        return self._wire.get("/api/v1/doctor", Diagnosis, query={"deep": "true" if deep else None})
