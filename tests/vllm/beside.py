"""Two engines on one base as one: a vLLM serves and measures, a local engine trains."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from clonedna.core import model
from clonedna.core.interference import Observed
from clonedna.core.model import (
    AdapterInfo,
    EngineStatus,
    Example,
    Layer,
    LoraSpec,
    Mixture,
    SampleChunk,
    SampleRequest,
    Score,
)
from clonedna.core.seams import Engine, Trainer


class Beside:
    """All of ``served`` but for ``train`` and ``observe`` (of the base alone), which are ``local``'s."""

    def __init__(self, served: Engine, local: Engine) -> None:
        self.served, self.local, self.base = served, local, served.base

    @property
    def status(self) -> EngineStatus:
        return self.served.status

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        return await self.served.load(directory, owner=owner, priority=priority)

    async def unload(self, adapter: str) -> None:
        await self.served.unload(adapter)

    def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        return self.served.sample(request)

    async def nll(
        self, examples: Sequence[Example], layers: Sequence[Layer] = (), *, mixture: Mixture | None = None
    ) -> tuple[Score, ...]:
        return await self.served.nll(examples, layers, mixture=mixture)

    async def observe(self, examples: Sequence[Example], layers: Sequence[Layer], directory: Path) -> Observed:
        return await self.local.observe(examples, layers, directory)

    async def train(
        self,
        spec: LoraSpec,
        *,
        resume: Path | None = None,
        start: Path | None = None,
        beside: model.Beside | None = None,
    ) -> Trainer:
        return await self.local.train(spec, resume=resume, start=start, beside=beside)

    async def close(self) -> None:
        await self.served.close()
        await self.local.close()
