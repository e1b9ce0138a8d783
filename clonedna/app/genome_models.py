"""Genomes as models: ``genome:NAME`` (or ``genome:NAME@VERSION``, or digits of its id), and what one request to it goes through.

Verified when its files change; its members at each request, so a genome one of whose members was revoked is refused from then on.
Nothing is kept of a conversation: the turns that come with a request decide which layer answers it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clonedna.app import genome_checks
from clonedna.app.blocks import Blocks, ServedGenome, ServedLayer, ServedRoute
from clonedna.app.composing import TOP_K
from clonedna.app.parts import Parts
from clonedna.app.stamps import Stamp, stamp_of_any
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, DnaError, InputError, WrongBase
from clonedna.core.genome import GenomeManifest
from clonedna.core.model import BaseInfo
from clonedna.core.vectors import Vectors
from clonedna.genomes.gating import shares
from clonedna.genomes.routing import routed

PREFIX = "genome:"
MOST_TURNS = 8  # of a conversation, the last ones: what a layer was chosen for before that has no weight
MOST_READ, MOST_VECTORS = 64, 2048


@dataclass(frozen=True, slots=True)
class Going:
    """What a request goes through: block ids with their weights. ``top_k``: each token through that many of them (Arrow)."""

    parts: tuple[tuple[str, float], ...]
    top_k: int | None
    served: ServedGenome


class GenomeModels:
    """The genomes of a home for one base. Threads may share it."""

    def __init__(self, parts: Parts, base: BaseInfo) -> None:
        self._parts, self._base, self._blocks = parts, base, Blocks(parts)
        self._root = parts.settings.home / "genomes"
        self._read: OrderedDict[str, tuple[int, Stamp, GenomeManifest]] = OrderedDict()
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def listed(self) -> tuple[GenomeManifest, ...]:
        """Those that can be asked, newest first: on this base, every member here and allowed."""
        return tuple(one for one in self._parts.genomes.manifests() if self._usable(one))

    def manifest(self, model: str) -> GenomeManifest:
        """The genome that a model's name means; verified, on this base. Raises ``GenomeNotFound``, ``WrongBase``, what verifying does."""
        reference = model.removeprefix(PREFIX)
        root = _changed(self._root)
        with self._lock:
            held = self._read.get(reference)
        if held is not None and held[0] == root and held[1] == stamp_of_any(self._root / held[2].id):
            return held[2]
        genome = self._parts.genomes.get(reference).manifest
        if genome.base_fingerprint != self._base.fingerprint:
            raise WrongBase(
                f"{genome.name}@{genome.version} is for {genome.base_model} ({genome.base_fingerprint[:12]}), "
                f"not {self._base.id} ({self._base.fingerprint[:12]})",
                "serve the base it was assembled on: dna serve --base",
            )
        with self._lock:
            self._read[reference] = (root, stamp_of_any(self._root / genome.id), genome)
            while len(self._read) > MOST_READ:
                self._read.popitem(last=False)
        return genome

    def going(self, model: str, said: Sequence[str]) -> Going:
        """What a request to ``model`` goes through. ``said``: the person's turns, oldest first.

        Raises as ``manifest`` and ``genome_checks.members``; ``InputError`` where a layer is chosen by words and there are none;
        ``BadConfig`` where that takes another encoder than the settings'.
        """
        genome = self.manifest(model)
        genome_checks.members(self._parts, genome, self._blocks)
        how, weights = genome.composition, {layer.id: layer.weight for layer in genome.layers}
        route, top_k = None, None
        if genome.artifact is not None:
            weights = {genome.artifact: 1.0}
        elif how.method == "arrow":
            top_k = how.top_k or TOP_K
        elif how.method == "mixture":
            if genome.shares is None:
                raise InputError(
                    f"{genome.name}@{genome.version} has no shares to mix by", "assemble it again: dna assemble"
                )
            found = shares(genome.shares, self._encoded(genome.shares.encoder, said[-1:]))[0]
            weights = {one.id: one.weight * float(share) for one, share in zip(genome.layers, found, strict=True)}
        elif how.kind == "route":
            weights, route = self._routed(genome, said)
        members = tuple(
            ServedLayer(block=f"{one.name}@{one.version}", block_id=one.id, weight=one.weight) for one in genome.layers
        )
        served = ServedGenome(
            genome=f"{genome.name}@{genome.version}", genome_id=genome.id, composition=f"{how.kind} {how.method}", members=members,
            route=route,
        )  # fmt: skip
        return Going(parts=tuple(weights.items()), top_k=top_k, served=served)

    def _routed(self, genome: GenomeManifest, said: Sequence[str]) -> tuple[dict[str, float], ServedRoute]:
        if genome.gate is None:
            one = genome.layers[0]
            if len(genome.layers) > 1:
                raise InputError(
                    f"{genome.name}@{genome.version} has no gate to choose by", "assemble it again: dna assemble"
                )
            return {one.id: one.weight}, ServedRoute(block=f"{one.name}@{one.version}", cosine=None, floor=None)
        gate = genome.gate
        found = routed(gate, self._encoded(gate.encoder, said[-MOST_TURNS:]))
        cosine = round(found.cosine, 6)
        if found.layer is None:
            return {}, ServedRoute(block=None, cosine=cosine, floor=gate.floor)
        one = genome.layers[found.layer]
        return {one.id: one.weight}, ServedRoute(block=f"{one.name}@{one.version}", cosine=cosine, floor=gate.floor)

    def _encoded(self, wanted: str, texts: Sequence[str]) -> Vectors:
        """A row for each text, those of earlier requests from memory."""
        encoder = self._parts.encoder
        if encoder.name != wanted:
            raise BadConfig(
                f"this genome chooses by vectors of {wanted}, and the settings' encoder is {encoder.name}",
                "set that encoder, or assemble the genome again",
            )
        if not texts or not any(text.strip() for text in texts):
            raise InputError("this genome chooses a layer by what is asked, and nothing is", "send a prompt of text")
        keys = [sha256(f"{wanted}\0{text}") for text in texts]
        with self._lock:
            known = {key: self._vectors[key] for key in keys if key in self._vectors}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if new:
            rows = encoder.encode(list(new.values())).rows
            known |= {key: Vectors(wanted, row[None]) for key, row in zip(new, rows, strict=True)}
        with self._lock:
            for key in keys:
                self._vectors[key] = known[key]
                self._vectors.move_to_end(key)
            while len(self._vectors) > MOST_VECTORS:
                self._vectors.popitem(last=False)
        return Vectors(wanted, np.concatenate([known[key].rows for key in keys]))

    def _usable(self, genome: GenomeManifest) -> bool:
        if genome.base_fingerprint != self._base.fingerprint:
            return False
        try:
            genome_checks.members(self._parts, genome, self._blocks)
        except DnaError:
            return False
        return True


def base_of(parts: Parts, model: str) -> str:
    """The base that a genome is for. Raises as reading it does."""
    return parts.genomes.get(model.removeprefix(PREFIX)).manifest.base_model


def _changed(folder: Path) -> int:
    """When an entry of the folder came or went; 0 where it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
