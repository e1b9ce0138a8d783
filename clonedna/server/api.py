"""The whole application of one service: OpenAI's routes, and our own under ``/api/v1``; each router names the scope of each route."""

from __future__ import annotations

from clonedna.app.service import Service
from clonedna.server import (
    blocks,
    calibration,
    chat,
    consent,
    developers,
    doctor,
    fine_tuning,
    genomes,
    interfering,
    jobs,
    personas,
    registry,
    teams,
    tokens,
    transfer,
    upkeep,
)
from clonedna.server.home_metrics import HomeMetrics
from clonedna.server.main import Application, create_app


def application(service: Service) -> Application:
    """Every route over ``service``; its jobs run while the application does."""
    app = create_app(
        service.serving, service.settings, background=service.lifespan, gate=service.gate, audit=service.audit,
        larger=fine_tuning.larger(service.settings) | transfer.larger(service.settings)
        | personas.larger(service.settings),
        routers=[
            fine_tuning.router(service.tuning),
            registry.router(service),
            blocks.router(service),
            calibration.router(service),
            interfering.router(service),
            consent.router(service),
            developers.router(service),
            transfer.router(service),
            upkeep.router(service),
            tokens.router(service),
            doctor.router(service),
            chat.router(service),
            teams.router(service),
            personas.router(service),
            jobs.router(service),
            genomes.commands(service),
            genomes.router(service),
        ],
    )  # fmt: skip
    service.chat.watch = app.metrics.watch
    HomeMetrics(service.figures.read).register(app.metrics.registry)
    return app
