"""What every trainer promises beside what ``test_engine`` shows: its own state, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from clonedna.core.errors import AdapterInvalid, InputError
from clonedna.core.model import Example, Layer, LoraSpec, StepLoss
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


def likelihoods(engine: Engine, directory: Path) -> tuple[list[float], list[float]]:
    """Of the files as they are loaded, and of a new training that starts from them."""

    async def work() -> tuple[list[float], list[float]]:
        info = await engine.load(directory)
        trainer = await engine.train(LoraSpec(rank=4, alpha=8, seed=9), start=directory)
        begun = await trainer.nll(TWO + ONE)
        await trainer.close()
        loaded = await engine.nll(TWO + ONE, [Layer(adapter=info.id)])
        return [score.nll for score in loaded], [score.nll for score in begun]

    return anyio.run(work)


def test_a_training_may_start_from_the_files_of_another(engine: Engine, tmp_path: Path) -> None:
    anyio.run(run, engine, ONE, [], tmp_path / "one")
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    loaded, begun = likelihoods(engine, tmp_path / "one")
    assert begun == pytest.approx(loaded, rel=1e-5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == files

    async def go_on(folder: Path) -> float:
        trainer = await engine.train(LoraSpec(rank=4, alpha=8), start=tmp_path / "one")
        before = sum(score.nll for score in await trainer.nll(TWO))
        await trainer.forward_backward(TWO)
        await trainer.optim_step(1e-2)
        await trainer.save(folder)
        after = sum(score.nll for score in await trainer.nll(TWO))
        await trainer.close()
        return before - after

    assert anyio.run(go_on, tmp_path / "two") > 0
    anyio.run(go_on, tmp_path / "again")
    for file in files:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_what_is_no_adapter_is_no_start_and_nobody_starts_twice(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid):
        anyio.run(lambda: engine.train(LoraSpec(rank=4, alpha=8), start=tmp_path))
    anyio.run(run, engine, ONE, [], tmp_path / "one")
    with pytest.raises(InputError):
        anyio.run(lambda: engine.train(LoraSpec(rank=4, alpha=8), start=tmp_path / "one", resume=tmp_path / "one"))


def test_closing_twice_is_fine(engine: Engine) -> None:
    async def close() -> None:
        trainer = await engine.train(LoraSpec(rank=1))
        await trainer.close()
        await trainer.close()

    anyio.run(close)
