"""The four experiments of a lab, each over layers that are there: nothing is fitted here, and nothing that was trained on is measured on.

Retrieval measures the bundled set's requests, and the lab's own layers by the words of their packages' summaries. Probe lays what the
shipped calibration predicts beside what held-out pairs measure. Composition and interference are the use cases behind ``dna genome bench``
and ``dna genome conflicts --measure``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import numpy as np

from clonedna.app.bench_values import BenchOrder, GenomeBench
from clonedna.app.benching import Benching
from clonedna.app.genome_judge import HomeJudge
from clonedna.app.interference_kept import InterferenceKept
from clonedna.app.interfering import Interfering
from clonedna.app.lab_values import Experiment, LabFigure, LabLayer, LabResult, Point
from clonedna.app.needs import reader_of
from clonedna.app.papers import pairs_of
from clonedna.app.parts import Parts
from clonedna.core.block import Measure, not_available
from clonedna.core.errors import InputError, Refused
from clonedna.core.events import Emit, StageProgress
from clonedna.core.genome import DesiredGenome, Skill
from clonedna.core.interference import PairConflict
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import wilson
from clonedna.evals.comparison import correlation
from clonedna.genomes import finding
from clonedna.genomes.calibration import expected_error
from clonedna.genomes.features import features_of
from clonedna.genomes.probing import LEAST
from clonedna.genomes.ranking import alike, in_order
from clonedna.genomes.retrieval_set import RetrievalSet, retrieval_set

FIRST_ROUTED = 5  # of the layers that an index gives for a skill a plan probes so many
EXEMPLARS = 16
GROUP, MOST_GROUPS, BENCH_PAIRS = 3, 3, 24
PAIRED, LEAST_PAIRS = 6, 20  # layers of which every ordered pair is measured, and pairs that a correlation should have
AIMED = {"short R@1": 0.98, "paraphrase R@1": 0.88, "short R@5": 0.97, "paraphrase R@5": 0.97}
AIMS = {f"{how} {name}": aim for how in ("set", "queried") for name, aim in AIMED.items()} | {
    "right layer at .90 or more": 0.75
}
LIMITS = {"wrong layers at .60 or more": 0.05, "calibration error (ECE)": 0.05}


@dataclass(frozen=True, slots=True)
class Bench:
    """What experiments work with. ``layers``: those that are there."""

    parts: Parts
    layers: tuple[LabLayer, ...]
    base: str
    seed: int
    emit: Emit

    def engine(self) -> Engine:
        return self.parts.engine(self.base)

    def folder(self, layer: LabLayer) -> Path:
        return self.parts.store.path(layer.block)

    def held(self, layer: LabLayer, most: int) -> list[Pair]:
        """Held-out pairs of a layer, no answer twice, spread evenly."""
        found: dict[str, Pair] = {}
        for pair in pairs_of(self.folder(layer)):
            if pair.split == "holdout":
                found.setdefault(" ".join(pair.completion.split()), pair)
        held = list(found.values())
        return [held[i * len(held) // most] for i in range(most)] if len(held) > most else held

    def need(self, least: int, what: str) -> None:
        """Raises ``InputError`` where fewer layers are there."""
        if len(self.layers) < least:
            raise InputError(
                f"{what} needs {least} layers, {len(self.layers)} are there",
                "see why packages gave none, or name others: --packages",
            )

    def done(self, stage: str, done: int, total: int, unit: str, seconds: float) -> None:
        rate = done / seconds if seconds > 0 else None
        left = round((total - done) / rate, 1) if rate else None
        self.emit(StageProgress(stage=stage, done=done, total=total, unit=unit, rate=rate, eta_seconds=left))


def figure(name: str, measure: Measure) -> LabFigure:
    """A figure with its aim, where it has one."""
    if name in AIMS:
        reached = None if measure.value is None else measure.value >= AIMS[name]
        return LabFigure(name=name, measure=measure, aim=f"at least {AIMS[name]:g}", reached=reached)
    if name in LIMITS:
        reached = None if measure.value is None else measure.value <= LIMITS[name]
        return LabFigure(name=name, measure=measure, aim=f"at most {LIMITS[name]:g}", reached=reached)
    return LabFigure(name=name, measure=measure)


def part(hits: Sequence[bool], how: str, none: str) -> Measure:
    """A share with Wilson's interval; ``none``: why there is none, where nothing was counted."""
    if not hits:
        return not_available(none)
    return Measure(
        value=sum(hits) / len(hits), status="measured", n=len(hits), how=how, ci95=wilson(sum(hits), len(hits))
    )


# Retrieval.


async def retrieval(bench: Bench, held: RetrievalSet | None = None) -> LabResult:
    """The bundled set, then the lab's layers by their packages' summaries, as a plan looks for them."""
    given, encoder = held or retrieval_set(), bench.parts.encoder

    def measure(queried: bool) -> dict[str, Measure]:
        find = finding.by_skills(finding.Shelf(given, encoder, queried=queried), reader_of(bench.parts))
        return finding.one_way(given, find, seed=bench.seed)

    found = await anyio.to_thread.run_sync(measure, False)
    figures = [figure(f"set {name[5:]}", one) for name, one in found.items() if name.startswith("test ")]
    found = await anyio.to_thread.run_sync(measure, True)
    figures += [figure(f"queried {name}", found[f"test {name}"]) for name in (*AIMED, "two-skill both@5", "auroc")]
    figures += await anyio.to_thread.run_sync(_own, bench)
    points = {
        "found": tuple(
            Point(x=0, y=one.measure.value, group=one.name.partition(" ")[0], label=one.name)
            for one in figures
            if one.measure.value is not None
        )
    }  # fmt: skip
    notes = (
        "set: the held-out half (test) of the bundled retrieval set, as a plan asks for them",
        "queried: the same where a teacher wrote what people may type who look for each layer (dna reindex --teacher)",
    )
    return LabResult(experiment="retrieval", figures=tuple(figures), points=points, notes=notes)


def _own(bench: Bench) -> list[LabFigure]:
    """Of the lab's layers: whether the request for its package finds its layer first."""
    asked = [one for one in bench.layers if one.request]
    if not asked:
        none = not_available("no layer's package has a request")
        return [figure(f"lab {name}", none) for name in ("R@1", "R@5", "MRR")]
    ids = [one.block for one in bench.layers]
    rows = bench.parts.meanings.nearest([[one.request] for one in asked], len(ids), among=ids)
    rarity = bench.parts.rarity
    found = [features_of([one.request], row, rarity) for one, row in zip(asked, rows, strict=True)]
    orders = [in_order({key: alike(one) for key, one in row.items()}) for row in found]
    at = [finding.place((one.block,), order) for one, order in zip(asked, orders, strict=True)]
    by = f"of {len(ids)} layers, by what its text, exemplars and words are like, for a request in our own words"
    told = {
        "R@1": part([n == 1 for n in at], f"right layer first {by}", "nothing was asked"),
        "R@5": part([n <= 5 for n in at], f"right layer among five {by}", "nothing was asked"),
        "MRR": finding.mean(
            [1 / n for n in at],
            [one.block for one in asked],
            f"one over the right layer's place, {by}",
            seed=bench.seed,
        ),
    }
    return [figure(f"lab {name}", one) for name, one in told.items()]


# Probe.


@dataclass(frozen=True, slots=True)
class _Said:
    """One layer on one layer's held-out pairs. ``place``: where an index has it for the skill, from 0."""

    skill: int
    right: bool
    place: int
    predicted: float | None
    measured: float
    use: bool


async def probe(bench: Bench) -> LabResult:
    """Every layer on every layer's held-out exemplars: what the card predicts from words, and what is measured."""
    bench.need(3, "a probe")
    judge, engine = HomeJudge(bench.parts), bench.engine()
    blocks = {one.block: bench.folder(one) for one in bench.layers}
    said: list[_Said] = []
    notes: list[str] = []
    began = anyio.current_time()
    for number, layer in enumerate(bench.layers):
        exemplars = bench.held(layer, EXEMPLARS)
        if len(exemplars) < LEAST or not layer.request:
            why = f"{len(exemplars)} held-out pairs" if len(exemplars) < LEAST else "no request to ask by"
            notes.append(f"{layer.package}: not asked ({why})")
        else:
            said += await _asked(judge, engine, layer, number, exemplars, blocks)
        bench.done("probe", number + 1, len(bench.layers), "skills", anyio.current_time() - began)
    if not said:
        raise InputError("nothing could be probed", "; ".join(notes)[:500] or "train on more pairs")
    notes.append("what a pass is comes from what these layers gain on their own held-out pairs, as in any home")
    return LabResult(experiment="probe", figures=_probed(said), points=_marks(said, bench.layers), notes=tuple(notes))


async def _asked(
    judge: HomeJudge, engine: Engine, layer: LabLayer, number: int, exemplars: Sequence[Pair], blocks: Mapping[str, Path]
) -> list[_Said]:  # fmt: skip
    """Raises ``InputError`` where nothing could be measured."""
    skill = Skill(text=layer.request, weight=1.0)
    desired = DesiredGenome(request=layer.request, skills=(skill,), taxonomy="lab", encoder="lab")
    near = await anyio.to_thread.run_sync(lambda: judge.near([skill], len(blocks), among=list(blocks)))
    features = judge.features(desired, near)[0]
    places = {one.id: place for place, one in enumerate(near[0])}
    found = await judge.probed(engine, skill, exemplars, blocks)
    if not found.similarity:
        raise InputError(f"{layer.package}: {found.why}", "train on more packages or pairs")
    said: list[_Said] = []
    for block, similarity in found.similarity.items():
        if similarity.value is None:
            continue
        predicted = judge.predicted(skill, features[block]).value if block in features else None
        routed = judge.route(skill, similarity, found.base_passes, trainable=True)
        right = block == layer.block
        place = places.get(block, len(blocks))
        said.append(_Said(number, right, place, predicted, similarity.value, routed.route == "use-as-is"))
    return said


def _probed(said: Sequence[_Said]) -> tuple[LabFigure, ...]:
    right, wrong = [one for one in said if one.right], [one for one in said if not one.right]
    exemplars = f"measured s* on at most {EXEMPLARS} held-out pairs"
    shares = {
        "right layer at .90 or more": part([one.measured >= 0.9 for one in right], exemplars, "no right layer was measured"),
        "right layer routed use-as-is": part(
            [one.use for one in right], f"{exemplars}, lower 90 % end at .90 or more", "no right layer was measured"
        ),
        "wrong layers at .60 or more": part([one.measured >= 0.6 for one in wrong], exemplars, "no wrong layer was measured"),
        "wrong layers routed use-as-is": part([one.use for one in wrong], exemplars, "no wrong layer was measured"),
    }  # fmt: skip
    near = [one for one in said if one.place < FIRST_ROUTED]
    shares["calibration error (ECE)"] = _error(near, f"of the first {FIRST_ROUTED} layers that an index gives")
    shares["calibration error, all pairs"] = _error(said, "of all pairs of a skill and a layer")
    return tuple(figure(name, one) for name, one in shares.items())


def _error(said: Sequence[_Said], whose: str) -> Measure:
    """The shipped card's expected calibration error, with a bootstrap over skills."""
    some = [one for one in said if one.predicted is not None]
    if not some:
        return not_available("nothing was predicted: there is no calibration for this encoder")
    skills = sorted({one.skill for one in some})
    rows = {skill: [(one.predicted or 0.0, one.measured) for one in some if one.skill == skill] for skill in skills}
    draws = np.random.default_rng(0).integers(0, len(skills), size=(1000, len(skills)))
    drawn = [[pair for i in row for pair in rows[skills[i]]] for row in draws]
    errors = [expected_error([p for p, _ in one], [m for _, m in one]) for one in drawn]
    value = expected_error([one.predicted or 0.0 for one in some], [one.measured for one in some])
    low, high = np.percentile(errors, [2.5, 97.5])
    return Measure(
        value=value, status="measured", n=len(some), ci95=(float(low), float(high)),
        how=f"expected calibration error of the card in ten equal bins, {whose}; bootstrap over {len(skills)} skills",
    )  # fmt: skip


def _marks(said: Sequence[_Said], layers: Sequence[LabLayer]) -> dict[str, tuple[Point, ...]]:
    return {
        "similarity": tuple(
            Point(
                x=one.predicted, y=one.measured, group="right layer" if one.right else "wrong layer", label=layers[one.skill].package
            )
            for one in said
            if one.predicted is not None
        )
    }  # fmt: skip


# Composition.


async def composition(bench: Bench) -> LabResult:
    """Groups of three layers in every way there is: what each member keeps of its own gain."""
    bench.need(GROUP, "a composition")
    groups = [bench.layers[i : i + GROUP] for i in range(0, len(bench.layers) - GROUP + 1, GROUP)][:MOST_GROUPS]
    made: list[GenomeBench] = []
    began = anyio.current_time()
    for number, group in enumerate(groups):
        order = BenchOrder(
            blocks=tuple(one.block for one in group), pairs=BENCH_PAIRS, exemplars=EXEMPLARS, seed=bench.seed
        )
        made.append(await Benching(bench.parts, bench.emit).bench(order))
        bench.done("composition", number + 1, len(groups), "groups", anyio.current_time() - began)
    figures: list[LabFigure] = []
    points: list[Point] = []
    for way in made[0].order.ways:
        rows = [one for found in made for one in found.ways if one.way == way]
        kept = [measure.value for row in rows for measure in row.retention if measure.value is not None]
        worst = [row.worst.value for row in rows if row.worst.value is not None]
        why = "; ".join(dict.fromkeys(row.why or row.mean.how for row in rows))[:300]
        figures += [figure(f"{way} mean", _kept(kept, why, bench.seed)), figure(f"{way} worst", _least(worst, why))]
        points += [Point(x=0, y=value, group="member", label=way) for value in kept]
    notes = tuple(f"group {n}: {', '.join(one.package for one in group)}" for n, group in enumerate(groups, 1))
    return LabResult(experiment="composition", figures=tuple(figures), points={"kept": tuple(points)}, notes=notes)


def _kept(values: Sequence[float], why: str, seed: int) -> Measure:
    if not values:
        return not_available(why or "no member gains alone")
    how = "share of their own gain that members keep on their held-out pairs, mean over members of all groups"
    return finding.mean(values, [str(i) for i in range(len(values))], how, seed=seed)


def _least(values: Sequence[float], why: str) -> Measure:
    if not values:
        return not_available(why or "no member gains alone")
    how = "what the worst member of any group keeps"
    return Measure(value=min(values), status="measured", n=len(values), how=how)


# Interference.


async def interference(bench: Bench) -> LabResult:
    """Every ordered pair of some layers: how well phi and the ratio of norms foretell the damage that is measured."""
    bench.need(3, "interference")
    chosen = bench.layers[:PAIRED]
    kept = InterferenceKept(bench.parts.settings.home)
    for one in chosen:  # so that covariances and notes are this program's
        kept.forget(one.block)
    found = await Interfering(bench.parts, bench.emit).conflicts(
        [one.block for one in chosen], observe=True, measured=True, on=bench.base
    )
    rows = [one for one in found.pairs if one.damage.status == "measured" and one.damage.value is not None]
    if not rows:
        raise Refused("no pair's damage could be measured", "; ".join(found.without_inputs.values())[:300])
    names = {one.block: one.package for one in chosen}
    notes = [f"pairs: every ordered pair of {', '.join(names.values())}, stacked at weight 1"]
    notes += [f"no covariances of {names.get(block, block[:12])}: {why}" for block, why in found.without_inputs.items()]
    if len(rows) < LEAST_PAIRS:
        notes.append(f"{len(rows)} pairs are fewer than the {LEAST_PAIRS} that are asked for: give more layers")
    damage = [one.damage.value or 0.0 for one in rows]
    figures = [
        figure("phi and damage (Spearman)", _agreement(rows, "phi", bench.seed)),
        figure("norm ratio and damage (Spearman)", _agreement(rows, "norm_ratio", bench.seed)),
        figure(
            "damage, mean",
            finding.mean(damage, [one.target for one in rows], "share of its own gain that a target loses"),
        ),
    ]
    if found.index is not None:
        figures += [
            figure("all stacked: members lose", found.index.member),
            figure("all stacked: elsewhere", found.index.guard),
        ]
    return LabResult(experiment="interference", figures=tuple(figures), points=_harm(rows, names), notes=tuple(notes))


def _of(one: PairConflict, kind: str) -> float | None:
    return one.phi.value if kind == "phi" else one.norm_ratio.value


def _agreement(rows: Sequence[PairConflict], kind: str, seed: int) -> Measure:
    there = [one for one in rows if _of(one, kind) is not None]
    measure = correlation(
        np.array([_of(one, kind) or 0.0 for one in there]), np.array([one.damage.value or 0.0 for one in there]),
        [one.target for one in there], ranked=True, split="holdout", seed=seed,
    )  # fmt: skip
    if measure.value is None:
        return not_available(f"{len(there)} ordered pairs are too few for a correlation, or all alike")
    how = f"Spearman correlation over {len(there)} ordered pairs, 95 % bootstrap over pairs and over targets, the wider one"
    return measure.model_copy(update={"how": how})


def _harm(rows: Sequence[PairConflict], names: Mapping[str, str]) -> dict[str, tuple[Point, ...]]:
    return {
        kind: tuple(
            Point(x=x, y=one.damage.value or 0.0, group="pair", label=f"{names[one.source]} beside {names[one.target]}")
            for one in rows
            if (x := _of(one, kind)) is not None
        )
        for kind in ("phi", "norm_ratio")
    }


Work = Callable[[Bench], Awaitable[LabResult]]
WORK: dict[Experiment, Work] = {
    "retrieval": retrieval, "probe": probe, "composition": composition, "interference": interference,
}  # fmt: skip
