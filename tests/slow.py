"""Parts whose fake engine trains as slowly as a test wants, so that a job can be met in its middle."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import LoraSpec, StepLoss
from tests.parts import FakeParts


class SlowTrainer(FakeTrainer):
    """Takes ``seconds`` for a step; ``most`` of all trainers were in a step at once."""

    seconds = 0.0
    now = most = 0

    async def forward_backward(self, batch: Any) -> StepLoss:
        SlowTrainer.now += 1
        SlowTrainer.most = max(SlowTrainer.most, SlowTrainer.now)
        try:
            await anyio.sleep(self.seconds)
            return await super().forward_backward(batch)
        finally:
            SlowTrainer.now -= 1


class SlowEngine(FakeEngine):
    async def train(self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None) -> SlowTrainer:
        trainer = SlowTrainer()
        if resume is not None:
            trainer.counts = (await FakeEngine.train(self, spec, resume=resume)).counts  # type: ignore[attr-defined]
        return trainer

    async def sample(self, request: Any) -> Any:
        async for chunk in super().sample(request.model_copy(update={"max_tokens": min(request.max_tokens, 8)})):
            yield chunk


class SlowParts(FakeParts):
    """All real but source and engine; a checkpoint after each step."""

    def __init__(self, home: Path, **settings: Any) -> None:
        super().__init__(home)
        self.settings = self.settings.model_copy(
            update={"port": 0, "checkpoint_seconds": 0.0, "drain_seconds": 10.0} | settings
        )
        self._engine = SlowEngine()


@contextmanager
def at_full_speed() -> Generator[None]:
    """The trainers wait for nothing, now and afterwards."""
    SlowTrainer.seconds, SlowTrainer.now, SlowTrainer.most = 0.0, 0, 0
    yield
    SlowTrainer.seconds = 0.0
