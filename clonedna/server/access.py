"""Who may speak to the server, for what, and how many at a time; before any route or body is looked at.

A route names the scope that it needs: ``read`` what is here, ``chat``, ``mint`` (jobs and what is one's own), ``admin`` (everything). The
key of the settings has ``read`` and ``chat``, the admin key all. With a key set, every request but health checks carries
``Authorization: Bearer KEY``; keys are compared in constant time and never logged. Without one the server listens on loopback only, and a
request must name a loopback host, and come from no other web origin: so a page in a browser on this machine cannot reach it by
rebinding a name (DNS rebinding) or by posting a form. There is no CORS.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from typing import Literal, get_args
from urllib.parse import urlsplit

import anyio
from fastapi import Depends, Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Call

from clonedna.core.errors import DnaError, Overloaded, Refused, Unauthorised, Unavailable
from clonedna.server.errors import response, too_large

Scope = Literal["read", "chat", "mint", "admin"]
ALL: frozenset[Scope] = frozenset(get_args(Scope))
CLIENT: frozenset[Scope] = frozenset({"read", "chat"})
OPEN = frozenset({"/healthz", "/readyz"})
COUNTED = ("/v1/", "/api/")
BODY_SECONDS = 30.0


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    name = host.strip("[]").rstrip(".").casefold()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Traffic:
    """Requests in flight to the API (``COUNTED``). ``draining``: no new ones are taken."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.refused = most, 0, 0
        self.draining = False

    def check(self) -> None:
        """Raises ``Unavailable`` while draining, ``Overloaded`` when too many are in flight."""
        if self.draining:
            raise Unavailable("the server is stopping", "ask another one, or again in a moment")
        if self.now >= self.most:
            self.refused += 1
            raise Overloaded(f"{self.now} requests are in flight", "ask again in a moment", retry_after=1)


class Access:
    """ASGI middleware: key or loopback, then traffic. Puts ``scopes`` into the request's state."""

    def __init__(
        self, app: ASGIApp, *, traffic: Traffic, max_body: int, larger: Mapping[str, int], key: SecretStr | None = None,
        admin_key: SecretStr | None = None,
    ) -> None:  # fmt: skip
        """``max_body``: bytes of a request's body; ``larger``: of those to paths that take more."""
        self.app, self.traffic, self._max_body, self._larger = app, traffic, max_body, larger
        self._key = key.get_secret_value().encode() if key else None
        self._admin = admin_key.get_secret_value().encode() if admin_key else self._key

    async def __call__(self, scope: Call, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        counted = scope["path"].startswith(COUNTED)
        try:
            headers = Headers(scope=scope)
            scope.setdefault("state", {})["scopes"] = self._admitted(headers)
            self._check_length(scope["path"], headers)
            if counted:
                self.traffic.check()
        except DnaError as error:
            refusal = response(scope["path"], error)
            if isinstance(error, Unavailable):
                refusal.headers["Connection"] = "close"
            return await refusal(scope, receive, send)
        self.traffic.now += counted
        try:
            await self.app(scope, _timely(receive), send)
        finally:
            self.traffic.now -= counted

    def _check_length(self, path: str, headers: Headers) -> None:
        """A body that says it is too large is not read; one that does not say so is cut off by its route's own limit."""
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._larger.get(path, self._max_body):
            raise too_large()

    def _admitted(self, headers: Headers) -> frozenset[Scope]:
        """What the request may do. Raises ``Unauthorised``, ``Refused``."""
        if self._key is None and self._admin is None:
            _from_here(headers)
            return ALL
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip().encode("latin-1", "replace") if scheme.casefold() == "bearer" else b""
        # Both are compared each time: the time taken does not tell which one was close.
        admin = self._admin is not None and secrets.compare_digest(offered, self._admin)
        user = self._key is not None and secrets.compare_digest(offered, self._key)
        if not (admin or user):
            raise Unauthorised("a key is needed, and this is none of this server's", "send Authorization: Bearer KEY")
        return ALL if admin else CLIENT


def _timely(receive: Receive) -> Receive:
    """``receive`` that does not wait for ever for the next piece of a body: a request that is being read holds a place in the traffic."""
    more = True

    async def next_message() -> Message:
        nonlocal more
        if not more:  # then it waits for the client to leave, as long as the answer takes
            return await receive()
        with anyio.move_on_after(BODY_SECONDS):
            message = await receive()
            more = bool(message.get("more_body"))
            return message
        raise HTTPException(408)

    return next_message


class Needs:
    """A dependency of a route: the request's key must have this scope, or ``admin``. Raises ``Refused``."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(self, request: Request) -> None:
        if not {self.scope, "admin"} & request.state.scopes:
            raise Refused(f"this key has no scope {self.scope}", f"use a key that has {self.scope}, or admin")


READ, CHAT, MINT, ADMIN = (Depends(Needs(scope)) for scope in get_args(Scope))


def _from_here(headers: Headers) -> None:
    host = _name(f"//{headers.get('host', '')}")
    if host is None or not is_loopback(host):
        raise Refused("the Host header names another machine", "use http://127.0.0.1 or localhost, or set a key")
    origin = headers.get("origin")
    if origin is not None and (_netloc(origin) != headers.get("host", "").casefold()):
        raise Refused("a page of another origin may not use this server", "set a key, and send it")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.casefold()
    except ValueError:
        return ""
