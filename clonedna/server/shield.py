"""What every answer says to a browser: errors, streams and what no route answered among them; and which pages of other origins may ask.

An answer of ours is data, and is never a page, a script or a frame: that is the policy, unless a route (a page) gives its own. Nothing is
kept in a cache unless its route says so, or gave it a tag to ask again by. Other origins get no leave (no CORS) but those of the settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clonedna.core.errors import Refused
from clonedna.server.errors import response

ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
UNLESS_GIVEN = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ASKED_WITH = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
)
ANSWERED_WITH = (
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "X-Request-ID",
    "X-Served-By",
)


class Shield:
    """ASGI: the headers, around everything else. ``hsts``: seconds for which browsers use https alone, 0: it is not said."""

    def __init__(self, app: ASGIApp, *, hsts: int, origins: Sequence[str]) -> None:
        self.app, self._hsts, self._shared = app, hsts, bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message))
            await send(message)

        await self.app(scope, receive, shielded if scope["type"] == "http" else send)

    def _add(self, headers: MutableHeaders) -> None:
        for name, value in ALWAYS.items():
            headers[name] = value
        for name, value in UNLESS_GIVEN.items():
            headers.setdefault(name, value)
        if self._shared and "access-control-allow-origin" in headers:
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if headers.get("content-type", "").startswith("text/event-stream"):
            headers["Cache-Control"] = "no-store"  # an answer to one person, whatever the stream's own class says
        elif "etag" not in headers:
            headers.setdefault("Cache-Control", "no-store")
        if self._hsts:
            headers["Strict-Transport-Security"] = f"max-age={self._hsts}"


class Origins(CORSMiddleware):
    """The pages that may ask; they send a token as every program does, never a browser's own cookies or passwords."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins=list(origins), allow_methods=list(METHODS), allow_headers=list(ASKED_WITH),
            expose_headers=list(ANSWERED_WITH), allow_credentials=False, max_age=600,
        )  # fmt: skip

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser asks before it sends: leave, or an error in our shape."""
        made = super().preflight_response(request_headers)
        if made.status_code < 400:
            return made
        return response("", Refused("a page of this origin may not ask this", "see: cors_origins in docs/access.md"))
