"""A process's parts for tests: real store, registry, keys and teacher; fake engine and fresh-process check, and source where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.block import Check, MintOrder, Recipe
from clonedna.core.fakes import FakeEngine, FakeSource
from clonedna.core.model import Example
from clonedna.core.people import Rhythm
from clonedna.core.profile import CodeFacts
from clonedna.core.seams import Engine, Source
from clonedna.core.work import Found, Identity, Repository
from clonedna.evals.examination import Lent
from tests.values import ADA, FOUND, collection

COUNTED = CodeFacts(
    repository="https://example.org/ada/[tool](x)", commit=FOUND.repository.commit, author="Ada <b>Example</b>", commits=3, files=2,
    languages={"Python": 1200},
    rhythm=Rhythm(
        commits_per_week=1.5, peak_hour_utc=9, commits=3, since="2026-01-01T00:00:00Z", until="2026-01-15T00:00:00Z"
    ),
)  # fmt: skip


class FakeEngineParts(Parts):
    """Everything real but the engine and the check in a fresh process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._engine = FakeEngine()

    def engine(self, base: str) -> Engine:
        return self._engine

    def lent(self) -> Lent:
        return replace(super().lent(), layer_drift=None)  # the fake engine's adapters have no matrices

    async def check_adapter(self, base: str, directory: Path, examples: Sequence[Example]) -> Check:
        return Check(value=True, how="fake")


class FakeParts(FakeEngineParts):
    """... and the source; meanings by the encoder that compares spelling."""

    def __init__(self, home: Path, *, spans: int = 60) -> None:
        super().__init__(Settings(home=home, encoder="hashed", min_free_bytes=0))
        self._source = FakeSource(FOUND, collection(spans))

    @property
    def source(self) -> Source:  # type: ignore[override]
        return self._source

    @property
    def public_source(self) -> Source:  # type: ignore[override]
        return self._source

    def count_code(
        self, found: Found, authors: Sequence[Identity], parts: Sequence[Repository]
    ) -> tuple[CodeFacts, ...]:
        return (COUNTED,)


def order(**changes: object) -> MintOrder:
    """An order that the fake engine carries out in a second."""
    recipe = Recipe(epochs=2, batch_tokens=512, learning_rate=0.0001, base_instruct_ratio=0.05)
    return MintOrder(target="nowhere", authors=(ADA,), base="fake", recipe=recipe).model_copy(update=changes)
