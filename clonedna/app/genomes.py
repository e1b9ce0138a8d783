"""What a person does with genomes that are there: list, show, verify, vouch for one, go back to an earlier version, remove.

A genome is verified each time it is read, and its members each time it is shown or used: one whose member was revoked is still listed, with
the code of what is wrong, and is refused for use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonedna.app import genome_checks
from clonedna.app.blocks import Blocks
from clonedna.app.genome_values import GenomeChecked, GenomeLine, GenomeList
from clonedna.app.given import read_given
from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import naming, now
from clonedna.core.block import Measure, not_available
from clonedna.core.errors import DnaError, GenomeNotFound, InputError
from clonedna.core.genome import GenomeEvaluation, GenomeManifest, SignedGenome, Similarity, genome_id

MOST_FILE = 8_000_000


class GenomeShelf:
    """Use cases over the genomes of one home."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._blocks = Blocks(parts)

    def list(self) -> GenomeList:
        """All genomes, newest first, each with the code of what keeps it from being used."""
        wrong = self.parts.genomes.faults()
        codes = {fault.id: fault.code for fault in wrong}
        found = self.parts.genomes.manifests()
        lines = tuple(_line(one, codes.get(one.id) or self._fault(one)) for one in found)
        known = {one.id for one in found}
        return GenomeList(genomes=lines, faults=tuple(fault for fault in wrong if fault.id not in known))

    def show(self, reference: str) -> GenomeChecked:
        """A genome whose signature holds, and what is wrong with its members. Raises ``GenomeNotFound``, and as verifying it does."""
        genome = self.parts.genomes.get(reference).manifest
        faults = genome_checks.faults(self.parts, genome, self._blocks)
        return GenomeChecked(genome=genome, usable=not faults, faults=faults)

    def verify(self, reference: str) -> GenomeChecked:
        """The same. Raises the first thing that is wrong, with its code."""
        genome = self.parts.genomes.get(reference).manifest
        genome_checks.members(self.parts, genome, self._blocks)
        return GenomeChecked(genome=genome, usable=True, faults=())

    def verify_signed(self, signed: SignedGenome) -> GenomeChecked:
        """The same of one that is not kept here."""
        genome: GenomeManifest = factory("genomes", "verify")(signed, self.parts.signer)
        genome_checks.members(self.parts, genome, self._blocks)
        return GenomeChecked(genome=genome, usable=True, faults=())

    def sign(self, manifest: GenomeManifest) -> SignedGenome:
        """Vouch for a manifest with this machine's key, and keep it.

        One that this machine made is signed as it is. Of any other, the next version of its name is made, with the other as its parent and
        without its evaluation: nobody vouches for what was not measured here. Raises what is wrong with it or its members, ``KeyLocked``.
        """
        if genome_id(manifest) != manifest.id:
            raise InputError(
                "the manifest's id is not that of its content", "give the file as it was written", param="id"
            )
        genome_checks.members(self.parts, manifest, self._blocks)
        with naming(self.parts.settings.home):
            if manifest.created_by != self.parts.signer.key_id:
                manifest = self._adopted(manifest)
            return self._kept(manifest)

    def rollback(self, name: str, version: str) -> GenomeManifest:
        """The next version of ``name``, with the layers of ``version``. Raises ``GenomeNotFound``, and what is wrong with its members."""
        old = self.parts.genomes.get(f"{name}@{version}").manifest
        genome_checks.members(self.parts, old, self._blocks)
        with naming(self.parts.settings.home):
            found = self.parts.genomes.manifests(name)
            newest, (after, parent) = found[0], following(found)
            if _what_answers(newest) == _what_answers(old):
                raise InputError(f"{name}@{newest.version} has the layers of {version} already", f"use it: {name}")
            ours, me = old.evaluation, self.parts.signer.key_id
            if old.created_by != me:
                ours = unmeasured(ours, _theirs(old))
            made = old.model_copy(
                update={
                    "version": after, "parent": parent, "created_at": now(), "created_by": me,
                    "evaluation": ours,
                }
            )  # fmt: skip
            return self._kept(made.model_copy(update={"id": genome_id(made)})).manifest

    def remove(self, reference: str) -> GenomeLine:
        """Forget one version. Its blocks stay. One that is damaged is removed by its whole id. Raises ``GenomeNotFound``."""
        manifest = self.stated(reference)
        self.parts.genomes.delete(manifest.id)
        return _line(manifest, "")

    def stated(self, reference: str) -> GenomeManifest:
        """A genome as its file states it, whether anybody vouches for it or not."""
        try:
            return self.parts.genomes.get(reference).manifest
        except GenomeNotFound:
            raise
        except DnaError:
            for one in self.parts.genomes.manifests():
                if reference in (one.id, f"{one.name}@{one.version}"):
                    return one
            raise

    def _adopted(self, theirs: GenomeManifest) -> GenomeManifest:
        version, parent = following(self.parts.genomes.manifests(theirs.name))
        made = theirs.model_copy(
            update={
                "version": version, "parent": parent or theirs.id, "created_at": now(), "created_by": self.parts.signer.key_id,
                "evaluation": unmeasured(theirs.evaluation, _theirs(theirs)), "compatibility_notes": (),
            }
        )  # fmt: skip
        return made.model_copy(update={"id": genome_id(made)})

    def _kept(self, manifest: GenomeManifest) -> SignedGenome:
        signed: SignedGenome = factory("genomes", "sign")(manifest, self.parts.signer)
        self.parts.genomes.put(signed)
        return signed

    def _fault(self, genome: GenomeManifest) -> str:
        wrong = genome_checks.faults(self.parts, genome, self._blocks)
        return wrong[0].code if wrong else ""


def read_file(path: Path) -> GenomeManifest | SignedGenome:
    """A manifest, or a signed one, from a file of JSON. Raises ``InputError``, ``TooLarge``, ``Corrupt``, ``GenomeEmpty``."""
    data = read_given(path, MOST_FILE, "give a genome.json")
    try:
        return SignedGenome.model_validate_json(data)
    except ValueError:
        return factory("genomes", "read")(data)


def following(before: Sequence[GenomeManifest]) -> tuple[str, str | None]:
    """What comes behind these versions of a name, the newest first: its version (the middle number grows), and the id of the one before it.

    Hold ``naming`` while it matters.
    """
    if not before:
        return "1.0.0", None
    major, minor, _ = before[0].version.split(".")
    return f"{major}.{int(minor) + 1}.0", before[0].id


def unmeasured(evaluation: GenomeEvaluation, why: str) -> GenomeEvaluation:
    """The same figures by name, none of them with a value."""
    nothing: Measure = not_available(why)
    return GenomeEvaluation(
        similarity={
            name: Similarity(value=None, status="not_available", how=why) for name in evaluation.similarity
        },
        retention=dict.fromkeys(evaluation.retention, nothing), interference=nothing, guard=nothing, latency_ms=nothing,
        bytes=evaluation.bytes,
    )  # fmt: skip


def _what_answers(one: GenomeManifest) -> tuple[object, ...]:
    """All of a genome that decides what a request goes through."""
    return one.layers, one.composition, one.gate, one.shares, one.artifact


def _theirs(genome: GenomeManifest) -> str:
    return f"not measured here: key {genome.created_by[:12]} states it of {genome.name}@{genome.version}"


def _line(one: GenomeManifest, fault: str) -> GenomeLine:
    return GenomeLine(
        name=one.name, version=one.version, id=one.id, created_at=one.created_at, base_model=one.base_model, layers=one.layers,
        request=one.desired.request, composition=f"{one.composition.kind} ({one.composition.method})", fault=fault,
    )  # fmt: skip
