"""Health, metrics, version, and the engine's status."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import Response

from clonedna import API_VERSION, __version__
from clonedna.app.serving import Serving
from clonedna.core.errors import Unavailable
from clonedna.core.model import EngineStatus
from clonedna.server.access import READ, Traffic
from clonedna.server.errors import OURS, Error, documented
from clonedna.server.metrics import Metrics


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """``version`` of the program; ``api`` of the routes under ``/api/v1``, also in each answer's ``X-DNA-API``."""

    version: str = __version__
    api: str = API_VERSION


class Status(BaseModel):
    """The engine at this moment; ``names``: adapters' ids in the engine as blocks."""

    engine: EngineStatus
    names: dict[str, str]


def router(serving: Serving, traffic: Traffic, metrics: Metrics) -> APIRouter:
    made = APIRouter()

    @made.get("/healthz")
    async def healthz() -> Health:
        """The process answers."""
        return Health()

    @made.get("/readyz", responses=documented(Error, 503))
    async def readyz() -> Health:
        """New requests are taken; 503 while the server is stopping."""
        if traffic.draining:
            raise Unavailable("the server is stopping", "ask another one, or again in a moment")
        return Health()

    @made.get(
        "/metrics",
        dependencies=[READ],
        response_class=Response,
        responses=OURS | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def prometheus() -> Response:
        """Figures in Prometheus' text format."""
        return Response(metrics.text(), media_type=None, headers={"content-type": CONTENT_TYPE_LATEST})

    @made.get("/version", dependencies=[READ], responses=OURS)
    async def version() -> Version:
        """The versions of the program, and of its own routes."""
        return Version()

    @made.get("/api/v1/engine", dependencies=[READ], responses=OURS)
    async def engine() -> Status:
        """What is resident, running, cached, and how fast."""
        status = serving.engine.status
        return Status(engine=status, names={one.id: serving.name_of(one.id) for one in status.adapters})

    return made
