"""Likelihood of held-out completions, with and without the adapter.

The base is measured with no adapter at all. All figures are per completion token (nats) or per UTF-8 byte (bits), over the same
tokens on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from clonedna.core.block import EvalSpan, Measure
from clonedna.core.model import Example, Layer, Message
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import MIN_CLUSTERS, paired_gain


def example_of(pair: Pair) -> Example:
    """A pair as the engine sees it: one user turn (or the turns it was given with), the verbatim answer, without its last line end.

    An answer ends with the end-of-turn token. A line end before it would be a format that any adapter learns from one example:
    the base pays about 11 nats for it, which would count as gain and say nothing about the person.
    """
    completion = pair.completion.removesuffix("\n").removesuffix("\r")
    messages = pair.messages or (Message(role="user", content=pair.instruction),)
    return Example(messages=messages, tools=pair.tools, completion=completion)


def file_of(pair: Pair) -> str:
    """What a pair's file is called, across repositories: the cluster that its span belongs to."""
    return f"{pair.provenance.url}:{pair.provenance.path}"


async def score_pairs(engine: Engine, pairs: Sequence[Pair], adapter: str) -> tuple[EvalSpan, ...]:
    """Each pair's summed NLL under the base and under ``adapter`` (an id the engine gave). Same order as ``pairs``."""
    examples = [example_of(pair) for pair in pairs]
    base = await engine.nll(examples)
    tuned = await engine.nll(examples, [Layer(adapter=adapter)])
    return tuple(
        EvalSpan(pair=pair.id, tokens=b.tokens, bytes=b.bytes, base=b.nll, adapter=t.nll)
        for pair, b, t in zip(pairs, base, tuned, strict=True)
    )


def likelihood_measures(
    spans: Sequence[EvalSpan], *, files: Sequence[str] | None = None, split: str = "holdout", seed: int = 0
) -> dict[str, Measure]:
    """``nll.*``, ``bits_per_byte.*`` and ``perplexity_reduction_ratio`` (exp(nll.base) / exp(nll.adapter)) from the raw terms.

    ``nll.delta`` is base minus adapter: above zero the adapter explains the person's code better than the base does.
    ``files``: each span's file, for an interval that knows that spans of one file are alike. Raises ``ValueError`` for no spans.
    """
    n, tokens, size = len(spans), sum(s.tokens for s in spans), sum(s.bytes for s in spans)
    base, tuned = sum(s.base for s in spans), sum(s.adapter for s in spans)
    delta, interval = paired_gain(
        [s.base for s in spans], [s.adapter for s in spans], [s.tokens for s in spans], seed=seed, clusters=files
    )
    how = "completion tokens of held-out pairs, teacher-forced"
    over = (
        f"spans and over {len(set(files))} files, the wider one"
        if files and len(set(files)) >= MIN_CLUSTERS
        else "spans"
    )

    def measured(value: float, what: str, ci: tuple[float, float] | None = None) -> Measure:
        return Measure(value=value, status="measured", n=n, split=split, how=f"{what}; {how}", ci95=ci)

    bits = math.log(2)
    return {
        "nll.base": measured(base / tokens, "mean nats a token, base without any adapter"),
        "nll.adapter": measured(tuned / tokens, "mean nats a token through the adapter"),
        "nll.delta": measured(delta, f"nll.base - nll.adapter, 95 % paired bootstrap over {over}", interval),
        "perplexity_reduction_ratio": measured(
            math.exp(delta), "exp(nll.base) / exp(nll.adapter)", (math.exp(interval[0]), math.exp(interval[1]))
        ),
        "bits_per_byte.base": measured(base / bits / size, "bits a UTF-8 byte, base"),
        "bits_per_byte.adapter": measured(tuned / bits / size, "bits a UTF-8 byte, adapter"),
    }
