"""One home as a server offers it: every use case over the same parts, made when first asked for, and what runs beside requests.

Its methods and those of what it holds block, but for ``serving``: call them from worker threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cached_property

from clonedna.app.blocks import Blocks
from clonedna.app.finetuning import FineTuning
from clonedna.app.jobs import Jobs
from clonedna.app.parts import Parts
from clonedna.app.serving import Serving
from clonedna.app.settings import Settings
from clonedna.app.versions import Versions


class Service:
    """The use cases of one server, over one base."""

    def __init__(self, parts: Parts, base: str) -> None:
        """Loads the base; takes seconds. Raises ``UnknownBase``, ``NoMemory``."""
        self.parts, self.base = parts, base
        self.serving = Serving(parts, base)

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    @cached_property
    def blocks(self) -> Blocks:
        return Blocks(self.parts)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self.settings, self.parts)

    @cached_property
    def versions(self) -> Versions:
        return Versions(self.parts, self.jobs)

    @cached_property
    def tuning(self) -> FineTuning:
        return FineTuning(self.parts, self.base)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """What runs beside requests: jobs. Raises ``JobBusy`` beside another server of this home."""
        async with self.tuning.lifespan():
            yield
