"""What every trainer promises beside what ``test_engine`` shows: its own state, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from clonedna.core.model import Example, LoraSpec, StepLoss
from clonedna.core.seams import Engine
from tests.contract.engines import PARTS

ONE = [Example(text="a = ", completion="b + c\n"), Example(text="for ", completion="x in y:\n    pass\n")]
TWO = [Example(text="class ", completion="Stack:\n    items = []\n")]


@pytest.fixture(params=PARTS, scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = PARTS[request.param](tmp_path_factory.mktemp(request.param))
    yield opened
    anyio.run(opened.close)


async def run(engine: Engine, batch: list[Example], losses: list[StepLoss], directory: Path | None = None) -> None:
    trainer = await engine.train(LoraSpec(rank=4, alpha=8, seed=2))
    for _ in range(4):
        losses.append(await trainer.forward_backward(batch))
        await trainer.optim_step(1e-2)
    if directory is not None:
        await trainer.save(directory)
    await trainer.close()


def test_the_same_seed_and_data_give_the_same_files(engine: Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        anyio.run(run, engine, ONE, [], tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_trainers_at_once_do_not_touch_each_other(engine: Engine) -> None:
    alone: list[list[StepLoss]] = [[], []]
    for batch, losses in zip((ONE, TWO), alone, strict=True):
        anyio.run(run, engine, batch, losses)
    together: list[list[StepLoss]] = [[], []]

    async def both() -> None:
        async with anyio.create_task_group() as group:
            for batch, losses in zip((ONE, TWO), together, strict=True):
                group.start_soon(run, engine, batch, losses)

    anyio.run(both)
    for one, other in zip(alone, together, strict=True):
        assert [loss.tokens for loss in one] == [loss.tokens for loss in other]
        assert [loss.loss_sum / loss.tokens for loss in one] == pytest.approx(
            [loss.loss_sum / loss.tokens for loss in other], abs=1e-5
        )


def test_closing_twice_is_fine(engine: Engine) -> None:
    async def close() -> None:
        trainer = await engine.train(LoraSpec(rank=1))
        await trainer.close()
        await trainer.close()

    anyio.run(close)
