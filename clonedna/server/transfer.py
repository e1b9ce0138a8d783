"""``/api/v1/registry``: a block as a `.dna` file out of this server and into it, and its revocation; ``/api/v1/keys``: who signs here.

What goes out and comes in is decided by ``app.sharing`` alone. Bodies are written to disk as they come, and read from it as they go.
"""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Path, Request, Response
from starlette.requests import ClientDisconnect

from clonedna.app.keys import OfferedKeys, OfferedLog
from clonedna.app.receiving import Arrival
from clonedna.app.revoking import Effects, Revoking
from clonedna.app.service import Service
from clonedna.app.settings import Settings
from clonedna.core.block import BlockRef
from clonedna.core.errors import InputError, Interrupted
from clonedna.server.access import ADMIN, MINT, READ
from clonedna.server.errors import OURS, Error, documented
from clonedna.server.reading import Routes
from clonedna.server.sending import CHUNK, Sent

ROOT = "/api/v1/registry"
CONTENT = "application/octet-stream"
VERIFYING = 2
Reference = Annotated[
    str, Path(min_length=1, max_length=200, description="name, name@version, or at least 8 digits of its id")
]
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="an identity, or the id of one of its keys")]
FILE = {"schema": {"type": "string", "format": "binary"}}
SENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {CONTENT: FILE}, "description": "The whole file."},
    206: {"content": {CONTENT: FILE}, "description": "The bytes that Range asked for."},
    304: {"description": "It is the one that If-None-Match names."},
    **documented(Error, 416, 422),
}
HEADS: dict[int | str, dict[str, Any]] = {
    status: {"description": "What GET would say."} for status in (200, 206, 304, 416, 422)
}


def larger(settings: Settings) -> dict[str, int]:
    """Paths that take larger bodies than others, as ``create_app`` wants them."""
    return {ROOT: settings.max_upload_bytes}


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1``."""
    made = Routes(prefix="/api/v1", responses=OURS)
    _add_out(made, service)
    _add_in(made, service)
    _add_keys(made, service)
    return made


def _add_out(made: APIRouter, service: Service) -> None:
    def download(request: Request, reference: Reference) -> Response:
        """The block as a `.dna` file: the same bytes each time, in ranges where asked. Only what may be shared: not revoked, rejected or
        local-only blocks, and none whose consent does not cover sharing."""
        return Sent(service.sharing, service.sharing.offer(reference), request.state.who.label)

    path = "/registry/{reference}/download"
    made.add_api_route(
        path, download, methods=["GET"], dependencies=[READ], response_class=Response, responses=SENT, tags=["registry"]
    )
    made.add_api_route(
        path, download, methods=["HEAD"], dependencies=[READ], response_class=Response, responses=HEADS, tags=["registry"],
        operation_id="head_block_download",
    )  # fmt: skip


def _add_in(made: APIRouter, service: Service) -> None:
    arrivals, verifying = service.arrivals, anyio.CapacityLimiter(VERIFYING)

    @made.post(
        "/registry", dependencies=[MINT], status_code=201, max_body_size=service.settings.max_upload_bytes, tags=["registry"],
        responses={200: {"model": BlockRef, "description": "It was here already."}, **documented(Error, 422)},
        openapi_extra={"requestBody": {"required": True, "content": {CONTENT: FILE}}},
    )  # fmt: skip
    async def upload(
        request: Request, response: Response,
        content_digest: Annotated[str, Header(max_length=1000, description="sha-256=:BASE64: of the body (RFC 9530)")] = "",
    ) -> BlockRef:  # fmt: skip
        """Take a `.dna` file: verified completely before anything of it is visible. Its signer must be trusted here, and its consent must
        cover sharing. Again changes nothing."""
        if request.headers.get("content-type", "").partition(";")[0].strip().casefold() != CONTENT:
            raise InputError(f"a block is sent as {CONTENT}", "send the .dna file itself as the body", param="body")
        said = request.headers.get("content-length", "")
        length = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None
        arrival = await anyio.to_thread.run_sync(arrivals.begin, length, content_digest)
        try:
            await written(request, arrival)
            taken = await anyio.to_thread.run_sync(arrival.finish, limiter=verifying)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(arrival.close)
        response.status_code = 201 if taken.new else 200
        return taken.block

    @made.delete("/registry/{reference}", dependencies=[ADMIN], tags=["registry"])
    def revoke_block(reference: Reference) -> Effects:
        """Revoke a block, and what was made from it: never served, given out, taken in or made again. It cannot be undone."""
        return Revoking(service.parts).block(reference)


async def written(request: Request, arrival: Arrival) -> None:
    """The body to disk, about a megabyte at a time. Raises ``TooLarge``, ``NoSpace``, ``Interrupted`` when the sender leaves."""
    held = bytearray()
    try:
        async for piece in request.stream():
            held += piece
            if len(held) >= CHUNK:
                await anyio.to_thread.run_sync(arrival.write, bytes(held))
                held.clear()
    except ClientDisconnect:
        raise Interrupted("the sender left before the block was whole", "send it again") from None
    if held:
        await anyio.to_thread.run_sync(arrival.write, bytes(held))


def _add_keys(made: APIRouter, service: Service) -> None:
    @made.get("/keys", dependencies=[READ], tags=["keys"])
    def keys() -> OfferedKeys:
        """Whose signatures this server believes, its own first. Nobody has to believe them: compare the identity with its owner."""
        return service.keys.offered()

    @made.get("/keys/{key}", dependencies=[READ], tags=["keys"])
    def key_log(key: KeyId) -> OfferedLog:
        """The key log of the identity that has this key, as `dna keys trust` takes it."""
        return service.keys.offered_log(key)
