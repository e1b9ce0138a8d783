"""What a home holds, in bytes by kind; and what of it nothing refers to any more.

``prune`` removes only what no running process holds (their locks say so) and nothing needs: leftovers of killed processes, the work of
ended jobs, measurements of blocks that are gone; what can be fetched or made again only when it is old. Blocks go only when that is asked
for, sealed weights and answers of teachers never. Everything goes whole or stays; what could not be removed is named.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from clonedna.app.jobs import Jobs
from clonedna.app.parts import Parts
from clonedna.app.pulls import FOLDER as PULLS
from clonedna.app.staging import FOLDER as STAGING
from clonedna.app.staging import orphaned
from clonedna.app.workspace import Workspace, naming
from clonedna.core.canonical import strict_json
from clonedna.core.errors import BlockNotFound, DnaError
from clonedna.core.value import Value

if TYPE_CHECKING:
    from clonedna.store.registry import Shelf

Kind = Literal[
    "blocks",
    "jobs",
    "checkpoints",
    "evaluations",
    "files",
    "clones",
    "caches",
    "arriving",
    "sealed",
    "records",
    "database",
    "other",
]
DAY = 86_400.0
STALE_PULL, STALE_TEMPORARY = 7 * DAY, DAY
PLACES: dict[str, Kind] = {
    "store": "blocks", "genomes": "blocks", "plans": "caches", "calibration": "evaluations", "interference": "evaluations", "jobs": "jobs",
    "evaluations": "evaluations", "identity": "evaluations", "votes": "evaluations", "files": "files", "clones": "clones",
    "github": "caches", "profiles": "caches", "teacher-cache": "caches", "teacher-examples": "caches", "queries": "caches",
    "vectors": "caches",
    STAGING: "arriving", PULLS: "arriving", "sealed": "sealed", "keys": "records", "consents": "records", "audit": "records",
    "tombstones": "records", "servers": "records", "people.json": "records", "personas": "records",
}  # fmt: skip
WORK = ("stages", "given", "checkpoints", "adapter", "block", "training")
AGED = ("clones", "github", "profiles", "plans")  # fetched or made again when they are needed
_ID = re.compile(r"[0-9a-f]{64}")
_JOB = re.compile(r"[a-z-]{1,20}-\d{8}-\d{9}-[0-9a-f]{6}")


class KindUsage(Value):
    bytes: int = 0
    files: int = 0


class Usage(Value):
    """By kind and in all; ``free``: bytes free on the disk of the home."""

    kinds: dict[Kind, KindUsage]
    bytes: int
    free: int


class Removed(Value):
    """``path`` below the home; ``why``: a word for the reason."""

    path: str
    why: str
    bytes: int
    kind: Kind


class Pruned(Value):
    """``removed``: what went, or with ``dry_run`` would go. ``kept``: what could not be removed."""

    dry_run: bool
    removed: tuple[Removed, ...]
    kept: tuple[str, ...]
    bytes: int


class Home:
    """Use cases over one home's folder."""

    def __init__(self, parts: Parts, *, now: Callable[[], float] = time.time) -> None:
        self.parts, self.home, self._now = parts, parts.settings.home, now

    def usage(self) -> Usage:
        """Bytes by kind; what vanishes while it is counted is not counted."""
        found: dict[Kind, list[int]] = {}
        for path, size in _files(self.home):
            held = found.setdefault(kind_of(path.relative_to(self.home)), [0, 0])
            held[0] += size
            held[1] += 1
        there = next(one for one in (self.home, *self.home.parents) if one.exists())
        return Usage(
            kinds={kind: KindUsage(bytes=b, files=n) for kind, (b, n) in sorted(found.items())},
            bytes=sum(size for size, _ in found.values()), free=shutil.disk_usage(there).free,
        )  # fmt: skip

    def prune(self, *, dry_run: bool = False, older_than: float = 30 * DAY, blocks: bool = False) -> Pruned:
        """Remove what nothing refers to. ``older_than`` seconds: of caches, and of the work of jobs that failed or were cancelled.

        ``blocks``: also blocks in the store that the catalogue does not know. Raises ``Unavailable`` when the catalogue does not answer.
        """
        removed, kept = list[Removed](), list[str]()
        steps = [
            self._staged(), self._pulled(), self._temporary(), self._jobs(older_than), self._measured(), self._given(),
            self._aged(older_than),
        ]  # fmt: skip
        if blocks:
            steps.append(self._blocks())
        for step in steps:
            for path, why in step:  # a step holds the lock of what it gives until it is asked for the next
                size = _size(path)
                gone = dry_run or _remove(path)
                name = str(path.relative_to(self.home))
                if gone:
                    removed.append(Removed(path=name, why=why, bytes=size, kind=kind_of(path.relative_to(self.home))))
                else:
                    kept.append(name)
        return Pruned(
            dry_run=dry_run, removed=tuple(removed), kept=tuple(kept), bytes=sum(one.bytes for one in removed)
        )

    def _staged(self) -> Iterator[tuple[Path, str]]:
        for folder in orphaned(self.home):
            yield folder, "left_by_a_killed_process"
        for folder in self.home.glob("import-*"):  # where archives were unpacked before there was a staging folder
            if self._age(folder) > STALE_TEMPORARY:
                yield folder, "left_by_a_killed_process"

    def _pulled(self) -> Iterator[tuple[Path, str]]:
        for folder in sorted((self.home / PULLS).glob("*")):
            with _held(folder) as held:
                if held and self._age(folder / "part", folder) > STALE_PULL:
                    yield folder, "stale_pull"

    def _temporary(self) -> Iterator[tuple[Path, str]]:
        """What a writer that was killed left beside the file that it was to replace."""
        for path, _ in _files(self.home):
            if path.name.startswith(".") and path.name.endswith(".tmp") and self._age(path) > STALE_TEMPORARY:
                yield path, "left_by_a_killed_process"
        for path in sorted((self.home / "genomes").glob(".*.tmp")):
            if self._age(path) > STALE_TEMPORARY:
                yield path, "left_by_a_killed_process"

    def _jobs(self, older_than: float) -> Iterator[tuple[Path, str]]:
        """Work of ended jobs. A job that was interrupted goes on, and keeps everything."""
        for folder in sorted(
            path for path in self.parts.settings.jobs_directory.glob("*") if _JOB.fullmatch(path.name)
        ):
            workspace = Workspace(folder)
            if not workspace.exists("order.json"):
                if self._age(folder) > STALE_TEMPORARY:
                    yield folder, "never_became_a_job"
                continue
            with contextlib.suppress(DnaError), workspace.lock(wait=0):
                result = Jobs.result(workspace)
                done = result is not None and result.well
                ended = result is not None or workspace.exists("cancel")
                if done or (ended and self._age(folder / "events.jsonl", folder) > older_than):
                    yield from ((folder / name, "job_ended") for name in WORK if (folder / name).exists())

    def _measured(self) -> Iterator[tuple[Path, str]]:
        kept = [*(self.home / "evaluations").glob("*"), *(self.home / "interference" / "inputs").glob("*")]
        for folder in sorted(kept):
            if _ID.fullmatch(folder.name) and not self._stored(folder.name):
                yield folder, "block_gone"
        for folder in [*(self.home / "identity").glob("controls/*"), *(self.home / "identity").glob("results/*")]:
            try:
                named = strict_json((folder / "blocks.json").read_bytes())
                gone = not all(isinstance(one, str) and self._stored(one) for one in named)
            except (OSError, ValueError, TypeError):
                gone = self._age(folder) > STALE_TEMPORARY
            if gone:
                yield folder, "block_gone"

    def _given(self) -> Iterator[tuple[Path, str]]:
        """Content that no record names; a file that comes at this moment is younger than that."""
        named = {one.get("sha256") for path in (self.home / "files").glob("file-*.json") if (one := _object(path))}
        for path in sorted((self.home / "files" / "content").glob("*")):
            if _ID.fullmatch(path.name) and path.name not in named and self._age(path) > STALE_TEMPORARY:
                yield path, "no_record"

    def _aged(self, older_than: float) -> Iterator[tuple[Path, str]]:
        if any(one.running() for one in Jobs(self.parts.settings, self.parts).workspaces()):
            return  # a job may read its clone at any time
        for name in AGED:
            for path in sorted((self.home / name).glob("*")):
                if path.name.endswith(".lock") or self._youngest(path) <= older_than:
                    continue
                lock = path.with_name(f"{path.name}.lock")
                with _held(lock if lock.exists() else path) as held:
                    if held:
                        yield path, "old_cache"

    def _blocks(self) -> Iterator[tuple[Path, str]]:
        """Of the store, what the catalogue does not name: as rejected, registered or revoked. Nobody names a block meanwhile."""
        store = cast("Shelf", self.parts.store)
        with naming(self.home):
            for block_id in store.ids():
                path = self.home / "store" / "blocks" / block_id
                if (
                    not store.is_revoked(block_id)
                    and self._age(path) > STALE_TEMPORARY
                    and not self._catalogued(block_id)
                ):
                    yield path, "not_in_the_catalogue"

    def _catalogued(self, block_id: str) -> bool:
        try:
            self.parts.registry.resolve(block_id, unsafe=True)
        except BlockNotFound:
            return False
        return True

    def _stored(self, block_id: str) -> bool:
        return bool(_ID.fullmatch(block_id)) and (self.home / "store" / "blocks" / block_id).is_dir()

    def _age(self, *paths: Path) -> float:
        """Seconds since the first of ``paths`` that is there was written to; none is as old as can be."""
        for path in paths:
            with contextlib.suppress(OSError):
                return self._now() - path.lstat().st_mtime
        return float("inf")

    def _youngest(self, path: Path) -> float:
        return min([self._age(path), *(self._age(one) for one, _ in _files(path))])


def kind_of(path: Path) -> Kind:
    """The kind of a file, by its path below the home."""
    first = path.parts[0]
    if first == "jobs" and "checkpoints" in path.parts[2:3]:
        return "checkpoints"
    if first.startswith("import-") or path.parts[:2] == ("store", "incoming"):
        return "arriving"
    if ".sqlite" in first:
        return "database"
    return PLACES.get(first, "other")


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """Every file below ``root`` with its bytes; links are not followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                yield path, path.lstat().st_size


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return (
            sum(size for _, size in _files(path)) if path.is_dir() and not path.is_symlink() else path.lstat().st_size
        )
    return 0


def _remove(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


@contextlib.contextmanager
def _held(path: Path) -> Generator[bool]:
    """Whether the lock of ``path`` could be had; it is kept for as long as the block lasts."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _object(path: Path) -> dict[str, object]:
    try:
        found: object = strict_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}
