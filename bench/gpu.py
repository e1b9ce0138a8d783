"""On a CUDA machine, with a model of Qwen2.5-7B's shapes and random weights: `python -m bench.gpu`. NEVER RUN on a GPU so far.

Written for a machine that this project did not have: only its ``--quick`` way (the small base, on whatever device there is) was tried.
``swap_ms``: milliseconds from an adapter in memory to its slot on the GPU (rank 16 on all linears; its size is in ``raw``): a request's
first token through it, less that of the next request, which finds it there. ``mixed32_vs_base``: speed of 32 requests through 32
adapters, of that of 32 requests of the base. ``jobs8_speed``: eight trainings of 512 tokens a step one after another, by all at once.
The base is bf16, written once into ``.bench/`` (15 GB). Not part of `make bench`, and of no table.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
import torch

from bench import models
from bench.common import Report, Side, arguments, by_turns, figure, quiet
from bench.ours import Ours, requests
from clonedna.core.model import Example, LoraSpec

RATE, STEPS = 1e-4, 2


def examples(jobs: int, tokens: int) -> list[Example]:
    """One example a job, of about ``tokens`` tokens: letters by themselves, which the bundled tokenizer seldom joins."""
    draw = random.Random(0)
    text = [" ".join(draw.choice("qxzjkvw") for _ in range(tokens // 2)) for _ in range(jobs)]
    return [Example(text=one[: len(one) // 4], completion=one[len(one) // 4 :]) for one in text]


def swaps(ours: Ours, names: Sequence[str]) -> list[float]:
    """For each adapter that no request has used yet: milliseconds that its first request takes longer than its second."""
    prompt = models.prompts(1, 1)

    def first_token(name: str) -> float:
        return Side(lambda: ours.sample(requests(prompt, 1, [name]))).run().wall * 1e3

    return [first_token(name) - first_token(name) for name in names]


async def train(ours: Ours, given: Sequence[Example], first: int = 0) -> None:
    trainers = [await ours.engine.train(LoraSpec(rank=16, seed=first + i)) for i in range(len(given))]

    async def one(i: int) -> None:
        for _ in range(STEPS):
            await trainers[i].forward_backward([given[i]])
            await trainers[i].optim_step(RATE)

    async with anyio.create_task_group() as group:
        for i in range(len(given)):
            group.start_soon(one, i)
    for trainer in trainers:
        await trainer.close()


def main() -> None:
    options = arguments(__doc__).parse_args()
    name, count, tokens, length = ("narrow", 4, 8, 64) if options.quick else ("7b", 32, 128, 512)
    if not options.quick and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --quick shows on any machine that this runs")
    quiet()
    report = Report("gpu", options)
    base = models.base(name)
    with tempfile.TemporaryDirectory() as folder, Ours(base, options.threads) as ours:
        names = ours.load(models.adapters(base, Path(folder), count))
        ours.sample(requests(models.prompts(1, 1), 1))
        took = swaps(ours, names)
        report.ratios["swap_ms"] = figure(statistics.median(took))
        prompts = models.prompts(count, 32)
        plain, mixed = requests(prompts, tokens), requests(prompts, tokens, names)
        spent = by_turns({"base": lambda: ours.sample(plain), "mixed": lambda: ours.sample(mixed)}, options.rounds)
        report.compare("mixed32_vs_base", spent, "base", "mixed")
        given = examples(8, length)
        spent = by_turns(
            {
                "together": lambda: ours.wait(train(ours, given)),
                "one_by_one": lambda: [ours.wait(train(ours, [one], i)) for i, one in enumerate(given)],
            },
            options.rounds,
        )
        report.compare("jobs8_speed", spent, "one_by_one", "together")
        status = ours.engine.status
        report.raw |= {"swap_ms_each": [figure(x) for x in took], "adapter_bytes": status.adapters[0].bytes}
        report.setup = {
            "base": name,
            "dtype": status.base.dtype,
            "device": status.base.device,
            "adapters": count,
            "new_tokens": tokens,
        }
    if torch.cuda.is_available():
        report.setup["gpu"] = torch.cuda.get_device_name()
        report.raw["gpu_peak_mib"] = torch.cuda.max_memory_allocated() >> 20
    report.print()


if __name__ == "__main__":
    main()
