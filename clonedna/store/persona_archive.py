"""A persona as one file: a zip of its signed statement and the `.dna` archive of each member, with the same bytes each time.

Opened with bounds on everything: the list of entries first, then the signature, then what was signed, then each member against its digest.
What the members are is for who opens them to verify.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from clonedna.core.block import Envelope, FileEntry
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import TooLarge
from clonedna.core.genome import MOST_LAYERS
from clonedna.core.persona import EXPORT_PAYLOAD, PersonaExport
from clonedna.core.seams import Signer
from clonedna.store.archive import BROKEN, EPOCH, MAX_ARCHIVE, check_end, refusal
from clonedna.store.files import CHUNK, corrupt, disk_errors, new_file, open_regular

STATEMENT = "persona.json"
MOST_STATEMENT, MOST_BYTES = 24_000_000, 2_000_000_000
_MEMBER = re.compile(r"blocks/([0-9a-f]{64})\.dna")


def zip_persona(out: Path, members: Mapping[str, Iterable[bytes]], statement: PersonaExport, signer: Signer) -> None:
    """Write a new file ``out``: the members' archives (bytes by block id), then ``statement`` with their digests, signed.

    Raises ``TooLarge``, ``KeyLocked``, ``NoSpace``, and what reading a member raises; a file that was begun goes.
    """
    try:
        with new_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
            found = {one: _stored(archive, f"blocks/{one}.dna", members[one]) for one in sorted(members)}
            payload = canonical(statement.model_copy(update={"members": found}))
            data = canonical(signer.sign(payload, EXPORT_PAYLOAD))
            if len(data) > MOST_STATEMENT:
                raise TooLarge(
                    f"the statement has more than {MOST_STATEMENT} bytes", "export a genome with fewer layers"
                )
            _stored(archive, STATEMENT, [data])
    except zipfile.LargeZipFile:
        out.unlink(missing_ok=True)
        raise _too_large() from None
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _stored(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes]) -> FileEntry:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    sha, size = hashlib.sha256(), 0
    with archive.open(info, "w") as entry:
        for piece in pieces:
            size += len(piece)
            if archive.start_dir + size > MOST_BYTES:
                raise _too_large()
            sha.update(piece)
            entry.write(piece)
    return FileEntry(sha256=sha.hexdigest(), size=size)


def _too_large() -> TooLarge:
    return TooLarge(f"the archive has more than {MOST_BYTES} bytes", "share its blocks one by one: dna export")


def unzip_persona(archive: Path, out: Path, signer: Signer) -> tuple[PersonaExport, dict[str, Path]]:
    """The statement, when a trusted key signed it, and the members' archives in the new folder ``out``, each what the statement says.

    Raises ``BlockCorrupt``, ``BlockUntrusted``, ``SignatureInvalid``, ``NoSpace``.
    """
    with open_regular(archive, MOST_BYTES + CHUNK) as file:
        try:
            return _opened(archive.name, file, out, signer)
        except BROKEN as error:
            raise corrupt(archive.name, f"not a sound archive: {error}") from error


def _opened(name: str, file: BinaryIO, out: Path, signer: Signer) -> tuple[PersonaExport, dict[str, Path]]:
    check_end(name, file, MOST_LAYERS + 2)
    with zipfile.ZipFile(file) as opened:
        infos = {info.orig_filename: info for info in opened.infolist()}
        allowed = {one: MAX_ARCHIVE for one in infos if _MEMBER.fullmatch(one)} | {STATEMENT: MOST_STATEMENT}
        for info in opened.infolist():
            if (reason := refusal(info, allowed, "of a persona's archive")) is not None:
                raise corrupt(info.orig_filename[:200], reason)
        if len(infos) != len(opened.infolist()) or STATEMENT not in infos:
            raise corrupt(name, "a file is there twice, or its statement is missing")
        if infos[STATEMENT].compress_type != zipfile.ZIP_STORED:
            raise corrupt(STATEMENT, "compressed")
        statement = _statement(opened.read(infos[STATEMENT]), signer)
        if {f"blocks/{one}.dna" for one in statement.members} != set(infos) - {STATEMENT}:
            raise corrupt(name, "its members are not those that were signed")
        with disk_errors(out):
            out.mkdir(mode=0o700)
        found: dict[str, Path] = {}
        for one, entry in sorted(statement.members.items()):
            info = infos[f"blocks/{one}.dna"]
            if info.file_size != entry.size or info.compress_type != zipfile.ZIP_STORED:
                raise corrupt(info.filename, "not of the size that was signed")
            found[one] = out / f"{one}.dna"
            sha = hashlib.sha256()
            with new_file(found[one]) as target, opened.open(info) as source:
                while piece := source.read(CHUNK):
                    sha.update(piece)
                    target.write(piece)
            if sha.hexdigest() != entry.sha256:
                raise corrupt(info.filename, "not the file that was signed")
    return statement, found


def _statement(data: bytes, signer: Signer) -> PersonaExport:
    """What was signed, read only when the signature holds."""
    try:
        envelope = Envelope.model_validate(strict_json(data))
    except (ValueError, RecursionError) as error:
        raise corrupt(STATEMENT, "no signed statement") from error
    payload = signer.verify(envelope, EXPORT_PAYLOAD)
    try:
        statement = PersonaExport.model_validate(strict_json(payload))
    except (ValidationError, ValueError, RecursionError) as error:
        raise corrupt(STATEMENT, "not the statement of a persona, or of a newer program") from error
    if (statement.genome is None) == (statement.block is None):
        raise corrupt(STATEMENT, "one of a genome and a block is wanted")
    genome = statement.genome.manifest if statement.genome else None
    wanted = (
        {statement.block}
        if genome is None
        else {layer.id for layer in genome.layers} | ({genome.artifact} if genome.artifact else set())
    )
    if set(statement.members) != wanted:
        raise corrupt(STATEMENT, "its members are not those of its genome")
    return statement


def most_bytes() -> int:
    """No archive of a persona is longer."""
    return MOST_BYTES + CHUNK
