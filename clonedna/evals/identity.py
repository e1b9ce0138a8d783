"""Whose style is it? For K blocks on one base, which block explains whose held-out code best; arithmetic on likelihoods, and one function
that asks the engine for them.

Rows are blocks, columns are people. The gain of block i on person j is ``sum(base - block) / sum(tokens)`` over j's hold-out, in nats a
token. A person, file or span is identified when one block alone has the highest gain on it and that block is the person's own: a tie is
no win, and chance is the share of blocks that are their own (1/K). What cannot be told is ``not_available`` with the reason.

Intervals are 95 % percentile bootstraps over whole files within each person (Efron & Tibshirani 1993; clusters: Field & Welsh 2007),
those of shares never narrower than Wilson's for so many files. They cover which of these people's files were held out, not other people,
and not another training of the same block. That is what the permutation test is for (Fisher 1935): are the blocks' labels exchangeable?
It is exact up to eight blocks, and cannot tell anything with two or three.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import Measure, not_available
from clonedna.core.canonical import sha256
from clonedna.core.events import Emit
from clonedna.core.genome import Through
from clonedna.core.model import Layer, Score
from clonedna.core.seams import Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import RESAMPLES
from clonedna.evals.scoring import score_ways

MIN_FILES = 3  # of fewer files an interval says nothing
LEVEL = 0.05
EXACT_BLOCKS = 8  # 40,320 assignments
DRAWS = 9_999
Floats = NDArray[np.float64]


class Held(Value):
    """One hold-out pair of the person in column ``person``: nats summed over ``tokens``, under the base and under each block."""

    pair: str
    person: int
    file: str
    tokens: int
    base: float
    blocks: tuple[float, ...]


class Person(Value):
    """A column: ``own`` are the rows of this person's blocks; ``left_out``: hold-out pairs that one of the blocks may have seen."""

    name: str
    handle: str
    own: tuple[int, ...]
    left_out: int = 0


class PersonFound(Value):
    """What was found for one person. ``best``: the row that explains them best, ``None`` for a tie or nothing to examine.

    ``gain`` is that of the best own block; ``runner_up`` the best other row, ``margin`` the gain of the own one over it; ``rank`` the own
    one's place among the others (1 = ahead of all); ``files`` and ``spans``: shares identified; ``control``: ``identity.gain``.
    """

    person: Person
    n_spans: int
    n_files: int
    best: int | None
    rank: int | None
    runner_up: int | None
    gain: Measure
    margin: Measure
    files: Measure
    spans: Measure
    control: Measure = not_available("no control adapter was trained")


class Verdict(Value):
    """``kind``: ``identity`` (above chance, and not by luck of the blocks), ``suggestive`` (above chance; too few blocks, or too uneven
    a result, for the test), ``none``, or ``not_available``. ``text``: the same in plain words."""

    kind: Literal["identity", "suggestive", "none", "not_available"]
    text: str


class Identified(Value):
    """The whole result. ``matrix[i][j]``: gain of block i on person j, ``None`` where nothing could be examined; ``intervals`` of the same
    shape. ``measures``: ``identification.people``, ``.files``, ``.spans``, ``.mrr`` and the test's ``.p_people``, ``.p_files``;
    ``chance`` under the same names."""

    blocks: tuple[str, ...]
    people: tuple[PersonFound, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    intervals: tuple[tuple[tuple[float, float] | None, ...], ...]
    measures: dict[str, Measure]
    chance: dict[str, float]
    verdict: Verdict


async def score_all(
    engine: Engine, pairs: Sequence[Pair], adapters: Sequence[str], *, emit: Emit
) -> tuple[tuple[Score, ...], ...]:
    """Scores of all pairs under the base, then under each adapter (ids that this one engine gave): K + 1 rows of ``len(pairs)``."""
    alone = [Through(layers=(Layer(adapter=adapter),)) for adapter in adapters]
    return await score_ways(engine, pairs, [Through(), *alone], emit=emit)


def identify(blocks: Sequence[str], people: Sequence[Person], held: Sequence[Held], *, seed: int = 0) -> Identified:
    """All figures from the likelihoods. ``blocks`` name the rows, ``people`` the columns; ``held`` in any order.

    Raises ``ValueError`` for fewer than two blocks, a block of nobody or of two people, or a row of another length.
    """
    owned = sorted(row for person in people for row in person.own)
    if len(blocks) < 2 or owned != list(range(len(blocks))):
        raise ValueError("need two blocks at least, each of exactly one person")
    if any(len(one.blocks) != len(blocks) for one in held):
        raise ValueError("need a likelihood under every block for each hold-out pair")
    columns = [_Column(person, j, held, len(blocks), seed) for j, person in enumerate(people)]
    there = [column for column in columns if column.spans]
    measures, chance = _shares(there, len(blocks))
    nothing = [None] * len(blocks)
    gains = [[float(g) for g in c.gain] if c.spans else nothing for c in columns]
    spread = [_intervals(c.resampled) if c.enough else nothing for c in columns]
    found = tuple(column.found() for column in columns)
    return Identified(
        blocks=tuple(blocks), people=found,
        matrix=tuple(zip(*gains, strict=True)), intervals=tuple(zip(*spread, strict=True)),
        measures=measures, chance=chance, verdict=_verdict(found, measures, chance, len(blocks)),
    )  # fmt: skip


def gain_over_control(
    control: Sequence[float], adapter: Sequence[float], tokens: Sequence[int], files: Sequence[str], *, seed: int = 0
) -> Measure:
    """``identity.gain``: nll.control - nll.adapter in nats a token over one person's hold-out, with its interval over files.

    Four sequences of equal length n, one entry a span. Above zero, the block knows something of this person that the same recipe does
    not learn from other people's code.
    """
    if not tokens:
        return not_available("nothing of the hold-out is left")
    index = {file: i for i, file in enumerate(sorted(set(files)))}
    sums = np.zeros((len(index), 2))
    for first, second, n, file in zip(control, adapter, tokens, files, strict=True):
        sums[index[file]] += first - second, n
    how = "nll.control - nll.adapter, nats a token; control: the same recipe on other people's code"
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(index) < MIN_FILES:
        how += f"; no interval: {len(index)} of {MIN_FILES} files that it takes"
        return Measure(value=value, status="measured", n=len(tokens), split="holdout", how=how)
    drawn = _weights(len(index), "control", seed) @ sums
    interval = _interval(drawn[:, 0] / drawn[:, 1])
    how += f"; 95 % bootstrap over {len(index)} files"
    return Measure(value=value, status="measured", n=len(tokens), split="holdout", how=how, ci95=interval)


class _Column:
    """One person's hold-out: sums by file, and the same resampled. ``counts``: files and spans of each row that is best alone."""

    def __init__(self, person: Person, index: int, held: Sequence[Held], rows: int, seed: int) -> None:
        mine = [one for one in held if one.person == index]
        names = sorted({one.file for one in mine})
        place = {name: i for i, name in enumerate(names)}
        self.person, self.rows, self.spans, self.files = person, rows, len(mine), len(names)
        self.own = list(person.own)
        self.others = [row for row in range(rows) if row not in person.own]
        differences, self.tokens = np.zeros((len(names), rows)), np.zeros(len(names))
        self.span_wins, self.span_counts = np.zeros(len(names)), np.zeros(len(names))
        self.best_of_spans = np.zeros(rows)
        for one in mine:
            at, better = place[one.file], one.base - np.asarray(one.blocks)
            differences[at] += better
            self.tokens[at] += one.tokens
            self.span_counts[at] += 1
            if (best := _best(better)) is not None:
                self.span_wins[at] += best in self.own
        self.enough = len(names) >= MIN_FILES
        self.best_files = [_best(row) for row in differences]
        self.file_wins = np.array([float(best in self.own) for best in self.best_files])
        if self.spans:
            self.gain: Floats = differences.sum(axis=0) / self.tokens.sum()
            self.best = _best(self.gain)
            self.rank = int(self._ranks(self.gain[None, :])[0])
        if self.enough:
            self.weights = _weights(len(names), person.handle, seed)
            self.resampled: Floats = (self.weights @ differences) / (self.weights @ self.tokens)[:, None]

    def _ranks(self, gains: Floats) -> Floats:
        """The best own row's place in each of ``gains`` ``[n, rows]``: 1 + how many others are as high."""
        own = gains[:, self.own].max(axis=1, keepdims=True)
        return 1 + (gains[:, self.others] >= own).sum(axis=1)

    @property
    def resampled_ranks(self) -> Floats:
        return self._ranks(self.resampled)

    @property
    def chance(self) -> float:
        return len(self.own) / self.rows

    @property
    def chance_of_rank(self) -> float:
        """Mean of 1/rank when the order of blocks is drawn by lot."""
        k, own = self.rows, len(self.own)
        return sum(math.comb(k - r, own - 1) / math.comb(k, own) / r for r in range(1, k - own + 2))

    def found(self) -> PersonFound:
        few = f"{self.files} held-out files are left, {MIN_FILES} are needed"
        if not self.spans:
            gone = not_available("nothing of this person's hold-out is left")
            return PersonFound(
                person=self.person, n_spans=0, n_files=0, best=None, rank=None, runner_up=None, gain=gone, margin=gone, files=gone,
                spans=gone,
            )  # fmt: skip
        second = max(self.others, key=lambda row: self.gain[row]) if self.others else None
        own = float(self.gain[self.own].max())
        over = "95 % bootstrap over files" if self.enough else f"no interval: {few}"
        gains = self.resampled[:, self.own].max(axis=1) if self.enough else None
        margin = not_available("there is no other block")
        if second is not None:
            margins = None if gains is None else gains - self.resampled[:, self.others].max(axis=1)
            margin = self._measured(own - float(self.gain[second]), f"gain over the best other block; {over}", margins)
        files = spans = not_available(few)
        if self.enough:
            won = self.weights @ self.span_wins / (self.weights @ self.span_counts)
            spans = _share("spans", self.span_wins.sum() / self.spans, self.spans, over, won, self.files)
            won = self.weights @ self.file_wins / self.files
            files = _share("files", self.file_wins.mean(), self.files, over, won, self.files)
        return PersonFound(
            person=self.person, n_spans=self.spans, n_files=self.files, best=self.best, rank=self.rank, runner_up=second,
            gain=self._measured(own, f"nats a token, base - own block; {over}", gains), margin=margin, files=files, spans=spans,
        )  # fmt: skip

    def _measured(self, value: float, how: str, drawn: Floats | None) -> Measure:
        interval = None if drawn is None else _interval(drawn)
        return Measure(value=value, status="measured", n=self.spans, split="holdout", how=how, ci95=interval)


def _share(what: str, value: Any, n: int, over: str, drawn: Floats, files: int) -> Measure:
    """A share with the wider, at each end, of the bootstrap's interval and Wilson's (1927) for so many files.

    All or nothing of a few files resamples to itself: the bootstrap alone would be sure of what it cannot be.
    """
    low, high = _interval(drawn)
    z, share = 1.959964, float(value)
    middle, half = share + z * z / (2 * files), z * math.sqrt(share * (1 - share) / files + (z / (2 * files)) ** 2)
    wilson = (middle - half) / (1 + z * z / files), (middle + half) / (1 + z * z / files)
    return Measure(
        value=share, status="measured", n=n, split="holdout", how=f"share of {what}; {over}, or Wilson's where that is wider",
        ci95=(max(0.0, min(low, wilson[0])), min(1.0, max(high, wilson[1]))),
    )  # fmt: skip


def _shares(there: Sequence[_Column], rows: int) -> tuple[dict[str, Measure], dict[str, float]]:
    """Identification of people, files and spans, mean reciprocal rank, the permutation test; and what chance would give."""
    measures: dict[str, Measure] = {}
    chance: dict[str, float] = {}

    def put(name: str, value: Any, n: int, how: str, drawn: Floats | None, by_chance: Any) -> None:
        interval = None if drawn is None else _interval(drawn)
        measures[name] = Measure(value=float(value), status="measured", n=n, split="holdout", how=how, ci95=interval)
        chance[name] = float(by_chance)

    if not there:
        gone = not_available("nobody's hold-out is left")
        return {
            f"identification.{what}": gone for what in ("people", "files", "spans", "mrr", "p_people", "p_files")
        }, {}
    all_enough = all(column.enough for column in there)
    few = ", ".join(column.person.name for column in there if not column.enough)
    over = "95 % bootstrap over files within people" if all_enough else f"no interval: under {MIN_FILES} files of {few}"
    n = len(there)
    ranks = np.array([c.resampled_ranks for c in there]) if all_enough else None
    firsts = np.array([np.isin(_bests(c.resampled), c.own) for c in there]) if all_enough else None
    put("identification.people", np.mean([c.best in c.own for c in there]), n, f"share of people; {over}",
        None if firsts is None else firsts.mean(axis=0), np.mean([c.chance for c in there]))  # fmt: skip
    put("identification.mrr", np.mean([1 / c.rank for c in there]), n, f"mean reciprocal rank of the own block; {over}",
        None if ranks is None else (1 / ranks).mean(axis=0), np.mean([c.chance_of_rank for c in there]))  # fmt: skip
    best = np.array([[float(c.best == row) for row in range(rows)] for c in there])
    measures["identification.p_people"] = _permutation(best, [c.own for c in there], rows)
    enough = [column for column in there if column.enough]
    if not enough:
        gone = not_available(f"no person has {MIN_FILES} held-out files")
        return measures | {f"identification.{what}": gone for what in ("files", "spans", "p_files")}, chance
    over = f"95 % bootstrap over files within people, {len(enough)} of {n} people ({MIN_FILES} files at least)"
    files, spans = sum(c.files for c in enough), sum(c.spans for c in enough)
    drawn = sum((c.weights @ c.file_wins for c in enough), np.zeros(RESAMPLES)) / files
    won = sum(c.file_wins.sum() for c in enough) / files
    measures["identification.files"] = _share("files", won, files, over, drawn, files)
    drawn = sum((c.weights @ c.span_wins for c in enough), np.zeros(RESAMPLES))
    drawn /= sum((c.weights @ c.span_counts for c in enough), np.zeros(RESAMPLES))
    won = sum(c.span_wins.sum() for c in enough) / spans
    measures["identification.spans"] = _share("spans", won, spans, over, drawn, files)
    chance["identification.files"] = sum(c.chance * c.files for c in enough) / files
    chance["identification.spans"] = sum(c.chance * c.spans for c in enough) / spans
    counts = np.array([[float(c.best_files.count(row)) for row in range(rows)] for c in enough])
    measures["identification.p_files"] = _permutation(counts, [c.own for c in enough], rows)
    return measures, chance


def _permutation(wins: Floats, owns: Sequence[Sequence[int]], rows: int) -> Measure:
    """How often blocks that are handed out to people by lot win as much as they did: all assignments, or 9,999 of them and this one.

    ``wins[p, i]``: files (or people) of p that row i alone explains best.
    """
    exact = rows <= EXACT_BLOCKS
    if exact:
        orders = np.array(list(itertools.permutations(range(rows))))
    else:
        draw = np.random.default_rng(0)
        orders = np.vstack([np.arange(rows), *(draw.permutation(rows) for _ in range(DRAWS))])
    totals = np.zeros(len(orders))
    for p, own in enumerate(owns):
        for row in own:
            totals += wins[p, orders[:, row]]
    value = float(np.mean(totals >= totals[0] - 1e-9))
    how = f"permutation test over {'all ' if exact else ''}{len(orders)} assignments of blocks to people, one-sided"
    return Measure(value=value, status="measured", n=len(orders), split="holdout", how=how)


def _verdict(
    people: Sequence[PersonFound], measures: dict[str, Measure], chance: dict[str, float], rows: int
) -> Verdict:
    files, p = measures["identification.files"], measures["identification.p_files"]
    if files.value is None or files.ci95 is None or p.value is None:
        return Verdict(kind="not_available", text=f"cannot be told: {files.how}")
    lucky = chance["identification.files"]
    low, high = files.ci95
    share = f"{files.value:.0%} of {files.n} held-out files [{low:.0%}, {high:.0%}]"
    if low <= lucky:
        where = "lies within the interval" if high >= lucky else "would be better"
        text = f"no identity: a person's own block explains {share} best, and guessing, {lucky:.0%}, {where}"
        return Verdict(kind="none", text=text)
    ahead = [one for one in people if one.margin.ci95 is not None and one.margin.ci95[0] > 0]
    told = f"a person's own block explains {share} best, where guessing gives {lucky:.0%}"
    told += f"; for {len(ahead)} of {len(people)} people it is ahead of every other block with an interval above zero"
    if p.value <= LEVEL:
        return Verdict(
            kind="identity", text=f"identity: {told}; blocks dealt out by lot do as well with p = {p.value:.2g}"
        )
    if math.factorial(rows) * LEVEL < 1:
        why = f"with {rows} blocks even a perfect result comes by lot once in {math.factorial(rows)}: compare four or more"
    else:
        why = f"blocks dealt out by lot do as well with p = {p.value:.2g}, so it may be luck of these trainings"
    return Verdict(kind="suggestive", text=f"looks like identity, and is no proof: {told}; {why}")


def _bests(gains: Floats) -> NDArray[np.intp]:
    """In each of ``gains`` ``[n, rows]``, the row that is higher than every other; -1 where there is none."""
    highest = gains.max(axis=1, keepdims=True)
    alone = (gains == highest).sum(axis=1) == 1
    return np.where(alone, gains.argmax(axis=1), -1)


def _best(gains: Sequence[float] | Floats) -> int | None:
    found = int(_bests(np.asarray(gains)[None, :])[0])
    return found if found >= 0 else None


def _weights(files: int, name: str, seed: int) -> Floats:
    """``[resamples, files]``: how often each file is drawn. By the person's own name, so that the order of people changes nothing."""
    draw = np.random.default_rng([seed, int(sha256(name)[:12], 16)])
    return draw.multinomial(files, [1 / files] * files, size=RESAMPLES).astype(np.float64)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _intervals(resampled: Floats) -> list[tuple[float, float]]:
    return [_interval(resampled[:, row]) for row in range(resampled.shape[1])]
