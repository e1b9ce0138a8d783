"""Where genomes are kept: a directory for each, named by its id, with the manifest and the DSSE envelope over its bytes.

    genomes/<id>/genome.json      canonical JSON of the manifest, without what is as it is by default
                /signature.json   the envelope
           /.<id>.<pid>.tmp/      one on its way in

A genome never changes: a new version is a new id. It is there whole or not at all, and every reading checks the id; what is given out
for use is also checked against its signature.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from pydantic import ValidationError

from clonedna.core.block import DIGEST_PATTERN, NAME_PATTERN, VERSION_PATTERN, Envelope
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import (
    BadReference,
    BlockCorrupt,
    BlockUntrusted,
    Corrupt,
    DnaError,
    GenomeEmpty,
    GenomeNotFound,
    GenomeUnsigned,
    InputError,
    KeyLogInvalid,
    SignatureInvalid,
    not_a_genome,
)
from clonedna.core.genome import GENOME_PAYLOAD, GenomeManifest, Refused, SignedGenome, genome_bytes, genome_id
from clonedna.core.seams import Signer
from clonedna.store.files import disk_errors, fsync_directory, new_file, read_small

MANIFEST, SIGNATURE = "genome.json", "signature.json"
MOST_MANIFEST, MOST_SIGNATURE = 8_000_000, 12_000_000
MOST_GENOMES = 100_000
_ID, _NAME, _VERSION = re.compile(DIGEST_PATTERN), re.compile(NAME_PATTERN), re.compile(VERSION_PATTERN)
_DIGITS = re.compile(r"[0-9a-f]{8,64}")


class GenomeFiles:
    """Fulfils ``core.seams.Genomes``. Several processes may share one root."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self._root, self._signer = root, signer

    def put(self, signed: SignedGenome) -> str:
        """Verify it, write it beside its place, fsync, rename into place; gives the id.

        Raises as ``verify_genome``, ``InputError`` for a name@version that has another id, ``NoSpace``, ``Unavailable``.
        """
        manifest = verify_genome(signed, self._signer)
        for known in self.manifests(manifest.name):
            if known.version == manifest.version and known.id != manifest.id:
                raise InputError(
                    f"{manifest.name}@{manifest.version} is another genome ({known.id[:12]})",
                    "give it the next version",
                )
        place = self._root / manifest.id
        if place.is_dir():
            try:
                self.get(manifest.id)
            except DnaError:
                self.delete(manifest.id)  # what lies there is not this genome, whole and signed
            else:
                return manifest.id
        temporary = self._root / f".{manifest.id}.{os.getpid()}.tmp"
        with disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process that had our number
            temporary.mkdir()
        try:
            for name, data in ((MANIFEST, genome_bytes(manifest)), (SIGNATURE, canonical(signed.envelope))):
                with new_file(temporary / name) as file:
                    file.write(data)
            fsync_directory(temporary)
            with disk_errors(place):
                try:
                    temporary.rename(place)
                except OSError as error:  # another process put the same first: one of two equal copies goes
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            fsync_directory(self._root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return manifest.id

    def get(self, reference: str) -> SignedGenome:
        """``name`` (newest version), ``name@version``, or at least 8 hex digits of the id; verified.

        Raises ``GenomeNotFound``, ``BadReference``, and as ``verify_genome``.
        """
        signed = self._read(self._find(reference))
        verify_genome(signed, self._signer)
        return signed

    def manifests(self, name: str | None = None) -> tuple[GenomeManifest, ...]:
        """All, or those of one name, newest first. Those that cannot be read are in ``faults``. Raises ``Unavailable``."""
        found: list[GenomeManifest] = []
        for one in self._ids():
            try:
                manifest = self._manifest(one)
            except DnaError:
                continue
            if name in (None, manifest.name):
                found.append(manifest)
        if name is None:
            return tuple(sorted(found, key=lambda m: (m.created_at, m.name, number(m.version), m.id), reverse=True))
        return tuple(sorted(found, key=lambda m: (number(m.version), m.id), reverse=True))

    def faults(self) -> tuple[Refused, ...]:
        """Directories that are no sound genome, with the code of what is wrong."""
        found: list[Refused] = []
        for one in self._ids():
            try:
                manifest = self._manifest(one)
            except DnaError as error:
                found.append(Refused(id=one, name="", code=error.code, why=error.message))
                continue
            try:
                verify_genome(self._read(one), self._signer)
            except DnaError as error:
                found.append(
                    Refused(id=one, name=f"{manifest.name}@{manifest.version}", code=error.code, why=error.message)
                )
        return tuple(found)

    def delete(self, genome_id: str) -> None:
        """Remove one; unknown ids are ignored. Raises ``Unavailable``."""
        if not _ID.fullmatch(genome_id) or not (self._root / genome_id).is_dir():
            return
        gone = self._root / f".{genome_id}.{os.getpid()}.tmp"
        with disk_errors(self._root):
            shutil.rmtree(gone, ignore_errors=True)
            (self._root / genome_id).rename(gone)
            shutil.rmtree(gone)

    def _ids(self) -> list[str]:
        with disk_errors(self._root):
            names = os.listdir(self._root) if self._root.is_dir() else []
        found = sorted(name for name in names if _ID.fullmatch(name))
        if len(found) > MOST_GENOMES:
            raise InputError(f"there are {len(found)} genomes, more than {MOST_GENOMES}", "remove some: dna genome rm")
        return found

    def _find(self, reference: str) -> str:
        name, at, version = reference.partition("@")
        known = bool(_NAME.fullmatch(name)) and (not at or bool(_VERSION.fullmatch(version)))
        if not known and not _DIGITS.fullmatch(reference):
            raise not_a_genome(reference)
        if known:
            for manifest in self.manifests(name):
                if not at or manifest.version == version:
                    return manifest.id
        begun = [one for one in self._ids() if _DIGITS.fullmatch(reference) and one.startswith(reference)]
        if len(begun) == 1:
            return begun[0]
        if begun:
            raise BadReference(f"{len(begun)} genomes begin with {reference}", "write more digits")
        raise GenomeNotFound(f"no genome {reference[:80]}", "see: dna genome ls")

    def _read(self, one: str) -> SignedGenome:
        manifest = self._manifest(one)
        if not os.path.lexists(self._root / one / SIGNATURE):
            raise GenomeUnsigned(
                f"genome {one[:12]}: {SIGNATURE}: missing: nobody vouches for it",
                "get the signed genome from who made it, or vouch for it yourself: dna genome sign",
            )
        data = _bytes(self._root / one / SIGNATURE, MOST_SIGNATURE)
        try:
            envelope = Envelope.model_validate(strict_json(data))
        except (ValueError, RecursionError) as error:
            raise damaged(f"genome {one[:12]}: {SIGNATURE}: not a DSSE envelope") from error
        return SignedGenome(manifest=manifest, envelope=envelope)

    def _manifest(self, one: str) -> GenomeManifest:
        data = _bytes(self._root / one / MANIFEST, MOST_MANIFEST)
        try:
            manifest = read_manifest(data)
        except DnaError as error:
            raise type(error)(f"genome {one[:12]}: {error.message}", error.hint) from error
        if genome_bytes(manifest) != data:
            raise damaged(f"genome {one[:12]}: {MANIFEST}: not canonical JSON")
        if manifest.id != one:
            raise damaged(f"genome {one[:12]}: the directory holds genome {manifest.id[:12]}")
        return manifest


def number(version: str) -> tuple[int, int, int]:
    """A version as three numbers that can be compared."""
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def read_manifest(data: bytes) -> GenomeManifest:
    """The manifest in these bytes, when its id is that of its content. Raises ``Corrupt``, ``GenomeEmpty``."""
    if len(data) > MOST_MANIFEST:
        raise damaged(f"{MANIFEST}: more than {MOST_MANIFEST} bytes")
    try:
        fields = strict_json(data)
        if isinstance(fields, dict) and fields.get("layers") == []:
            raise GenomeEmpty("a genome without layers", "plan it again: dna genome plan")
        manifest = GenomeManifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise damaged(f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(f"{MANIFEST}: not a genome's manifest") from error
    if genome_id(manifest) != manifest.id:
        raise damaged(f"{MANIFEST}: its id is not that of its content: it was changed")
    return manifest


def sign_genome(manifest: GenomeManifest, signer: Signer) -> SignedGenome:
    """The manifest with an envelope over its bytes. Raises ``Corrupt`` for a wrong id or another maker, and as the signer."""
    if genome_id(manifest) != manifest.id or manifest.created_by != signer.key_id:
        raise damaged(f"genome {manifest.id[:12]}: id or created_by are not what would be signed")
    return SignedGenome(manifest=manifest, envelope=signer.sign(genome_bytes(manifest), GENOME_PAYLOAD))


def verify_genome(signed: SignedGenome, signer: Signer) -> GenomeManifest:
    """The manifest, when a trusted key signed exactly these bytes, and that key is the maker's.

    Raises ``SignatureInvalid``, ``BlockUntrusted``, ``GenomeUnsigned``, ``GenomeEmpty``, ``Corrupt``.
    """
    manifest = signed.manifest
    if not signed.envelope.signatures:
        raise GenomeUnsigned(f"genome {manifest.id[:12]} has no signature", "vouch for it yourself: dna genome sign")
    try:
        payload = signer.verify(signed.envelope, GENOME_PAYLOAD)
    except (SignatureInvalid, BlockUntrusted, KeyLogInvalid) as error:
        raise type(error)(f"genome {manifest.id[:12]}: {error.message}", error.hint, **error.facts) from error
    if read_manifest(payload) != manifest or genome_bytes(manifest) != payload:
        raise damaged(f"genome {manifest.id[:12]}: not the manifest that was signed")
    if manifest.created_by != signed.envelope.signatures[0].keyid:
        raise damaged(f"genome {manifest.id[:12]}: created_by is not the key that signed it")
    return manifest


def damaged(text: str) -> Corrupt:
    """A ``Corrupt`` with the next step."""
    return Corrupt(text, "get it again from where it came from, or assemble it again: dna assemble")


def _bytes(path: Path, limit: int) -> bytes:
    try:
        return read_small(path, limit)
    except BlockCorrupt as error:
        raise damaged(f"genome {path.parent.name[:12]}: {error.message}") from error
