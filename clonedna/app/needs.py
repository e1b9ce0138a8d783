"""How this home reads requests for genomes: the taxonomy with the extension of its settings, and the encoder that compares meanings."""

from __future__ import annotations

from clonedna.app.parts import Parts
from clonedna.genomes.needs import NEAR, Reader
from clonedna.genomes.taxonomy import Taxonomy, load_taxonomy

ELSE_NEAR = 0.55
"""For encoders that no threshold was chosen for: what spelling alone (``hashed``) needs to be right."""


def taxonomy_of(parts: Parts) -> Taxonomy:
    """The bundled nodes and those of ``taxonomy_extension``. Raises ``BadConfig``."""
    return load_taxonomy(parts.settings.taxonomy_extension)


def reader_of(parts: Parts) -> Reader:
    """Reads requests; the nodes' vectors stay in the home, beside those of blocks. Raises ``BadConfig``, and as ``Parts.encoder``."""
    encoder = parts.encoder
    near = NEAR if encoder.name.startswith("all-minilm-l6-v2@") else ELSE_NEAR
    return Reader(taxonomy_of(parts), encoder, index=parts.index_of(encoder, "taxonomy"), near=near)
