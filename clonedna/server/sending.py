"""One file of a block store as an HTTP answer: whole or one range of it, sent as it is read, until it is out or the client leaves.

RFC 9110: strong ``ETag``, ``Range`` (several ranges, or what is none, are answered with everything), ``If-Range``, ``If-None-Match``, HEAD.
What is read is not kept; a client that stops taking for ``SEND_SECONDS`` is given up, and its files are closed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clonedna.app.sharing import Offer, Sharing
from clonedna.core.errors import BadRange, DnaError
from clonedna.server.errors import response

log = logging.getLogger(__name__)
CHUNK = 1 << 20
SEND_SECONDS = 60.0
_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))[ \t]*")


def wanted(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """The first byte and the one behind the last that a request asks for; ``None`` for all. Raises ``BadRange`` when there are none."""
    asked, condition = headers.get("range"), headers.get("if-range")
    found = _RANGE.fullmatch(asked) if asked is not None and condition in (None, etag) else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last is not None and int(last) < int(first):
            return None
    if start >= stop:
        raise BadRange(f"there are no such bytes of {size}", "ask for less, or for everything", size=size)
    return start, stop


def named(header: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` names this very representation."""
    return header is not None and any(one.strip().removeprefix("W/") in (etag, "*") for one in header.split(",")[:50])


class Sent(Response):
    """An offer's bytes. Revocation stops it in the middle: the connection is closed, and the client has no whole file."""

    def __init__(self, sharing: Sharing, offer: Offer, who: str) -> None:
        """``who`` takes it, as it is noted before the first byte leaves."""
        self._sharing, self._offer, self._who = sharing, offer, who
        self.status_code, self.background = 200, None
        self.init_headers({
            "ETag": offer.etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f'attachment; filename="{offer.filename}"', "Cache-Control": "private, no-cache",
        })  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, offer = Headers(scope=scope), self._offer
        try:
            part = wanted(headers, offer.size, offer.etag)
        except BadRange as error:
            refusal = response(scope["path"], error)
            refusal.headers["Content-Range"] = f"bytes */{offer.size}"
            await refusal(scope, receive, send)
            return
        start, stop = part or (0, offer.size)
        if named(headers.get("if-none-match"), offer.etag):
            await self._head(send, 304, None, last=True)
            return
        if scope["method"] == "HEAD":
            await self._head(send, 206 if part else 200, (start, stop), last=True)
            return
        try:
            await anyio.to_thread.run_sync(self._sharing.holding.note, offer.manifest.id, "downloaded", self._who)
        except DnaError as error:
            await response(scope["path"], error)(scope, receive, send)
            return
        await self._head(send, 206 if part else 200, (start, stop), last=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_left, receive, tasks.cancel_scope)
            await self._body(send, start, stop)
            tasks.cancel_scope.cancel()

    async def _head(self, send: Send, status: int, part: tuple[int, int] | None, *, last: bool) -> None:
        headers = [*self.raw_headers]
        if part is not None:
            headers.append((b"content-length", str(part[1] - part[0]).encode()))
        if status == 206 and part is not None:
            headers.append((b"content-range", f"bytes {part[0]}-{part[1] - 1}/{self._offer.size}".encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if last:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, send: Send, start: int, stop: int) -> None:
        """Returns early, with the answer unfinished, when it may not or cannot go on: the server then closes the connection."""
        try:
            opened = await anyio.to_thread.run_sync(self._offer.open)
            try:
                while start < stop:
                    await anyio.to_thread.run_sync(self._sharing.still, self._offer)
                    piece = await anyio.to_thread.run_sync(opened.read, start, min(CHUNK, stop - start))
                    start += len(piece)
                    with anyio.fail_after(SEND_SECONDS):
                        await send({"type": "http.response.body", "body": piece, "more_body": start < stop})
            finally:
                opened.close()
        except (DnaError, TimeoutError) as error:
            code = error.code if isinstance(error, DnaError) else "too_slow"
            log.warning("sending stopped", extra={"event": "sending_stopped", "fields": {"code": code}})


async def _left(receive: Receive, scope: anyio.CancelScope) -> None:
    """Until the client leaves: then nothing more is read for it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
