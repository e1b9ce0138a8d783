"""A block as one file that can be carried elsewhere: out of the store, and into it.

Out: never a ``local-only`` block, nor one whose person or tombstone says no. In: the archive is unpacked and verified beside the store,
and only a block that passed every check gets into it and gets its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clonedna.app.blocks import Blocks
from clonedna.app.orders import spdx
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.staging import staging
from clonedna.core.block import BlockRef, Manifest
from clonedna.core.errors import BadReference, BlockNotFound, ConsentMissing
from clonedna.core.value import Value


class Exported(Value):
    block: str
    id: str
    path: str
    bytes: int


class Archives:
    """Use cases over `.dna` files."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def export(self, reference: str, out: Path) -> Exported:
        """Write a verified block to ``out``, which must not exist.

        Raises what ``Blocks.verified`` raises, ``ConsentMissing`` (``local-only``), ``BlockRevoked``, ``BadReference``, ``NoSpace``.
        """
        manifest, path = Blocks(self.parts).verified(reference, any_status=True)
        refuse_local_only(manifest, path)
        if out.exists() or out.is_symlink():
            raise BadReference(f"{out} exists already", "choose another place, or move it away")
        factory("archive", "zip")(path, out)
        return Exported(
            block=f"{manifest.name}@{manifest.version}", id=manifest.id, path=str(out), bytes=out.stat().st_size
        )

    def load(
        self, archive: Path, *, check: Callable[[Manifest, Path], None] = lambda manifest, block: None
    ) -> BlockRef:
        """Take the block in ``archive`` into the store and give it its name. It is visible after every check, or not at all.

        ``check`` gets the verified manifest and its folder before anything is stored, and raises what speaks against it. Raises what
        ``verify_block`` raises, ``LicenceUnknown``, ``ConsentMissing``, ``BlockRevoked``, ``BadReference`` (the name is another
        block's), ``NoSpace``.
        """
        with staging(self.parts.settings.home) as folder:
            block = folder / "block"
            manifest: Manifest = factory("archive", "unzip")(archive, block, self.parts.signer)
            return self._admitted(manifest, block, check)

    def load_folder(
        self, block: Path, *, check: Callable[[Manifest, Path], None] = lambda manifest, block: None
    ) -> BlockRef:
        """As ``load``, of a folder of one's own that nobody else writes to."""
        return self._admitted(factory("block", "verify")(block, self.parts.signer), block, check)

    def _admitted(self, manifest: Manifest, block: Path, check: Callable[[Manifest, Path], None]) -> BlockRef:
        spdx(manifest.license)
        refuse_local_only(manifest, block)
        check(manifest, block)
        return self._publish(manifest, block)

    def _publish(self, manifest: Manifest, block: Path) -> BlockRef:
        self.parts.store.put(block)
        try:
            return self.parts.registry.publish(manifest)
        except BadReference:
            try:
                self.parts.registry.resolve(manifest.id, unsafe=True)
            except BlockNotFound:
                self.parts.store.delete(manifest.id)
            raise


def refuse_local_only(manifest: Manifest, block: Path) -> None:
    """Raises ``ConsentMissing`` for a block that stays where it was minted."""
    if "local-only" in (manifest.consent_mode, consent_of(block).mode):
        raise ConsentMissing(
            f"{manifest.name}@{manifest.version} is local-only: it stays on the machine that minted it",
            "ask the person, then mint it with their consent", file="consent.json",
        )  # fmt: skip
