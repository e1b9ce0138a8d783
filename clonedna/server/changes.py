"""Every change through this server is in the audit log: who, by which route, which object, how it ended. Here, and nowhere else.

A change is what a route that needs ``mint`` or ``admin`` does by another method than GET, what any route does by PUT, PATCH or DELETE, and
what a route says is one (``CHANGES``). Asking a model or searching by POST is none. Before the route runs it is seen that an entry can be
written: what cannot be recorded is not done. The entry is on the disk before the answer begins. What the client sent wrong changed
nothing, and is not recorded; what was refused or failed behind the scope's check is.
"""

from __future__ import annotations

import logging

import anyio
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clonedna.app.audit import Audit
from clonedna.core.access import Who
from clonedna.core.errors import DnaError
from clonedna.server.errors import response

log = logging.getLogger(__name__)
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ALWAYS = frozenset({"PUT", "PATCH", "DELETE"})
PRIVILEGED = frozenset({"mint", "admin"})


async def may_change(request: Request) -> None:
    """Note that this request is a change. Raises what the audit log raises when an entry could not be written."""
    audit: Audit | None = getattr(request.app.state, "audit", None)
    if audit is not None:
        await anyio.to_thread.run_sync(audit.ready)
        request.state.change = True


CHANGES = Depends(may_change)


def is_change(method: str, scope: str) -> bool:
    """Whether a route that needs ``scope`` changes something by ``method``."""
    return method in ALWAYS or (method not in READING and scope in PRIVILEGED)


class Recording:
    """ASGI: writes the entry of a request that ``may_change``, when its answer begins."""

    def __init__(self, app: ASGIApp, *, audit: Audit) -> None:
        self.app, self._audit = app, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            return await self.app(scope, receive, send)
        answer = _Answer(self._audit, scope, receive, send)
        try:
            await self.app(scope, receive, answer)
        except Exception:
            await answer.broken()
            raise


class _Answer:
    """``send`` that records first. When the entry cannot be written, that error is the answer: the change was made, and not recorded."""

    def __init__(self, audit: Audit, scope: Scope, receive: Receive, send: Send) -> None:
        self._audit, self._scope, self._receive, self._send = audit, scope, receive, send
        self._begun = self._replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            try:
                await self._record(message["status"], Headers(scope=message).get("location", ""))
            except DnaError as error:
                log.error(
                    "a change could not be recorded", extra={"event": "unrecorded", "fields": {"code": error.code}}
                )
                self._replaced = True
                await response(self._scope["path"], error)(self._scope, self._receive, self._send)
        if not self._replaced:
            await self._send(message)

    async def broken(self) -> None:
        """The route failed as nobody foresaw, before its answer began: what it did until then is not known."""
        if not self._begun:
            try:
                await self._record(500, "")
            except DnaError as error:
                log.error(
                    "a change could not be recorded", extra={"event": "unrecorded", "fields": {"code": error.code}}
                )

    async def _record(self, status: int, location: str) -> None:
        state = self._scope.get("state", {})
        if not state.get("change") or (400 <= status < 500 and status != 403):
            return
        who: Who = state["who"]
        result = "done" if status < 400 else "refused" if status == 403 else "failed"
        about = state.get("about") or "/".join(map(str, self._scope.get("path_params", {}).values()))
        about = about or location.rstrip("/").rpartition("/")[2] or "-"
        what = f"{self._scope['method']} {getattr(self._scope.get('route'), 'path', self._scope['path'])}"
        # A client that leaves now must not leave the log without the entry.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._audit.changed, who.label, what, about, f"{result} {status}")
