"""Does the adapter repeat its training code word for word?"""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio

from clonedna.core.block import Measure
from clonedna.core.model import Layer, SampleRequest
from clonedna.core.seams import Engine
from clonedna.core.work import Pair

PROMPT_TOKENS = 32
REPEATED_TOKENS = 50


async def memorisation(
    engine: Engine, adapter: str, trained: Sequence[Pair], *, prompts: int = 24, seed: int = 0
) -> dict[str, Measure]:
    """``memorisation.rate`` (adapter), ``memorisation.base`` and ``memorisation.excess`` = the first minus the second.

    The first 32 tokens of a training completion are the prompt; a hit is a greedy continuation whose first 50 tokens stand word for
    word in that completion. A run of 50 needs a longer completion, so shorter ones are not asked. ``prompts`` completions are drawn
    with ``seed``; with none long enough the measures are not available.
    """
    long_enough = [pair for pair in trained if len(pair.completion) > 4 * (PROMPT_TOKENS + REPEATED_TOKENS)]
    chosen = random.Random(seed).sample(long_enough, min(prompts, len(long_enough)))  # noqa: S311 - a seeded draw, no secret
    if not chosen:
        gone = Measure(
            value=None, status="not_available", how="no training completion is long enough to repeat 50 tokens of it"
        )
        return {"memorisation.rate": gone, "memorisation.base": gone, "memorisation.excess": gone}
    hits = [await _hits(engine, chosen, layers) for layers in ((Layer(adapter=adapter),), ())]
    how = f"share of training completions whose greedy continuation from {PROMPT_TOKENS} tokens repeats {REPEATED_TOKENS} tokens verbatim"

    def measured(value: float, what: str) -> Measure:
        return Measure(value=value, status="measured", n=len(chosen), split="train", how=f"{what}: {how}")

    return {
        "memorisation.rate": measured(hits[0] / len(chosen), "adapter"),
        "memorisation.base": measured(hits[1] / len(chosen), "base"),
        "memorisation.excess": measured((hits[0] - hits[1]) / len(chosen), "adapter minus base"),
    }


async def _hits(engine: Engine, pairs: Sequence[Pair], layers: tuple[Layer, ...]) -> int:
    found: list[bool] = []

    async def ask(pair: Pair) -> None:
        request = SampleRequest(
            prompt=pair.completion,
            prompt_limit=PROMPT_TOKENS,
            layers=layers,
            max_tokens=REPEATED_TOKENS,
            temperature=0.0,
        )
        chunks = [chunk async for chunk in engine.sample(request)]
        text = "".join(chunk.text for chunk in chunks)
        tokens = max((chunk.completion_tokens or 0) for chunk in chunks) if chunks else 0
        found.append(tokens >= REPEATED_TOKENS and text in pair.completion)

    async with anyio.create_task_group() as group:
        for pair in pairs:
            group.start_soon(ask, pair)
    return sum(found)
