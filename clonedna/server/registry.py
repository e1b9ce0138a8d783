"""``/api/v1/registry``: the blocks of this server."""

from __future__ import annotations

from fastapi import APIRouter

from clonedna.app.service import Service
from clonedna.core.block import Manifest
from clonedna.core.value import Value
from clonedna.server.access import READ
from clonedna.server.errors import OURS


class BlockPage(Value):
    """Blocks, newest first."""

    blocks: tuple[Manifest, ...]


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/registry``."""
    made = APIRouter(prefix="/api/v1/registry", responses=OURS, tags=["registry"])

    @made.get("", dependencies=[READ])
    def list_blocks() -> BlockPage:
        """All blocks, newest first, rejected ones among them."""
        return BlockPage(blocks=service.blocks.list())

    return made
