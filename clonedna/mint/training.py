"""The train stage: one adapter, an epoch at a time, stopped by the validation part, and never begun again for nothing.

Nothing here knows tensors: examples go to a ``Trainer``, losses come back. The order of batches is decided by the recipe's seed alone.

Promises: a checkpoint is written every so many seconds, at each epoch's end and when the training is asked to stop; a training that was
killed goes on from the last one, and ends as one that was not: the same losses, the same adapter (as far as the engine gives the same
bits for the same steps).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clonedna.core.block import Recipe
from clonedna.core.errors import Corrupt, Interrupted
from clonedna.core.events import Emit, Note, StageProgress
from clonedna.core.model import Beside, Example
from clonedna.core.seams import Engine, Trainer
from clonedna.mint.checkpoints import Checkpoints, Standing, belonging
from clonedna.mint.values import Trained

BYTES_PER_TOKEN = 3.0
CHECKPOINT_SECONDS = 20.0


async def train(
    engine: Engine,
    recipe: Recipe,
    examples: Sequence[Example],
    validation: Sequence[Example],
    directory: Path,
    *,
    checkpoints: Path,
    every: float = CHECKPOINT_SECONDS,
    emit: Emit,
    start: Path | None = None,
    beside: Beside | None = None,
) -> Trained:
    """Train on ``examples`` and leave the best epoch's adapter (PEFT files) in ``directory``; ``checkpoints`` is a folder of its own.

    Warm-up over ``recipe.warmup`` of the steps, then cosine to a tenth. With a validation part, training stops when its loss has not
    improved for ``recipe.patience`` epochs and the best epoch is what stays; without one, all epochs run and the last one stays.
    ``every``: seconds between checkpoints. ``emit`` is called after each step; when it raises ``Interrupted``, a checkpoint is written
    and the error goes on up. ``start``: PEFT files whose weights are the first ones. ``beside``: what it shall leave be, decided by the
    recipe. Raises ``NoSpace``.
    """
    kept = Checkpoints(checkpoints, belonging(recipe, engine.base, examples, validation, start))
    trainer, standing = await _begin(engine, recipe, kept, emit, start, beside)
    try:
        run = _Run(trainer, recipe, _batches(examples, recipe.batch_tokens, recipe.batch_examples), kept, standing)
        trained = await run.epochs(validation, emit, every)
    finally:
        await trainer.close()
    kept.give(trained.best_epoch - 1, directory)
    return trained


async def _begin(
    engine: Engine, recipe: Recipe, kept: Checkpoints, emit: Emit, start: Path | None, beside: Beside | None
) -> tuple[Trainer, Standing]:
    """A trainer that goes on from the last checkpoint, or a new one."""
    # Named only where it is given: engines that know nothing of it train all else.
    options: dict[str, Any] = {} if beside is None else {"beside": beside}
    found = kept.latest()
    if found is not None:
        path, standing = found
        try:
            trainer = await engine.train(recipe.lora, resume=path, **options)
        except Corrupt as error:
            emit(Note(level="warning", text=f"the checkpoint at step {standing.step} cannot be used: {error.message}"))
        else:
            emit(Note(text=f"resumed at step {standing.step}"))
            return trainer, standing
    kept.clear()
    if start is not None:
        options["start"] = start
    trainer = await engine.train(recipe.lora, **options)
    return trainer, Standing(belongs=kept.belongs)


class _Run:
    """The loop, and where it stands."""

    def __init__(
        self, trainer: Trainer, recipe: Recipe, batches: Iterator[list[Example]], kept: Checkpoints, standing: Standing
    ) -> None:
        self.trainer, self.recipe, self.kept, self.at = trainer, recipe, kept, standing
        self.batches = list(batches)
        self.total = recipe.epochs * len(self.batches)
        self._from, self._began, self._saved = standing, time.monotonic(), time.monotonic()

    async def epochs(self, validation: Sequence[Example], emit: Emit, every: float) -> Trained:
        while self.at.epoch < self.recipe.epochs and not self.at.stopped:
            await self._steps(emit, every)
            await self._end_epoch(validation)
        at = self.at
        return Trained(
            losses=at.losses, validation_losses=at.checked, epochs=len(at.losses), best_epoch=(at.best or 0) + 1, steps=at.step,
            tokens=at.tokens,
        )  # fmt: skip

    async def _steps(self, emit: Emit, every: float) -> None:
        """The rest of this epoch's batches."""
        order = list(range(len(self.batches)))
        random.Random(f"{self.recipe.seed}:epoch:{self.at.epoch}").shuffle(order)  # noqa: S311 - a seeded order, no secret
        for index in order[self.at.position :]:
            at = self.at
            loss = await self.trainer.forward_backward(self.batches[index])
            await self.trainer.optim_step(learning_rate(self.recipe, at.step, self.total))
            self.at = at.model_copy(
                update={
                    "position": at.position + 1, "step": at.step + 1, "tokens": at.tokens + loss.tokens,
                    "loss_sum": at.loss_sum + loss.loss_sum, "loss_tokens": at.loss_tokens + loss.tokens,
                }
            )  # fmt: skip
            try:
                emit(self._progress(loss.loss_sum / max(1, loss.tokens)))
            except Interrupted:
                await self.kept.keep(self.trainer, self.at)
                raise
            if time.monotonic() - self._saved >= every:
                await self._keep()

    async def _end_epoch(self, validation: Sequence[Example]) -> None:
        """The epoch's losses, whether it is the best, whether it is the last; then a checkpoint."""
        at = self.at
        checked, best, stopped = at.checked, at.best, False
        if validation:
            scores = await self.trainer.nll(validation)
            checked = (*checked, sum(s.nll for s in scores) / sum(s.tokens for s in scores))
        if checked and best is not None and checked[-1] > min(checked):
            stopped = at.epoch - best >= self.recipe.patience
        else:
            best = at.epoch
            await self.kept.keep_best(self.trainer, best)
        self.at = at.model_copy(
            update={
                "epoch": at.epoch + 1, "position": 0, "loss_sum": 0.0, "loss_tokens": 0, "best": best, "stopped": stopped,
                "losses": (*at.losses, at.loss_sum / max(1, at.loss_tokens)), "checked": checked,
            }
        )  # fmt: skip
        await self._keep()

    async def _keep(self) -> None:
        await self.kept.keep(self.trainer, self.at)
        self._saved = time.monotonic()

    def _progress(self, loss: float) -> StageProgress:
        at, seconds = self.at, time.monotonic() - self._began
        steps, tokens = at.step - self._from.step, at.tokens - self._from.tokens
        return StageProgress(
            stage="train", done=at.step, total=self.total, unit="steps", rate=round(tokens / seconds, 1),
            eta_seconds=round(seconds / steps * (self.total - at.step), 1), loss=round(loss, 4),
        )  # fmt: skip


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine from the recipe's rate to a tenth of it (Loshchilov & Hutter 2017)."""
    warm = max(1, math.ceil(recipe.warmup * total))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _batches(examples: Sequence[Example], batch_tokens: int, most: int) -> Iterator[list[Example]]:
    """Batches of similar length (little padding), each of about ``batch_tokens`` tokens, estimated at 3 bytes a token.

    ``most``: examples in one batch, 0 = as many as fit.
    """

    def size(example: Example) -> int:
        prompt = example.text or "".join(message.content for message in example.messages)
        return math.ceil((len(prompt.encode()) + len(example.completion.encode())) / BYTES_PER_TOKEN) + 8

    batch: list[Example] = []
    longest = 0
    for example in sorted(examples, key=lambda e: (size(e), e.completion)):
        longest = max(longest, size(example))
        if batch and (longest * (len(batch) + 1) > batch_tokens or len(batch) == most):
            yield batch
            batch, longest = [], size(example)
        batch.append(example)
    if batch:
        yield batch
