"""Training by the engine against TRL, and several trainings at once: `.venv-bench/bin/python -m bench.engine_training`.

``train_vs_trl_wide``, ``train_vs_trl_narrow``: seconds that TRL's steps take for one epoch (the faster of packing and padded batches), by
the engine's for the same examples; the loss is on completions only, rank 16 on all linears, fp32, AdamW, clip 1. The engine is given
exactly the packs that TRL made, in its order, from the same first adapter: ``loss_difference_*`` is the largest relative difference of a
step's loss over the first epoch. Of TRL only its steps are counted, of the engine everything.
``train_vs_trl_wide_bf16``: the same with the base held in bfloat16 by the engine, and TRL's bf16 (autocast).
``jobs8_speed``: eight trainings one after another, by the same eight at once (about 512 tokens a step each, two steps).
``jobs8_memory``: the highest resident memory of a process that trains eight at once, by that of one that trains one; each in a fresh
process. ``jobs8_loss_difference``: the largest difference of a step's mean loss (nats a token) between a job in company and the same
job alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
import torch
from transformers import PreTrainedTokenizerFast

from bench import models
from bench.common import ROOT, Report, Side, Spent, arguments, by_turns, figure, peak_memory, quiet, say, seconds
from bench.ours import Ours
from clonedna.core.model import Example, LoraSpec
from clonedna.core.seams import Trainer

RATE = 1e-4
SPEC = LoraSpec(rank=16, alpha=32.0, clip=1.0)


def examples_of(count: int, *, prompt: int = 300, completion: int = 700) -> list[Example]:
    """Pieces of this project's own code: about 100 tokens of prompt and 100 to 250 of completion, as pairs of a mint have them."""
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "clonedna").rglob("*.py"))]
    size = prompt + completion
    pieces = [text[i : i + size - 60 * (i // size % 7)] for text in texts for i in range(0, len(text) - size, size)]
    chosen = pieces[:count]
    if len(chosen) < count:
        raise SystemExit(f"{count} examples are wanted, {len(chosen)} are there")
    return [Example(text=piece[:prompt], completion=piece[prompt:]) for piece in chosen]


def tokens_of(base: Path, examples: Sequence[Example]) -> list[tuple[tuple[int, ...], int]]:
    """Each example's tokens and where its completion starts, as the engine cuts plain text: prompt and completion one by one."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)

    def encode(text: str, special: bool) -> list[int]:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])

    pairs = [(encode(e.text or "", True), encode(e.completion, False)) for e in examples]
    return [((*prompt, *completion), len(prompt)) for prompt, completion in pairs]


async def epoch(trainer: Trainer, groups: Sequence[Sequence[Example]]) -> list[float]:
    """One pass; the mean loss of each step."""
    losses: list[float] = []
    for group in groups:
        loss = await trainer.forward_backward(group)
        await trainer.optim_step(RATE)
        losses.append(loss.loss_sum / loss.tokens)
    return losses


def against_trl(report: Report, part: str, count: int, pack: int, rounds: int, threads: int) -> None:
    from bench.peer_trl import Tokens, Trl

    name, _, half = part.partition("_")
    base, examples = models.base(name), examples_of(count)
    name = part
    pairs = [Tokens(ids, start) for ids, start in tokens_of(base, examples)]
    by_ids = {pair.ids: example for pair, example in zip(pairs, examples, strict=True)}
    with tempfile.TemporaryDirectory() as folder, Ours(base, threads, dtype="bfloat16" if half else "float32") as ours:
        first, scratch = Path(folder) / "first", Path(folder) / "trl"
        trainer = ours.wait(ours.engine.train(SPEC))
        ours.wait(trainer.save(first))
        packed = Trl(base, first, pairs, scratch, packed=pack, batch=4, rate=RATE, bf16=bool(half))
        padded = Trl(base, first, pairs, scratch, packed=0, batch=4, rate=RATE, bf16=bool(half))
        packs = packed.packs
        if sorted(ids for group in packs for ids in group) != sorted(by_ids):
            raise SystemExit("TRL's packs do not hold the examples that it was given, whole and once each")
        groups = [[by_ids[ids] for ids in group] for group in packs]
        losses: dict[str, list[list[float]]] = {"engine": [], "trl": []}
        rounds_of: dict[str, list[Spent]] = {f"{side}_{name}": [] for side in ("engine", "trl_packed", "trl_padded")}
        for turn in range(rounds + 1):
            spent: dict[str, Spent] = {}
            for side in ("engine", "trl_packed", "trl_padded") if turn % 2 else ("trl_padded", "trl_packed", "engine"):
                if side == "engine":
                    spent[side] = Side(lambda: losses["engine"].append(ours.wait(epoch(trainer, groups)))).run()
                else:
                    spent[side], made = (packed if side == "trl_packed" else padded).epoch()
                    if side == "trl_packed":
                        losses["trl"].append(made)
            if turn:  # the first warms up
                for side, one in spent.items():
                    rounds_of[f"{side}_{name}"].append(one)
        ours.wait(trainer.close())
    best = min(
        (f"trl_packed_{name}", f"trl_padded_{name}"),
        key=lambda side: statistics.median(s.wall for s in rounds_of[side]),
    )
    report.compare(f"train_vs_trl_{name}", rounds_of, best, f"engine_{name}")
    report.raw |= {side: seconds(spent) for side, spent in rounds_of.items()}
    off = max(abs(a - b) / b for a, b in zip(losses["engine"][0], losses["trl"][0], strict=True))
    report.ratios[f"loss_difference_{name}"] = figure(off)
    scored = sum(len(pair.ids) - pair.start for pair in pairs)
    report.setup[name] = {
        "examples": count, "tokens": sum(len(pair.ids) for pair in pairs), "completion_tokens": scored, "pack": pack, "steps": len(groups),
        "trl_best": best.removesuffix(f"_{name}"), "rounds": rounds, "losses_engine": [figure(x) for x in losses["engine"][0]],
        "losses_trl": [figure(x) for x in losses["trl"][0]],
    }  # fmt: skip


def jobs_of(base: Path, jobs: int, steps: int) -> list[list[list[Example]]]:
    """For each job its own steps of about 512 tokens: three examples each."""
    examples = examples_of(3 * jobs * steps, prompt=200, completion=600)
    return [[examples[3 * (j * steps + s) :][:3] for s in range(steps)] for j in range(jobs)]


async def together(ours: Ours, jobs: Sequence[Sequence[Sequence[Example]]], first: int = 0) -> list[list[float]]:
    """All jobs at once, each from its own seed; the losses of their steps."""
    losses: list[list[float]] = [[] for _ in jobs]
    trainers = [await ours.engine.train(SPEC.model_copy(update={"seed": first + i})) for i in range(len(jobs))]

    async def one(i: int) -> None:
        losses[i] = await epoch(trainers[i], jobs[i])

    async with anyio.create_task_group() as group:
        for i in range(len(jobs)):
            group.start_soon(one, i)
    for trainer in trainers:
        await trainer.close()
    return losses


def side_by_side(report: Report, name: str, steps: int, rounds: int, threads: int) -> None:
    base = models.base(name)
    jobs = jobs_of(base, 8, steps)
    made: dict[str, list[list[float]]] = {}
    with Ours(base, threads) as ours:

        def at_once() -> None:
            made["together"] = ours.wait(together(ours, jobs))

        def alone() -> None:
            made["alone"] = [ours.wait(together(ours, [job], i))[0] for i, job in enumerate(jobs)]

        spent = by_turns({"jobs8_together": at_once, "jobs8_one_by_one": alone}, max(1, rounds - 1))
    report.compare("jobs8_speed", spent, "jobs8_one_by_one", "jobs8_together")
    off = max(
        abs(a - b) for x, y in zip(made["together"], made["alone"], strict=True) for a, b in zip(x, y, strict=True)
    )
    report.ratios["jobs8_loss_difference"] = figure(off)
    peaks = {count: _peak(name, count, threads) for count in (1, 8)}
    report.raw["jobs_peak_mib"] = {str(count): round(peak / 2**20, 1) for count, peak in peaks.items()}
    report.ratios["jobs8_memory"] = figure(peaks[8] / peaks[1])
    tokens = [sum(len(ids) for ids, _ in tokens_of(base, step)) for step in jobs[0]]
    report.setup["jobs"] = {"base": name, "steps": steps, "rank": SPEC.rank, "tokens_a_step": tokens}
    say(f"engine_training: jobs8_memory {report.ratios['jobs8_memory']}, loss difference {off:.2g}")


def _peak(name: str, jobs: int, threads: int) -> int:
    """Highest resident bytes of a fresh process that trains ``jobs`` at once, for a step: the optimiser's state is there after one."""
    words = ["--worker", str(jobs), "--steps", "1", "--threads", str(threads), "--base", name]
    done = subprocess.run(
        [sys.executable, "-m", "bench.engine_training", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(json.loads(done.stdout)["peak"])


def worker(options: argparse.Namespace) -> None:
    base = models.base(options.base)
    with Ours(base, options.threads) as ours:
        ours.wait(together(ours, jobs_of(base, 8, options.steps)[: options.worker]))
    print(json.dumps({"peak": peak_memory()}))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--base", default="wide", help="of the eight jobs")
    parser.add_argument("--steps", type=int, default=2, help="of each of the eight jobs")
    parser.add_argument(
        "--only", choices=("wide", "wide_bf16", "narrow", "jobs"), action="append", help="parts; default: all"
    )
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(options.threads)
    if options.worker:
        return worker(options)
    parts, sizes = options.only or ["wide", "wide_bf16", "narrow", "jobs"], {"wide": 8, "wide_bf16": 8, "narrow": 32}
    if options.quick:
        options.base, options.rounds, options.steps, parts, sizes = "narrow", 1, 1, ["narrow", "jobs"], {"narrow": 4}
    report = Report("engine_training", options)
    report.setup = {"dtype": "float32", "rank": SPEC.rank, "rate": RATE, "optimiser": "AdamW, clip 1"}
    for name, count in sizes.items():
        if name in parts:
            against_trl(report, name, count, 1024, options.rounds, options.threads)
    if "jobs" in parts:
        side_by_side(report, options.base, options.steps, options.rounds, options.threads)
    report.print()
    return None


if __name__ == "__main__":
    main()
