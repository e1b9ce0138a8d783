"""What stands for a block beside its text: prompts, read from its files as far as its consent allows, what names in its text mean, and
what a teacher wrote that people may type who look for it.

Only training prompts of a file that is the one that was signed; only where the block's consent covers serving it here. To an encoder on
another machine no prompt of a local-only block is sent. A block that cannot be read has none, with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from clonedna.app.papers import consent_of, signed_pairs_of
from clonedna.app.queries_kept import KeptQueries
from clonedna.core.errors import ConsentMissing, DnaError
from clonedna.core.seams import Consents, Registry, Store
from clonedna.core.vectors import Vectors

if TYPE_CHECKING:
    from clonedna.genomes.glossary import Glossary

log = logging.getLogger(__name__)


class BlockExemplars:
    """Fulfils ``meanings.Exemplars`` for the blocks of one home."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        consents: Callable[[], Consents],
        glossary: Callable[[], Glossary],
        kept: KeptQueries,
        *,
        elsewhere: bool = False,
    ) -> None:
        """``elsewhere``: the encoder runs on another machine."""
        self._store, self._registry, self._consents, self._elsewhere = store, registry, consents, elsewhere
        self._glossary, self._kept = glossary, kept

    def prompts(self, block_id: str) -> tuple[str, ...]:
        """At most 64 prompts; none where they may not be used."""
        from clonedna.genomes.exemplars import listed  # loads numpy

        try:
            path = self._store.path(block_id)
            consent = consent_of(path)
            if self._elsewhere and consent.mode == "local-only":
                return ()
            self._consents().check(consent, "serve")
            manifest = self._registry.resolve(block_id, unsafe=True)
            return listed(signed_pairs_of(path, manifest), manifest.capability.exemplars)
        except ConsentMissing:
            return ()
        except DnaError as error:
            log.warning("block %s is known by its text alone: %s", block_id[:12], error.code)
            return ()

    def meant(self, text: str) -> tuple[str, ...]:
        """What the names in a block's text mean, at most 8."""
        return self._glossary().meanings(text)

    def queries(self, block_id: str) -> tuple[str, ...]:
        """What people may type who look for it, at most 8 lines."""
        return self._kept.of(block_id)

    def queried(self) -> frozenset[str]:
        """The blocks that have such lines."""
        return self._kept.blocks()

    def state(self) -> int:
        """Another number whenever they came or went."""
        return self._kept.state()

    def middles(self, vectors: Vectors) -> Vectors:
        """Four to eight centroids, fewer of few."""
        from clonedna.genomes.exemplars import centroids

        return Vectors(vectors.encoder, centroids(vectors.rows))
