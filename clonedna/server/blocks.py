"""``/api/v1/registry/...``: one block in detail, two compared, and what a name means. Blocks are verified before anything of them is told.

Fixed words (``compare``, ``diff``) come before a block's name; a block that is called so is reached by ``name@version`` or its id.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from clonedna.app.blocks import BlockDetail
from clonedna.app.details import Card, FileTable, Measured
from clonedna.app.lineage import LineageGraph, mermaid
from clonedna.app.service import Service
from clonedna.app.verdicts import Verdict
from clonedna.app.versions import RolledBack, VersionLine
from clonedna.app.versions_diff import VersionDiff
from clonedna.core.block import VERSION_PATTERN
from clonedna.core.comparison import Comparison
from clonedna.server.access import ADMIN, READ
from clonedna.server.errors import OURS, Error
from clonedna.server.reading import Routes, told

Reference = Annotated[
    str, Path(min_length=1, max_length=200, description="name, name@version, or at least 8 digits of its id")
]
FileName = Annotated[str, Path(min_length=1, max_length=100, description="a name of the block's own table")]
# What a block holds is data of strangers: a browser keeps it, and neither guesses what it is nor runs any of it.
INERT = {
    "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, no-cache",
}  # fmt: skip
BYTES = {kind: {} for kind in ("application/octet-stream", "application/json", "text/markdown", "image/png")}
CORRUPT = {422: {"model": Error, "description": "The block is not what was signed."}}


class VersionList(BaseModel):
    """All versions of a name, newest first."""

    versions: tuple[VersionLine, ...]


class RollbackAsk(BaseModel):
    """``version``: an accepted one; without it the one before what the name means now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None = Field(default=None, pattern=VERSION_PATTERN, max_length=40)


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/registry``."""
    made = Routes(prefix="/api/v1/registry", responses=OURS | CORRUPT, tags=["registry"])
    _add_pairs(made, service)
    _add_papers(made, service)
    _add_files(made, service)
    _add_names(made, service)
    return made


def sees_everything(request: Request) -> bool:
    """Whether the caller may mint here or runs this server: then the persons' work lies open to them anyway."""
    return bool({"mint", "admin"} & request.state.scopes)


def _add_pairs(made: APIRouter, service: Service) -> None:
    @made.get("/compare/{a}/{b}", dependencies=[READ])
    async def compare_blocks(a: Reference, b: Reference, unsafe: bool = False) -> Comparison:
        """The weights of two blocks, exactly, from their factors; no base is loaded. Behaviour and style take a job: kind ``compare``.

        ``unsafe``: also blocks that the gate rejected, by their ids.
        """
        return await service.comparing.weights(a, b, unsafe=unsafe)

    @made.get("/diff/{a}/{b}", dependencies=[READ])
    def diff_blocks(request: Request, a: Reference, b: Reference) -> VersionDiff:
        """What changed from one block to another: pairs, recipe, measures, lineage, licence, consent."""
        return service.details.diff(a, b, everything=sees_everything(request))


def _add_papers(made: APIRouter, service: Service) -> None:
    @made.get("/{reference}", dependencies=[READ], response_model=BlockDetail)
    def show_block(reference: Reference) -> Response:
        """One verified block's papers, by name, name@version or the beginning of its id."""
        return told(service.blocks.show(reference).model_copy(update={"path": ""}))

    @made.get("/{reference}/verify", dependencies=[READ])
    def verify_block(reference: Reference) -> Verdict:
        """Check signature, digests, licence, consent and revocation now; a block that is not what was signed is an error."""
        return service.details.verify(reference)

    @made.get("/{reference}/evaluations", dependencies=[READ], response_model=Measured)
    def measured_of_block(reference: Reference) -> Response:
        """What was measured at its mint, and again on this server."""
        return told(service.details.measured(reference))

    @made.get(
        "/{reference}/card",
        dependencies=[READ],
        response_model=Card,
        responses={200: {"content": {"text/markdown": {}}}},
    )
    def card_of_block(reference: Reference, format: Literal["json", "markdown"] = "json") -> Response:
        """The model card. Its text is of strangers: make it safe before it is shown as HTML."""
        card = service.details.card(reference)
        if format == "markdown":
            return Response(card.text, media_type="text/markdown; charset=utf-8", headers=INERT)
        return told(card)

    @made.get(
        "/{reference}/lineage", dependencies=[READ], response_model=LineageGraph, responses={200: {"content": {"text/plain": {}}}}
    )  # fmt: skip
    def lineage_of_block(reference: Reference, format: Literal["json", "mermaid"] = "json") -> LineageGraph | Response:
        """Where it comes from and what was made from it, over any number of steps."""
        graph = service.lineages.of(reference)
        if format == "mermaid":
            return PlainTextResponse(mermaid(graph), headers=INERT)
        return graph


def _add_files(made: APIRouter, service: Service) -> None:
    @made.get("/{reference}/files", dependencies=[READ], response_model=FileTable)
    def files_of_block(reference: Reference) -> Response:
        """The block's table: path, size, SHA-256, and whether the file is open to all who may read here."""
        return told(service.details.files(reference))

    @made.get(
        "/{reference}/files/{name}", dependencies=[READ], response_class=FileResponse,
        responses={200: {"content": BYTES}, 206: {"content": BYTES, "description": "The range that was asked for."}},
    )  # fmt: skip
    def file_of_block(request: Request, reference: Reference, name: FileName) -> FileResponse:
        """One file. Pairs, weights, profile and sources only where consent covers sharing, or with the scope mint or admin."""
        found = service.details.file(reference, name, who=request.state.who.label, everything=sees_everything(request))
        headers = INERT | {"ETag": f'"{found.sha256}"'}
        return FileResponse(
            found.at, media_type=found.media, filename=found.name, headers=headers, stat_result=found.stat()
        )


def _add_names(made: APIRouter, service: Service) -> None:
    @made.get("/{name}/versions", dependencies=[READ], response_model=VersionList)
    def versions_of_block(name: Annotated[str, Path(min_length=1, max_length=200)]) -> Response:
        """All versions of a name, newest first, and which one the name means."""
        return told(VersionList(versions=service.versions.list(name)))

    @made.post("/{name}/rollback", dependencies=[ADMIN])
    def rollback_block(
        name: Annotated[str, Path(min_length=1, max_length=200)], ask: RollbackAsk | None = None
    ) -> RolledBack:
        """Have a name mean an earlier version, until a later one is accepted."""
        return service.versions.rollback(name, ask.version if ask else None)
