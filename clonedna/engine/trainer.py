"""One adapter being trained, as the rooms above see it: values in, values out, the work done by the engine's owner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from clonedna.core.errors import InputError
from clonedna.core.model import BaseInfo, Example, LoraSpec, Score, StepLoss
from clonedna.engine.adapters import write_adapter
from clonedna.engine.checkpoints import write_state
from clonedna.engine.owner import Owner
from clonedna.engine.texts import Texts
from clonedna.engine.training import Saved, TrainedSlot, Training


class LocalTrainer:
    """``core.seams.Trainer`` over one slot. Batches of several trainers that arrive together share the base's matrix products."""

    def __init__(self, owner: Owner, training: Training, texts: Texts, base: BaseInfo, trained: TrainedSlot) -> None:
        self._owner, self._training, self._texts, self._base = owner, training, texts, base
        self._trained: TrainedSlot | None = trained

    async def forward_backward(self, batch: Sequence[Example]) -> StepLoss:
        """A batch without a completion token adds nothing. Raises ``NoMemory`` for an example that is too long to train on here."""
        rows = await anyio.to_thread.run_sync(self._texts.rows, batch)
        trained = self._open()
        self._training.require(rows)
        return await self._owner.call(self._training.gradients, (trained, rows), key=trained.number)

    async def optim_step(self, learning_rate: float) -> None:
        """Raises ``InputError`` when there is no gradient."""
        await self._owner.call(self._training.step, (self._open(), learning_rate))

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        return await self._owner.call(self._training.score, (self._open(), rows))

    async def save(self, directory: Path, *, resumable: bool = False) -> None:
        """The weights are those of this moment; they are written beside the owner's work. Raises ``NoSpace``.

        Raises ``InputError`` when a gradient waits for its step.
        """
        trained = self._open()
        saved = await self._owner.call(self._training.saved, trained)
        await anyio.to_thread.run_sync(_write, directory, saved, trained.spec, self._base, resumable)

    async def close(self) -> None:
        """Closing twice does nothing; so does closing after the engine."""
        trained, self._trained = self._trained, None
        if trained is not None and not self._owner.closed:
            await self._owner.call(self._training.close, trained, sure=True)

    def _open(self) -> TrainedSlot:
        if self._trained is None:
            raise InputError("this trainer is closed", "ask the engine for a new one")
        return self._trained


def _write(directory: Path, saved: Saved, spec: LoraSpec, base: BaseInfo, resumable: bool) -> None:
    write_adapter(
        directory, saved.matrices, rank=spec.rank, alpha=spec.alpha, rslora=spec.rslora, base=base.id, fingerprint=base.fingerprint
    )  # fmt: skip
    if resumable:
        write_state(directory, saved, spec)
