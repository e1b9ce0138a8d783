"""A training that goes on from its checkpoint is the training that was never interrupted; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import safetensors.torch
import torch

from clonedna.core.errors import AdapterInvalid, InputError, NoSpace
from clonedna.core.model import Example, LoraSpec
from clonedna.engine.adapters import CONFIG, WEIGHTS
from clonedna.engine.checkpoints import STATE
from clonedna.engine.local import LocalEngine

SPEC = LoraSpec(rank=4, alpha=8, seed=3, weight_decay=0.01, clip=0.5)
RATES = [5e-3, 1e-2, 2e-3, 5e-3, 1e-3, 7e-3]


async def go(
    engine: LocalEngine, examples: list[Example], steps: range, out: Path, resume: Path | None = None
) -> list[float]:
    """Steps with their own batch and rate each; saved to ``out``."""
    trainer = await engine.train(SPEC, resume=resume)
    losses: list[float] = []
    for step in steps:
        batch = examples[step % 3 : step % 3 + 3]
        losses.append((await trainer.forward_backward(batch)).loss_sum)
        await trainer.optim_step(RATES[step])
    await trainer.save(out, resumable=True)
    await trainer.close()
    return losses


@pytest.fixture(scope="module")
def half(engine: LocalEngine, examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("half") / "state"
    anyio.run(go, engine, examples, range(3), out)
    return out


@pytest.fixture
def copy(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "copy")


def test_interrupted_and_uninterrupted_give_the_same_bytes(
    engine: LocalEngine, examples: list[Example], half: Path, tmp_path: Path
) -> None:
    whole = anyio.run(go, engine, examples, range(6), tmp_path / "whole")
    rest = anyio.run(go, engine, examples, range(3, 6), tmp_path / "rest", half)
    assert rest == whole[3:]
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "rest" / name).read_bytes()
    one, two = (safetensors.torch.load_file(tmp_path / name / STATE) for name in ("whole", "rest"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_before_the_first_step_is_the_beginning(
    engine: LocalEngine, examples: list[Example], tmp_path: Path
) -> None:
    anyio.run(go, engine, examples, range(0), tmp_path / "none")
    whole = anyio.run(go, engine, examples, range(3), tmp_path / "whole")
    assert anyio.run(go, engine, examples, range(3), tmp_path / "rest", tmp_path / "none") == whole
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "rest" / WEIGHTS).read_bytes()


def test_what_is_saved_stays_as_it_was_while_training_goes_on(
    engine: LocalEngine, examples: list[Example], half: Path, tmp_path: Path
) -> None:
    before = {name: (half / name).read_bytes() for name in (WEIGHTS, STATE)}
    anyio.run(go, engine, examples, range(3, 5), tmp_path / "on", half)
    assert {name: (half / name).read_bytes() for name in before} == before


def test_without_being_asked_no_state_is_written(engine: LocalEngine, examples: list[Example], tmp_path: Path) -> None:
    async def run() -> None:
        trainer = await engine.train(SPEC)
        await trainer.save(tmp_path / "plain")
        await trainer.close()
        with pytest.raises(AdapterInvalid, match="cannot be read"):
            await engine.train(SPEC, resume=tmp_path / "plain")

    anyio.run(run)
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == [CONFIG, WEIGHTS]


def test_a_gradient_that_waits_for_its_step_would_be_lost_and_is_not_saved(
    engine: LocalEngine, examples: list[Example], tmp_path: Path
) -> None:
    async def run() -> None:
        trainer = await engine.train(SPEC)
        await trainer.forward_backward(examples)
        for resumable in (False, True):
            with pytest.raises(InputError, match="gradient"):
                await trainer.save(tmp_path / "out", resumable=resumable)
        await trainer.optim_step(1e-3)
        await trainer.save(tmp_path / "out", resumable=True)
        await trainer.close()

    anyio.run(run)
    assert (tmp_path / "out" / STATE).exists()


def other_weights(directory: Path) -> None:
    path = directory / WEIGHTS
    tensors = safetensors.torch.load_file(path)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + 1
    safetensors.torch.save_file(tensors, path)


def truncated(directory: Path) -> None:
    raw = (directory / STATE).read_bytes()
    (directory / STATE).write_bytes(raw[: len(raw) // 2])


def rewritten(change: Callable[[dict[str, torch.Tensor], dict[str, object]], object]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        raw = (directory / STATE).read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        tensors, state = safetensors.torch.load(raw), json.loads(header["__metadata__"]["state"])
        change(tensors, state)
        (directory / STATE).write_bytes(safetensors.torch.save(tensors, {"state": json.dumps(state)}))

    return rewrite


def poisoned(tensors: dict[str, torch.Tensor], _: object) -> None:
    next(iter(tensors.values())).view(-1)[3] = float("nan")


def smaller(tensors: dict[str, torch.Tensor], _: object) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name][:1].contiguous()


@pytest.mark.parametrize(
    "damage",
    [
        other_weights, truncated, rewritten(poisoned), rewritten(smaller), rewritten(lambda tensors, _: tensors.popitem()),
        rewritten(lambda _, state: state.pop("steps")), rewritten(lambda _, state: state.update(steps="many")),
        rewritten(lambda _, state: state.update(adapter="0" * 64)), lambda directory: (directory / STATE).unlink(),
        lambda directory: (directory / STATE).write_bytes(b""), lambda directory: (directory / WEIGHTS).unlink(),
        lambda directory: (directory / STATE).write_bytes(safetensors.torch.save({})),
    ],
)  # fmt: skip
def test_what_is_damaged_or_belongs_to_another_adapter_is_refused(
    engine: LocalEngine, copy: Path, damage: Callable[[Path], None]
) -> None:
    before = engine.status.training
    damage(copy)

    async def run() -> None:
        with pytest.raises(AdapterInvalid):
            await engine.train(SPEC, resume=copy)

    anyio.run(run)
    assert engine.status.training == before


@pytest.mark.parametrize("change", [{"rank": 8}, {"alpha": 9.0}, {"seed": 4}, {"clip": 1.0}, {"betas": (0.8, 0.999)},
                                    {"target_modules": ("q_proj",)}])  # fmt: skip
def test_another_spec_is_refused(engine: LocalEngine, half: Path, change: dict[str, object]) -> None:
    async def run() -> None:
        with pytest.raises(AdapterInvalid, match="belongs to another"):
            await engine.train(SPEC.model_copy(update=change), resume=half)

    anyio.run(run)


@pytest.mark.parametrize("change", [{"rank": 8}, {"alpha": 9.0}, {"rslora": True}, {"target_modules": ("q_proj",)}])
def test_files_of_another_shape_are_no_start(engine: LocalEngine, half: Path, change: dict[str, object]) -> None:
    async def run() -> None:
        with pytest.raises(AdapterInvalid, match="the adapter to start from has rank 4"):
            await engine.train(SPEC.model_copy(update=change), start=half)

    anyio.run(run)


def test_a_start_takes_the_weights_and_leaves_the_optimiser(
    engine: LocalEngine, examples: list[Example], half: Path, tmp_path: Path
) -> None:
    """The state that lies beside the files is not looked at: the first step is an optimiser's first."""

    async def step(start: Path, out: Path) -> None:
        trainer = await engine.train(SPEC.model_copy(update={"seed": 8, "weight_decay": 0.0}), start=start)
        await trainer.forward_backward(examples[:3])
        await trainer.optim_step(1e-2)
        await trainer.save(out, resumable=True)
        await trainer.close()

    bare = tmp_path / "bare"
    bare.mkdir()
    for name in (WEIGHTS, CONFIG):
        shutil.copy(half / name, bare / name)
    anyio.run(step, half, tmp_path / "one")
    anyio.run(step, bare, tmp_path / "two")
    for name in (WEIGHTS, STATE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_directory_that_cannot_be_written_is_said(engine: LocalEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    async def run() -> None:
        trainer = await engine.train(SPEC)
        with pytest.raises(NoSpace):
            await trainer.save(tmp_path / "file", resumable=True)
        await trainer.close()

    anyio.run(run)
