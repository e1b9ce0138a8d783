"""``/api/v1/registry``: the blocks of this server in pages, and found by words and by meaning."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from clonedna.app.service import Service
from clonedna.core.catalogue import BlockPage, Findings, ListQuery, SearchQuery
from clonedna.server.access import READ
from clonedna.server.errors import OURS


def router(service: Service) -> APIRouter:
    """The two routes; they stand before those of one block, whose name could be ``search``."""
    made = APIRouter(prefix="/api/v1/registry", responses=OURS, tags=["registry"])

    @made.get("", dependencies=[READ])
    def list_blocks(query: Annotated[ListQuery, Query()]) -> BlockPage:
        """A page of blocks, rejected ones among them, and the cursor of the next page."""
        return service.catalogue.page(query)

    @made.get("/search", dependencies=[READ])
    def search_blocks(query: Annotated[SearchQuery, Query()]) -> Findings:
        """Blocks found by words (``text``), by meaning (``semantic``), or both (``hybrid``); only those that may be used."""
        return service.catalogue.search(query)

    return made
