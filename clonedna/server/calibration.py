"""``/api/v1/genome/calibration``: how similarity is predicted on this server, and fitting it anew."""

from __future__ import annotations

from fastapi import APIRouter

from clonedna.app.calibrating import Recalibrated, Shown
from clonedna.app.service import Service
from clonedna.core.value import Value
from clonedna.server.access import ADMIN, READ
from clonedna.server.errors import OURS


class RecalibrateAsk(Value):
    """``lab``: from the bundled lab's outcomes in place of this home's. ``force``: use the new card also where the old one errs less."""

    lab: bool = False
    force: bool = False


class Reset(Value):
    """``removed``: whether there was a card of this home."""

    removed: bool


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/genome``."""
    made = APIRouter(prefix="/api/v1/genome", responses=OURS, tags=["genomes"])

    @made.get("/calibration", dependencies=[READ])
    def calibration() -> Shown:
        """The card that similarity is predicted with here: features, weights, curve, what it reached, and from how many outcomes."""
        return service.calibrating.show()

    @made.post("/recalibrate", dependencies=[ADMIN])
    def recalibrate(ask: RecalibrateAsk) -> Recalibrated:
        """Fit a new card from this home's outcomes; it is used where it errs no more than the old one on what neither had seen."""
        return service.calibrating.recalibrate(lab=ask.lab, force=ask.force)

    @made.delete("/calibration", dependencies=[ADMIN])
    def reset() -> Reset:
        """Forget this home's card, so that the one that the program brings is used. Outcomes stay."""
        return Reset(removed=service.calibrating.reset())

    return made
