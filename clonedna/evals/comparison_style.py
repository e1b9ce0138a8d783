"""Do two blocks write alike, and does each write like its own person? The style of their answers to the same held-out tasks.

Distances are those of ``clonedna.evals.style``: mean difference of features in spreads between people, so about 1 between two people. They
have no interval: noise in either side only adds to a distance. What has one is the contrast: how much nearer one block's answers are to a
person than the other's, over the same prompts and features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.comparison import SideBySide
from clonedna.core.work import Language, Pair
from clonedna.evals.style import LEAST_FEATURES, Array, Counts, count, differences, distance, scale_source, values
from clonedna.evals.style_capture import LEAST_PROMPTS, RESAMPLES, clipped, code_of
from clonedna.evals.style_table import features_of
from clonedna.evals.style_trees import Parse

DISTANCES = {
    "style.answers": ("a", "b", "the first block's answers and the second's"),
    "style.persons": ("person_a", "person_b", "the first person's held-out code and the second's"),
    "style.a.person_a": ("a", "person_a", "the first block's answers and its own person"),
    "style.a.person_b": ("a", "person_b", "the first block's answers and the second person"),
    "style.b.person_a": ("b", "person_a", "the second block's answers and the first person"),
    "style.b.person_b": ("b", "person_b", "the second block's answers and its own person"),
    "style.base.person_a": ("base", "person_a", "the base's answers and the first person"),
    "style.base.person_b": ("base", "person_b", "the base's answers and the second person"),
    "style.base_b.person_b": ("base_b", "person_b", "the second block's base's answers and the second person"),
}
CONTRASTS = {
    "style.nearer.person_a": ("person_a", "a", "b", "how much nearer the first block is to its own person than the second block is"),
    "style.nearer.person_b": ("person_b", "b", "a", "how much nearer the second block is to its own person than the first block is"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bodies:
    """What is compared, counted text by text: answers in the order of the prompts, and each person's held-out code."""

    language: Language
    prompts: int
    counts: dict[str, Counts]


def style_measures(
    answers: Sequence[SideBySide], person_a: Sequence[Pair], person_b: Sequence[Pair], parse: Parse | None, *, seed: int = 0
) -> dict[str, Measure]:  # fmt: skip
    """``style.*`` from answers to held-out tasks, in the language of most of them; not available with the reason.

    ``style.nearer.*``: the percentile bootstrap's 95 % interval, drawing prompts (for both blocks the same) and the person's texts.
    """
    found = _bodies(answers, person_a, person_b, parse)
    names = [name for name in DISTANCES if name != "style.base_b.person_b" or any(one.base_b for one in answers)]
    if isinstance(found, str):
        return dict.fromkeys((*names, *CONTRASTS), not_available(found))
    profiles = {name: counts.profile() for name, counts in found.counts.items()}
    scale = scale_source(found.language)
    measures: dict[str, Measure] = {}
    for name in names:
        one, other, what = DISTANCES[name]
        apart = distance(profiles[one], profiles[other])
        measures[name] = (
            not_available(f"fewer than {LEAST_FEATURES} features of {found.language} that both have")
            if apart is None
            else Measure(
                value=apart, status="measured", n=found.prompts, split="holdout",
                how=f"distance of style between {what}, {found.language}; unit: {scale}",
            )
        )  # fmt: skip
    return measures | {name: _contrast(found, *CONTRASTS[name], seed) for name in CONTRASTS}


def _bodies(
    answers: Sequence[SideBySide], person_a: Sequence[Pair], person_b: Sequence[Pair], parse: Parse | None
) -> Bodies | str:
    """Counted, or why not."""
    if parse is None:
        return "no parser was lent"
    spoken: Counter[Language] = Counter(
        pair.language for side in (person_a, person_b) for pair in side if features_of(pair.language)
    )
    asked = Counter(one.language for one in answers if one.of != "given" and one.language in spoken)
    if not asked:
        return "no prompt of held-out work is in a language whose style is counted (Python, JavaScript, TypeScript)"
    language = min(spoken, key=lambda name: (-asked[name], name))
    chosen = [one for one in answers if one.of != "given" and one.language == language]
    if len(chosen) < LEAST_PROMPTS:
        return f"{len(chosen)} prompts of held-out {language}; {LEAST_PROMPTS} are needed: raise --prompts"
    texts = {
        "a": [code_of(one.a.text) for one in chosen],
        "b": [code_of(one.b.text) for one in chosen],
        "base": [code_of(one.base.text) for one in chosen],
        "base_b": [code_of(one.base_b.text) for one in chosen if one.base_b],
        "person_a": [clipped(pair.completion) for pair in person_a if pair.language == language],
        "person_b": [clipped(pair.completion) for pair in person_b if pair.language == language],
    }
    counts: dict[str, Counts] = {}
    for name, side in texts.items():
        counted = count(side, language, parse)
        if counted is None:
            return f"{language} is not parsed"
        counts[name] = counted
    return Bodies(language, len(chosen), counts)


def _contrast(found: Bodies, person: str, near: str, far: str, what: str, seed: int) -> Measure:
    """Distance of ``far`` from the person minus that of ``near``, over the features that all three have; in spreads between people."""
    sides = [found.counts[name].sums for name in (person, near, far)]
    apart = _apart(found.language, [side.sum(axis=0) for side in sides])
    compared = ~np.isnan(apart)
    if compared.sum() < LEAST_FEATURES:
        return not_available(f"only {compared.sum()} features that all three have; {LEAST_FEATURES} are needed")
    draw = np.random.default_rng(seed)
    prompts, texts = _drawn(draw, len(sides[1])), _drawn(draw, len(sides[0]))
    drawn = _apart(
        found.language, [np.einsum("rp,pfs->rfs", weights, side) for weights, side in zip((texts, prompts, prompts), sides, strict=True)]
    )  # fmt: skip
    there = compared & ~np.isnan(drawn)
    n = there.sum(axis=1)
    means = np.where(there, drawn, 0.0).sum(axis=1)[n > 0] / n[n > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return Measure(
        value=float(apart[compared].mean()), status="measured", n=found.prompts, split="holdout", ci95=(float(low), float(high)),
        how=f"{what}, {found.language}, {compared.sum()} features, in spreads between people; bootstrap over prompts and held-out texts",
    )  # fmt: skip


def _apart(language: Language, sums: Sequence[Array]) -> Array:
    """``|far - person| - |near - person|`` by feature, NaN where one is missing; ``sums``: those of all three, (..., features, 3)."""
    person, near, far = (values(language, side) for side in sums)
    return differences(language, far, person) - differences(language, near, person)


def _drawn(draw: np.random.Generator, many: int) -> Array:
    """How often each of ``many`` texts is in each resample."""
    return draw.multinomial(many, np.full(many, 1 / many), size=RESAMPLES).astype(np.float64)
