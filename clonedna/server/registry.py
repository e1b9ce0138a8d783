"""``/api/v1/registry``: the blocks of this server in pages, and found by words and by meaning."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from clonedna.app.service import Service
from clonedna.core.catalogue import BlockPage, Findings, ListQuery, SearchQuery
from clonedna.server.access import READ
from clonedna.server.errors import OURS
from clonedna.server.reading import Asked, Routes, told

LIST, SEARCH = Asked(ListQuery), Asked(SearchQuery)


def router(service: Service) -> APIRouter:
    """The two routes; they stand before those of one block, whose name could be ``search``."""
    made = Routes(prefix="/api/v1/registry", responses=OURS, tags=["registry"])

    @made.get("", dependencies=[READ], response_model=BlockPage, openapi_extra=LIST.described)
    def list_blocks(query: Annotated[ListQuery, Depends(LIST)]) -> Response:
        """A page of blocks, rejected ones among them, and the cursor of the next page."""
        return told(service.catalogue.page(query))

    @made.get("/search", dependencies=[READ], response_model=Findings, openapi_extra=SEARCH.described)
    def search_blocks(query: Annotated[SearchQuery, Depends(SEARCH)]) -> Response:
        """Blocks found by words (``text``), by meaning (``semantic``), or both (``hybrid``); only those that may be used."""
        return told(service.catalogue.search(query))

    return made
