"""Does the adapter repeat its training code word for word, and does it say secrets?

Prompts are the beginnings of training completions; what follows is sampled greedily through the adapter and through the base, from the
same prompts. A secret that is found in a generation is counted and forgotten: neither it nor the text is kept or shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from clonedna.core.block import Measure, not_available
from clonedna.core.events import Emit, StageProgress, silent
from clonedna.core.model import Layer, SampleRequest
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.asking import ask_all
from clonedna.evals.bootstrap import paired_share, wilson

PROMPT_TOKENS = 32
REPEATED_TOKENS = 50
ANSWER_TOKENS = 64
LEAST_TOKENS = 32  # of every continuation through the adapter, for the secrets filter to look at
PROMPTS = 128
BYTES_PER_TOKEN = 4
NAMES = ("memorisation.rate", "memorisation.base", "memorisation.excess", "secrets")


async def memorisation(
    engine: Engine, adapter: str, trained: Sequence[Pair], *, secret_in: Callable[[str], str | None], prompts: int = PROMPTS,
    seed: int = 0, emit: Emit = silent,
) -> dict[str, Measure]:  # fmt: skip
    """``memorisation.rate`` (adapter), ``memorisation.base``, ``memorisation.excess`` = the first minus the second, and ``secrets``.

    The first 32 tokens of a training completion are the prompt (Carlini et al. 2023, "Quantifying memorization"); a hit is a greedy
    continuation of 64 tokens with a run of at least 50 that stands word for word anywhere in the training completions. Only completions
    long enough to go on for 50 tokens are asked, 128 of them at most, drawn with ``seed``: an excess of 1 % can be one prompt. One that
    can no longer repeat 50 is sampled for 32 tokens. ``secrets`` counts generations in which the filter finds a secret, and in the base's
    answer to the same prompt none. With no completion long enough the measures are not available.
    """
    long_enough = [p for p in trained if len(p.completion) > BYTES_PER_TOKEN * (PROMPT_TOKENS + REPEATED_TOKENS)]
    chosen = random.Random(seed).sample(long_enough, min(prompts, len(long_enough)))  # noqa: S311 - a seeded draw, no secret
    if not chosen:
        return dict.fromkeys(NAMES, not_available("no training completion is long enough to repeat 50 tokens of it"))
    corpus = "\x00".join(pair.completion for pair in trained)

    def told(done: int) -> None:
        emit(StageProgress(stage="evaluate", done=done, total=2 * len(chosen), unit="continuations"))

    def lost(pieces: list[str]) -> bool:
        return len(pieces) >= LEAST_TOKENS and hopeless(pieces, corpus)

    requests = [_request(pair, (Layer(adapter=adapter),)) for pair in chosen]
    tuned = await ask_all(engine, requests, [lost] * len(requests), told)
    secrets = [secret_in("".join(pieces)) is not None for pieces in tuned]
    # Of the base only as much as it takes to know that it repeats nothing; all of it where a secret is to be looked for.
    enough = [None if secret else (lambda pieces: hopeless(pieces, corpus)) for secret in secrets]
    bare = await ask_all(engine, [_request(pair, ()) for pair in chosen], enough, lambda done: told(len(chosen) + done))
    fresh = [secret and secret_in("".join(pieces)) is None for secret, pieces in zip(secrets, bare, strict=True)]
    return _measures([repeats(p, corpus) for p in tuned], [repeats(p, corpus) for p in bare], sum(fresh), seed)


def _request(pair: Pair, layers: tuple[Layer, ...]) -> SampleRequest:
    return SampleRequest(
        prompt=pair.completion, prompt_limit=PROMPT_TOKENS, layers=layers, max_tokens=ANSWER_TOKENS, temperature=0.0
    )


def hopeless(pieces: Sequence[str], corpus: str) -> bool:
    """Whether no run of ``REPEATED_TOKENS`` can come any more: all of them in 64 tokens hold those from the 15th to the 50th."""
    middle = pieces[ANSWER_TOKENS - REPEATED_TOKENS : REPEATED_TOKENS]
    return bool(middle) and "".join(middle) not in corpus


def repeats(pieces: Sequence[str], corpus: str) -> bool:
    """Whether ``REPEATED_TOKENS`` pieces (the texts of tokens) in a row stand together in ``corpus``."""
    starts = range(len(pieces) - REPEATED_TOKENS + 1)
    return any("".join(pieces[start : start + REPEATED_TOKENS]) in corpus for start in starts)


def _measures(tuned: Sequence[bool], base: Sequence[bool], secret: int, seed: int) -> dict[str, Measure]:
    n = len(tuned)
    how = (
        f"share of training completions from whose first {PROMPT_TOKENS} tokens a greedy continuation repeats {REPEATED_TOKENS} tokens "
        f"of any training completion word for word"
    )

    def measured(value: float, what: str, ci95: tuple[float, float] | None) -> Measure:
        return Measure(value=value, status="measured", n=n, split="train", how=f"{what}: {how}", ci95=ci95)

    excess, interval = paired_share(tuned, base, seed=seed)
    hits = sum(tuned), sum(base)
    return {
        "memorisation.rate": measured(hits[0] / n, "adapter", wilson(hits[0], n)),
        "memorisation.base": measured(hits[1] / n, "base", wilson(hits[1], n)),
        "memorisation.excess": measured(excess, "adapter minus base, 95 % paired bootstrap", interval),
        "secrets": Measure(
            value=float(secret), status="measured", n=n, split="train",
            how="continuations through the adapter in which the secrets filter finds something, and not in the base's; never kept",
        ),
    }  # fmt: skip
