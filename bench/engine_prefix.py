"""Is a shared prompt's beginning ever served to the wrong adapter? `python -m bench.engine_prefix`.

Eight requests with one system prompt of 256 tokens, each through its own adapter (of 16 that are loaded), asked for twice over, all at
once, after the base was asked with the same prompt: keys and values of that prompt lie ready, and must not be used across adapters.
``prefix_exact``: share of the answers whose tokens are those of a fresh engine that keeps no prefixes and answers one request at a time.
``prefix_exact_cb``: the same of transformers' continuous batching with block sharing under PEFT, as well as it can be asked: one
manager, one request at a time, ``set_adapter`` before each. ``prefix_exact_cb_adapter_names``: all at once with PEFT's ``adapter_names``.
Both against the same manager without sharing, a fresh one for each adapter. ``prefix_exact_cb_base``, a control: requests to the base
alone, with sharing against without. ``prefix_speed``: seconds of the eight requests in an engine that keeps nothing, by those of one that
has their prefixes. Base: ``narrow``, greedy, 24 tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from bench import models
from bench.common import Report, arguments, by_turns, figure, quiet, say
from bench.ours import Ours, requests
from clonedna.core.model import SampleRequest

SHARED, OWN, NEW, ASKED, LOADED = 256, 16, 24, 8, 16
Answers = list[list[int]]


def right(given: Answers, wanted: Answers) -> float:
    return figure(sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted))


def cached(ours: Ours, asked: Sequence[SampleRequest]) -> int:
    """Prompt tokens that these requests found ready."""

    async def one(request: SampleRequest) -> int:
        return sum([chunk.cached_tokens or 0 async for chunk in ours.engine.sample(request)])

    return sum(ours.wait(one(request)) for request in asked)


class Stock:
    """transformers' continuous batching over a model with PEFT's adapters in it."""

    def __init__(self, base: Path, directories: Sequence[Path]) -> None:
        self.names = [f"a{i}" for i in range(len(directories))]
        self.wrapped: Any = peft.PeftModel.from_pretrained(models.plain(base), str(directories[0]), adapter_name="a0")
        for name, directory in zip(self.names[1:], directories[1:], strict=True):
            self.wrapped.load_adapter(str(directory), name)
        self.wrapped.eval()
        self.model: Any = self.wrapped.base_model.model

    def _options(self, *, sharing: bool) -> dict[str, Any]:
        return {
            "generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0),
            "continuous_batching_config": ContinuousBatchingConfig(
                page_size=32, num_blocks=400, max_batch_tokens=2560, allow_block_sharing=sharing
            ),
        }  # fmt: skip

    @torch.no_grad()
    def one_by_one(self, prompts: Sequence[tuple[int, ...]], names: Sequence[str | None], *, sharing: bool) -> Answers:
        """All in one manager when blocks are shared, else each in a manager of its own. ``None``: the base."""
        answers: Answers = []
        if not sharing:
            for prompt, name in zip(prompts, names, strict=True):
                answers += self._through(name, lambda prompt=prompt: self._batch([prompt], sharing=False))
            return answers
        with self.model.continuous_batching_context_manager(block=True, **self._options(sharing=True)) as manager:
            for prompt, name in zip(prompts, names, strict=True):
                answers += self._through(name, lambda prompt=prompt: [_ask(manager, prompt)])
        return answers

    def at_once(self, prompts: Sequence[tuple[int, ...]], names: Sequence[str]) -> Answers:
        self.wrapped.set_adapter(names[0])
        return self._batch(prompts, sharing=True, adapter_names=list(names))

    def _through(self, name: str | None, work: Any) -> Answers:
        if name is None:
            with self.wrapped.disable_adapter():
                return work()
        self.wrapped.set_adapter(name)
        return work()

    def _batch(self, prompts: Sequence[tuple[int, ...]], *, sharing: bool, **more: Any) -> Answers:
        done = self.model.generate_batch([list(p) for p in prompts], **self._options(sharing=sharing), **more)
        return [list(one.generated_tokens) for one in done.values()]


def _ask(manager: Any, prompt: tuple[int, ...]) -> list[int]:
    manager.add_request(list(prompt), max_new_tokens=NEW)
    for _ in range(120):
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            return list(result.generated_tokens)
    raise SystemExit("transformers' continuous batching gave no answer within two minutes")


def engine_side(
    report: Report, base: Path, directories: Sequence[Path], prompts: Any, threads: int, rounds: int
) -> None:
    with Ours(base, threads) as ours, Ours(base, threads, prefix_bytes=0) as bare:
        asked = requests(prompts, NEW, ours.load(directories)[:ASKED])
        bare.load(directories)
        wanted = [bare.sample([request])[0] for request in asked]
        ours.sample(requests(prompts[:1], NEW))
        given = [*ours.sample(asked), *ours.sample(asked)]
        report.ratios["prefix_exact"] = right(given, [*wanted, *wanted])
        found = cached(ours, asked)
        if not found:
            report.not_available["prefix_exact"] = "no request found a beginning ready, so nothing was tested"
            del report.ratios["prefix_exact"]
        report.raw |= {
            "answers": 2 * ASKED, "distinct": len({tuple(one) for one in wanted}), "cached_tokens": found,
            "prompt_tokens": ASKED * (SHARED + OWN),
        }  # fmt: skip
        short = [request.model_copy(update={"max_tokens": 1}) for request in asked]
        spent = by_turns(
            {"engine_prefixes": lambda: ours.sample(short), "engine_no_prefixes": lambda: bare.sample(short)}, rounds
        )
        report.compare("prefix_speed", spent, "engine_no_prefixes", "engine_prefixes")


def stock_side(report: Report, base: Path, directories: Sequence[Path], prompts: Any) -> None:
    stock = Stock(base, directories)
    names = stock.names[:ASKED]
    wanted = stock.one_by_one(prompts, names, sharing=False)
    report.ratios["prefix_exact_cb"] = right(stock.one_by_one(prompts, names, sharing=True), wanted)
    none = [None] * ASKED
    alone = stock.one_by_one(prompts, none, sharing=False)
    report.ratios["prefix_exact_cb_base"] = right(stock.one_by_one(prompts, none, sharing=True), alone)
    try:
        report.ratios["prefix_exact_cb_adapter_names"] = right(stock.at_once(prompts, names), wanted)
    except (TypeError, ValueError) as error:
        report.not_available["prefix_exact_cb_adapter_names"] = f"refused: {error}"[:200]


def main() -> None:
    options = arguments(__doc__).parse_args()
    if options.quick:
        options.rounds = 1
    quiet()
    torch.set_num_threads(options.threads)
    report = Report("engine_prefix", options)
    base = models.base("narrow")
    shared = models.prompts(1, SHARED, seed=5)[0]
    prompts = models.prompts(ASKED, OWN, seed=6, shared=shared)
    report.setup = {
        "base": "narrow", "dtype": "float32", "requests": ASKED, "adapters": LOADED, "shared_tokens": SHARED, "own_tokens": OWN,
        "new_tokens": NEW, "rank": 16,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        directories = models.adapters(base, Path(folder), LOADED)
        engine_side(report, base, directories, prompts, options.threads, options.rounds)
        stock_side(report, base, directories, prompts)
    say(f"engine_prefix: {report.ratios}")
    report.print()


if __name__ == "__main__":
    main()
