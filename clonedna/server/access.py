"""Who may speak to the server, for what, how often and how many at a time; before any route or body is looked at.

A route names the scope that it needs: ``read`` what is here, ``chat``, ``mint`` (jobs and what is one's own), ``admin`` (everything). A
token has the scopes that it was made with; the key of the settings has ``read`` and ``chat``, the admin key all. With a key or a token in
the home every request but health checks carries ``Authorization: Bearer ...``; both are compared in constant time and never logged.
Without any, the server listens on loopback only, and a request must name a loopback host, and come from no other web origin: so a page in
a browser on this machine cannot reach it by rebinding a name (DNS rebinding) or by posting a form.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar, get_args
from urllib.parse import urlsplit

import anyio
from fastapi import Depends, Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Call

from clonedna.core.access import ALL, Scope, Who
from clonedna.core.errors import DnaError, Overloaded, Refused, Unauthorised, Unavailable
from clonedna.server.changes import is_change, may_change
from clonedna.server.errors import response, too_large
from clonedna.server.rates import Rates, address_of

if TYPE_CHECKING:
    from clonedna.app.gate import Gate
    from clonedna.app.settings import Settings

T = TypeVar("T")
CLIENT: frozenset[Scope] = frozenset({"read", "chat"})
OPEN = frozenset({"/healthz", "/readyz"})
CLAIM = "/api/v1/pairings/claim"  # what it takes is its own proof
CLAIMS_A_SECOND, CLAIMS_AT_ONCE = 1 / 12, 5
COUNTED = ("/v1/", "/api/")
BODY_SECONDS = 30.0
LOOKUPS = 8  # threads that look tokens up: never all of those that routes run in


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
    """ASGI middleware: token, key or loopback, then rates and traffic. Puts ``who`` and their ``scopes`` into the request's state."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, traffic: Traffic, larger: Mapping[str, int], gate: Gate | None = None
    ) -> None:
        """Bodies have at most the settings' bytes; ``larger``: of those to paths that take more. ``gate`` knows the home's tokens."""
        self.app, self.traffic, self._max_body, self._larger = app, traffic, settings.max_body_bytes, larger
        self._keys = _Keys(settings.api_key, settings.admin_key)
        self._gate, self._origins = gate, settings.cors_origins
        self._closed = self._keys.any or not is_loopback(settings.host)
        self._rates = Rates(settings.rate_limit, settings.rate_burst)
        self._claims = Rates(CLAIMS_A_SECOND, CLAIMS_AT_ONCE)
        self._lookups, self._waiting = anyio.CapacityLimiter(LOOKUPS), 0

    async def __call__(self, scope: Call, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        counted = scope["path"].startswith(COUNTED)
        try:
            headers = Headers(scope=scope)
            who = await self._admitted(scope, headers)
            state = scope.setdefault("state", {})
            state["who"], state["scopes"] = who, who.scopes
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
            await self._note(who)

    def _check_length(self, path: str, headers: Headers) -> None:
        """A body that says it is too large is not read; one that does not say so is cut off by its route's own limit."""
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._larger.get(path, self._max_body):
            raise too_large()

    async def _admitted(self, scope: Call, headers: Headers) -> Who:
        """Who asks. Raises ``Unauthorised``, ``Refused``, ``Overloaded``, and what the database of tokens raises."""
        address = address_of(scope)
        if scope["path"] == CLAIM:
            self._claims.take(address)
            if not await self._wants_tokens():
                _from_here(headers, self._origins)
            return Who(kind="nobody", id="nobody")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip() if scheme.casefold() == "bearer" else ""
        who = self._keys.who(offered) or await self._by_token(offered)
        if who is not None:
            self._rates.take(who.id)
            return who
        self._rates.take(address)
        if await self._wants_tokens():
            raise Unauthorised(
                "a token or key is needed, and this is none of this server's", "send Authorization: Bearer TOKEN"
            )
        _from_here(headers, self._origins)
        return Who(kind="local", id="local", scopes=ALL)

    async def _by_token(self, offered: str) -> Who | None:
        if self._gate is None or not offered:
            return None
        known = self._gate.recall(offered)
        return known[0] if known is not None else await self._looked_up(partial(self._gate.who, offered))

    async def _wants_tokens(self) -> bool:
        """Whether a request must say who it is."""
        if self._closed or self._gate is None:
            return self._closed
        wanted = self._gate.recall_wanted()
        return wanted if wanted is not None else await self._looked_up(self._gate.wanted)

    async def _looked_up(self, look: Callable[[], T]) -> T:
        """What ``look`` says, in a thread. Raises ``Overloaded`` when too many wait for theirs: a database may be slow, or away."""
        if self._waiting >= self.traffic.most:
            raise Overloaded(f"{self._waiting} requests wait to be let in", "ask again in a moment", retry_after=1)
        self._waiting += 1
        try:
            return await anyio.to_thread.run_sync(look, limiter=self._lookups)
        finally:
            self._waiting -= 1

    async def _note(self, who: Who) -> None:
        if self._gate is not None and who.kind == "token" and self._gate.due(who.id):
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._gate.note, who.id, limiter=self._lookups)


class _Keys:
    """The settings' keys. Without an admin key the key may do all."""

    def __init__(self, key: SecretStr | None, admin_key: SecretStr | None) -> None:
        self._key = key.get_secret_value().encode() if key else None
        self._admin = admin_key.get_secret_value().encode() if admin_key else self._key
        self.any = self._key is not None or self._admin is not None

    def who(self, offered: str) -> Who | None:
        """Whose key this is, if it is one."""
        given = offered.encode("latin-1", "replace")
        # Both are compared each time: the time taken does not tell which one was close.
        admin = self._admin is not None and secrets.compare_digest(given, self._admin)
        user = self._key is not None and secrets.compare_digest(given, self._key)
        if user:
            return Who(kind="key", id="key", scopes=ALL if admin else CLIENT)
        return Who(kind="admin_key", id="admin-key", scopes=ALL) if admin else None


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
    """A dependency of a route: who asks must have this scope, or ``admin``. Raises ``Refused``.

    Where the route changes something, also what ``changes.may_change`` raises.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(self, request: Request) -> None:
        if not {self.scope, "admin"} & request.state.scopes:
            hint = "use one that has it" if self.scope == "admin" else f"use one that has {self.scope}, or admin"
            raise Refused(f"this token or key has no scope {self.scope}", hint)
        if is_change(request.method, self.scope):
            await may_change(request)


READ, CHAT, MINT, ADMIN = (Depends(Needs(scope)) for scope in get_args(Scope))


def _from_here(headers: Headers, origins: Sequence[str]) -> None:
    host = _name(f"//{headers.get('host', '')}")
    if host is None or not is_loopback(host):
        raise Refused(
            "the Host header names another machine",
            "use http://127.0.0.1 or localhost, or make a token: dna tokens new",
        )
    origin = headers.get("origin")
    if origin is not None and origin not in origins and _netloc(origin) != headers.get("host", "").casefold():
        raise Refused("a page of another origin may not use this server", "make a token, and send it")


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


def owner(request: Request) -> str | None:
    """Whose what this request makes is, and what of such it sees; ``None``: everybody's, for admins and this machine."""
    who: Who = request.state.who
    return None if "admin" in who.scopes else f"{who.kind}:{who.id}"
