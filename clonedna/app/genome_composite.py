"""A genome's layers as one model, to be measured: laid together, or each request answered by the layer that the gate sends it to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import anyio.to_thread

from clonedna.core.block import Measure, not_available
from clonedna.core.genome import Composition, Gate, GenomeLayer
from clonedna.core.model import Example, Layer, Score
from clonedna.core.seams import Encoder, Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of
from clonedna.genomes.assembly import gated
from clonedna.genomes.interference import retention

RUNS = 3


class Composed(Value):
    """Layers together. ``covered``: the layer's id by skill; ``gate`` where one layer answers each request; ``artifact``: the block that
    they were merged into."""

    layers: tuple[GenomeLayer, ...]
    composition: Composition
    gate: Gate | None
    license: str
    embedding: tuple[float, ...]
    covered: dict[str, str]
    artifact: str | None = None


class Composite:
    """What is measured. ``adapters``: what the engine calls each layer's adapter, by the layer's id."""

    def __init__(self, engine: Engine, composed: Composed, adapters: Mapping[str, str], encoder: Encoder) -> None:
        self.engine, self._composed, self._adapters, self._encoder = engine, composed, dict(adapters), encoder

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        """Likelihoods through the composition: each example through the layers that would answer it."""
        if self._composed.gate is None:
            return await self.engine.nll(examples, self._stack)
        places = await anyio.to_thread.run_sync(self._places, examples)
        found: dict[int, Score] = {}
        for place in sorted({-1 if one is None else one for one in places}):
            mine = [i for i, one in enumerate(places) if (-1 if one is None else one) == place]
            layers = [] if place < 0 else [Layer(adapter=self._adapters[self._composed.layers[place].id])]
            scores = await self.engine.nll([examples[i] for i in mine], layers)
            found |= dict(zip(mine, scores, strict=True))
        return tuple(found[i] for i in range(len(examples)))

    async def retention(self, layer: str, own: Sequence[Pair], *, seed: int) -> Measure:
        """The share of its own gain that a layer keeps, on its own hold-out."""
        if not own:
            return not_available("the layer has no held-out pairs of its own")
        examples = [example_of(pair) for pair in own]
        base, alone = (
            await self.engine.nll(examples),
            await self.engine.nll(examples, [Layer(adapter=self._adapters[layer])]),
        )
        return retention(base, alone, await self.nll(examples), split="holdout", seed=seed)

    async def latency(self, examples: Sequence[Example]) -> Measure:
        """Milliseconds that reading one example takes longer than through the base alone: the median of some runs, by the wall clock."""
        if not examples:
            return not_available("there are no held-out pairs to time")
        layers = self._stack if self._composed.gate is None else self._stack[:1]
        more: list[float] = []
        for _ in range(RUNS):
            took: list[float] = []
            for through in ([], layers):
                began = time.perf_counter()
                await self.engine.nll(examples, through)
                took.append(time.perf_counter() - began)
            more.append((took[1] - took[0]) * 1000 / len(examples))
        how = (
            f"more than the base alone, reading one of {len(examples)} examples; median of {RUNS} runs on this machine"
        )
        return Measure(value=round(sorted(more)[RUNS // 2], 3), status="measured", n=RUNS, how=how)

    @property
    def _stack(self) -> list[Layer]:
        if self._composed.artifact is not None:
            return [Layer(adapter=self._adapters[self._composed.artifact])]
        return [Layer(adapter=self._adapters[one.id], weight=one.weight) for one in self._composed.layers]

    def _places(self, examples: Sequence[Example]) -> tuple[int | None, ...]:
        gate = self._composed.gate
        assert gate is not None
        return gated(gate, self._encoder.encode([asked(one) for one in examples]).rows)


def asked(example: Example) -> str:
    """What a gate reads of an example: the last that a user said, or its text."""
    if example.text is not None:
        return example.text
    return next((message.content for message in reversed(example.messages) if message.role == "user"), "")
