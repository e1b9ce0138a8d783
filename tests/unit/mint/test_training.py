"""The loop: seeded order, schedule, early stop; on the fake engine, which really learns."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from clonedna.core.block import Recipe
from clonedna.core.events import StageProgress
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example, Layer, LoraSpec, Message
from clonedna.mint.training import learning_rate, train
from clonedna.mint.values import Trained
from tests.values import span

EXAMPLES = [Example(messages=(Message(role="user", content="go"),), completion=span(i).text) for i in range(12)]
OTHERS = [Example(messages=(Message(role="user", content="go"),), completion="~" * 40 + "`" * 40)]


def run(
    directory: Path, recipe: Recipe, validation: list[Example], events: list[object] | None = None
) -> tuple[Trained, FakeEngine]:
    engine = FakeEngine()
    heard: list[object] = [] if events is None else events

    async def work() -> Trained:
        return await train(
            engine,
            recipe,
            EXAMPLES,
            validation,
            directory,
            checkpoints=directory.with_name("checkpoints"),
            emit=heard.append,
        )

    return anyio.run(work), engine


def test_losses_fall_and_the_adapter_is_saved(tmp_path: Path) -> None:
    trained, engine = run(tmp_path / "adapter", Recipe(epochs=3, batch_tokens=256), [])
    assert trained.losses[-1] < trained.losses[0]
    assert trained.best_epoch == trained.epochs == 3

    async def gain() -> float:
        adapter = await engine.load(tmp_path / "adapter")
        base, tuned = await engine.nll(EXAMPLES), await engine.nll(EXAMPLES, [Layer(adapter=adapter.id)])
        return sum(b.nll - t.nll for b, t in zip(base, tuned, strict=True))

    assert anyio.run(gain) > 0


def test_it_stops_when_validation_gets_worse_and_keeps_the_best(tmp_path: Path) -> None:
    trained, _ = run(tmp_path / "adapter", Recipe(epochs=6, patience=1, learning_rate=0.05, batch_tokens=256), OTHERS)
    assert trained.epochs == 2
    assert trained.best_epoch == 1
    assert len(trained.validation_losses) == 2
    assert trained.validation_losses[1] > trained.validation_losses[0]


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        run(tmp_path / name / "adapter", Recipe(epochs=2, batch_tokens=256), [])
    assert (tmp_path / "a/adapter/adapter_model.safetensors").read_bytes() == (
        tmp_path / "b/adapter/adapter_model.safetensors"
    ).read_bytes()


def test_progress_says_rate_time_left_and_loss(tmp_path: Path) -> None:
    events: list[object] = []
    run(tmp_path / "adapter", Recipe(epochs=1, batch_tokens=256), [], events)
    last = events[-1]
    assert isinstance(last, StageProgress)
    assert last.done == last.total
    assert last.eta_seconds == 0
    assert last.loss is not None
    assert last.rate is not None


def test_the_slot_is_freed_when_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Breaking(FakeTrainer):
        async def optim_step(self, learning_rate: float) -> None:
            raise ZeroDivisionError

        async def close(self) -> None:
            closed.append(True)

    async def breaking(self: FakeEngine, spec: LoraSpec, *, resume: Path | None = None) -> Breaking:
        return Breaking()

    monkeypatch.setattr(FakeEngine, "train", breaking)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "adapter", Recipe(), [])
    assert closed


def test_the_rate_warms_up_and_ends_at_a_tenth() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
