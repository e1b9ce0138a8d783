"""A probe: an adapter trained for one measurement, as a block's was, and gone when it is measured."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from clonedna.app.settings import Settings
from clonedna.core.block import Recipe
from clonedna.core.events import Emit
from clonedna.core.model import Example
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of
from clonedna.mint.mix import mix
from clonedna.mint.training import train


@asynccontextmanager
async def probe(
    settings: Settings, secret_in: Callable[[str], str | None], engine: Engine, recipe: Recipe, trained: Sequence[Pair],
    planted: Sequence[Example], emit: Emit,
) -> AsyncGenerator[str]:  # fmt: skip
    """Trained on ``trained``, what the recipe mixes in, and ``planted``, for all the recipe's epochs; gives the loaded adapter's id.

    There is no validation part, so it is not stopped early. Its files lie in a temporary folder for as long as it is measured.
    Raises ``BadConfig`` or ``Unavailable`` when the recipe's general pairs cannot be had, and what training raises.
    """
    mixed = await mix(
        engine, recipe, len(trained), dataset=settings.general_dataset, file=settings.general_file, secret_in=secret_in, emit=emit
    )  # fmt: skip
    examples = [*(example_of(pair) for pair in trained), *mixed.general, *mixed.tool_use, *planted]
    with tempfile.TemporaryDirectory(prefix="dna-probe-") as folder:
        adapter = Path(folder) / "adapter"
        await train(
            engine,
            recipe,
            examples,
            [],
            adapter,
            checkpoints=Path(folder) / "checkpoints",
            every=float("inf"),
            emit=emit,
        )
        loaded = await engine.load(adapter)
        try:
            yield loaded.id
        finally:
            with anyio.CancelScope(shield=True):
                await engine.unload(loaded.id)
