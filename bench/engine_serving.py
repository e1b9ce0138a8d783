"""Serving while an adapter trains in the same engine: `python -m bench.engine_serving`.

Eight requests (four of the base, four through adapters) of 96 tokens, with nothing else going on and with a training beside them, by
turns. ``serving_same_tokens``: share of the answers that are the same, token by token, in both. ``gap_p95_ms`` and
``gap_p95_training_ms``: 95th percentile of the time between two tokens of a stream, as the reader sees it; ``gap_longest_ms`` and
``gap_longest_training_ms``: the longest. Beside a training there are two kinds, short ones and those that wait for a step of it; the
percentile is either, as their shares fall, so only the longest says what a reader may see. ``serving_while_training``:
seconds of the eight requests alone, by their seconds beside a training (1 = the training costs them nothing). ``training_while_serving``:
trained tokens a second beside the requests, by those of training alone. No peer: TRL does not serve, and servers do not train.
Base ``wide``, fp32, the engine's default share of time for training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import torch

from bench import models
from bench.common import Report, Side, Spent, arguments, figure, quiet, seconds
from bench.ours import Ours, requests
from clonedna.core.model import Example, LoraSpec, SampleRequest
from clonedna.core.seams import Trainer

PROMPT, NEW, RATE = 32, 96, 1e-4


@dataclass(slots=True)
class Heard:
    """What readers saw: tokens of each request, milliseconds between a stream's tokens."""

    tokens: list[list[int]]
    gaps: list[float] = field(default_factory=list)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.gaps, n=20)[-1]


def examples_of(count: int) -> list[Example]:
    """Plain code of this project in pieces of about 250 tokens."""
    text = Path(models.__file__).with_name("common.py").read_text("utf-8")
    return [
        Example(text=text[i * 250 : i * 250 + 300], completion=text[i * 250 + 300 : i * 250 + 1000])
        for i in range(count)
    ]


async def listen(ours: Ours, asked: Sequence[SampleRequest]) -> Heard:
    heard = Heard([[] for _ in asked])

    async def one(i: int) -> None:
        last = 0.0
        async for chunk in ours.engine.sample(asked[i]):
            if chunk.token is None:
                continue
            now = time.perf_counter()
            if heard.tokens[i]:
                heard.gaps.append((now - last) * 1e3)
            heard.tokens[i].append(chunk.token)
            last = now

    async with anyio.create_task_group() as group:
        for i in range(len(asked)):
            group.start_soon(one, i)
    return heard


async def train(trainer: Trainer, examples: Sequence[Example], stop: anyio.Event, least: int = 0) -> tuple[int, float]:
    """Train until ``stop`` (and ``least`` steps); completion tokens that were trained, and seconds."""
    tokens = steps = 0
    began = time.perf_counter()
    while steps < least or not stop.is_set():
        tokens += (await trainer.forward_backward(examples[2 * steps % 8 :][:2])).tokens
        await trainer.optim_step(RATE)
        steps += 1
    return tokens, time.perf_counter() - began


async def beside(
    ours: Ours, trainer: Trainer, examples: Sequence[Example], asked: Sequence[SampleRequest]
) -> tuple[Heard, float]:
    """The requests while the trainer trains; what was heard, and trained tokens a second."""
    stop, rates = anyio.Event(), []

    async def work() -> None:
        tokens, took = await train(trainer, examples, stop)
        rates.append(tokens / took)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        heard = await listen(ours, asked)
        stop.set()
    return heard, rates[0]


async def alone(trainer: Trainer, examples: Sequence[Example], steps: int) -> float:
    done = anyio.Event()
    done.set()
    tokens, took = await train(trainer, examples, done, steps)
    return tokens / took


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--base", default="wide")
    options = parser.parse_args()
    new = NEW
    if options.quick:
        options.base, options.rounds, new = "narrow", 1, 16
    quiet()
    torch.set_num_threads(options.threads)
    report = Report("engine_serving", options)
    base, examples = models.base(options.base), examples_of(8)
    still: list[Heard] = []
    busy: list[tuple[Heard, float]] = []
    rates: list[float] = []
    spent: dict[str, list[Spent]] = {"serving_alone": [], "serving_beside": []}
    with tempfile.TemporaryDirectory() as folder, Ours(base, options.threads) as ours:
        names = ours.load(models.adapters(base, Path(folder), 4))
        asked = requests(models.prompts(8, PROMPT, seed=7), new, [*([None] * 4), *names])
        trainer = ours.wait(ours.engine.train(LoraSpec(rank=16)))
        ours.wait(listen(ours, asked))  # these two warm up
        ours.wait(alone(trainer, examples, 2))
        for _ in range(options.rounds):
            spent["serving_alone"].append(Side(lambda: still.append(ours.wait(listen(ours, asked)))).run())
            spent["serving_beside"].append(
                Side(lambda: busy.append(ours.wait(beside(ours, trainer, examples, asked)))).run()
            )
            rates.append(ours.wait(alone(trainer, examples, 4)))
        ours.wait(trainer.close())
    wanted = still[0].tokens
    answers = [
        one for heard in [*still[1:], *(heard for heard, _ in busy)] for one in zip(heard.tokens, wanted, strict=True)
    ]
    report.ratios = {
        "serving_same_tokens": figure(sum(a == b for a, b in answers) / len(answers)),
        "gap_p95_ms": figure(statistics.median(one.p95 for one in still)),
        "gap_p95_training_ms": figure(statistics.median(heard.p95 for heard, _ in busy)),
        "gap_longest_ms": figure(statistics.median(max(one.gaps) for one in still)),
        "gap_longest_training_ms": figure(statistics.median(max(heard.gaps) for heard, _ in busy)),
        "serving_while_training": figure(
            statistics.median(a.wall / b.wall for a, b in zip(*spent.values(), strict=True))
        ),
        "training_while_serving": figure(statistics.median(rate for _, rate in busy) / statistics.median(rates)),
    }  # fmt: skip
    report.raw = {side: seconds(rounds) for side, rounds in spent.items()} | {
        "trained_tokens_a_second": {"alone": [figure(x) for x in rates], "beside": [figure(rate) for _, rate in busy]},
        "answers": len(answers), "gaps": len(busy[0][0].gaps),
    }  # fmt: skip
    report.setup = {
        "base": options.base, "dtype": "float32", "requests": len(asked), "new_tokens": new, "rank": 16, "examples_a_step": 2,
        "rounds": options.rounds,
    }  # fmt: skip
    report.print()


if __name__ == "__main__":
    main()
