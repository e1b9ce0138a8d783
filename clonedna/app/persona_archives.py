"""A persona as one file: out of a home with its genome and every block of it, and into one.

Out goes only what may be shared: each block is asked the same as before a push. In: the signature of whoever exported it, then each block,
its consent and licence, then the genome over them; only then is anything visible. Conversations and earlier versions stay at home.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from clonedna.app.archives import refuse_local_only
from clonedna.app.genome_checks import licence_meet
from clonedna.app.merge_papers import Parent
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.personas import LOCAL, Personas
from clonedna.app.sharing import Offer, Sharing
from clonedna.app.staging import staging
from clonedna.app.workspace import now, require_space, space_errors
from clonedna.core.block import FileEntry, Manifest
from clonedna.core.errors import (
    BadAnswer,
    BadReference,
    BlockNotFound,
    BlockRejected,
    Corrupt,
    InputError,
    LicenceNotAllowed,
    NotFound,
    WrongBase,
)
from clonedna.core.genome import GenomeManifest
from clonedna.core.persona import Persona, PersonaExport, PersonaVersion
from clonedna.core.value import Value

PIECE = 1 << 20
_NONE = FileEntry(sha256="0" * 64, size=0)


class PersonaExported(Value):
    """``blocks``: ids of the blocks in it."""

    persona: str
    speaks: str
    blocks: tuple[str, ...]
    bytes: int
    path: str = ""


class PersonaImported(Value):
    """``new`` is false when everything was here already."""

    persona: Persona
    blocks: tuple[str, ...]
    new: bool


class NewArchive:
    """An archive on its way from another machine: bounded, and under its name only when it is whole."""

    def __init__(self, file: BinaryIO, place: Path) -> None:
        self._file, self._place, self._left = file, place, 0

    def expect(self, size: int | None) -> None:
        """Raises ``BadAnswer`` for a size that no archive has, ``NoSpace``."""
        most = factory("personas", "most")()
        if size is None or not 0 < size <= most:
            raise BadAnswer(f"{size} bytes were announced; a persona's archive has at most {most}", "ask its owner")
        require_space(self._place.absolute().parent, size)
        self._left = size

    def write(self, data: bytes) -> None:
        """Raises ``BadAnswer`` for more than was announced, ``NoSpace``."""
        self._left -= len(data)
        if self._left < 0:
            raise BadAnswer("more bytes came than were announced", "export it again")
        with space_errors(self._place):
            self._file.write(data)


@contextmanager
def new_archive(out: Path) -> Generator[NewArchive]:
    """A new file ``out`` that is there when everything was written. Raises ``BadReference`` where there is one."""
    if out.exists() or out.is_symlink():
        raise BadReference(f"{out} exists already", "choose another place, or move it away")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with space_errors(out), temporary.open("wb") as file:
            yield NewArchive(file, out)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)


class PersonaArchives:
    """Use cases over archives of personas. Its methods block."""

    def __init__(self, parts: Parts, sharing: Sharing | None = None) -> None:
        self.parts, self.sharing = parts, sharing or Sharing(parts)
        self._personas = Personas(parts)

    def export(self, name: str, out: Path, *, to: str | None = None) -> PersonaExported:
        """Write what speaks for a persona, with its identity, to the new file ``out``. ``to``: who is given it, as it is noted.

        Raises ``NotFound``, ``InputError`` (nothing is bound), why it may not speak, what ``Sharing.offer`` raises for a member
        (``ConsentMissing``, ``BlockRevoked``, ``LicenceUnknown``), ``BadReference`` (the file is there), ``TooLarge``, ``NoSpace``.
        """
        self._personas.speaker(name)  # what may not speak is not given to others either
        persona: Persona = self.parts.personas.get(name)
        current = persona.current
        assert current is not None
        if out.exists() or out.is_symlink():
            raise BadReference(f"{out} exists already", "choose another place, or move it away")
        genome = self.parts.genomes.get(current.id) if current.kind == "genome" else None
        ids = [current.id] if genome is None else _members(genome.manifest)
        offers = {one: self.sharing.offer(one) for one in ids}
        require_space(out.absolute().parent, sum(offer.size for offer in offers.values()))
        if to is not None:
            for one in ids:
                self.sharing.holding.note(one, "downloaded", to)
        statement = PersonaExport(
            name=persona.name, title=persona.title, role=persona.role, about=persona.about, instructions=persona.instructions,
            genome=genome, block=current.id if genome is None else None, members=dict.fromkeys(ids, _NONE),
        )  # fmt: skip
        factory("personas", "zip")(
            out, {one: self._pieces(offer) for one, offer in offers.items()}, statement, self.parts.signer
        )
        return PersonaExported(
            persona=name, speaks=current.called, blocks=tuple(sorted(ids)), bytes=out.stat().st_size, path=str(out)
        )

    def opened(self, name: str, *, to: str) -> tuple[PersonaExported, BinaryIO]:
        """The same as an open file that no name leads to: it is gone when it is closed. Raises as ``export``."""
        with staging(self.parts.settings.home) as folder:
            made = self.export(name, folder / "persona.dna", to=to)
            return made.model_copy(update={"path": ""}), (folder / "persona.dna").open("rb")

    def _pieces(self, offer: Offer) -> Iterator[bytes]:
        with offer.open() as opened:
            place = 0
            while piece := opened.read(place, PIECE):
                self.sharing.still(offer)  # a tombstone stops it in the middle
                yield piece
                place += len(piece)

    def load(self, archive: Path, *, name: str | None = None, by: str = LOCAL) -> PersonaImported:
        """Take in a persona, its genome and its blocks. ``name``: what it is called here. The same archive again changes nothing.

        Raises ``BlockCorrupt``, ``BlockUntrusted``, ``SignatureInvalid``, what ``Sharing.take`` raises for a block, ``InputError`` (a
        persona, genome or block of this name that is another one), ``NoSpace``.
        """
        size_of(archive)
        with staging(self.parts.settings.home) as folder:
            export, files = factory("personas", "unzip")(archive, folder / "archives", self.parts.signer)
            export = export.model_copy(update={"name": name or export.name})
            found = {one: self._block(one, path, folder / one) for one, path in sorted(files.items())}
            if export.genome is not None:
                factory("genomes", "verify")(export.genome, self.parts.signer)
                _refuse_unfit(export.genome.manifest, found)
                self._refuse_taken_genome(export.genome.manifest)
            with self.parts.personas.changing(), ExitStack() as undo:
                before = self._before(export)
                new = self._publish(export, found, undo)
                persona = before or self._made(export, found, by)
                undo.pop_all()
        return PersonaImported(persona=persona, blocks=tuple(found), new=new or before is None)

    def _block(self, block_id: str, archive: Path, folder: Path) -> Parent:
        """A verified member, unpacked, that may be here and may be shared."""
        manifest: Manifest = factory("archive", "unzip")(archive, folder, self.parts.signer, expect_id=block_id)
        refuse_local_only(manifest, folder)
        self.sharing.refuse(manifest, folder)
        try:
            there = self.parts.registry.resolve(f"{manifest.name}@{manifest.version}")
        except (BlockNotFound, BlockRejected):
            pass
        else:
            if there.id != manifest.id:
                raise BadReference(
                    f"{manifest.name}@{manifest.version} is another block here ({there.id[:12]})",
                    "have it exported under another name",
                )
        return Parent(manifest, folder, consent_of(folder), 1.0)

    def _refuse_taken_genome(self, genome: GenomeManifest) -> None:
        for one in self.parts.genomes.manifests(genome.name):
            if one.version == genome.version and one.id != genome.id:
                raise InputError(
                    f"{genome.name}@{genome.version} is another genome here ({one.id[:12]})",
                    "have it exported under another name",
                )

    def _before(self, export: PersonaExport) -> Persona | None:
        """The persona of this name, when it is this one. Raises ``InputError`` when it is another."""
        try:
            found: Persona = self.parts.personas.get(export.name)
        except NotFound:
            return None
        speaks = export.genome.manifest.id if export.genome else export.block
        said = (found.title, found.role, found.about, found.instructions)
        if said != (export.title, export.role, export.about, export.instructions) or speaks not in {
            one.id for one in found.versions
        }:
            raise InputError(
                f"there is another persona {export.name} here", "give it another name with --as", param="name"
            )
        return found

    def _publish(self, export: PersonaExport, found: dict[str, Parent], undo: ExitStack) -> bool:
        """Store and name everything; ``undo`` takes out again what was new. Whether anything was."""
        new = False
        for one in found.values():
            taken = self.sharing.take_folder(one.path)
            if taken.new:
                new = True
                undo.callback(self._forget, taken.block.id)
        if export.genome is not None:
            genome = export.genome.manifest
            if genome.id not in {manifest.id for manifest in self.parts.genomes.manifests(genome.name)}:
                new = True
                undo.callback(self.parts.genomes.delete, genome.id)
            self.parts.genomes.put(export.genome)
        return new

    def _forget(self, block_id: str) -> None:
        self.parts.registry.forget(block_id)
        self.parts.store.delete(block_id)

    def _made(self, export: PersonaExport, found: dict[str, Parent], by: str) -> Persona:
        if export.genome is not None:
            g = export.genome.manifest
            speaks = {"kind": "genome", "id": g.id, "name": g.name, "version": g.version}
        else:
            m = next(iter(found.values())).manifest
            speaks = {"kind": "block", "id": m.id, "name": m.name, "version": m.version}
        stamp = {"number": 1, "at": now(), "by": by, "key": self.parts.signer.key_id, "why": "imported"}
        made = Persona(
            name=export.name, title=export.title, role=export.role, about=export.about, instructions=export.instructions,
            created_at=now(), versions=(PersonaVersion.model_validate(speaks | stamp),),
        )  # fmt: skip
        self.parts.personas.put(made)
        return made


def size_of(archive: Path) -> int:
    """Bytes of an archive that was named. Raises ``InputError`` where there is no such file."""
    try:
        status = archive.stat()
    except OSError as error:
        raise InputError(
            f"cannot read {archive}: {error.strerror}", "give a file that dna persona export wrote"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{archive} is no file", "give a file that dna persona export wrote")
    return status.st_size


def _members(genome: GenomeManifest) -> list[str]:
    return sorted({layer.id for layer in genome.layers} | ({genome.artifact} if genome.artifact else set()))


def _refuse_unfit(genome: GenomeManifest, found: dict[str, Parent]) -> None:
    """Raises what is wrong between a genome and the blocks that came with it."""
    for layer in genome.layers:
        m = found[layer.id].manifest
        said = (layer.license, layer.consent_mode, layer.rank, layer.alpha, layer.target_modules)
        if said != (m.license, m.consent_mode, m.rank, m.alpha, m.target_modules):
            raise Corrupt(f"{layer.name}@{layer.version} is not what the genome says of it", "have it exported again")
        if m.base_fingerprint != genome.base_fingerprint:
            raise WrongBase(f"{layer.name}@{layer.version} is not for the genome's base", "have it exported again")
    meet = licence_meet([found[layer.id] for layer in genome.layers])
    if meet != genome.license:
        raise LicenceNotAllowed(
            f"the genome says {genome.license}, and its members are together under {meet}", "have it exported again"
        )
