"""Local engine against the plain way (transformers + PEFT), in one run and by turns: `python bench/engine_local.py`.

Training: the same examples, rank 16 on all linears, 8 examples a step. Plain = PEFT, right padding to the longest with a mask, the
head on every position, AdamW. Sampling: greedy, 64 tokens; plain = PEFT's model with ``generate``, one request at a time. Loading:
from files to usable. Figures are medians of process CPU time, so that other programs matter less; one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anyio
import peft
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from clonedna.core.model import ALL_LINEAR, Example, Layer, LoraSpec, Message, SampleRequest
from clonedna.engine.bases import resolve_base
from clonedna.engine.local import open_engine
from clonedna.engine.texts import Row, Texts

STEP, TOKENS = 8, 64


def examples_of(directory: Path, size: int = 900) -> list[Example]:
    """Pieces of this project's own engine: 1 to 3 hundred tokens each."""
    texts = [path.read_text("utf-8") for path in sorted(directory.glob("*.py"))]
    pieces = [text[i : i + size - 100 * (i % 7)] for text in texts for i in range(0, len(text) - size, 2 * size)]
    return [
        Example(messages=(Message(role="user", content=f"Write piece {i}."),), completion=c)
        for i, c in enumerate(pieces[:32])
    ]


def cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def plain_epoch(model: torch.nn.Module, optimiser: torch.optim.Optimizer, rows: list[Row]) -> None:
    for first in range(0, len(rows), STEP):
        batch = rows[first : first + STEP]
        longest = max(len(row.ids) for row in batch)
        ids, labels, mask = (torch.full((len(batch), longest), fill) for fill in (0, -100, 0))
        for i, row in enumerate(batch):
            ids[i, : len(row.ids)], mask[i, : len(row.ids)] = torch.tensor(row.ids), 1
            labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the local engine against transformers + PEFT.")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    engine = open_engine(options.base, threads=options.threads)
    path = resolve_base(options.base)[1]
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    examples = examples_of(Path(__file__).resolve().parents[1] / "clonedna" / "engine")
    texts: Texts = engine._texts  # the same tokens for both sides
    rows = texts.rows(examples)
    tokens = sum(len(row.ids) for row in rows)

    async def engine_epoch(trainer, rate: float = 1e-4) -> None:
        for first in range(0, len(examples), STEP):
            await trainer.forward_backward(examples[first : first + STEP])
            await trainer.optim_step(rate)

    async def sample(requests: int, layers: tuple[Layer, ...]) -> int:
        made = 0

        async def one(i: int) -> None:
            nonlocal made
            async for chunk in engine.sample(
                SampleRequest(messages=examples[i].messages, max_tokens=TOKENS, layers=layers)
            ):
                made += chunk.token is not None

        async with anyio.create_task_group() as group:
            for i in range(requests):
                group.start_soon(one, i)
        return made

    def plain_sample() -> int:
        ids = torch.tensor([texts.prompt(SampleRequest(messages=examples[0].messages))])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
            )
        return out.shape[1] - ids.shape[1]

    figures: dict[str, list[float]] = {
        name: []
        for name in ("train", "train_plain", "nll", "sample_1", "sample_8", "sample_plain", "load", "load_plain")
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = anyio.run(engine.train, LoraSpec(rank=16, alpha=32))
        for turn in range(options.turns + 1):
            directory = Path(folder) / str(turn)
            seconds = {
                "train": cpu(lambda: anyio.run(engine_epoch, trainer)),
                "train_plain": cpu(lambda: plain_epoch(model.train(), optimiser, rows)),
            }
            anyio.run(trainer.save, directory)
            model.eval()
            seconds["load"] = cpu(lambda directory=directory: anyio.run(engine.load, directory))
            layers = (Layer(adapter=anyio.run(engine.load, directory).id),)
            seconds["load_plain"] = cpu(
                lambda directory=directory, turn=turn: (
                    model.load_adapter(str(directory), f"turn{turn}"),
                    model.delete_adapter(f"turn{turn}"),
                )
            )
            seconds["nll"] = cpu(lambda layers=layers: anyio.run(engine.nll, examples, layers))
            made: dict[str, int] = {}
            for name, work in (
                ("sample_1", lambda layers=layers: anyio.run(sample, 1, layers)),
                ("sample_8", lambda layers=layers: anyio.run(sample, 8, layers)),
                ("sample_plain", plain_sample),
            ):
                began = time.process_time()
                made[name] = work()
                seconds[name] = time.process_time() - began
            if turn:  # the first one warms up
                for name, value in seconds.items():
                    count = tokens if name in ("train", "train_plain", "nll") else made.get(name)
                    figures[name].append(value if count is None else count / value)
    anyio.run(engine.close)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    result = {
        "bench": "engine_local", "base": engine.base.id, "threads": options.threads, "dtype": engine.base.dtype, "examples": len(examples),
        "tokens": tokens, "turns": options.turns, "unit": "tokens a second of CPU time; load: CPU seconds",
        **{name: round(value, 4) for name, value in medians.items()},
        "train_ratio": round(medians["train"] / medians["train_plain"], 2),
        "sample_8_ratio": round(medians["sample_8"] / medians["sample_plain"], 2),
        "load_ratio": round(medians["load_plain"] / medians["load"], 2),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
