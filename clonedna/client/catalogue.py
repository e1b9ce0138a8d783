"""A server's lists and searches: what ``app.catalogue.Catalogue`` does for this machine."""

from __future__ import annotations

from clonedna.client.blocks import REGISTRY
from clonedna.client.wire import Wire
from clonedna.core.catalogue import BlockPage, Findings, ListQuery, SearchQuery


class RemoteCatalogue:
    """Use cases over a server's catalogue."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def page(self, query: ListQuery) -> BlockPage:
        """One page of lines."""
        return self._wire.get(REGISTRY, BlockPage, query=query.model_dump(mode="json", exclude_defaults=True))

    def search(self, query: SearchQuery) -> Findings:
        """The best matches."""
        sent = query.model_dump(mode="json", exclude_defaults=True)
        return self._wire.get(f"{REGISTRY}/search", Findings, query=sent)
