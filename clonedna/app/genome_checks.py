"""What is asked of a genome before it is used, each time: its signature, and of every member that it is here, sound, allowed, on this base.

Each refusal has the code of its error: ``genome_unsigned``, ``block_untrusted``, ``signature_invalid``, ``corrupt``, ``block_not_found``,
``block_revoked``, ``block_rejected``, ``block_corrupt``, ``wrong_base``, ``consent_missing``, ``licence_unknown``, ``licence_not_allowed``.
"""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.app.admission import admit
from clonedna.app.blocks import Blocks
from clonedna.app.merge_papers import Parent, inherit_licence
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts
from clonedna.core.block import Manifest
from clonedna.core.errors import Corrupt, DnaError, LicenceNotAllowed, WrongBase
from clonedna.core.genome import GenomeLayer, GenomeManifest, Refused


def member(parts: Parts, block_id: str, blocks: Blocks | None = None) -> Parent:
    """A verified block that may be used in a genome on this machine. Raises why not."""
    manifest = parts.registry.resolve(block_id)  # refuses what was revoked or rejected
    manifest, path = (blocks or Blocks(parts)).known(manifest.id)
    parts.store.refuse_revoked(manifest)
    consent = consent_of(path)
    admit(parts, manifest, consent, "serve", base=None)
    return Parent(manifest, path, consent, 1.0)


def members(parts: Parts, genome: GenomeManifest, blocks: Blocks | None = None) -> tuple[Parent, ...]:
    """All members of a genome, with their weights, when every one may be used with the others. Raises the first reason why not."""
    found: list[Parent] = []
    for layer in genome.layers:
        found.append(_checked(parts, genome, layer, blocks))
    _check_choice(genome)
    _check_artifact(parts, genome, blocks)
    _refuse_licence(genome, found)
    return tuple(found)


def faults(parts: Parts, genome: GenomeManifest, blocks: Blocks | None = None) -> tuple[Refused, ...]:
    """What is wrong with a genome's members now, by member; empty: it may be used."""
    wrong: list[Refused] = []
    found: list[Parent] = []
    for layer in genome.layers:
        try:
            found.append(_checked(parts, genome, layer, blocks))
        except DnaError as error:
            wrong.append(Refused(id=layer.id, name=f"{layer.name}@{layer.version}", code=error.code, why=error.message))
    if not wrong:
        try:
            _check_choice(genome)
            _check_artifact(parts, genome, blocks)
            _refuse_licence(genome, found)
        except DnaError as error:
            wrong.append(
                Refused(id=genome.id, name=f"{genome.name}@{genome.version}", code=error.code, why=error.message)
            )
    return tuple(wrong)


def licence_meet(found: Sequence[Parent]) -> str:
    """The licence of all of them together. Raises ``LicenceNotAllowed`` naming two that exclude each other, ``LicenceUnknown``."""
    return inherit_licence(sorted(found, key=lambda one: one.manifest.id))


def _checked(parts: Parts, genome: GenomeManifest, layer: GenomeLayer, blocks: Blocks | None) -> Parent:
    one = member(parts, layer.id, blocks)
    if unlike := _unlike(one.manifest, genome):
        raise WrongBase(f"{layer.name}@{layer.version} {unlike}", "assemble the genome again: dna assemble")
    said = (layer.license, layer.consent_mode, layer.rank, layer.alpha, layer.target_modules)
    m = one.manifest
    if said != (m.license, m.consent_mode, m.rank, m.alpha, m.target_modules):
        raise Corrupt(
            f"{layer.name}@{layer.version} is not what the genome says of it", "assemble the genome again: dna assemble"
        )
    return Parent(one.manifest, one.path, one.consent, layer.weight)


def _check_choice(genome: GenomeManifest) -> None:
    """What chooses by words has one entry for each layer, and rows of one length. Raises ``Corrupt``."""
    gate, mixed, layers = genome.gate, genome.shares, len(genome.layers)
    whole = gate is None or (
        len(gate.centroids) == layers and all(len(row) == gate.dimension for rows in gate.centroids for row in rows)
    )
    if mixed is not None:
        whole = (
            whole
            and (len(mixed.weights), len(mixed.bias)) == (layers, layers)
            and len(set(map(len, mixed.weights))) == 1
        )
    if not whole:
        raise Corrupt(
            f"{genome.name}@{genome.version} chooses between other layers than it has",
            "assemble the genome again: dna assemble",
        )


def _check_artifact(parts: Parts, genome: GenomeManifest, blocks: Blocks | None) -> None:
    """The block that the layers were merged into: there, sound, allowed, and of exactly these layers."""
    if genome.artifact is None:
        if genome.composition.kind == "merge":
            raise Corrupt("the genome is a merge, and names no merged block", "assemble the genome again: dna assemble")
        return
    one = member(parts, genome.artifact, blocks)
    if unlike := _unlike(one.manifest, genome):
        raise WrongBase(f"{one.reference} {unlike}", "assemble the genome again: dna assemble")
    if set(one.manifest.lineage.parents) != {layer.id for layer in genome.layers}:
        raise Corrupt(
            f"{one.reference} was not merged of the genome's layers", "assemble the genome again: dna assemble"
        )


def _unlike(manifest: Manifest, genome: GenomeManifest) -> str:
    if manifest.base_fingerprint != genome.base_fingerprint:
        return f"is for {manifest.base_model} ({manifest.base_fingerprint[:12]}), the genome for {genome.base_model}"
    mine, theirs = manifest.base_weights_digest, genome.base_weights_digest
    if mine is not None and theirs is not None and mine != theirs:
        return f"is for {manifest.base_model} with other weights ({mine[:12]}, not {theirs[:12]})"
    return ""


def _refuse_licence(genome: GenomeManifest, found: Sequence[Parent]) -> None:
    meet = licence_meet(found)
    if meet != genome.license:
        raise LicenceNotAllowed(
            f"the genome says {genome.license}, and its members are together under {meet}",
            "assemble the genome again: dna assemble",
        )
