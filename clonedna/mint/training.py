"""The train stage: one adapter, an epoch at a time, stopped by the validation part.

Nothing here knows tensors: examples go to a ``Trainer``, losses come back. The order of batches is decided by the recipe's seed alone.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clonedna.core.block import Recipe
from clonedna.core.events import Emit, StageProgress
from clonedna.core.model import Example
from clonedna.core.seams import Engine, Trainer
from clonedna.mint.values import Trained

BYTES_PER_TOKEN = 3.0


async def train(
    engine: Engine,
    recipe: Recipe,
    examples: Sequence[Example],
    validation: Sequence[Example],
    directory: Path,
    *,
    emit: Emit,
) -> Trained:
    """Train on ``examples`` and save the best epoch's adapter (PEFT files) into ``directory``.

    Warm-up over ``recipe.warmup`` of the steps, then cosine to a tenth. With a validation part, training stops when its loss has not
    improved for ``recipe.patience`` epochs and the best epoch is what stays; without one, all epochs run and the last one stays.
    """
    trainer = await engine.train(recipe.lora)
    try:
        return await _epochs(trainer, recipe, examples, validation, directory, emit)
    finally:
        await trainer.close()


async def _epochs(
    trainer: Trainer,
    recipe: Recipe,
    examples: Sequence[Example],
    validation: Sequence[Example],
    directory: Path,
    emit: Emit,
) -> Trained:
    batches = [list(batch) for batch in _batches(examples, recipe.batch_tokens)]
    total = recipe.epochs * len(batches)
    losses: list[float] = []
    checked: list[float] = []
    best, step, tokens, began = 0, 0, 0, time.monotonic()
    for epoch in range(recipe.epochs):
        order = list(range(len(batches)))
        random.Random(f"{recipe.seed}:epoch:{epoch}").shuffle(order)  # noqa: S311 - a seeded order, no secret
        loss_sum, loss_tokens = 0.0, 0
        for index in order:
            loss = await trainer.forward_backward(batches[index])
            await trainer.optim_step(learning_rate(recipe, step, total))
            step += 1
            loss_sum, loss_tokens, tokens = loss_sum + loss.loss_sum, loss_tokens + loss.tokens, tokens + loss.tokens
            seconds = time.monotonic() - began
            emit(
                StageProgress(
                    stage="train", done=step, total=total, unit="steps", rate=round(tokens / seconds, 1),
                    eta_seconds=round(seconds / step * (total - step), 1), loss=round(loss.loss_sum / max(1, loss.tokens), 4),
                )
            )  # fmt: skip
        losses.append(loss_sum / max(1, loss_tokens))
        if validation:
            scores = await trainer.nll(validation)
            checked.append(sum(s.nll for s in scores) / sum(s.tokens for s in scores))
            if checked[-1] > min(checked):
                if len(checked) - 1 - best >= recipe.patience:
                    break
                continue
        best = epoch
        await trainer.save(directory)
    return Trained(
        losses=tuple(losses),
        validation_losses=tuple(checked),
        epochs=len(losses),
        best_epoch=best + 1,
        steps=step,
        tokens=tokens,
    )


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine from the recipe's rate to a tenth of it (Loshchilov & Hutter 2017)."""
    warm = max(1, math.ceil(recipe.warmup * total))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Batches of similar length (little padding), each of about ``batch_tokens`` tokens, estimated at 3 bytes a token."""

    def size(example: Example) -> int:
        prompt = example.text or "".join(message.content for message in example.messages)
        return math.ceil((len(prompt.encode()) + len(example.completion.encode())) / BYTES_PER_TOKEN) + 8

    batch: list[Example] = []
    longest = 0
    for example in sorted(examples, key=lambda e: (size(e), e.completion)):
        longest = max(longest, size(example))
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, longest = [], size(example)
        batch.append(example)
    if batch:
        yield batch
