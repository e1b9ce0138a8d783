"""A training that was cut goes on from its checkpoint and ends with the same bits; checkpoints are bounded and whole."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.core.block import Recipe
from clonedna.core.errors import AdapterInvalid, Cancelled, NoSpace
from clonedna.core.events import Note, StageProgress
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example, LoraSpec, Message
from clonedna.core.seams import Trainer
from clonedna.mint.checkpoints import RECORD
from clonedna.mint.training import train
from clonedna.mint.values import Trained
from tests.values import span

EXAMPLES = [Example(messages=(Message(role="user", content="go"),), completion=span(i).text) for i in range(12)]
OTHERS = [Example(messages=(Message(role="user", content="go"),), completion="~" * 40 + "`" * 40)]
RECIPE = Recipe(epochs=3, batch_tokens=256)
WEIGHTS = "adapter_model.safetensors"


class Killed(BaseException):
    """A kill: nothing of ours runs behind it."""


def run(
    folder: Path, recipe: Recipe = RECIPE, *, validation: list[Example] | None = None, every: float = 0.0,
    emit: Callable[[Any], None] = lambda _: None, engine: FakeEngine | None = None, examples: list[Example] = EXAMPLES,
) -> Trained:  # fmt: skip
    async def work() -> Trained:
        return await train(
            engine or FakeEngine(), recipe, examples, validation or [], folder / "adapter",
            checkpoints=folder / "checkpoints", every=every, emit=emit,
        )  # fmt: skip

    return anyio.run(work)


def at_step(step: int, error: BaseException) -> Callable[[Any], None]:
    def emit(event: Any) -> None:
        if isinstance(event, StageProgress) and event.done == step:
            raise error

    return emit


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / WEIGHTS).read_bytes()


def cancelled() -> Cancelled:
    return Cancelled("stopped", "go on")


@pytest.mark.parametrize("error", [cancelled, Killed])
@pytest.mark.parametrize("validation", [[], OTHERS])
def test_cut_at_any_step_it_ends_with_the_same_bits_and_losses(
    error: Callable[[], BaseException], validation: list[Example], tmp_path: Path
) -> None:
    steps: list[Any] = []
    whole = run(tmp_path / "whole", validation=validation, emit=steps.append)
    total = len([event for event in steps if isinstance(event, StageProgress)])
    assert total == whole.steps >= 6
    for step in (1, total // 3, total // 3 + 1, total):  # in and around an epoch's end
        folder = tmp_path / f"cut-{step}"
        with pytest.raises((Cancelled, Killed)):
            run(folder, validation=validation, emit=at_step(step, error()))
        heard: list[Any] = []
        assert run(folder, validation=validation, emit=heard.append) == whole
        assert weights(folder) == weights(tmp_path / "whole")
        # A cancel leaves a checkpoint at the very step; a kill costs what came behind the last one.
        kept = step if error is cancelled else step - 1
        notes = [event.text for event in heard if isinstance(event, Note)]
        assert notes == ([f"resumed at step {kept}"] if kept else [])
        assert [event.done for event in heard if isinstance(event, StageProgress)] == list(range(kept + 1, total + 1))


def test_between_checkpoints_a_kill_costs_the_steps_since_the_epoch_s_end(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    per_epoch = whole.steps // 3
    with pytest.raises(Killed):
        run(tmp_path / "cut", every=1000.0, emit=at_step(per_epoch + 2, Killed()))
    heard: list[Any] = []
    assert run(tmp_path / "cut", every=1000.0, emit=heard.append) == whole
    assert isinstance(heard[0], Note)
    assert heard[0].text == f"resumed at step {per_epoch}"
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_training_that_validation_ended_is_not_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(epochs=6, patience=1, learning_rate=0.05, batch_tokens=256)
    whole = run(tmp_path, recipe, validation=OTHERS)
    assert whole.epochs < 6
    heard: list[Any] = []
    assert run(tmp_path, recipe, validation=OTHERS, emit=heard.append) == whole
    assert not [event for event in heard if isinstance(event, StageProgress)]


def test_the_best_epoch_survives_a_kill_in_a_worse_one(tmp_path: Path) -> None:
    recipe = Recipe(epochs=6, patience=2, learning_rate=0.05, batch_tokens=256)
    whole = run(tmp_path / "whole", recipe, validation=OTHERS)
    assert (whole.best_epoch, whole.epochs) == (1, 3)
    with pytest.raises(Killed):
        run(tmp_path / "cut", recipe, validation=OTHERS, emit=at_step(whole.steps - 1, Killed()))
    assert run(tmp_path / "cut", recipe, validation=OTHERS) == whole
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "changes", [{"recipe": RECIPE.model_copy(update={"seed": 9})}, {"examples": EXAMPLES[:-1]}, {"validation": OTHERS}]
)
def test_a_checkpoint_of_another_recipe_or_other_data_is_not_used(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "cut", emit=at_step(5, Killed()))
    heard: list[Any] = []
    trained = run(tmp_path / "cut", emit=heard.append, **changes)
    assert trained == run(tmp_path / "fresh", **changes)
    assert not [event for event in heard if isinstance(event, Note)]
    assert weights(tmp_path / "cut") == weights(tmp_path / "fresh")


def test_there_are_never_more_than_two_checkpoints(tmp_path: Path) -> None:
    most = 0

    class Counting(FakeTrainer):
        async def save(self, directory: Path, *, resumable: bool = False) -> None:
            nonlocal most
            await super().save(directory, resumable=resumable)
            if resumable:
                most = max(most, len(list((tmp_path / "checkpoints").glob("[0-9]*"))))

    class Engine(FakeEngine):
        async def train(self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None) -> Trainer:
            return Counting()

    run(tmp_path, engine=Engine())
    assert most == 2
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(left) == 2
    assert left[1] == "best-2"
    assert (tmp_path / "checkpoints" / left[0] / RECORD).exists()


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_full_disk_is_said_and_loses_nothing(at: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    saves = 0

    class Full(FakeTrainer):
        async def save(self, directory: Path, *, resumable: bool = False) -> None:
            nonlocal saves
            saves += 1
            if saves == at:
                (directory / WEIGHTS).write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            await super().save(directory, resumable=resumable)

    class Engine(FakeEngine):
        async def train(self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None) -> Trainer:
            return Full()

    with pytest.raises(NoSpace):
        run(tmp_path / "cut", engine=Engine())
    assert not list((tmp_path / "cut/checkpoints").glob("*.new"))
    heard: list[Any] = []
    assert run(tmp_path / "cut", emit=heard.append) == whole
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert bool([event for event in heard if isinstance(event, Note)]) == (at > 1)


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "cut", emit=at_step(5, Killed()))
    half = tmp_path / "cut/checkpoints/000099.new"
    half.mkdir()
    (half / RECORD).write_text("{}")
    assert run(tmp_path / "cut") == whole


def test_a_checkpoint_that_the_engine_cannot_read_is_said_and_training_begins_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "cut", emit=at_step(5, Killed()))

    class Engine(FakeEngine):
        async def train(self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None) -> Trainer:
            if resume is not None:
                raise AdapterInvalid("damaged", "begin again")
            return await super().train(spec)

    heard: list[Any] = []
    assert run(tmp_path / "cut", engine=Engine(), emit=heard.append) == whole
    assert isinstance(heard[0], Note)
    assert heard[0].level == "warning"


def test_a_batch_has_at_most_so_many_examples(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_tokens=100_000, batch_examples=5)
    assert run(tmp_path, recipe).steps == 3
