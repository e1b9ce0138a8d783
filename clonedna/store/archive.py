"""A block as one `.dna` file: a zip with the same bytes for the same block on every machine, opened with bounds on everything.

Entries are stored, not deflated (what zlib makes of the same bytes differs between its versions), sorted, with fixed times and modes.
An archive that somebody zipped again with deflate still opens.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from clonedna.core.block import Manifest
from clonedna.core.errors import BadReference
from clonedna.core.seams import Signer
from clonedna.store.blocks import ALLOWED, LIMITS, pictures_in, verify_block
from clonedna.store.files import (
    CHUNK,
    closed_world,
    corrupt,
    disk_errors,
    fsync_directory,
    measure,
    new_file,
    open_regular,
    replacing,
)

EPOCH = (1980, 1, 1, 0, 0, 0)
MAX_DIRECTORY = 64 * 1024
MAX_ARCHIVE = sum(ALLOWED.values()) + MAX_DIRECTORY
# End of central directory record (PKWARE APPNOTE 4.3.16): magic, disk, first disk, entries here and in all, size, offset, comment length.
_END = struct.Struct("<4s4H2LH")
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


def most_bytes() -> int:
    """No archive of a block is longer."""
    return MAX_ARCHIVE


def zip_block(directory: Path, out: Path) -> None:
    """Write the block in ``directory`` to ``out``, replacing it atomically. Equal blocks give equal bytes.

    Raises ``BlockNotFound``, ``BlockCorrupt`` (the set of files; contents are not verified here), ``NoSpace``, ``Unavailable``.
    """
    closed_world(directory, LIMITS, ALLOWED)
    with replacing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name in sorted((*LIMITS, *pictures_in(directory))):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.file_size = (directory / name).stat().st_size
            with archive.open(info, "w") as entry:
                measure(directory / name, ALLOWED[name], copy=entry)  # type: ignore[arg-type]


def unzip_block(archive: Path, out: Path, signer: Signer, *, expect_id: str | None = None) -> Manifest:
    """Unpack ``archive`` and verify the block; only then does ``out`` appear. ``out`` must not exist.

    Refuses every entry that is not a file of a block (so: absolute paths, ``..``, directories, other spellings), duplicates, links,
    entries out of order, encrypted entries, more bytes than a block may have, data before or behind the archive. Raises
    ``BadReference`` when ``out`` exists, ``BlockCorrupt``, and what ``verify_block`` raises.
    """
    if os.path.lexists(out):
        raise BadReference(f"{out} exists already", "choose another place, or move it away")
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    with disk_errors(out):
        temporary.mkdir(parents=True)
    try:
        with open_regular(archive, MAX_ARCHIVE) as file:
            try:
                _extract(archive.name, file, temporary)
            except BROKEN as error:
                raise corrupt(archive.name, f"not a sound archive: {error}") from error
        manifest = verify_block(temporary, signer, expect_id=expect_id)
        fsync_directory(temporary)
        with disk_errors(out):
            temporary.rename(out)
        fsync_directory(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _extract(archive: str, file: BinaryIO, directory: Path) -> None:
    check_end(archive, file, len(ALLOWED))
    with zipfile.ZipFile(file) as opened:
        infos = opened.infolist()
        names = [info.orig_filename for info in infos]
        for info in infos:
            reason = refusal(info, ALLOWED, "of a block")
            if reason is None and names.count(info.orig_filename) > 1:
                reason = "twice in the archive"
            if reason is not None:
                raise corrupt(info.orig_filename[:200], reason)
        places = [info.header_offset for info in infos]
        if names != sorted(names) or places != sorted(places):
            raise corrupt(archive, "its files are not in order")
        for info in infos:
            with new_file(directory / info.filename) as target, opened.open(info) as entry:
                shutil.copyfileobj(entry, target, CHUNK)


def check_end(archive: str, file: BinaryIO, most: int) -> None:
    """Before the list of entries is read into memory: it is small, of at most ``most`` files, and the archive is nothing but an archive."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    tail = file.read(_END.size)
    if len(tail) < _END.size:
        raise corrupt(archive, "too short for an archive")
    magic, disk, first, here, entries, length, offset, comment = _END.unpack(tail)
    if magic != b"PK\x05\x06" or disk or first or here != entries or comment:
        raise corrupt(archive, "does not end as an archive does")
    if entries > most or length > MAX_DIRECTORY:
        raise corrupt(archive, f"{entries} entries, more than the {most} files that it can have")
    if offset + length + _END.size != size:
        raise corrupt(archive, "something stands before or behind the archive")


def refusal(info: zipfile.ZipInfo, allowed: Mapping[str, int], what: str) -> str | None:
    """Why an entry cannot be one of the ``allowed`` files, by their names and bytes; ``orig_filename`` is the name before zipfile cut it at
    a zero byte.

    The size is only a claim, but zipfile never gives more bytes of an entry than it claims.
    """
    if info.orig_filename not in allowed:
        return f"not a file {what}"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed in a way that blocks are not"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return f"stored in {info.compress_size} bytes, but {info.file_size} long"
    if info.file_size > allowed[info.filename]:
        return f"{info.file_size} bytes, more than the {allowed[info.filename]} allowed"
    return None
