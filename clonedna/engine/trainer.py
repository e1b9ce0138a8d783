"""One adapter being trained, as the rooms above see it: values in, values out, the work done by the engine's owner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from clonedna.core.errors import InputError
from clonedna.core.model import BaseInfo, Example, Score, StepLoss
from clonedna.engine.adapters import write_adapter
from clonedna.engine.owner import Owner
from clonedna.engine.texts import Texts
from clonedna.engine.training import TrainedSlot, Training


class LocalTrainer:
    """``core.seams.Trainer`` over one slot. Batches of several trainers that arrive together share the base's matrix products."""

    def __init__(self, owner: Owner, training: Training, texts: Texts, base: BaseInfo, trained: TrainedSlot) -> None:
        self._owner, self._training, self._texts, self._base = owner, training, texts, base
        self._trained: TrainedSlot | None = trained

    async def forward_backward(self, batch: Sequence[Example]) -> StepLoss:
        """A batch without a completion token adds nothing."""
        rows = await anyio.to_thread.run_sync(self._texts.rows, batch)
        trained = self._open()
        return await self._owner.call(self._training.gradients, (trained, rows), key=trained.slot)

    async def optim_step(self, learning_rate: float) -> None:
        """Raises ``InputError`` when there is no gradient."""
        await self._owner.call(self._training.step, (self._open(), learning_rate))

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        return await self._owner.call(self._training.score, (self._open(), rows))

    async def save(self, directory: Path) -> None:
        """The weights are those of this moment; they are written beside the owner's work. Raises ``NoSpace``."""
        spec = self._open().spec
        matrices = await self._owner.call(self._training.copies, self._open())
        await anyio.to_thread.run_sync(
            lambda: write_adapter(
                directory, matrices, rank=spec.rank, alpha=spec.alpha, rslora=spec.rslora, base=self._base.id,
                fingerprint=self._base.fingerprint,
            )
        )  # fmt: skip

    async def close(self) -> None:
        """Closing twice does nothing; so does closing after the engine."""
        trained, self._trained = self._trained, None
        if trained is not None and not self._owner.closed:
            await self._owner.call(self._training.close, trained)

    def _open(self) -> TrainedSlot:
        if self._trained is None:
            raise InputError("this trainer is closed", "ask the engine for a new one")
        return self._trained
