"""``/api/v1/doctor``: whether the server's machine and home are fit."""

from __future__ import annotations

from fastapi import APIRouter

from clonedna.app.doctor import Diagnosis
from clonedna.app.service import Service
from clonedna.server.access import ADMIN
from clonedna.server.errors import OURS
from clonedna.server.reading import Routes


def router(service: Service) -> APIRouter:
    """The one route."""
    made = Routes(prefix="/api/v1/doctor", responses=OURS, tags=["operations"])

    @made.get("", dependencies=[ADMIN])
    def examine(deep: bool = False) -> Diagnosis:
        """What has to be right on the server's machine, each with what to do where it is not.

        With ``deep`` the sandbox is tried too, which takes seconds. The answer is 200 also when something fails: see ``status``.
        """
        return service.doctor.examine(deep=deep, serving=True)

    return made
