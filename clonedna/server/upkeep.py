"""``/api/v1/store``: what this server's home holds, and the removal of what nothing refers to."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from clonedna.app.service import Service
from clonedna.app.usage import DAY, Home, Pruned, Usage
from clonedna.core.value import Value
from clonedna.server.access import ADMIN
from clonedna.server.errors import OURS
from clonedna.server.reading import Routes


class PruneAsk(Value):
    """``older_than_days``: of caches, and of the work of jobs that failed or were cancelled. ``blocks``: also those in no catalogue."""

    dry_run: bool = False
    older_than_days: float = Field(default=30, ge=0, le=36_500, allow_inf_nan=False)
    blocks: bool = False


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/store``."""
    made = Routes(prefix="/api/v1/store", responses=OURS, tags=["store"])

    @made.get("/usage", dependencies=[ADMIN])
    def usage() -> Usage:
        """Bytes and files of this server's home by kind, and what is free on its disk."""
        return Home(service.parts).usage()

    @made.post("/prune", dependencies=[ADMIN])
    def prune(ask: PruneAsk) -> Pruned:
        """Remove what no running process holds and nothing refers to; with `dry_run` only say what that is."""
        return Home(service.parts).prune(dry_run=ask.dry_run, older_than=ask.older_than_days * DAY, blocks=ask.blocks)

    return made
