"""`dna genome bench`: some blocks composed in every way there is, and what each of them keeps of its own gain on its own held-out pairs.

What is held out is only measured on. Covariances are observed and the gate is fitted on training pairs. Weights are tuned on validation
pairs: on what a member was trained on, more of it always looks better. A held-out pair that stands, exactly or nearly, in what any member
was trained on is left out and counted. Nothing is kept but the report: merged adapters lie in a staging folder that goes at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from clonedna.app.bench_values import Benched, BenchOrder, GenomeBench, Way, WayBenched
from clonedna.app.composing import Composing
from clonedna.app.merge_papers import Parent
from clonedna.app.papers import pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stages import told
from clonedna.app.staging import staging
from clonedna.core.block import Measure, not_available
from clonedna.core.errors import AdapterInvalid, DnaError, InputError
from clonedna.core.events import Emit
from clonedna.core.genome import Composition, Through
from clonedna.core.interference import Pairwise
from clonedna.core.merge import Weighted
from clonedna.core.model import Layer, Score
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of, file_of
from clonedna.evals.retention import gain, retention, together
from clonedna.evals.scoring import score_each, score_ways
from clonedna.genomes.gating import fit_gate, shares
from clonedna.genomes.tuning import tune
from clonedna.mint.overlap import overlaps

MOST_PROBES = 16
LARGEST_RANK = 128
UNIT = (
    "sum",
    "regmean",
    "ties",
    "knots_ties",
    "arrow",
    "mixture",
    "gate",
)  # ways that weigh every member 1; others 1 / K


@dataclass(frozen=True, slots=True)
class _Member:
    """A member with its pairs: ``held`` to measure on, ``seen`` (it was trained on them) to observe, ``probes`` to tune on."""

    parent: Parent
    held: tuple[Pair, ...]
    seen: tuple[Pair, ...]
    probes: tuple[Pair, ...]
    left_out: int


@dataclass(slots=True)
class _Made:
    """A way that was made ready: what all pairs go through, or each by itself."""

    through: Through | None = None
    each: Sequence[Through] = ()
    norm: float | None = None
    error: float | None = None
    bytes: int | None = None
    weights: tuple[float, ...] | None = None
    note: str = ""


class Benching:
    """The use case over one process's parts."""

    def __init__(self, parts: Parts, emit: Emit) -> None:
        self.parts, self.emit = parts, emit

    async def bench(self, order: BenchOrder) -> GenomeBench:
        """Raises as ``Composing`` and its ``load``; ``InputError`` for a block without held-out pairs. A way that cannot be made says why,
        and the others are measured.
        """
        began = time.monotonic()
        with told(self.emit, "members") as counts:
            wanted = [Weighted(reference=reference) for reference in order.blocks]
            composing = await anyio.to_thread.run_sync(Composing, self.parts, wanted)
            found = await anyio.to_thread.run_sync(_members, composing.members, order)
            engine = await composing.load()
            counts |= {"blocks": len(found), "pairs": sum(len(one.held) for one in found)}
        with staging(self.parts.settings.home) as folder:
            bench = _Bench(self.parts, composing, engine, found, order, folder, self.emit)
            with told(self.emit, "score"):
                await bench.alone()
            ways: list[WayBenched] = []
            for way in dict.fromkeys(order.ways):
                with told(self.emit, way) as counts:
                    ways.append(await bench.way(way))
                    counts |= {"retention": ways[-1].mean.value if ways[-1].mean.value is not None else ways[-1].why}
        upper = not_available("no member gains with certainty")
        if any(one.value is not None for one in bench.kept(bench.own)):
            upper = Measure(value=1.0, status="measured", how="each pair through its own member: 1 by definition")
        return GenomeBench(
            base=engine.base, order=order, members=tuple(bench.members()), routed=upper, ways=tuple(ways),
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip


def _members(parents: Sequence[Parent], order: BenchOrder) -> list[_Member]:
    """Every member's pairs, spread evenly over what it has. Raises ``InputError`` for one that has nothing to measure on."""
    pairs = [pairs_of(parent.path) if parent.manifest.recipe is not None else () for parent in parents]
    trained = [pair for own in pairs for pair in own if pair.split != "holdout"]
    found: list[_Member] = []
    for parent, own in zip(parents, pairs, strict=True):
        held = [pair for pair in own if pair.split == "holdout"]
        if not held:
            raise InputError(
                f"{parent.reference} has no held-out pairs of its own (it is {parent.manifest.lineage.relation})",
                "bench the blocks that it was made from",
            )
        kept = [pair for pair, seen in zip(held, overlaps(held, trained), strict=True) if not seen]
        seen, probes = ([pair for pair in own if pair.split == split] for split in ("train", "validation"))
        found.append(
            _Member(
                parent, _spread(kept, order.pairs), _spread(seen, order.exemplars),
                _spread(probes, max(2, MOST_PROBES // len(parents))), len(held) - len(kept),
            )
        )  # fmt: skip
    return found


def _spread(pairs: Sequence[Pair], most: int) -> tuple[Pair, ...]:
    """At most so many, evenly over all of them in their order."""
    if len(pairs) <= most:
        return tuple(pairs)
    return tuple(pairs[number * len(pairs) // most] for number in range(most))


def _gram(parents: Sequence[Parent]) -> list[list[float]]:
    """Frobenius inner products of what the members add, over all modules. Raises ``AdapterInvalid``."""
    folders = [(one.path, None) for one in parents]
    pairs: dict[tuple[int, int], Pairwise] = factory("sketch", "pairs")(
        folders, fingerprint=parents[0].manifest.base_fingerprint
    )
    found = [[0.0] * len(parents) for _ in parents]
    for (i, j), pair in pairs.items():
        found[i][j] = math.fsum(pair.inner.values())
        found[i][i] = math.fsum(own**2 for own, _ in pair.norms.values())
    return found


class _Bench:
    """One bench under way. ``base`` and ``own``: scores of all members' held-out pairs; ``grid``: of all pairs through each member."""

    def __init__(
        self, parts: Parts, composing: Composing, engine: Engine, found: Sequence[_Member], order: BenchOrder, folder: Path, emit: Emit
    ) -> None:  # fmt: skip
        self.parts, self.composing, self.engine, self.found, self.order = parts, composing, engine, found, order
        self.folder, self.emit = folder, emit
        self.pairs = [pair for one in found for pair in one.held]
        self.labels = [number for number, one in enumerate(found) for _ in one.held]
        self.base: Sequence[Score] = ()
        self.own: Sequence[Score] = ()
        self.grid: Sequence[Sequence[Score]] = ()
        self.sizes: list[int] = []
        self.gram: list[list[float]] | None = None
        self._shares: list[tuple[float, ...]] | None = None

    async def alone(self) -> None:
        """The base, and every member alone on everybody's pairs."""
        ways = [Through(), *(Through(layers=(layer,)) for layer in self.composing.layers)]
        self.base, *grid = await score_ways(self.engine, self.pairs, ways, emit=self.emit)
        self.grid = grid
        self.own = [grid[label][number] for number, label in enumerate(self.labels)]
        held = {one.id: one.bytes for one in self.engine.status.adapters}
        self.sizes = [held.get(layer.adapter, 0) for layer in self.composing.layers]
        with suppress(AdapterInvalid):  # of an engine whose adapters have no factors
            self.gram = await anyio.to_thread.run_sync(_gram, self.composing.members)

    def members(self) -> list[Benched]:
        return [
            Benched(
                block=one.parent.reference, id=one.parent.manifest.id, pairs=len(one.held), files=len({file_of(p) for p in one.held}),
                left_out=one.left_out, gain=self._gain(number, self.own), rank=one.parent.manifest.rank, bytes=self.sizes[number],
            )
            for number, one in enumerate(self.found)
        ]  # fmt: skip

    def kept(self, scores: Sequence[Score]) -> list[Measure]:
        """Every member's retention under these scores of all pairs."""
        return [
            retention(self._of(i, self.base), self._of(i, self.own), self._of(i, scores), self._files(i), seed=self.order.seed)
            for i in range(len(self.found))
        ]  # fmt: skip

    def _gain(self, number: int, scores: Sequence[Score]) -> Measure:
        return gain(self._of(number, self.base), self._of(number, scores), self._files(number), seed=self.order.seed)

    def _of(self, number: int, scores: Sequence[Score]) -> list[Score]:
        return [score for score, label in zip(scores, self.labels, strict=True) if label == number]

    def _files(self, number: int) -> list[str]:
        return [file_of(pair) for pair in self.found[number].held]

    async def way(self, way: Way) -> WayBenched:
        """Make it, measure it, put it away again."""
        composition, began = self._composition(way), time.monotonic()
        try:
            made = await self._makers()[way](way, composition)
            seconds, began = time.monotonic() - began, time.monotonic()
            if made.through is None:
                scores = await score_each(self.engine, [example_of(pair) for pair in self.pairs], made.each)
            else:
                (scores,) = await score_ways(self.engine, self.pairs, [made.through], emit=self.emit)
        except DnaError as error:
            none = not_available(f"{error.code}: {error.message}")
            return WayBenched(way=way, composition=composition, mean=none, worst=none, why=none.how)
        finally:
            await self._unload()
        kept = self.kept(scores)
        mean, worst = together(kept)
        return WayBenched(
            way=way, composition=composition, weights=made.weights, retention=tuple(kept),
            gain=tuple(self._gain(i, scores) for i in range(len(self.found))), mean=mean, worst=worst,
            norm=made.norm, relative_error=made.error, seconds=round(seconds, 3),
            scoring_seconds=round(time.monotonic() - began, 3), bytes=made.bytes, note=made.note,
        )  # fmt: skip

    def _makers(self) -> dict[Way, Callable[[Way, Composition], Awaitable[_Made]]]:
        merged: list[Way] = ["svd", "regmean", "ties", "dare", "knots_ties", "legacy_peft_linear"]
        return {
            "gate": self._gated, "mixture": self._gated, "arrow": self._arrow, "average": self._stacked, "sum": self._stacked,
            "tuned": self._tuned, **dict.fromkeys(merged, self._merged),
        }  # fmt: skip

    def _composition(self, way: Way) -> Composition:
        whole = min(LARGEST_RANK, sum(one.parent.manifest.rank for one in self.found))
        match way:
            case "gate" | "mixture":
                return Composition(kind="route", method=way)
            case "arrow":
                return Composition(kind="route", method=way, top_k=min(self.order.top_k, len(self.found)))
            case "average" | "sum" | "tuned":
                return Composition(kind="stack", method="cat")
            case "ties":
                return Composition(kind="merge", method="ties_svd", rank=whole)
            case "dare":
                return Composition(kind="merge", method="dare_linear_svd", rank=whole, seed=self.order.seed)
            case _:
                return Composition(kind="merge", method=way)

    def _weights(self, way: Way) -> tuple[float, ...]:
        return (1.0 if way in UNIT else 1 / len(self.found),) * len(self.found)

    async def _stacked(self, way: Way, composition: Composition) -> _Made:
        return await self._stack(self._weights(way), composition)

    async def _stack(self, weights: tuple[float, ...], composition: Composition) -> _Made:
        weighed = self.composing.weighing(weights)
        return _Made(
            weighed.through(composition), norm=self._norm(weights), error=0.0, bytes=sum(self.sizes), weights=weights
        )

    def _own_norm(self) -> float:
        """Mean of the members' own norms; 0 where they are not known."""
        gram = self.gram or []
        return math.fsum(math.sqrt(row[i]) for i, row in enumerate(gram)) / max(1, len(gram))

    def _norm(self, weights: Sequence[float]) -> float | None:
        """Of the weighted sum, by the members' own mean."""
        if self.gram is None:
            return None
        own = self._own_norm()
        square = math.fsum(a * b * self.gram[i][j] for i, a in enumerate(weights) for j, b in enumerate(weights))
        return round(math.sqrt(max(0.0, square)) / own, 4) if own else None

    async def _tuned(self, way: Way, composition: Composition) -> _Made:
        """Weights by what probes say: each member's loss a token through all, as the mean over members."""
        probes = [one.probes for one in self.found]
        for one in self.found:
            if not one.probes:
                raise InputError(
                    f"{one.parent.reference} has no validation pairs to tune on", "use average, or regmean"
                )
        examples = [example_of(pair) for own in probes for pair in own]

        async def loss(weights: tuple[float, ...]) -> float:
            scores = iter(await self.engine.nll(examples, self.composing.weighing(weights).through(composition).layers))
            means = [[next(scores) for _ in own] for own in probes]
            return sum(sum(s.nll for s in own) / max(1, sum(s.tokens for s in own)) for own in means) / len(means)

        found = await tune(loss, self._weights("average"))
        weights = tuple(round(weight, 6) for weight in found.weights)
        made = await self._stack(weights, composition)
        made.note = f"{len(examples)} probes, {found.measured} measurements, {found.before:.4f} -> {found.loss:.4f} nats a token"
        return made

    async def _merged(self, way: Way, composition: Composition) -> _Made:
        weights, folders = self._weights(way), dict[str, Path]()
        if way == "regmean":
            folders = await self._observed()
        weighed, out = self.composing.weighing(weights), self.folder / way
        report = await anyio.to_thread.run_sync(weighed.merge, composition, out, folders)
        info = await self.engine.load(out)
        self._loaded = info.id
        note = f"{report.spec.method}, rank {report.rank}"
        own = self._own_norm()
        return _Made(
            Through(layers=(Layer(adapter=info.id),)),
            norm=round(report.norm / own, 4) if own else None,
            error=report.relative_error,
            bytes=info.bytes,
            weights=weights,
            note=note,
        )

    async def _observed(self) -> dict[str, Path]:
        """What modules read on each member's exemplars, through the member itself."""
        folders: dict[str, Path] = {}
        for number, (one, layer) in enumerate(zip(self.found, self.composing.layers, strict=True)):
            folders[one.parent.manifest.id] = folder = self.folder / f"inputs-{number}"
            await self.engine.observe([example_of(pair) for pair in one.seen], [layer], folder)
        return folders

    async def _arrow(self, way: Way, composition: Composition) -> _Made:
        return _Made(self.composing.through(composition), bytes=sum(self.sizes), weights=self._weights(way))

    async def _gated(self, way: Way, composition: Composition) -> _Made:
        found = await self._shared()
        right = sum(
            max(range(len(row)), key=lambda i: row[i]) == label for row, label in zip(found, self.labels, strict=True)
        )
        each = [self.composing.through(composition, row) for row in found]
        note = f"the greatest share is the right member's for {right} of {len(found)} pairs"
        return _Made(each=each, bytes=sum(self.sizes), note=note)

    async def _shared(self) -> list[tuple[float, ...]]:
        """The gate's shares for every held-out pair, from its instruction; fitted on training pairs' instructions."""
        if self._shares is None:
            texts = [pair.instruction for one in self.found for pair in one.seen]
            labels = [number for number, one in enumerate(self.found) for _ in one.seen]
            encoder = self.parts.encoder
            fitted = fit_gate(await anyio.to_thread.run_sync(encoder.encode, texts), labels, len(self.found))
            asked = await anyio.to_thread.run_sync(encoder.encode, [pair.instruction for pair in self.pairs])
            self._shares = [tuple(round(float(one), 4) for one in row) for row in shares(fitted, asked)]
        return self._shares

    _loaded: str | None = None

    async def _unload(self) -> None:
        if self._loaded is not None:
            adapter, self._loaded = self._loaded, None
            await self.engine.unload(adapter)
