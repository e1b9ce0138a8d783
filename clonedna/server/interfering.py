"""``/api/v1/genome/conflicts``: which blocks would harm each other, by what is known of them here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from clonedna.app.interfering import MOST_BLOCKS, Conflicts
from clonedna.app.service import Service
from clonedna.server.access import READ
from clonedna.server.errors import OURS

Block = Annotated[str, Query(min_length=1, max_length=200)]


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/genome``."""
    made = APIRouter(prefix="/api/v1/genome", responses=OURS, tags=["genomes"])

    @made.get("/conflicts", dependencies=[READ])
    async def conflicts(block: Annotated[list[Block], Query(min_length=1, max_length=MOST_BLOCKS)]) -> Conflicts:
        """For every ordered pair of these blocks (``block`` is given once for each) a light, and who repeats whom. No base is loaded:
        what was observed and measured on this machine before is used."""
        return await service.interfering.known(block)

    return made
