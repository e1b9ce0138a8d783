"""How alike two blocks behave: on the same held-out code, and in their answers to the same prompts.

A block's behaviour on a span is its gain: how much better it explains the span than its base alone does. Two blocks behave alike where
their gains rise and fall together over the spans of one probe set: both blocks' hold-outs and the bundled general set, without anything
that stands in either one's training data. Gains are nats a token on one base; over two bases the tokens differ, and bits a byte are what
can be compared. Answers are drawn with one seed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import Measure, not_available
from clonedna.core.comparison import Answer, ProbeCounts, PromptOf, SideBySide, SpanGain, SpanOf, WeightSimilarity
from clonedna.core.events import Emit, StageProgress
from clonedna.core.model import Example, Layer, Message, SampleRequest, Score
from clonedna.core.seams import Engine
from clonedna.core.work import Language, Pair
from clonedna.evals.bootstrap import MIN_CLUSTERS, RESAMPLES, paired_gain
from clonedna.evals.forgetting import general_set
from clonedna.evals.leakage import Overlaps
from clonedna.evals.likelihood import example_of, file_of
from clonedna.evals.style_capture import ANSWER_TOKENS, TEMPERATURE, TOP_P

MOST_PROBES = 128  # of one block's hold-out
MOST_PROMPTS = 64
AT_ONCE = 8
CHUNK = 16
FEWEST = 8  # spans: of fewer, an interval of a correlation says nothing
LEAST_RESAMPLES = 0.95
PARTS: tuple[SpanOf, ...] = ("a", "b", "general")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: an adapter in its engine, what was held out from it, and all that it (or a block it was made from) trained on."""

    engine: Engine
    adapter: str
    holdout: Sequence[Pair]
    trained: Sequence[Pair]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (Layer(adapter=self.adapter),)


@dataclass(frozen=True, slots=True)
class Probe:
    """One span that both are measured on. ``pair`` is set where it is a person's."""

    id: str
    of: SpanOf
    example: Example
    pair: Pair | None = None

    @property
    def file(self) -> str:
        """The cluster that the span belongs to; a general span is its own."""
        return file_of(self.pair) if self.pair else self.id


@dataclass(frozen=True, slots=True)
class Prompt:
    """What both are asked. ``reference``: the person's own answer, where it is held-out work."""

    of: PromptOf
    messages: tuple[Message, ...]
    language: Language | None = None
    reference: str = ""


def weight_measures(found: WeightSimilarity | None, why: str = "") -> dict[str, Measure]:
    """The headline of a comparison of weights, or ``why`` there is none. Exact, so without an interval; ``n`` is modules or angles."""
    names = ("weights.cosine", "weights.angle.columns", "weights.angle.rows")
    if found is None:
        return dict.fromkeys(names, not_available(why))
    whole = found.whole
    missing = not_available(found.undefined or "no module is in both adapters")
    measures = {
        "weights.cosine": missing
        if whole.cosine is None
        else Measure(
            value=whole.cosine, status="measured", n=whole.modules,
            how="cosine of both effective updates (scale B A, all modules as one vector), computed from the factors",
        )
    }  # fmt: skip
    for name, angles, what in (
        (names[1], whole.columns, "column spaces (what is written)"), (names[2], whole.rows, "row spaces (what is read)")
    ):  # fmt: skip
        measures[name] = (
            missing
            if angles is None
            else Measure(
                value=angles.mean, status="measured", n=angles.n,
                how=f"mean principal angle of the {what}, degrees, over the modules that both have",
            )
        )  # fmt: skip
    return measures


def probe_set(
    a: Side, b: Side, overlaps: Overlaps, *, most: int = MOST_PROBES, seed: int = 0
) -> tuple[tuple[Probe, ...], ProbeCounts]:
    """Both hold-outs and the general set, and how many spans were left out and why.

    A hold-out span that stands in either side's training data (exactly, contained, or nearly: ``overlaps``) is left out; one that is like
    an earlier span of the set counts once; of what is left at most ``most`` of each side are drawn with ``seed``.
    """
    trained = [*a.trained, *b.trained]
    probes: list[Probe] = []
    kept_of: dict[str, int] = {}
    left = {"trained": 0, "repeated": 0, "bounded": 0}
    before: list[Pair] = []
    for of, side in (("a", a), ("b", b)):
        fresh = [pair for pair, kind in zip(side.holdout, overlaps(side.holdout, trained), strict=True) if not kind]
        left["trained"] += len(side.holdout) - len(fresh)
        new = [pair for pair, kind in zip(fresh, overlaps(fresh, before), strict=True) if not kind]
        left["repeated"] += len(fresh) - len(new)
        places = sorted(random.Random(f"{seed}:probes").sample(range(len(new)), min(most, len(new))))  # noqa: S311 - a seeded draw
        left["bounded"] += len(new) - len(places)
        before += new
        kept_of[of] = len(places)
        probes += [Probe(new[i].id, of, example_of(new[i]), new[i]) for i in places]  # type: ignore[arg-type]
    general = [Probe(f"general-{i}", "general", example) for i, (_, example) in enumerate(general_set())]
    counts = ProbeCounts(holdout_a=kept_of["a"], holdout_b=kept_of["b"], general=len(general), **left)
    return (*probes, *general), counts


async def behaviour(
    a: Side, b: Side, probes: Sequence[Probe], *, seed: int = 0, emit: Emit
) -> tuple[dict[str, Measure], tuple[SpanGain, ...]]:
    """``behaviour.*``, ``gain.*`` and ``gain.difference.*``, and the gains of each span that they come from.

    A span that is too long for a base's context, so that the two did not score the same text, is left out of all.
    """
    examples = [probe.example for probe in probes]
    one_base = a.engine is b.engine
    tick = _ticker(emit, "behaviour", len(examples) * (3 if one_base else 4), "spans")
    base_a = await _scored(a.engine, examples, (), tick)
    base_b = base_a if one_base else await _scored(b.engine, examples, (), tick)
    tuned_a = await _scored(a.engine, examples, a.layers, tick)
    tuned_b = await _scored(b.engine, examples, b.layers, tick)
    whole = [i for i, (x, y) in enumerate(zip(base_a, base_b, strict=True)) if x.tokens and x.bytes == y.bytes]
    rows_a, rows_b = _rows(base_a, tuned_a, whole, one_base), _rows(base_b, tuned_b, whole, one_base)
    probes = [probes[i] for i in whole]
    measures = _likeness(rows_a.gains, rows_b.gains, probes, seed) | _mean_gains(rows_a, rows_b, probes, one_base, seed)
    spans = tuple(
        SpanGain(id=probe.id, of=probe.of, gain_a=float(x), gain_b=float(y))
        for probe, x, y in zip(probes, rows_a.gains, rows_b.gains, strict=True)
    )
    return measures, spans


@dataclass(frozen=True, slots=True)
class _Rows:
    """Of each span: what base and adapter pay for it, and its size, all in one unit; sums over spans make the means."""

    base: Floats
    tuned: Floats
    size: NDArray[np.int64]

    @property
    def gains(self) -> Floats:
        return (self.base - self.tuned) / self.size


def _rows(base: Sequence[Score], tuned: Sequence[Score], chosen: Sequence[int], one_base: bool) -> _Rows:
    """Nats and tokens on one base; bits and bytes otherwise."""
    unit = 1.0 if one_base else math.log(2)
    sizes = [base[i].tokens if one_base else base[i].bytes for i in chosen]
    bare, through = (np.asarray([scores[i].nll / unit for i in chosen], dtype=np.float64) for scores in (base, tuned))
    return _Rows(bare, through, np.asarray(sizes, dtype=np.int64))


async def _scored(
    engine: Engine, examples: Sequence[Example], layers: tuple[Layer, ...], tick: Callable[[int], None]
) -> list[Score]:
    found: list[Score] = []
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        found += await engine.nll(chunk, layers)
        tick(len(chunk))
    return found


def _ticker(emit: Emit, stage: str, total: int, unit: str) -> Callable[[int], None]:
    """Says how far it is and, from the rate so far, how long it will take."""
    began, done = time.monotonic(), 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        rate = done / max(time.monotonic() - began, 1e-9)
        left = round((total - done) / rate, 1)
        emit(StageProgress(stage=stage, done=done, total=total, unit=unit, rate=rate, eta_seconds=left))

    return tick


def _likeness(x: Floats, y: Floats, probes: Sequence[Probe], seed: int) -> dict[str, Measure]:
    """Correlations over all spans, and over those of each part by themselves: parts with other means correlate by that alone."""
    measures: dict[str, Measure] = {}
    for part in ("", *PARTS):
        chosen = [i for i, probe in enumerate(probes) if not part or probe.of == part]
        files = [probes[i].file for i in chosen]
        for name, ranked in (("pearson", False), ("spearman", True)):
            measures[f"behaviour.{name}" + (f".{part}" if part else "")] = correlation(
                x[chosen], y[chosen], files, ranked=ranked, split=part or "probe", seed=seed
            )
    return measures


def correlation(
    x: Floats, y: Floats, files: Sequence[str], *, ranked: bool, split: str = "probe", seed: int = 0
) -> Measure:
    """Pearson's correlation of two rows of gains, or Spearman's (``ranked``: Pearson's of the ranks, ties sharing their mean rank).

    The interval is the percentile bootstrap (Efron 1979) over spans and, from five files on, over whole files; the wider one. A resample
    in which a side does not vary has no correlation; where that is more than one of twenty, there is no interval. Not available for fewer
    than 8 spans, or where a side does not vary. Shapes: three sequences of one length.
    """
    if len(x) < FEWEST:
        return not_available(f"{len(x)} spans; a correlation needs {FEWEST}")
    made = float(_correlations(x, y, np.ones((1, len(x))), ranked=ranked)[0])
    if math.isnan(made):
        return not_available("one block's gain is the same on every span: it does not vary with anything")
    names, place = np.unique(np.asarray(files), return_inverse=True)
    clusters = [np.arange(len(x)), *([place] if len(names) >= MIN_CLUSTERS else [])]
    ends: list[tuple[float, float]] = []
    for cluster in clusters:
        found = _correlations(x, y, _drawn(cluster, seed), ranked=ranked)
        there = found[~np.isnan(found)]
        if len(there) >= LEAST_RESAMPLES * RESAMPLES:
            low, high = np.percentile(there, [2.5, 97.5])
            ends.append((float(low), float(high)))
    over = "spans and over files, the wider one" if len(clusters) > 1 else "spans"
    return Measure(
        value=made, status="measured", n=len(x), split=split,
        how=f"{'Spearman' if ranked else 'Pearson'} correlation of per-span gains over the base, 95 % bootstrap over {over}",
        ci95=max(ends, key=lambda one: one[1] - one[0]) if len(ends) == len(clusters) else None,
    )  # fmt: skip


def _drawn(cluster: NDArray[np.int64], seed: int) -> Floats:
    """How often each span is in each resample of its clusters: ``[RESAMPLES, spans]``."""
    many = int(cluster.max()) + 1
    draws = np.random.default_rng(seed).integers(0, many, size=(RESAMPLES, many)) + many * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(draws.ravel(), minlength=RESAMPLES * many).reshape(RESAMPLES, many)
    return counts[:, cluster].astype(np.float64)


def _correlations(x: Floats, y: Floats, weights: Floats, *, ranked: bool) -> Floats:
    """One correlation for each row of ``weights`` ``[rows, spans]``; NaN where a side does not vary beyond rounding."""
    total = weights.sum(axis=1, keepdims=True)
    sides: list[Floats] = []
    for side in (x, y):
        values = _ranks(side, weights) if ranked else np.broadcast_to(side, weights.shape)
        sides.append(values - (weights * values).sum(axis=1, keepdims=True) / total)
    across, mine, theirs = (
        (weights * p * q).sum(axis=1) for p, q in ((sides[0], sides[1]), (sides[0],) * 2, (sides[1],) * 2)
    )
    least = (1e-12 * np.array([np.abs(x).max(), np.abs(y).max()])) ** 2 * total
    varies = (mine > least[:, 0]) & (theirs > least[:, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, np.clip(across / np.sqrt(mine * theirs), -1.0, 1.0), np.nan)


def _ranks(x: Floats, weights: Floats) -> Floats:
    """Ranks from 1 of the spans in each resample, equal ones sharing the mean of their places: ``[rows, spans]``."""
    _, group, sizes = np.unique(x, return_inverse=True, return_counts=True)
    upto = np.cumsum(weights[:, np.argsort(x, kind="stable")], axis=1)[:, np.cumsum(sizes) - 1]
    own = np.diff(upto, axis=1, prepend=0.0)
    return (upto - (own - 1) / 2)[:, group]


def _mean_gains(a: _Rows, b: _Rows, probes: Sequence[Probe], one_base: bool, seed: int) -> dict[str, Measure]:
    """``gain.a.on_b``: the first block's mean gain on the second's hold-out, and so on; ``gain.difference.*``: first minus second."""
    unit = "nats a token" if one_base else "bits a byte"
    measures: dict[str, Measure] = {}
    for part in PARTS:
        chosen = [i for i, probe in enumerate(probes) if probe.of == part]
        files = [probes[i].file for i in chosen]
        where = "general" if part == "general" else f"on_{part}"
        for name, worse, better, what in (
            (f"gain.a.{where}", a.base, a.tuned, "first block's gain over its base"),
            (f"gain.b.{where}", b.base, b.tuned, "second block's gain over its base"),
            (f"gain.difference.{where}", a.base + b.tuned, a.tuned + b.base, "first block's gain minus the second's"),
        ):
            if not chosen:
                measures[name] = not_available("no such spans are left in the probe set")
                continue
            gain, interval = paired_gain(
                worse[chosen].tolist(), better[chosen].tolist(), a.size[chosen].tolist(), seed=seed, clusters=files
            )
            over = "spans and over files, the wider one" if len(set(files)) >= MIN_CLUSTERS else "spans"
            measures[name] = Measure(
                value=gain, status="measured", n=len(chosen), split=part, how=f"{what}, {unit}, 95 % paired bootstrap over {over}",
                ci95=interval,
            )  # fmt: skip
    return measures


def prompts_of(probes: Sequence[Probe], most: int, *, seed: int = 0) -> tuple[Prompt, ...]:
    """At most ``most`` prompts of held-out work, half of each side's where both have as many; drawn with ``seed``."""
    draw = random.Random(f"{seed}:prompts")  # noqa: S311 - a seeded draw, no secret
    piles = [[probe.pair for probe in probes if probe.of == of and probe.pair] for of in ("a", "b")]
    for pile in piles:
        draw.shuffle(pile)
    least = min(len(pile) for pile in piles)
    share = [min(len(pile), max(-(-most // 2), most - least)) for pile in piles]
    chosen = [(of, pair) for of, pile, n in zip(("a", "b"), piles, share, strict=True) for pair in pile[:n]]
    return tuple(
        Prompt(of, example_of(pair).messages, pair.language, pair.completion)  # type: ignore[arg-type]
        for of, pair in chosen[:most]
    )


async def side_by_side(
    a: Side, b: Side, prompts: Sequence[Prompt], *, seed: int, emit: Emit, with_base: bool = True
) -> tuple[SideBySide, ...]:
    """Both blocks' answers to each prompt with one seed, and the base's (of both, where they differ); at most 128 tokens each.

    Prompt ``i`` has the seed ``1000 * seed + i``, whoever answers it.

    Without ``with_base`` the bases are not asked, and their answers are empty.
    """
    one_base = a.engine is b.engine
    asked: list[tuple[Engine, tuple[Layer, ...]]] = [(a.engine, a.layers), (b.engine, b.layers)]
    if with_base:
        asked += [(a.engine, ())] if one_base else [(a.engine, ()), (b.engine, ())]
    tick = _ticker(emit, "answers", len(prompts) * len(asked), "answers")
    found: dict[tuple[int, int], Answer] = {}

    async def ask(i: int, j: int, limit: anyio.CapacityLimiter) -> None:
        engine, layers = asked[j]
        async with limit:
            found[i, j] = await _answer(engine, layers, prompts[i], 1000 * seed + i)
        tick(1)

    async with _limited() as (group, limit):
        for i in range(len(prompts)):
            for j in range(len(asked)):
                group.start_soon(ask, i, j, limit)
    nothing = Answer(text="", tokens=0, finish="not_asked")
    return tuple(
        SideBySide(
            prompt=prompt.messages[-1].content, of=prompt.of, language=prompt.language, reference=prompt.reference,
            a=found[i, 0], b=found[i, 1], base=found.get((i, 2), nothing), base_b=found.get((i, 3)),
        )
        for i, prompt in enumerate(prompts)
    )  # fmt: skip


@asynccontextmanager
async def _limited() -> AsyncGenerator[tuple[anyio.abc.TaskGroup, anyio.CapacityLimiter]]:
    """Tasks of which a few are asked at a time; the error of one is raised as it is, not as a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group, anyio.CapacityLimiter(AT_ONCE)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _answer(engine: Engine, layers: tuple[Layer, ...], prompt: Prompt, seed: int) -> Answer:
    request = SampleRequest(
        messages=prompt.messages,
        layers=layers,
        max_tokens=ANSWER_TOKENS,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        seed=seed,
    )
    text, tokens, finish = "", 0, ""
    async for chunk in engine.sample(request):
        text += chunk.text
        if chunk.finish:
            tokens, finish = chunk.completion_tokens or 0, chunk.finish
    return Answer(text=text, tokens=tokens, finish=finish)
