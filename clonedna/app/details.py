"""One block's papers, each by itself: its files, its card, the verdict on it, what was measured, what differs from another.

A block is verified before anything of it is told, and again when something wrote to it. Papers that say what anybody may know of a block
are given to all who may read here. The person's work (``WORK``: pairs, weights, and what names their files and habits) is given only where
licence and consent cover sharing and the gate accepted the block; or to who asks for ``everything``: whoever runs this machine, or may mint
on it, has it anyway. Of a ``local-only`` block it is given to nobody: such a block stays on its machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from clonedna.app.blocks import Blocks
from clonedna.app.evaluations import Evaluated, Evaluations
from clonedna.app.holding import Holding
from clonedna.app.papers import consent_of, evaluation_of
from clonedna.app.parts import Parts
from clonedna.app.verdicts import Verdict, unshareable, verdict
from clonedna.app.versions_diff import VersionDiff, diff
from clonedna.core.block import BlockRef, ConsentRecord, Evaluation, Manifest, Maturity
from clonedna.core.errors import NotFound, Refused
from clonedna.core.value import Value
from clonedna.evals.maturity import maturity_of

WORK = frozenset({"adapter_model.safetensors", "pairs.jsonl", "profile.md", "sources.json"})
MEDIA = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".png": "image/png"}


class FileLine(Value):
    """A file as the manifest lists it. ``open``: whether everybody who may read here may have it."""

    path: str
    size: int
    sha256: str
    open: bool


class FileTable(Value):
    """All files that a block's manifest lists, by path. ``closed``: why those that are not open are not, or empty."""

    block: BlockRef
    files: tuple[FileLine, ...]
    closed: str = ""


class BlockFile(Value):
    """A verified file of a block, on this machine."""

    at: Path
    name: str
    size: int
    sha256: str
    media: str

    def stat(self) -> os.stat_result:
        """Of the file as it is there. Raises ``NotFound`` when the block went away in this moment."""
        try:
            return self.at.stat()
        except FileNotFoundError:
            raise NotFound(f"{self.name} is not there any more", "the block was removed or revoked") from None


class Card(Value):
    """The model card. ``text`` is Markdown with third-party text in it: data, to be made safe where it is shown."""

    block: BlockRef
    text: str


class Measured(Value):
    """What was measured of a block: at its mint (``evaluation``), and again on this machine (``again``, newest first)."""

    block: BlockRef
    evaluation: Evaluation
    maturity: Maturity
    again: tuple[Evaluated, ...]


class Details:
    """Use cases over one process's parts. Rejected blocks are named by their ids. All raise what resolving and verifying raise."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._blocks, self._holding = Blocks(parts), Holding(parts)

    def files(self, reference: str) -> FileTable:
        """The block's own table."""
        manifest, path = self._blocks.known(reference)
        why = unshareable(self.parts, manifest, consent_of(path))
        lines = tuple(
            FileLine(path=name, size=one.size, sha256=one.sha256, open=why is None or name not in WORK)
            for name, one in sorted(manifest.files.items())
        )
        return FileTable(block=ref(manifest), files=lines, closed=why.message if why else "")

    def file(self, reference: str, name: str, *, who: str, everything: bool = False) -> BlockFile:
        """One file of the table, for ``who``, which is noted where it is the person's work.

        Raises ``NotFound`` for any other name; ``Refused`` for the person's work where it may not be given.
        """
        manifest, path = self._blocks.known(reference)
        entry = manifest.files.get(name)
        if entry is None:
            known = ", ".join(sorted(manifest.files))
            raise NotFound(f"{manifest.name}@{manifest.version} has no file {name[:80]!r}", f"it has: {known}")
        if name in WORK:
            self._refuse_work(manifest, consent_of(path), name, everything=everything)
            self._holding.note(manifest.id, "file", who)
        media = MEDIA.get(Path(name).suffix, "application/octet-stream")
        return BlockFile(at=path / name, name=name, size=entry.size, sha256=entry.sha256, media=media)

    def _refuse_work(self, manifest: Manifest, consent: ConsentRecord, name: str, *, everything: bool) -> None:
        """Raises ``Refused`` where this file of the person's work may not be given."""
        local = "local-only" in (manifest.consent_mode, consent.mode)
        why = None if everything and not local else unshareable(self.parts, manifest, consent)
        if why is not None:
            raise Refused(
                f"{name} is the person's work, and it may not be given to others: {why.message}",
                "a local-only block stays on its machine" if local else "ask with a key that has the scope mint or admin",
                file=name, why=why.code,
            )  # fmt: skip

    def card(self, reference: str) -> Card:
        """The block's README."""
        manifest, path = self._blocks.known(reference)
        return Card(block=ref(manifest), text=(path / "README.md").read_bytes().decode("utf-8", "replace"))

    def verify(self, reference: str) -> Verdict:
        """What was checked, and what the block may be used for here."""
        return verdict(self.parts, *self._blocks.verified(reference, any_status=True))

    def verify_directory(self, directory: Path) -> Verdict:
        """The same of a block that is not in the store."""
        return verdict(self.parts, self._blocks.verify_directory(directory), directory)

    def measured(self, reference: str) -> Measured:
        """Its evaluation, and those that were made on this machine since."""
        manifest, path = self._blocks.known(reference)
        evaluation = evaluation_of(path)
        return Measured(
            block=ref(manifest), evaluation=evaluation, maturity=maturity_of(manifest, evaluation),
            again=Evaluations(self.parts.settings.home).of(manifest.id),
        )  # fmt: skip

    def diff(self, a: str, b: str, *, everything: bool = False) -> VersionDiff:
        """What changed from ``a`` to ``b``. The names of files stand in it where both blocks may be shared, or with ``everything``."""
        found = diff(self.parts, a, b)
        if everything or all(self._open(one.id) for one in (found.a, found.b)):
            return found
        return found.model_copy(update={"files": (), "files_left_out": len(found.files) + found.files_left_out})

    def _open(self, block_id: str) -> bool:
        manifest, path = self._blocks.known(block_id)
        return unshareable(self.parts, manifest, consent_of(path)) is None


def ref(manifest: Manifest) -> BlockRef:
    status = "rejected" if manifest.gate.status == "rejected" else "registered"
    return BlockRef(name=manifest.name, version=manifest.version, id=manifest.id, status=status)
