"""The outermost layer of the application: each request gets an id, one line in the log, and is counted.

Promises: the id is the client's ``X-Request-ID`` where that is one (8 to 64 letters, digits, ``.``, ``_``, ``-``), else made here; it is in
the answer's ``X-Request-ID``, in the bodies of our errors, and in every line written meanwhile. The line and the counts name the route's
template, never the path that was asked for, and nothing of query or body. What nobody foresaw is logged here by its class and places.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clonedna import API_VERSION
from clonedna.app.logs import REQUEST, Asked, tell

if TYPE_CHECKING:
    from clonedna.server.metrics import Metrics

log = logging.getLogger(__name__)
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
UNROUTED = "unrouted"
LEFT = 499
_SANE = re.compile(r"[A-Za-z0-9._-]{8,64}")


class Telling:
    """ASGI: everything inside happens under a request's id."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        asked = Asked(given if _SANE.fullmatch(given) else secrets.token_hex(8))
        answer = _Answer(send, asked)
        token, began = REQUEST.set(asked), time.monotonic()
        try:
            await self.app(scope, receive, answer)
        except (
            Exception
        ) as error:  # starlette answered it already, or the head is out: uvicorn then closes the connection
            log.error("unforeseen", exc_info=error, extra={"event": "unforeseen", "fields": {}})
        finally:
            self._told(scope, answer, time.monotonic() - began)
            REQUEST.reset(token)

    def _told(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = template(scope)
        # An answer that was begun and not ended: the client left, or it broke.
        status = answer.status if answer.ended else LEFT
        self._metrics.answered(method, route, status, seconds, answer.asked.code)
        who = scope.get("state", {}).get("who")
        tell(
            log, "info", "request", method=method, route=route, status=status, ms=round(seconds * 1e3, 1),
            bytes=answer.size, code=answer.asked.code, who=_name(who),
        )  # fmt: skip


def template(scope: Scope) -> str:
    """The route's template; ``unrouted`` when no route was reached: so there are as many as the program has."""
    return str(getattr(scope.get("route"), "path", UNROUTED)).replace(":path}", "}")


def _name(who: object) -> str | None:
    """The id of the key that asked, as access left it in the request's state."""
    found = getattr(who, "id", who)
    return found if isinstance(found, str) else None


class _Answer:
    """``send`` that adds the id and the API's version to the head, and notes what went out."""

    def __init__(self, send: Send, asked: Asked) -> None:
        self._send, self.asked = send, asked
        self.status, self.size, self.ended = LEFT, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"], headers["X-DNA-API"] = self.asked.id, API_VERSION
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True
