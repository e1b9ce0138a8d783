"""Is a version that continues another better than it: the measures, and the rule that decides. No rule here looks at anything but numbers.

``R(v, h)`` is the mean log-likelihood (nats a completion token) that version v gives to hold-out h. Measured on the new hold-out and on
the hold-outs of the versions before, which no later version was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import Evaluation, GateVerdict, Measure, not_available
from clonedna.core.model import Layer
from clonedna.core.seams import Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import MIN_CLUSTERS, RESAMPLES, paired_gain
from clonedna.evals.likelihood import example_of, file_of
from clonedna.mint.continuing import own_holdout

NEW_GAIN, OLD_CHANGE, BACKWARD = "continue.new_gain", "continue.old_change", "continue.backward_transfer"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Terms:
    """Of the spans of one hold-out: nats under the version before and under the new one, completion tokens, and the file of each."""

    before: Sequence[float]
    now: Sequence[float]
    tokens: Sequence[int]
    files: Sequence[str]

    @property
    def difference(self) -> Floats:
        return np.asarray(self.before, dtype=np.float64) - np.asarray(self.now, dtype=np.float64)

    @property
    def weight(self) -> Floats:
        return np.asarray(self.tokens, dtype=np.float64)

    def by_file(self) -> tuple[Floats, Floats]:
        """Difference and weight summed over the spans of each file."""
        names = sorted(set(self.files))
        inside = np.asarray([[file == name for file in self.files] for name in names], dtype=np.float64)
        return inside @ self.difference, inside @ self.weight


class ContinueLimits(Value):
    """Least gain over the version before on the new hold-out that the interval must lie above, and how far the interval on its old
    hold-out may reach below zero; nats a token.

    ``old``: 0.02 nats are 2 % of perplexity. An interval of some thirty spans is about so wide when nothing changed, so a stricter rule
    would reject for lack of data, and a looser one would let each version lose a little.
    """

    new: float = 0.0
    old: float = 0.02


class Ancestor(Value):
    """A version before: its id, ``name@version``, and what the engine calls its adapter (``None``: it is no longer on this machine)."""

    id: str
    reference: str
    adapter: str | None


async def compare_with_ancestors(
    engine: Engine, adapter: str, ancestors: Sequence[Ancestor], pairs: Sequence[Pair], *, seed: int = 0
) -> Evaluation:
    """``continue.new_gain``, ``continue.old_change`` and ``continue.backward_transfer`` of ``adapter`` (an id of the engine's).

    ``ancestors``: the version that is continued first, which must be loaded. Backward transfer (Lopez-Paz & Ranzato 2017, there of
    accuracies) is the mean over the versions before, each on its own hold-out h_k: R(new, h_k) - R(k, h_k); below zero is forgetting.
    Intervals: as ``mean_gain`` has them.
    """
    parent = ancestors[0]

    async def terms(version: Ancestor, holdout: Sequence[Pair]) -> Terms:
        examples = [example_of(pair) for pair in holdout]
        before = await engine.nll(examples, [Layer(adapter=version.adapter or "")])
        now = await engine.nll(examples, [Layer(adapter=adapter)])
        files = [file_of(pair) for pair in holdout]
        return Terms([s.nll for s in before], [s.nll for s in now], [s.tokens for s in now], files)

    new = own_holdout(pairs)
    here = [version for version in ancestors if version.adapter is not None]
    old = {v.id: await terms(v, held) for v in here if (held := own_holdout(pairs, v.id))}
    gone = ", ".join(version.reference for version in ancestors if version.adapter is None)
    then = f"mean over {len(ancestors)} versions before: nats a token over each one on its own hold-out"
    measures = {
        NEW_GAIN: _measure(
            [await terms(parent, new)] if new else [], "holdout", f"nats a token over {parent.reference} on the new hold-out", seed
        ),
        OLD_CHANGE: _measure(
            [old[parent.id]] if parent.id in old else [], "old holdout",
            f"nats a token over {parent.reference} on the hold-out of {parent.reference}; below zero it fell", seed,
        ),
        BACKWARD: not_available(f"no longer on this machine: {gone}")
        if gone
        else _measure(list(old.values()), "old holdouts", then, seed),
    }  # fmt: skip
    return Evaluation(measures=measures)


def judge_continued(
    verdict: GateVerdict, measures: Mapping[str, Measure], limits: ContinueLimits | None = None
) -> GateVerdict:
    """The ordinary gate's ``verdict``, and rejected also unless the new hold-out surely improved and the old one surely did not fall."""
    limits = limits or ContinueLimits()
    reasons: list[str] = []
    new, old = measures.get(NEW_GAIN), measures.get(OLD_CHANGE)
    if new is None or new.ci95 is None:
        reasons.append(f"the gain on new work is not known: {new.how if new else 'not measured'}")
    elif new.ci95[0] <= limits.new:
        reasons.append(f"no sure gain on new work: {_shown(new)}")
    if old is None or old.ci95 is None:
        reasons.append(f"what became of the old hold-out is not known: {old.how if old else 'not measured'}")
    elif old.ci95[0] < -limits.old:
        reasons.append(f"the old hold-out may have fallen by more than {limits.old} nats a token: {_shown(old)}")
    found = (*verdict.reasons, *reasons)
    return GateVerdict(status="rejected" if reasons else verdict.status, reasons=found)


def mean_gain(parts: Sequence[Terms], *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean over ``parts`` of the gain in nats a token, and its 95 % interval; of one part, exactly ``paired_gain``.

    Percentile bootstrap (Efron 1979): each resample draws spans with replacement within every part; where every part has at least five
    files, whole files are drawn as well and the wider interval is given. Raises ``ValueError`` for no parts, or an empty one.
    """
    if len(parts) == 1:
        one = parts[0]
        return paired_gain(one.before, one.now, one.tokens, seed=seed, clusters=one.files)
    if not parts or any(not part.tokens for part in parts):
        raise ValueError("need at least one part, and in each at least one span")
    spans = [(part.difference, part.weight) for part in parts]
    files = [part.by_file() for part in parts]
    intervals = [_interval(spans, seed)]
    if all(len(weight) >= MIN_CLUSTERS for _, weight in files):
        intervals.append(_interval(files, seed))
    value = sum(float(difference.sum() / weight.sum()) for difference, weight in spans) / len(spans)
    return value, max(intervals, key=lambda ends: ends[1] - ends[0])


def _interval(parts: Sequence[tuple[Floats, Floats]], seed: int) -> tuple[float, float]:
    draw, total = np.random.default_rng(seed), np.zeros(RESAMPLES)
    for difference, weight in parts:
        drawn = draw.integers(0, len(difference), size=(RESAMPLES, len(difference)))
        total += difference[drawn].sum(axis=1) / weight[drawn].sum(axis=1)
    low, high = np.percentile(total / len(parts), [2.5, 97.5])
    return float(low), float(high)


def _measure(parts: Sequence[Terms], split: str, what: str, seed: int) -> Measure:
    if not parts:
        return not_available("there is no such hold-out")
    value, interval = mean_gain(parts, seed=seed)
    return Measure(
        value=value, status="measured", n=sum(len(part.tokens) for part in parts), split=split,
        how=f"{what}; 95 % paired bootstrap over spans and files", ci95=interval,
    )  # fmt: skip


def _shown(measure: Measure) -> str:
    low, high = measure.ci95 or (float("nan"), float("nan"))
    return f"{measure.value:+.4f} nats a token, 95 % interval [{low:+.4f}, {high:+.4f}], n = {measure.n}"
