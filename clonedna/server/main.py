"""The web application, and the process that serves it.

``create_app`` puts routes, access and errors together over one ``Serving``. ``listen`` takes the port before anything heavy is
loaded; ``Server`` runs until it is told to stop: the first TERM or INT lets running answers end (at most ``drain_seconds``) and takes
no new ones, the second one ends it at once. Nothing of a request's content is logged.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType, MappingProxyType
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from clonedna import __version__
from clonedna.app.audit import Audit
from clonedna.app.gate import Gate
from clonedna.app.serving import Serving
from clonedna.app.settings import Settings
from clonedna.core.errors import BadConfig, InputError, Refused, Unavailable
from clonedna.server import errors, ops, v1
from clonedna.server.access import Access, Traffic, is_loopback
from clonedna.server.changes import Recording
from clonedna.server.description import describe
from clonedna.server.metrics import Metrics
from clonedna.server.shield import Origins, Shield
from clonedna.server.telling import Telling

Background = Callable[[], AbstractAsyncContextManager[None]]


class Application(FastAPI):
    """With ``Shield`` and ``Telling`` around everything, also around what answers unforeseen errors, and a description of our own."""

    metrics: Metrics
    settings: Settings

    def build_middleware_stack(self) -> ASGIApp:
        told = Telling(super().build_middleware_stack(), self.metrics)
        return Shield(told, hsts=self.settings.hsts_seconds, origins=self.settings.cors_origins)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = describe(self)
        return self.openapi_schema


def create_app(
    serving: Serving, settings: Settings, *, background: Background | None = None, routers: Sequence[APIRouter] = (),
    larger: Mapping[str, int] = MappingProxyType({}), gate: Gate | None = None, audit: Audit | None = None,
) -> Application:  # fmt: skip
    """The ASGI application. ``background`` is entered when it starts and left when it stops; ``routers`` are further routes.

    Bodies have at most ``max_body_bytes``; a route that takes more has its own ``max_body_size``, and its path is in ``larger``.
    ``gate`` knows the tokens of the home, ``audit`` records what is changed; without them there are neither.

    ``app.state.traffic`` counts requests and says whether the server is stopping.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        if background is None:
            yield
            return
        async with background():
            yield

    traffic = Traffic(settings.max_requests)
    metrics = Metrics(serving, traffic)
    app = Application(
        title="Clone.dna", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.metrics, app.settings, app.state.audit = metrics, settings, audit
    app.state.traffic = traffic
    errors.install(app)
    for router in (v1.router(serving, settings, metrics), ops.router(serving, traffic, metrics), *routers):
        # Here, inside our own middleware: the application's own limit would answer in a shape of its own.
        app.include_router(router, max_body_size=settings.max_body_bytes)
    if audit is not None:
        app.add_middleware(Recording, audit=audit)
    app.add_middleware(Access, settings=settings, traffic=traffic, larger=larger, gate=gate)
    if settings.cors_origins:
        app.add_middleware(Origins, origins=settings.cors_origins)
    return app


def listen(settings: Settings, *, has_token: Callable[[], bool] = bool) -> socket.socket:
    """A socket at the settings' host and port (0: a free one), not yet taking connections. ``has_token``: whether a token opens something.

    Raises ``Refused`` for a host beyond this machine without key and token, ``Unavailable`` when the port is taken, ``InputError``.
    """
    host, port = settings.host, settings.port
    if not is_loopback(host) and settings.api_key is None and not has_token():
        raise Refused(
            f"{host} can be reached from other machines, and there is no token and no key",
            "make one: dna tokens new NAME --scope ..., or set DNA_API_KEY, or listen on 127.0.0.1",
        )
    if settings.admin_key is not None and settings.api_key is None:
        raise BadConfig("an admin key without a key for clients", "set DNA_API_KEY too")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"no address {host!r}: {error.strerror}", "give an address of this machine") from None
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} of {host} is taken by another program",
                "choose another one, or --port 0 for any",
                port=port,
            ) from None
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}", "give another --host or --port") from None
    return made


def address(made: socket.socket) -> str:
    """The URL that a client on this machine uses."""
    host, port = made.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """Serves an application on a socket until it is told to stop. ``ready`` is called once connections are taken."""

    def __init__(self, app: FastAPI, settings: Settings, *, ready: Callable[[], None]) -> None:
        # The application's lifespan is entered by ``run_on``, so that what it raises arrives as it is.
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, ws="none", lifespan="off",
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)), timeout_keep_alive=30,
            )
        )  # fmt: skip
        self._app, self._ready = app, ready

    async def run_on(self, made: socket.socket) -> None:
        """Start what runs in the background, serve, drain, stop the background. In the main thread it heeds TERM and INT all along."""
        with self._heeding():
            async with self._app.router.lifespan_context(self._app):
                await self.serve(sockets=[made])

    def stop(self) -> None:
        """Take no new requests, and return when those that run have ended."""
        self.should_exit = self._app.state.traffic.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Told once, drain. Told again, end now: files are whole and jobs durable at any moment, so nothing has to be waited for."""
        if self.should_exit:
            os._exit(0)
        # uvicorn would raise the signal again after stopping; for us a stop that was asked for is a success.
        self.stop()

    @contextmanager
    def _heeding(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
