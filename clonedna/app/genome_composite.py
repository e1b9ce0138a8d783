"""A genome's layers as one model, to be measured: laid together, each token through a few, or each request through the layer or the shares
that its words choose. What is measured is what serving would do (``app.genome_models``)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import anyio.to_thread

from clonedna.app.composing import TOP_K
from clonedna.core.block import Measure, not_available
from clonedna.core.genome import Composition, Gate, GenomeLayer, LogisticGate, Through
from clonedna.core.model import Example, Layer, Mixture, Score
from clonedna.core.seams import Encoder, Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of, file_of
from clonedna.evals.retention import retention
from clonedna.evals.scoring import score_each
from clonedna.genomes.assembly import gated
from clonedna.genomes.gating import shares

RUNS = 3


class Composed(Value):
    """Layers together. ``covered``: the layer's id by skill; ``gate`` where one layer answers each request, ``shares`` of a mixture;
    ``artifact``: the block that they were merged into."""

    layers: tuple[GenomeLayer, ...]
    composition: Composition
    gate: Gate | None
    license: str
    embedding: tuple[float, ...]
    covered: dict[str, str]
    artifact: str | None = None
    shares: LogisticGate | None = None


class Composite:
    """What is measured. ``adapters``: what the engine calls each layer's adapter, by the layer's id."""

    def __init__(self, engine: Engine, composed: Composed, adapters: Mapping[str, str], encoder: Encoder) -> None:
        self.engine, self._composed, self._adapters, self._encoder = engine, composed, dict(adapters), encoder

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        """Likelihoods through the composition: each example through the layers that would answer it. Raises ``InputError`` where those
        are chosen by vectors of another encoder than this one."""
        return await score_each(self.engine, examples, await anyio.to_thread.run_sync(self._ways, examples))

    async def retention(self, layer: str, own: Sequence[Pair], *, seed: int) -> Measure:
        """The share of its own gain that a layer keeps, on its own hold-out."""
        examples = [example_of(pair) for pair in own]
        base, alone = (
            await self.engine.nll(examples),
            await self.engine.nll(examples, [Layer(adapter=self._adapters[layer])]),
        )
        return retention(base, alone, await self.nll(examples), [file_of(pair) for pair in own], seed=seed)

    async def latency(self, examples: Sequence[Example]) -> Measure:
        """Milliseconds that reading one example takes longer than through the base alone: the median of some runs, by the wall clock."""
        if not examples:
            return not_available("there are no held-out pairs to time")
        composed, more = self._usual, list[float]()
        for _ in range(RUNS):
            took: list[float] = []
            for through in (Through(), composed):
                began = time.perf_counter()
                await self.engine.nll(examples, through.layers, mixture=through.mixture)
                took.append(time.perf_counter() - began)
            more.append((took[1] - took[0]) * 1000 / len(examples))
        how = (
            f"more than the base alone, reading one of {len(examples)} examples; median of {RUNS} runs on this machine"
        )
        return Measure(value=round(sorted(more)[RUNS // 2], 3), status="measured", n=RUNS, how=how)

    def _ways(self, examples: Sequence[Example]) -> tuple[Through, ...]:
        """What each example goes through."""
        gate, mixed, layers = self._composed.gate, self._composed.shares, self._composed.layers
        if gate is None and mixed is None:
            return (self._usual,) * len(examples)
        vectors = self._encoder.encode([asked(one) for one in examples])
        if mixed is not None:
            return tuple(self._laid(map(float, row)) for row in shares(mixed, vectors))
        assert gate is not None
        places = gated(gate, vectors)
        return tuple(Through() if one is None else Through(layers=(self._layer(layers[one]),)) for one in places)

    @property
    def _usual(self) -> Through:
        """What a request goes through; where that hangs on its words, one that costs as much."""
        composed = self._composed
        if composed.artifact is not None:
            return Through(layers=(Layer(adapter=self._adapters[composed.artifact]),))
        if composed.gate is not None:
            return Through(layers=(self._layer(composed.layers[0]),))
        if composed.composition.method == "arrow":
            laid = self._laid([1.0] * len(composed.layers)).layers
            return Through(mixture=Mixture(layers=laid, top_k=composed.composition.top_k or TOP_K))
        if composed.shares is not None:
            return self._laid([1 / len(composed.layers)] * len(composed.layers))
        return self._laid([1.0] * len(composed.layers))

    def _laid(self, parts: Iterable[float]) -> Through:
        """All layers, each with its weight times its part."""
        return Through(
            layers=tuple(self._layer(one, part) for one, part in zip(self._composed.layers, parts, strict=True))
        )

    def _layer(self, one: GenomeLayer, part: float = 1.0) -> Layer:
        return Layer(adapter=self._adapters[one.id], weight=one.weight * part)


def asked(example: Example) -> str:
    """What a gate reads of an example: the last that a user said, or its text."""
    if example.text is not None:
        return example.text
    return next((message.content for message in reversed(example.messages) if message.role == "user"), "")
