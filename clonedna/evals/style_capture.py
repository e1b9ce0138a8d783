"""How far a block writes like its person: the person's hold-out, the base's and the block's answers to the same prompts, by their features.

``style.capture`` = 1 - distance(block, person) / distance(base, person): 1 would be the person's very code, 0 is no nearer than the
base, below 0 farther away. Base and block answer the same prompts with the same seeds, so an adapter of zeros has the base's answers and
exactly 0. The same after a formatter shows what is left when layout is taken away. All intervals resample prompts.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio
import numpy as np

from clonedna.core.block import Evaluation, Measure, not_available
from clonedna.core.model import Layer, SampleRequest
from clonedna.core.seams import Engine
from clonedna.core.style import StyleMove, StyleReport
from clonedna.core.work import Language, Pair
from clonedna.evals.likelihood import example_of
from clonedna.evals.style import LEAST_FEATURES, Array, Counts, count, differences, scale_source, values
from clonedna.evals.style_consistency import consistency
from clonedna.evals.style_layout import formatted, formatter
from clonedna.evals.style_table import features_of
from clonedna.evals.style_trees import Parse
from clonedna.evals.style_words import words

PROMPTS, LEAST_PROMPTS = 32, 8
ANSWER_TOKENS = 128
BYTES_A_TOKEN = 3.5
TEMPERATURE, TOP_P = 0.6, 0.95
RESAMPLES = 1000
LEAST_MOVE = 0.1
MOST_BROKEN = 0.5
MEASURES = (
    "style.capture", "style.capture.formatted", "style.capture.ceiling", "style.consistency",
    "style.distance.base", "style.distance.block", "style.broken.base", "style.broken.block",
)  # fmt: skip
_FENCE = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sides:
    """The three as counted, text by text in the order of the prompts (shape (prompts, features, 3) each)."""

    person: Counts
    base: Counts
    block: Counts


async def examine_style(
    engine: Engine, adapter: str, holdout: Sequence[Pair], parse: Parse | None, *, seed: int = 0
) -> Evaluation:
    """The report and the measures ``style.*``; not available, with the reason, where there is nothing to count."""
    language, chosen, rest = chosen_pairs(holdout, seed)
    why = _why_not(language, chosen, parse)
    if parse is None or language is None or why:
        return Evaluation(measures={name: not_available(why) for name in MEASURES})
    person = [clipped(pair.completion) for pair in chosen]
    base, base_cut = await answers(engine, chosen, (), seed)
    block, block_cut = await answers(engine, chosen, (Layer(adapter=adapter),), seed)
    sides = _counted(language, (person, base, block), parse)
    own = [pair.completion for pair in holdout if pair.language == language]
    always = {
        "style.consistency": consistency(own, language, parse, seed=seed),
        **{f"style.broken.{side}": _broken_measure(found, side) for side, found in (("base", sides.base), ("block", sides.block))},
    }  # fmt: skip
    for side, found in (("base", sides.base), ("block", sides.block)):
        if found.broken > MOST_BROKEN * found.size:
            why = f"{found.broken / found.size:.0%} of the {side}'s answers cannot be read as {language}"
            return Evaluation(measures={**{name: not_available(why) for name in MEASURES}, **always})
    report = _report(sides, (base_cut, block_cut), seed)
    measures = {
        "style.capture": capture(sides, seed=seed),
        "style.capture.formatted": _after_formatter(language, (person, base, block), parse, seed),
        "style.capture.ceiling": _ceiling(sides, [clipped(pair.completion) for pair in rest], parse, seed),
        "style.distance.base": _distance_measure(report.base_distance, report, "base"),
        "style.distance.block": _distance_measure(report.block_distance, report, "block"),
    }
    return Evaluation(measures={**measures, **always}, style=report)


def _broken_measure(found: Counts, side: str) -> Measure:
    return Measure(
        value=found.broken / found.size if found.size else 0.0, status="measured", n=len(found.sums), split="holdout",
        how=f"share of the bytes of the {side}'s answers that the parser can make no sense of",
    )  # fmt: skip


def chosen_pairs(holdout: Sequence[Pair], seed: int) -> tuple[Language | None, list[Pair], list[Pair]]:
    """The language of most hold-out pairs; at most 32 of its pairs, drawn with ``seed``, those first that fit an answer; as many others."""
    count_of: Counter[Language] = Counter(pair.language for pair in holdout if features_of(pair.language))
    if not count_of:
        return None, [], []
    language = min(count_of, key=lambda name: (-count_of[name], name))
    own = [pair for pair in holdout if pair.language == language]
    random.Random(f"{seed}:style").shuffle(own)  # noqa: S311 - a seeded draw, no secret
    own.sort(key=lambda pair: len(pair.completion.encode()) > ANSWER_TOKENS * BYTES_A_TOKEN)
    return language, own[:PROMPTS], own[PROMPTS : 2 * PROMPTS]


def _why_not(language: Language | None, chosen: Sequence[Pair], parse: Parse | None) -> str:
    if parse is None:
        return "no parser was lent to this examination"
    if language is None:
        return "the hold-out holds no code in a language whose style is counted (Python, JavaScript, TypeScript)"
    if len(chosen) < LEAST_PROMPTS:
        return f"only {len(chosen)} hold-out pairs in {language}; {LEAST_PROMPTS} are needed"
    return ""


def clipped(text: str) -> str:
    """At most as much of a person's code as an answer may have, in whole lines."""
    kept: list[str] = []
    room = int(ANSWER_TOKENS * BYTES_A_TOKEN)
    for line in text.splitlines(keepends=True):
        room -= len(line.encode("utf-8", "replace"))
        if room < 0 and kept:
            break
        kept.append(line)
    return "".join(kept)


async def answers(engine: Engine, pairs: Sequence[Pair], layers: tuple[Layer, ...], seed: int) -> tuple[list[str], int]:
    """An answer to each pair's prompt, at most 128 tokens long, each with its own seed; and how many ended only there."""
    found: dict[int, str] = {}
    cut = 0

    async def ask(i: int, pair: Pair) -> None:
        nonlocal cut
        example = example_of(pair)
        request = SampleRequest(
            messages=example.messages, tools=example.tools, layers=layers, max_tokens=ANSWER_TOKENS, temperature=TEMPERATURE, top_p=TOP_P,
            seed=1000 * seed + i, tool_choice="none",
        )  # fmt: skip
        chunks = [chunk async for chunk in engine.sample(request)]
        cut += any(chunk.finish == "length" for chunk in chunks)
        found[i] = code_of("".join(chunk.text for chunk in chunks))

    async with anyio.create_task_group() as group:
        for i, pair in enumerate(pairs):
            group.start_soon(ask, i, pair)
    return [found[i] for i in range(len(pairs))], cut


def code_of(answer: str) -> str:
    """The code of an answer: what stands in its first fence, else all of it."""
    fenced = _FENCE.search(answer)
    return fenced.group(1) if fenced else answer


def _counted(language: Language, texts: tuple[Sequence[str], Sequence[str], Sequence[str]], parse: Parse) -> Sides:
    person, base, block = (count(side, language, parse) for side in texts)
    if person is None or base is None or block is None:
        raise ValueError(f"{language} is not parsed")
    return Sides(person, base, block)


def _apart(sides: Sides, sums: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Differences of base and of block from the person, feature by feature: shape (..., features), NaN where one of them is missing."""
    language = sides.person.language
    person, base, block = (values(language, side) for side in sums)
    from_base, from_block = differences(language, base, person), differences(language, block, person)
    gone = np.isnan(from_base) | np.isnan(from_block)
    return np.where(gone, np.nan, from_base), np.where(gone, np.nan, from_block)


def _totals(sides: Sides) -> tuple[Array, Array, Array]:
    return sides.person.sums.sum(axis=0), sides.base.sums.sum(axis=0), sides.block.sums.sum(axis=0)


def _resampled(sides: Sides, seed: int) -> tuple[Array, Array, Array]:
    """Sums of 1,000 draws of prompts with replacement, the same draws for all three: shape (draws, features, 3) each."""
    prompts = len(sides.person.sums)
    weights = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES)
    person, base, block = (
        np.einsum("rp,pfs->rfs", weights.astype(float), side.sums) for side in (sides.person, sides.base, sides.block)
    )
    return person, base, block


def _mean_over(apart: Array, compared: Array) -> Array:
    """The mean over the ``compared`` features that are there, NaN where none is. Shape (...)."""
    kept = np.where(compared, apart, np.nan)
    n = (~np.isnan(kept)).sum(axis=-1)
    return np.where(n > 0, np.nansum(kept, axis=-1) / np.maximum(n, 1), np.nan)


def capture(sides: Sides, *, seed: int = 0, what: str = "") -> Measure:
    """1 - distance(block, person) / distance(base, person), and the percentile bootstrap's 95 % interval over prompts.

    Not available with fewer than eight features in common, and where the base is at distance 0.
    """
    from_base, from_block = _apart(sides, _totals(sides))
    compared = ~np.isnan(from_base)
    if compared.sum() < LEAST_FEATURES:
        return not_available(
            f"only {compared.sum()} features that person, base and block all have; {LEAST_FEATURES} are needed"
        )
    base, block = float(_mean_over(from_base, compared)), float(_mean_over(from_block, compared))
    if base == 0.0:
        return not_available("the base is at no distance from the person by these features")
    drawn_base, drawn_block = _apart(sides, _resampled(sides, seed))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = 1.0 - _mean_over(drawn_block, compared) / _mean_over(drawn_base, compared)
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return Measure(
        value=1.0 - block / base, status="measured", n=len(sides.person.sums), split="holdout", ci95=(float(low), float(high)),
        how=f"1 - distance(block, person) / distance(base, person) over {compared.sum()} features{what}; bootstrap over prompts",
    )  # fmt: skip


def _after_formatter(
    language: Language, texts: tuple[Sequence[str], Sequence[str], Sequence[str]], parse: Parse, seed: int
) -> Measure:
    """``capture`` of the same texts as a formatter writes them; texts that it cannot read count for nothing on their side."""
    name = formatter(language)
    if name is None:
        return not_available(f"no formatter of {language} is at hand as a Python library")
    written = [[formatted(language, text, parse) for text in side] for side in texts]
    read = [sum(text is not None for text in side) for side in written]
    if min(read) < LEAST_PROMPTS:
        return not_available(
            f"{name} can read {read[0]} of the person's texts, {read[1]} of the base's and {read[2]} of the block's; "
            f"{LEAST_PROMPTS} of each are needed"
        )
    person, base, block = ([text or "" for text in side] for side in written)
    sides = _counted(language, (person, base, block), parse)
    return capture(
        sides, seed=seed, what=f" after {name}, which reads {read[0]}, {read[1]} and {read[2]} texts of person, base and block"
    )  # fmt: skip


def _ceiling(sides: Sides, others: Sequence[str], parse: Parse, seed: int) -> Measure:
    """What other held-out code of the same person would score in the block's place: as near as this many texts can show."""
    if len(others) < LEAST_PROMPTS:
        return not_available(f"only {len(others)} more hold-out pairs of this language; {LEAST_PROMPTS} are needed")
    found = count(others, sides.person.language, parse)
    if found is None:
        return not_available(f"{sides.person.language} is not parsed")
    # As many texts as there are prompts: the others again from the beginning where they are fewer.
    repeated = np.resize(found.sums, sides.person.sums.shape) if len(others) else found.sums
    return capture(
        replace(sides, block=replace(found, sums=repeated)), seed=seed, what=f", {len(others)} other held-out texts of the person as block"
    )  # fmt: skip


def _distance_measure(value: float | None, report: StyleReport, side: str) -> Measure:
    if value is None:
        return not_available("too few features in common")
    return Measure(
        value=value, status="measured", n=report.prompts, split="holdout",
        how=f"mean difference of the {side}'s answers from the person over {len(report.compared)} features, in units of the {report.scale}",
    )  # fmt: skip


def _report(sides: Sides, cut: tuple[int, int], seed: int) -> StyleReport:
    from_base, from_block = _apart(sides, _totals(sides))
    compared = ~np.isnan(from_base)
    enough = bool(compared.sum() >= LEAST_FEATURES)
    rows = features_of(sides.person.language)
    return StyleReport(
        language=sides.person.language, prompts=len(sides.person.sums), cut=cut,
        person=sides.person.profile(), base=sides.base.profile(), block=sides.block.profile(),
        base_distance=float(_mean_over(from_base, compared)) if enough else None,
        block_distance=float(_mean_over(from_block, compared)) if enough else None,
        compared=tuple(row.name for row, one in zip(rows, compared, strict=True) if one),
        scale=scale_source(sides.person.language), moves=moves(sides, seed),
    )  # fmt: skip


def moves(sides: Sides, seed: int) -> tuple[StyleMove, ...]:
    """The features on which block and base surely differ in distance from the person: 95 % interval without 0, 0.1 spreads or more."""
    totals, language = _totals(sides), sides.person.language
    found = [values(language, side) for side in totals]
    from_base, from_block = _apart(sides, totals)
    drawn_base, drawn_block = _apart(sides, _resampled(sides, seed))
    made: list[StyleMove] = []
    for i, row in enumerate(features_of(language)):
        move, drawn = float(from_base[i] - from_block[i]), drawn_base[:, i] - drawn_block[:, i]
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(move) or abs(move) < LEAST_MOVE or len(drawn) < RESAMPLES / 2:
            continue
        low, high = (float(edge) for edge in np.percentile(drawn, [2.5, 97.5]))
        if low <= 0.0 <= high:
            continue
        person, base, block = (float(side[i]) for side in found)
        n = (int(totals[0][i, 0]), int(totals[1][i, 0]), int(totals[2][i, 0]))
        said = words(row, person=person, base=base, block=block, move=move)
        made.append(
            StyleMove(
                feature=row.name,
                unit=row.unit,
                person=person,
                base=base,
                block=block,
                n=n,
                move=move,
                ci95=(low, high),
                words=said,
            )
        )
    return tuple(sorted(made, key=lambda one: (-abs(one.move), one.feature)))
