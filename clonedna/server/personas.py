"""``/api/v1/personas``: who talks, what speaks for them now and did before, their lineage, their archives. Thin over ``app.personas``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

import anyio
import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from clonedna.app.persona_archives import PersonaArchives, PersonaImported
from clonedna.app.persona_lineage import PersonaGraph, PersonaLineages
from clonedna.app.personas import PersonaBinding, PersonaList, PersonaOrder, PersonaShown
from clonedna.app.service import Service
from clonedna.app.settings import Settings
from clonedna.core.block import NAME_PATTERN
from clonedna.core.chat import ThreadPage
from clonedna.core.errors import InputError
from clonedna.core.persona import MOST_VERSIONS, Persona
from clonedna.core.value import Value
from clonedna.server.access import CHAT, MINT, READ, owner
from clonedna.server.errors import OURS, Error, documented
from clonedna.server.reading import Routes
from clonedna.server.transfer import CONTENT, FILE, VERIFYING, written

ROOT = "/api/v1/personas"
PIECE = 1 << 20
Name = Annotated[str, Path(pattern=NAME_PATTERN, description="a persona's name")]
After = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200)]
ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {"content": {CONTENT: FILE}, "description": "The whole archive."}, **documented(Error, 422)
}  # fmt: skip


class Back(Value):
    """Which version of the persona to go back to."""

    version: int = Field(ge=1, le=MOST_VERSIONS)


def larger(settings: Settings) -> dict[str, int]:
    """Paths that take larger bodies than others, as ``create_app`` wants them."""
    return {f"{ROOT}/import": settings.max_upload_bytes}


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/personas``."""
    made = Routes(prefix=ROOT, responses=OURS, tags=["personas"])
    _add_archives(made, service)
    _add_personas(made, service)
    return made


def _add_personas(made: APIRouter, service: Service) -> None:
    personas, lineages = service.teams.personas, PersonaLineages(service.parts)

    @made.post("", dependencies=[MINT], status_code=201)
    def create_persona(request: Request, order: PersonaOrder) -> Persona:
        """Make a persona, with what speaks for it or without."""
        return personas.create(order, _who(request))

    @made.get("", dependencies=[READ])
    def list_personas() -> PersonaList:
        """All personas by name, each with the code of what keeps it from speaking."""
        return personas.list()

    @made.get("/{name}", dependencies=[READ])
    def show_persona(name: Name) -> PersonaShown:
        """One persona with all its versions, whether it can speak now, and whose work it speaks from."""
        return personas.show(name)

    @made.put("/{name}/genome", dependencies=[MINT])
    def bind_persona_genome(request: Request, name: Name, binding: PersonaBinding) -> Persona:
        """Let a genome or a block speak for it from now on; what spoke before stays among its versions."""
        return personas.bind(name, binding.genome, _who(request))

    @made.post("/{name}/rollback", dependencies=[MINT])
    def roll_back_persona(request: Request, name: Name, back: Back) -> Persona:
        """Let what spoke in an earlier version speak again, as a further version. Nothing is deleted."""
        return personas.rollback(name, back.version, _who(request))

    @made.get("/{name}/lineage", dependencies=[READ])
    def persona_lineage(name: Name) -> PersonaGraph:
        """Its genomes and blocks, what they were made from, and what was measured of each."""
        return lineages.of(name)

    @made.get("/{name}/threads", dependencies=[CHAT])
    def list_persona_threads(request: Request, name: Name, limit: Limit = 50, after: After = None) -> ThreadPage:
        """The conversations with it, in slots of teams, too, last used first."""
        return personas.threads(name, limit=limit, after=after, owner=owner(request))


def _add_archives(made: APIRouter, service: Service) -> None:
    archives, arrivals = PersonaArchives(service.parts, service.sharing), service.arrivals
    verifying = anyio.CapacityLimiter(VERIFYING)

    @made.get("/{name}/export", dependencies=[READ], response_class=Response, responses=ARCHIVE)
    def export_persona(request: Request, name: Name) -> Response:
        """The persona with its genome and every block of it, as one signed file. Only what may be shared."""
        made, file = archives.opened(name, to=request.state.who.label)
        headers = {"Content-Length": str(made.bytes), "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(_pieces(file), media_type=CONTENT, headers=headers)

    @made.post(
        "/import", dependencies=[MINT], status_code=201, max_body_size=service.settings.max_upload_bytes,
        responses={200: {"model": PersonaImported, "description": "It was here already."}, **documented(Error, 422)},
        openapi_extra={"requestBody": {"required": True, "content": {CONTENT: FILE}}},
    )  # fmt: skip
    async def import_persona(
        request: Request, response: Response,
        name: Annotated[str | None, Query(pattern=NAME_PATTERN, description="What it is called here.")] = None,
    ) -> PersonaImported:  # fmt: skip
        """Take a persona's archive: verified completely before anything of it is visible. Who exported it, and who signed its blocks, must
        be trusted here. Again changes nothing."""
        if request.headers.get("content-type", "").partition(";")[0].strip().casefold() != CONTENT:
            raise InputError(f"an archive is sent as {CONTENT}", "send the file itself as the body", param="body")
        said = request.headers.get("content-length", "")
        length = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None
        arrival = await anyio.to_thread.run_sync(arrivals.begin, length)
        try:
            await written(request, arrival)
            who = _who(request)
            taken = await anyio.to_thread.run_sync(
                lambda: arrival.given(lambda path: archives.load(path, name=name, by=who)), limiter=verifying
            )
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(arrival.close)
        response.status_code = 201 if taken.new else 200
        return taken


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def _who(request: Request) -> str:
    return request.state.who.label
