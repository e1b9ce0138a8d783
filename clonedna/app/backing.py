"""A home in one file, and a home out of it.

    backup.tar: backup.json      form, time, and of every other entry its bytes and SHA-256; the last entry
                home/...         files of the home, by their paths below it
                database/...     rows of the database by table, as lines of JSON

Nothing is half: a block is copied whole or left out, what belongs together is copied under its writers' lock, and tombstones are copied
last, so that no block comes back that was revoked meanwhile. Private keys and the tokens of the server are in it only where that is asked
for. Not in it: jobs, caches, sealed weights, what is arriving, and tokens for other servers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast

from pydantic import Field, ValidationError

from clonedna.app.catalogue import Catalogue
from clonedna.app.parts import Parts, factory
from clonedna.app.settings import Settings
from clonedna.app.staging import staging
from clonedna.app.workspace import now, require_space, space_errors
from clonedna.core.block import DIGEST_PATTERN
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import BadReference, Corrupt, InputError
from clonedna.core.value import Value
from clonedna.core.work import Refusal

LISTING = "backup.json"
MOST_LISTING = 1 << 30
CHUNK = 1 << 20
# What is copied before the blocks, and behind them. ``keys`` and ``store`` are taken apart below.
BEFORE = (
    "genomes",
    "personas",
    "evaluations",
    "calibration",
    "interference",
    "identity",
    "votes",
    "files",
    "queries",
    "people.json",
    "store/rollbacks",
)
LOCKED = ("consents/accounts", "consents", "audit")
AFTER = ("tombstones", "store/revoked")
SECRET = ("keys/own", "keys/private")
_PLACE = re.compile(r"(?:home|database)(?:/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,200}){1,8}")


class Entry(Value):
    size: int = Field(ge=0)
    sha256: str = Field(pattern=DIGEST_PATTERN)


class Listing(Value):
    """``database``: the form of its tables. ``secrets``: whether private keys and tokens are in it."""

    format: Literal["dna-backup/1"] = "dna-backup/1"
    made_at: str
    secrets: bool
    database: tuple[str, ...]
    entries: dict[str, Entry]


class BackedUp(Value):
    path: str
    bytes: int
    blocks: int
    files: int
    secrets: bool


class Restored(Value):
    """``left_out``: blocks that are there and cannot be verified, with the reason."""

    home: str
    made_at: str
    blocks: int
    files: int
    rows: int
    secrets: bool
    left_out: tuple[Refusal, ...]


def backup(parts: Parts, out: Path, *, secrets: bool = False) -> BackedUp:
    """Write the home to ``out``: a new file, or a file named by the time in a folder. Nothing is there before all of it is.

    Raises ``BadReference`` when it exists, ``NoSpace``, and what opening the database raises.
    """
    if out.is_dir():
        out = out / f"clone-dna-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.tar"
    if os.path.lexists(out):
        raise BadReference(f"{out} exists already", "choose another place, or move it away")
    with staging(parts.settings.home) as folder, space_errors(out):
        form = factory("database", "dump")(parts.database, folder, secrets=secrets)
        with _new(out) as file:
            writer = _Writer(file, parts.settings.home)
            for path in sorted(folder.glob("*.jsonl")):
                writer.add(f"database/{path.name}", path)
            writer.home(secrets=secrets)
            writer.close(Listing(made_at=now(), secrets=secrets, database=form, entries=writer.entries))
    return BackedUp(
        path=str(out), bytes=out.stat().st_size, blocks=writer.blocks, files=len(writer.entries), secrets=secrets
    )


class _Writer:
    """The archive that is being written; counts and hashes what goes in."""

    def __init__(self, file: IO[bytes], home: Path) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by ``close``
        self._home, self.entries, self.blocks = home, dict[str, Entry](), 0

    def home(self, *, secrets: bool) -> None:
        from clonedna.trust.files import locked

        for name in BEFORE:
            self._tree(self._home / name)
        self._blocks()
        for name in LOCKED:
            folder = self._home / name
            if folder.is_dir():
                with locked(folder):
                    self._tree(folder, deep=name != "consents")
        if (self._home / "keys").is_dir():
            with locked(self._home / "keys"):
                for name in ("keys/trusted", *(SECRET if secrets else ())):
                    self._tree(self._home / name)
        for name in AFTER:
            self._tree(self._home / name)

    def _tree(self, path: Path, *, deep: bool = True) -> None:
        """A file, or the files of a folder and (``deep``) of those below it; one that goes meanwhile is left out."""
        found = path.rglob("*") if deep else path.glob("*")
        for one in sorted(found) if path.is_dir() else [path]:
            hidden = any(part.startswith(".") for part in one.relative_to(self._home).parts)  # on its way in
            if one.is_file() and not one.is_symlink() and not hidden:
                with contextlib.suppress(FileNotFoundError):
                    self.add(self._name(one), one)

    def _blocks(self) -> None:
        root = self._home / "store" / "blocks"
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            with ExitStack() as stack:
                try:  # all are open before the first is copied: a block that is removed meanwhile is copied whole
                    opened = [(path, stack.enter_context(path.open("rb"))) for path in sorted(folder.iterdir())]
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for path, file in opened:
                    self._copy(self._name(path), file)
            self.blocks += 1

    def _name(self, path: Path) -> str:
        return f"home/{path.relative_to(self._home).as_posix()}"

    def add(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self._copy(name, file)

    def _copy(self, name: str, file: BinaryIO) -> None:
        if not _PLACE.fullmatch(name):
            raise Corrupt(f"{name[:200]!r} is no file of a home", "move it away, then try again")
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
        counted = _Counted(file)
        self._tar.addfile(info, cast("IO[bytes]", counted))
        self.entries[name] = Entry(size=counted.size, sha256=counted.sha.hexdigest())

    def close(self, listing: Listing) -> None:
        data = canonical(listing)
        info = tarfile.TarInfo(LISTING)
        info.size, info.mode = len(data), 0o600
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()


class _Counted:
    """A file that is read once, and what was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha, self.size = file, hashlib.sha256(), 0

    def read(self, most: int = -1) -> bytes:
        data = self._file.read(most)
        self.sha.update(data)
        self.size += len(data)
        return data


def restore(settings: Settings, archive: Path) -> Restored:
    """Make the home of ``settings``, which must be empty (as must the database), out of a backup: everything verified, then all at once.

    Raises ``InputError`` (not empty, no backup), ``Corrupt`` for what is not what was backed up, ``BadConfig`` for a newer program's,
    ``NoSpace``.
    """
    home = settings.home
    _refuse_full(home)
    for leftover in home.parent.glob(f".{home.name}.restoring-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    made = home.with_name(f".{home.name}.restoring-{uuid.uuid4().hex}")
    try:
        with space_errors(made):
            require_space(home.parent, archive.stat().st_size if archive.is_file() else 0)
            (made / "home").mkdir(mode=0o700, parents=True)
            listing = _unpack(archive, made)
        parts = Parts(settings.model_copy(update={"home": made / "home"}))
        files = {path.stem: path for path in (made / "database").glob("*.jsonl")}
        rows = factory("database", "load")(parts.database, files, listing.database)
        rebuilt = Catalogue(parts).reindex(vectors=False)
        parts.release()  # SQLite's files are moved by nobody who has them open
        _refuse_full(home)
        with space_errors(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            (made / "home").rename(home)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Restored(
        home=str(home), made_at=listing.made_at, blocks=rebuilt.blocks, files=len(listing.entries), rows=rows, secrets=listing.secrets,
        left_out=rebuilt.left_out,
    )  # fmt: skip


def _refuse_full(home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InputError(f"{home} is not empty", "restore into a new home: dna --home FOLDER restore FILE")


def _unpack(archive: Path, out: Path) -> Listing:
    """Every entry into ``out``, and the listing that says what they must be. Raises ``InputError``, ``Corrupt``, ``NoSpace``."""
    found: dict[str, Entry] = {}
    listing: Listing | None = None
    try:
        with tarfile.open(archive, "r|") as tar:
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                if file is None or listing is not None or info.name in found:
                    raise _damaged(f"{info.name[:200]!r} should not be there")
                if info.name == LISTING:
                    listing = _listing(file.read(MOST_LISTING + 1) if info.size <= MOST_LISTING else b"")
                elif _PLACE.fullmatch(info.name) and ".." not in info.name.split("/"):
                    _folders(out, (out / info.name).parent)
                    found[info.name] = _extracted(file, out / info.name)
                else:
                    raise _damaged(f"{info.name[:200]!r} is no file of a backup")
    except tarfile.TarError as error:
        raise _damaged(f"it is no whole archive: {error}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{archive} cannot be read: {error.strerror}", "give a file that dna backup wrote") from error
    if listing is None:
        raise _damaged("its end is missing")
    for name in sorted(found.keys() | listing.entries.keys()):
        if found.get(name) != listing.entries.get(name):
            raise _damaged(f"{name} is not what was backed up")
    return listing


def _listing(data: bytes) -> Listing:
    try:
        return Listing.model_validate(strict_json(data))
    except (ValueError, ValidationError, RecursionError) as error:
        raise _damaged("its listing cannot be read, or is of a newer program") from error


def _folders(out: Path, folder: Path) -> None:
    """Make ``folder`` below ``out``, each its owner's alone."""
    if folder != out:
        _folders(out, folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _extracted(source: IO[bytes], path: Path) -> Entry:
    """One file (0600, but for those of blocks), hashed on the way."""
    sha, size = hashlib.sha256(), 0
    secret = "blocks" not in path.parts
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if secret else 0o644), "wb"
    ) as file:
        while data := source.read(CHUNK):
            sha.update(data)
            size += len(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Entry(size=size, sha256=sha.hexdigest())


def _damaged(why: str) -> Corrupt:
    return Corrupt(
        f"the backup cannot be used: {why}", "use another backup, or copy this one again from where it is whole"
    )


@contextmanager
def _new(path: Path) -> Generator[IO[bytes]]:
    """A new file, its owner's alone, that appears when it is whole and on the disk; a killed process leaves none under its name."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails where somebody was faster: nothing is overwritten
    except FileExistsError:
        raise BadReference(f"{path} exists already", "choose another place, or move it away") from None
    finally:
        temporary.unlink(missing_ok=True)
