"""What a request through the adapter costs in time, on this machine and this engine.

A time is no property of a block: it is measured in ``dna eval NAME --full``, kept in the home, and never written into a block, whose files
hold nothing that differs from machine to machine.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.events import Emit, StageProgress, silent
from clonedna.core.model import Layer, SampleRequest
from clonedna.core.seams import Engine

ROUNDS = 16
TOKENS = 40
RESAMPLES = 4000
PROMPTS = (
    "def mean(values):\n    ", "class Queue:\n    def __init__(self):\n        ", "import json\n\n\ndef load(path):\n    ",
    "for row in rows:\n    ",
)  # fmt: skip


async def latency(
    engine: Engine, adapter: str, *, rounds: int = ROUNDS, seed: int = 0, emit: Emit = silent
) -> dict[str, Measure]:
    """``latency_overhead_ms``: median time between two tokens through the adapter minus that without it; both beside it.

    In each round one prompt is continued by 40 greedy tokens with the adapter and without, in turns; a round gives one median of the gaps
    on each side, the measure is the median of the rounds' differences. The interval resamples rounds (percentile bootstrap). The first
    round only warms up. One request runs at a time, alone on the engine; a busy machine widens the interval.
    """
    taken: list[tuple[float, float]] = []
    for i in range(rounds + 1):
        prompt, tuned = PROMPTS[i % len(PROMPTS)], (Layer(adapter=adapter),)
        order = (tuned, ()) if i % 2 else ((), tuned)
        times = {bool(layers): await _gap(engine, prompt, layers) for layers in order}
        if i and None not in times.values():
            taken.append((times[True] or 0.0, times[False] or 0.0))
        emit(StageProgress(stage="evaluate", done=i, total=rounds, unit="rounds"))
    names = ("latency_overhead_ms", "latency.adapter_ms", "latency.base_ms")
    if len(taken) < rounds // 2:
        return dict.fromkeys(names, not_available("the completions were too short to time"))
    both = np.asarray(taken) * 1000
    draws = np.random.default_rng(seed).integers(0, len(both), size=(RESAMPLES, len(both)))
    how = f"median gap between tokens, {TOKENS} greedy tokens a round, interleaved, on {engine.base.device}, {engine.base.threads} threads"
    series = dict(zip(names, (both[:, 0] - both[:, 1], both[:, 0], both[:, 1]), strict=True))
    found: dict[str, Measure] = {}
    for name, values in series.items():
        low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
        found[name] = Measure(
            value=float(np.median(values)), status="measured", n=len(values), split="prompts", how=how,
            ci95=(float(low), float(high)),
        )  # fmt: skip
    return found


async def _gap(engine: Engine, prompt: str, layers: tuple[Layer, ...]) -> float | None:
    """Median seconds between two tokens; ``None`` for fewer than three."""
    request = SampleRequest(prompt=prompt, layers=layers, max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    times = [time.perf_counter() async for chunk in engine.sample(request) if chunk.token is not None]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return statistics.median(gaps) if len(gaps) > 1 else None
