"""Decoding by the engine against transformers' continuous batching and PEFT's mixed batches: `python -m bench.engine_decode`.

``decode_vs_cb_NxT``: N requests of T new tokens by ``model.generate_batch`` (paged attention, ``sdpa``; sized for the work, no block
sharing, a batch as large as all prompts: its fastest setting here) by the engine's time for the same prompts. Base requests on both sides.
``mixed16_vs_base``: speed of 16 requests through 16 adapters, of that of 16 base requests. ``mixed_vs_one_at_a_time``: the same 16 one
after another, by their time together. ``mixed_vs_peft``: PEFT's ``generate`` with ``adapter_names`` over one batch of 16 prompts of one
length (so no padding), by the engine's time. ``idle_lora_tax``: by how much base requests take longer in an engine where 32 adapters
lie in slots than in an engine that never saw one (0.01 = 1 %). ``base_vs_generate``: ``generate`` of the plain, unwrapped model for one
request, by the engine's time for the same: what wrapped modules and batching cost or gain a request that is alone.
All greedy, fp32, base ``wide``, 32 tokens of prompt; end-of-text does not end a completion; both sides must have made every token.
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
from bench.common import Report, arguments, by_turns, figure, quiet
from bench.ours import Ours, requests

PROMPT, ADAPTERS, IDLE = 32, 16, 32
NO_END = -1  # an end-of-text id that no token has


class Theirs:
    """The plain base under transformers, and under PEFT once there are adapters."""

    def __init__(self, base: Path) -> None:
        self.model: Any = models.plain(base)

    def batched(self, prompts: Sequence[tuple[int, ...]], tokens: int) -> list[list[int]]:
        """transformers' continuous batching."""
        page = 32
        pages = len(prompts) * (-(-(PROMPT + tokens) // page) + 1)
        done = self.model.generate_batch(
            [list(prompt) for prompt in prompts],
            generation_config=GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=NO_END, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page, num_blocks=pages, max_batch_tokens=max(256, PROMPT * len(prompts)), allow_block_sharing=False
            ),
        )  # fmt: skip
        return whole([list(one.generated_tokens) for one in done.values()], len(prompts), tokens)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[tuple[int, ...]], tokens: int, **more: Any) -> list[list[int]]:
        ids = torch.tensor(prompts)
        made = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
            min_new_tokens=tokens, pad_token_id=0, **more,
        )  # fmt: skip
        return whole(made[:, ids.shape[1] :].tolist(), len(prompts), tokens)

    def wrap(self, directories: Sequence[Path]) -> list[str]:
        """Put adapters on; gives their names."""
        names = [f"a{i}" for i in range(len(directories))]
        self.model = peft.PeftModel.from_pretrained(self.model, str(directories[0]), adapter_name=names[0])
        for name, directory in zip(names[1:], directories[1:], strict=True):
            self.model.load_adapter(str(directory), name)
        self.model.eval()
        return names


def whole(made: list[list[int]], count: int, tokens: int) -> list[list[int]]:
    """Refuses a side that made less than it was asked for: its time would be of other work."""
    if [len(one) for one in made] != [tokens] * count:
        raise SystemExit(f"asked for {count} times {tokens} tokens, got {[len(one) for one in made]}")
    return made


def agreement(a: list[list[int]], b: list[list[int]]) -> float:
    """Share of requests with the same tokens on both sides (rounding differs, and random weights have near ties)."""
    return figure(sum(x == y for x, y in zip(a, b, strict=True)) / len(a))


def against_batching(report: Report, ours: Ours, theirs: Theirs, sizes: Sequence[tuple[int, int]], rounds: int) -> None:
    for count, tokens in sizes:
        prompts = models.prompts(count, PROMPT)
        made: dict[str, list[list[int]]] = {}

        def engine(prompts: Any = prompts, tokens: int = tokens, made: Any = made) -> None:
            made["engine"] = whole(ours.sample(requests(prompts, tokens)), len(prompts), tokens)

        def batched(prompts: Any = prompts, tokens: int = tokens, made: Any = made) -> None:
            made["cb"] = theirs.batched(prompts, tokens)

        name = f"{count}x{tokens}"
        spent = by_turns({f"engine_{name}": engine, f"cb_{name}": batched}, rounds)
        report.compare(f"decode_vs_cb_{name}", spent, f"cb_{name}", f"engine_{name}")
        report.raw[f"same_tokens_{name}"] = agreement(made["engine"], made["cb"])


def against_generate(report: Report, ours: Ours, theirs: Theirs, tokens: int, rounds: int) -> None:
    prompt = models.prompts(1, PROMPT, seed=1)
    spent = by_turns(
        {"engine_1": lambda: ours.sample(requests(prompt, tokens)), "generate_1": lambda: theirs.generate(prompt, tokens)}, rounds
    )  # fmt: skip
    report.compare("base_vs_generate", spent, "generate_1", "engine_1")


def mixed(report: Report, ours: Ours, theirs: Theirs, directories: Sequence[Path], tokens: int, rounds: int) -> None:
    adapters, names = ours.load(directories), theirs.wrap(directories)
    prompts = models.prompts(len(directories), PROMPT, seed=2)
    plain, through = requests(prompts, tokens), requests(prompts, tokens, adapters)
    made: dict[str, list[list[int]]] = {}

    def base() -> None:
        made["base"] = whole(ours.sample(plain), len(plain), tokens)

    def together() -> None:
        made["mixed"] = whole(ours.sample(through), len(through), tokens)

    def one_at_a_time() -> None:
        made["alone"] = [ours.sample([request])[0] for request in through]

    def by_peft() -> None:
        made["peft"] = theirs.generate(prompts, tokens, adapter_names=names)

    spent = by_turns(
        {"engine_base_16": base, "engine_mixed_16": together, "engine_one_at_a_time": one_at_a_time, "peft_mixed_16": by_peft}, rounds
    )  # fmt: skip
    report.compare("mixed16_vs_base", spent, "engine_base_16", "engine_mixed_16")
    report.compare("mixed_vs_one_at_a_time", spent, "engine_one_at_a_time", "engine_mixed_16")
    report.compare("mixed_vs_peft", spent, "peft_mixed_16", "engine_mixed_16")
    report.raw["same_tokens_mixed_alone"] = agreement(made["mixed"], made["alone"])
    report.raw["same_tokens_mixed_peft"] = agreement(made["mixed"], made["peft"])
    report.raw["same_tokens_mixed_base"] = agreement(made["mixed"], made["base"])


def idle(report: Report, ours: Ours, fresh: Ours, directories: Sequence[Path], tokens: int, rounds: int) -> None:
    prompt = models.prompts(1, 1, seed=3)
    for name in ours.load(directories):
        ours.sample(requests(prompt, 1, [name]))  # from memory into a slot
    asked = requests(models.prompts(8, PROMPT, seed=4), tokens)
    spent = by_turns(
        {"engine_idle_adapters": lambda: ours.sample(asked), "engine_no_adapter": lambda: fresh.sample(asked)}, 3 * rounds
    )  # fmt: skip
    report.compare("idle_lora_tax", spent, "engine_idle_adapters", "engine_no_adapter")
    for kept in (report.ratios, report.ratios_cpu):
        kept["idle_lora_tax"] = round(kept["idle_lora_tax"] - 1, 4)
    status = ours.engine.status
    report.raw["idle_adapters"] = {"loaded": len(status.adapters), "slots_used": status.slots_used}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--base", default="wide")
    parser.add_argument(
        "--only", choices=("cb", "generate", "mixed", "idle"), action="append", help="parts; default: all"
    )
    options = parser.parse_args()
    sizes, tokens, many = [(8, 256), (32, 256)], 64, IDLE
    if options.quick:
        options.base, options.rounds, sizes, tokens, many = "narrow", 1, [(2, 8)], 8, ADAPTERS
    parts = options.only or ["cb", "generate", "mixed", "idle"]
    quiet()
    torch.set_num_threads(options.threads)
    report = Report("engine_decode", options)
    base = models.base(options.base)
    report.setup = {
        "base": options.base, "dtype": "float32", "prompt_tokens": PROMPT, "new_tokens": tokens, "rounds": options.rounds, "rank": 16,
        "idle_adapters": many, "cb": "page 32, blocks as needed, batch of all prompts, no sharing", "sizes": sizes,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Ours(base, options.threads) as ours:
        theirs = Theirs(base)
        directories = models.adapters(base, Path(folder), many)
        if "cb" in parts:
            against_batching(report, ours, theirs, sizes, options.rounds)
        if "generate" in parts:
            against_generate(report, ours, theirs, tokens, options.rounds)
        if "mixed" in parts:
            mixed(report, ours, theirs, directories[:ADAPTERS], tokens, options.rounds)
        del theirs
        if "idle" in parts:
            with Ours(base, options.threads) as fresh:
                idle(report, ours, fresh, directories, tokens, options.rounds)
    report.print()


if __name__ == "__main__":
    main()
