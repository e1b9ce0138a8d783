"""A block's `.dna` archive without writing it: where each of its bytes comes from, so that any part can be sent from the block's files.

``plan`` reads every file once (an archive's headers hold its checksums); ``Opened`` gives any bytes of the same archive that
``archive.zip_block`` writes, and refuses when a file is not the one that was read. Nothing is kept in memory but the headers.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from bisect import bisect_right
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from clonedna.store.archive import EPOCH
from clonedna.store.blocks import ALLOWED, LIMITS, MANIFEST, SIGNATURE, pictures_in
from clonedna.store.files import CHUNK, closed_world, corrupt, disk_errors, open_regular

# PKWARE APPNOTE 4.3.7, 4.3.12 and 4.3.16; as Python's zipfile writes them for stored entries on a file that can seek.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _UNIX = 20, 3
_DATE = (EPOCH[0] - 1980) << 9 | EPOCH[1] << 5 | EPOCH[2]
_MODE = (stat.S_IFREG | 0o644) << 16
Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    stamp: Stamp
    crc: int

    @property
    def size(self) -> int:
        return self.stamp[2]


@dataclass(frozen=True, slots=True)
class Plan:
    """``size`` of the archive in bytes; ``tag``: a digest that is equal for equal archives only, of its format, manifest and signature.

    ``pieces``: bytes of their own, or a file's number, in order; ``starts``: where each begins.
    """

    directory: Path
    size: int
    tag: str
    files: tuple[_File, ...]
    pieces: tuple[bytes | int, ...]
    starts: tuple[int, ...]

    def fresh(self) -> bool:
        """Whether the files are those that were read, as far as the system says: nobody wrote to them since."""
        try:
            return all(_stamp(os.lstat(self.directory / one.name)) == one.stamp for one in self.files)
        except OSError:
            return False


def plan(directory: Path) -> Plan:
    """Lay out the archive of the block in ``directory``; reads every file. Raises ``BlockNotFound``, ``BlockCorrupt``, ``Unavailable``."""
    closed_world(directory, LIMITS, ALLOWED)
    tag, files = sha256(b"dna/1 zip\0"), list[_File]()
    for name in sorted((*LIMITS, *pictures_in(directory))):
        with open_regular(directory / name, ALLOWED[name]) as file, disk_errors(directory / name):
            crc, stamp = 0, _stamp(os.fstat(file.fileno()))
            while chunk := file.read(CHUNK):
                crc = zlib.crc32(chunk, crc)
                if name in (MANIFEST, SIGNATURE):
                    tag.update(chunk)
            if _stamp(os.fstat(file.fileno())) != stamp:
                raise corrupt(name, "changed while it was read")
        files.append(_File(name, stamp, crc))
    pieces, starts, place, directory_of = list[bytes | int](), list[int](), 0, b""
    for number, one in enumerate(files):
        header = _local(one)
        directory_of += _central(one, place)
        pieces += [header, number]
        starts += [place, place + len(header)]
        place += len(header) + one.size
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), len(directory_of), place, 0)
    return Plan(
        directory=directory, size=place + len(directory_of) + len(end), tag=tag.hexdigest(), files=tuple(files),
        pieces=(*pieces, directory_of + end), starts=(*starts, place),
    )  # fmt: skip


class Opened:
    """The archive of a plan, open for reading in any place and from any thread. Its files stay open until it is closed.

    Raises ``BlockCorrupt`` when a file is not the one that was planned, ``Unavailable``.
    """

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self._files: list[BinaryIO] = []
        with ExitStack() as stack:
            for one in planned.files:
                file = stack.enter_context(open_regular(planned.directory / one.name, ALLOWED[one.name]))
                if _stamp(os.fstat(file.fileno())) != one.stamp:
                    raise corrupt(one.name, "changed since the block was verified")
                self._files.append(file)
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def read(self, start: int, most: int) -> bytes:
        """At least one byte from ``start`` on and at most ``most``; nothing behind the end. Raises ``BlockCorrupt``, ``Unavailable``."""
        if start >= self.plan.size or most < 1:
            return b""
        number = bisect_right(self.plan.starts, start) - 1
        while not self._length(number):  # an empty file
            number += 1
        piece, offset = self.plan.pieces[number], start - self.plan.starts[number]
        if isinstance(piece, bytes):
            return piece[offset : offset + most]
        one = self.plan.files[piece]
        with disk_errors(self.plan.directory / one.name):
            data = os.pread(self._files[piece].fileno(), min(most, one.size - offset), offset)
        if not data:
            raise corrupt(one.name, "shorter than it was when the block was verified")
        return data

    def _length(self, number: int) -> int:
        piece = self.plan.pieces[number]
        return len(piece) if isinstance(piece, bytes) else self.plan.files[piece].size


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _local(one: _File) -> bytes:
    name = one.name.encode("ascii")
    head = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, one.crc, one.size, one.size, len(name), 0)
    return head + name


def _central(one: _File, place: int) -> bytes:
    name = one.name.encode("ascii")
    head = _CENTRAL.pack(
        b"PK\1\2", _VERSION, _UNIX, _VERSION, 0, 0, 0, 0, _DATE, one.crc, one.size, one.size, len(name), 0, 0, 0, 0, _MODE, place,
    )  # fmt: skip
    return head + name
