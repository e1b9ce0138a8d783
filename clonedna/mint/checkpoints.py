"""Where a training stands, on disk: the trainer's state and a small record, visible together or not at all.

    <folder>/000007/           the newest checkpoint: adapter and optimiser as the trainer wrote them, and ``standing.json``
            /best-2/           the adapter of the best epoch so far (PEFT files), named by the record

A checkpoint is written under another name, every file of it fsynced, then renamed; only then the one before it is removed. So there
are at most two at any moment, and a kill or a full disk leaves a whole one. A checkpoint of another recipe, other data or another
base (``belongs``) is not used.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from clonedna.core.block import Recipe
from clonedna.core.canonical import canonical, digest, sha256
from clonedna.core.errors import NoSpace
from clonedna.core.model import BaseInfo, Example
from clonedna.core.seams import Trainer
from clonedna.core.value import Value

RECORD = "standing.json"
_WHOLE = re.compile(r"^\d{6,}$")


class Standing(Value):
    """Where a training stands between two steps: ``position`` batches of ``epoch`` (0-based) are done, ``step`` in all.

    ``loss_sum`` (nats) and ``loss_tokens`` are of this epoch so far; ``losses`` and ``checked`` of the epochs that are over (mean nats
    a token, training and validation); ``best``: the best epoch; ``stopped``: validation ended it.
    """

    belongs: str
    epoch: int = Field(default=0, ge=0)
    position: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    loss_sum: float = 0.0
    loss_tokens: int = Field(default=0, ge=0)
    losses: tuple[float, ...] = ()
    checked: tuple[float, ...] = ()
    best: int | None = None
    stopped: bool = False


def belonging(
    recipe: Recipe,
    base: BaseInfo,
    examples: Sequence[Example],
    validation: Sequence[Example],
    start: Path | None = None,
) -> str:
    """Digest of all that decides a training's steps; ``start``: the PEFT files that it starts from."""
    data = [sha256(b"".join(canonical(example) + b"\n" for example in part)) for part in (examples, validation)]
    first = [] if start is None else [sha256((start / "adapter_model.safetensors").read_bytes())]
    return digest([recipe, base.fingerprint, base.dtype, *data, *first])


class Checkpoints:
    """The checkpoints of one training, in a folder of its own."""

    def __init__(self, folder: Path, belongs: str) -> None:
        self.folder, self.belongs = folder, belongs

    def latest(self) -> tuple[Path, Standing] | None:
        """The newest whole checkpoint of this training, and where it stands. ``None``: there is none that can be used."""
        for path in reversed(self._whole()):
            try:
                standing = Standing.model_validate_json((path / RECORD).read_bytes())
            except (OSError, ValueError):
                continue
            if standing.belongs == self.belongs and (standing.best is None or self.best(standing.best).is_dir()):
                return path, standing
        return None

    def best(self, epoch: int) -> Path:
        """Where the adapter of this epoch is kept while it is the best."""
        return self.folder / f"best-{epoch}"

    def clear(self) -> None:
        """Remove everything: a training from its first step leaves nothing of another behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def keep(self, trainer: Trainer, standing: Standing) -> None:
        """Write a checkpoint and let go of the one before. Raises ``NoSpace``; then the one before is still there."""
        whole = self._whole()
        target = self.folder / f"{int(whole[-1].name) + 1 if whole else 1:06d}"
        await self._write(trainer, target, standing)
        self._remove_but(target, standing.best)

    async def keep_best(self, trainer: Trainer, epoch: int) -> None:
        """Write the adapter as it is now as this epoch's. Raises ``NoSpace``."""
        target = self.best(epoch)
        shutil.rmtree(target, ignore_errors=True)
        await self._write(trainer, target, None)

    def give(self, epoch: int, directory: Path) -> None:
        """Put the adapter of ``epoch`` into ``directory``. Raises ``NoSpace``."""
        with full_disk(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.best(epoch).iterdir()):
                shutil.copyfile(path, directory / path.name)
            _sync(directory)

    async def _write(self, trainer: Trainer, target: Path, standing: Standing | None) -> None:
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        try:
            with full_disk(new):
                new.mkdir(parents=True)
                await trainer.save(new, resumable=standing is not None)
                if standing is not None:
                    (new / RECORD).write_bytes(canonical(standing))
                _sync(new)
                new.rename(target)
                _sync_one(self.folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _whole(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if _WHOLE.match(path.name)), key=lambda path: int(path.name)
        )

    def _remove_but(self, newest: Path, best: int | None) -> None:
        kept = {newest, self.best(best)} if best is not None else {newest}
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def full_disk(path: Path) -> Generator[None]:
    """``ENOSPC`` and ``EDQUOT`` as ``NoSpace``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left to write the checkpoint {path.name}; the one before it is kept",
                "free some space, then: dna jobs resume",
            ) from error
        raise


def _sync(directory: Path) -> None:
    """Bring every file of ``directory``, and the directory itself, to the disk."""
    for path in directory.rglob("*"):
        _sync_one(path)
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
