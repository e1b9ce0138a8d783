"""Where blocks are kept: directories named by their id, and tombstones of those that were revoked.

    store/blocks/<id>/          the files of one block, never changed
         /revoked/<id>.json     a tombstone; it wins over any copy of the block, now or later
         /rollbacks/<name>.json which version a name means after somebody went back
         /incoming/             copies on their way in and directories on their way out
         /lock                  shared by whoever is putting; who gets it alone may clear /incoming

A block is there whole or not at all: it is copied to ``incoming`` on the same disk, fsynced, and renamed into place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from clonedna.core.block import DIGEST_PATTERN, Manifest
from clonedna.core.canonical import canonical
from clonedna.core.errors import BlockNotFound, BlockRevoked
from clonedna.core.seams import Signer
from clonedna.store.blocks import (
    ALLOWED,
    CONTENT,
    LIMITS,
    MANIFEST,
    SIGNATURE,
    authenticate,
    check_contents,
    check_file,
    pictures_in,
    verify_block,
)
from clonedna.store.files import disk_errors, flock, fsync_directory, measure, new_file, open_regular, write_atomic
from clonedna.store.rollbacks import Rollback, Rollbacks

_ID = re.compile(DIGEST_PATTERN)
MOST_PROFILE = 32_768  # bytes of a profile that are searched
SETTLED_NS = 3_000_000_000  # longer than the steps of any disk's clock


class DirectoryStore:
    """Content-addressed block directories; fulfils ``core.seams.Store``. Several processes may share one root."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self._root, self._signer = root, signer
        self._blocks, self._revoked, self._incoming = root / "blocks", root / "revoked", root / "incoming"
        self._rollbacks = Rollbacks(root)
        self._tombstones: tuple[tuple[int, int], frozenset[str]] | None = None
        self._clean()

    def put(self, directory: Path) -> str:
        """Verify, copy (hashing while copying), fsync, rename into place; gives the id.

        A block that is there already stays as it is, with the manifest it came with (the id does not cover the manifest's names and
        times). Raises ``BlockCorrupt``, ``SignatureInvalid``, ``BlockUntrusted``, ``BlockRevoked``, ``NoSpace``; nothing is half-written.
        """
        manifest = authenticate(directory, self._signer)
        block_id = manifest.id
        self.refuse_revoked(manifest)
        if self.has(block_id):
            self.verify(block_id)
            return block_id
        with self._holding() as temporary:
            self._copy(directory, temporary, block_id)
            with disk_errors(self._blocks):
                try:
                    temporary.rename(self._blocks / block_id)
                except OSError as error:
                    # Another process put the same block first: one of two equal copies goes.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            fsync_directory(self._blocks)
        return block_id

    def path(self, block_id: str) -> Path:
        """Where a block's files are. Raises ``BlockNotFound``, ``BlockRevoked``."""
        self._refuse_revoked(block_id)
        if not self.has(block_id):
            raise BlockNotFound(f"no block {block_id[:64]} in the store", "see: dna ls")
        return self._blocks / block_id

    def delete(self, block_id: str) -> None:
        """Remove a block's files, at once for every reader of names; unknown ids are ignored. A tombstone stays. Raises ``Unavailable``."""
        if not self.has(block_id):
            return
        with self._holding() as temporary, disk_errors(self._blocks):
            (self._blocks / block_id).rename(temporary)
            shutil.rmtree(temporary)

    def has(self, block_id: str) -> bool:
        # The pattern first: an id is part of a path.
        return bool(_ID.fullmatch(block_id)) and (self._blocks / block_id).is_dir()

    def verify(self, block_id: str) -> Manifest:
        """Read a stored block with everything checked. Raises ``BlockNotFound`` and what ``verify_block`` raises."""
        if not self.has(block_id):
            raise BlockNotFound(f"no block {block_id[:64]} in the store", "see: dna ls")
        return verify_block(self._blocks / block_id, self._signer, expect_id=block_id)

    def profile(self, block_id: str) -> str:
        """The beginning of a stored block's ``profile.md``, to search by; third-party text. Raises ``BlockNotFound``, ``BlockCorrupt``."""
        if not self.has(block_id):
            raise BlockNotFound(f"no block {block_id[:64]} in the store", "see: dna ls")
        path = self._blocks / block_id / "profile.md"
        with open_regular(path, LIMITS["profile.md"]) as file, disk_errors(path):
            return file.read(MOST_PROFILE).decode("utf-8", "replace")

    def ids(self) -> tuple[str, ...]:
        """Ids of all stored blocks, revoked ones among them, sorted."""
        return tuple(sorted(name for name in _names(self._blocks) if _ID.fullmatch(name)))

    def revoke(self, block_id: str) -> None:
        """Write the tombstone: this block is never put, opened or resolved here again. Doing it twice changes nothing.

        Raises ``BlockNotFound`` when ``block_id`` is not an id, ``NoSpace``.
        """
        if not _ID.fullmatch(block_id):
            raise BlockNotFound(f"{block_id[:64]!r} is not a block's id", "give all 64 digits: dna show")
        if not self.is_revoked(block_id):
            with disk_errors(self._revoked):
                self._revoked.mkdir(parents=True, exist_ok=True)
            at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            write_atomic(
                self._tombstone(block_id), canonical({"format": "dna-tombstone/1", "id": block_id, "revoked_at": at})
            )

    def refuse_revoked(self, manifest: Manifest) -> None:
        """Raises ``BlockRevoked`` when this block, or one that it was made from, has a tombstone, whether it is stored or not."""
        self._refuse_revoked(manifest.id)
        for parent in manifest.lineage.parents:
            if self.is_revoked(parent):
                raise BlockRevoked(
                    f"block {manifest.id[:12]} was made from {parent[:12]}, which was revoked",
                    "make it again without that one", id=parent,
                )  # fmt: skip

    def is_revoked(self, block_id: str) -> bool:
        """Whether there is a tombstone, whatever stands in it."""
        # Asked for each line of each list: a path put together as text takes half the time.
        return bool(_ID.fullmatch(block_id)) and os.path.lexists(os.path.join(self._revoked, f"{block_id}.json"))

    def revoked(self) -> frozenset[str]:
        """Ids of all tombstones. They are listed again when their folder changed, or changed a moment ago."""
        before, kept = _changed(self._revoked), self._tombstones
        if kept is not None and kept[0] == before:
            return kept[1]
        if before is None:
            return frozenset()
        now = time.time_ns()
        found = frozenset(
            name.removesuffix(".json") for name in _names(self._revoked) if _ID.fullmatch(name.removesuffix(".json"))
        )
        # A disk's clock has steps: of two changes in one step the time tells only the first.
        self._tombstones = (before, found) if now - before[1] > SETTLED_NS else None
        return found

    def rollback(self, name: str) -> Rollback | None:
        """The record of a name that was rolled back. Raises ``Corrupt``."""
        return self._rollbacks.get(name)

    def rolled_back(self) -> frozenset[str]:
        """The names that have such a record."""
        return self._rollbacks.names()

    def _tombstone(self, block_id: str) -> Path:
        return self._revoked / f"{block_id}.json"

    def _refuse_revoked(self, block_id: str) -> None:
        if self.is_revoked(block_id):
            raise BlockRevoked(
                f"block {block_id[:12]} was revoked", "it cannot be used any more; see: dna ls", id=block_id
            )

    def _copy(self, source: Path, target: Path, block_id: str) -> None:
        """Copy and verify; what the checks read after the copying is our copy, which nobody else changes."""
        with disk_errors(target):
            target.mkdir()
        for name in (MANIFEST, SIGNATURE):
            with new_file(target / name) as file:
                measure(source / name, LIMITS[name], copy=file)
        found = {}
        for name in (*CONTENT, *pictures_in(source)):
            with new_file(target / name) as file:
                found[name] = measure(source / name, ALLOWED[name], copy=file)
        manifest = authenticate(target, self._signer, expect_id=block_id)
        for name in sorted(manifest.files):
            check_file(name, found[name], manifest.files[name])
        check_contents(target)
        fsync_directory(target)

    @contextmanager
    def _holding(self) -> Generator[Path]:
        """A fresh name in ``incoming``, while the lock is shared so that nobody clears it. Whatever is left there goes at the end."""
        with disk_errors(self._root):
            for directory in (self._blocks, self._incoming):
                directory.mkdir(parents=True, exist_ok=True)
        with flock(self._root / "lock", fcntl.LOCK_SH):
            temporary = self._incoming / uuid.uuid4().hex
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _clean(self) -> None:
        """Clear what killed processes left. Only when nobody is putting: the kernel drops a dead process's lock."""
        if not _names(self._incoming):
            return
        try:
            with flock(self._root / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                for name in _names(self._incoming):
                    shutil.rmtree(self._incoming / name, ignore_errors=True)
        except BlockingIOError:  # somebody is: their leftovers wait for the next start
            return


def _changed(directory: Path) -> tuple[int, int] | None:
    """Which directory it is and when a name in it last changed; ``None`` where there is none."""
    with disk_errors(directory):
        try:
            found = os.stat(directory)
        except FileNotFoundError:
            return None
    return found.st_ino, max(found.st_mtime_ns, found.st_ctime_ns)


def _names(directory: Path) -> tuple[str, ...]:
    with disk_errors(directory):
        return tuple(os.listdir(directory)) if directory.is_dir() else ()
