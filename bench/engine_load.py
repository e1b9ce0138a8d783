"""From an adapter's files to serving it: the engine against PEFT: `python -m bench.engine_load`.

``load_vs_peft``: PEFT's ``load_adapter`` + ``set_adapter`` + ``delete_adapter`` (warm: the model is wrapped already; the faster of its
two settings, ``low_cpu_mem_usage`` on) by the engine's ``load`` + ``unload``; a request may name the adapter as soon as ``load`` is back.
The files were loaded before, so the engine knows them and does not hash them again; ``load_first_vs_peft`` is with files it never saw.
``load_vs_peft_default`` is against PEFT as it is called by default. ``load_to_token_vs_peft`` counts the way to the first token too, with
a prompt of one token on both sides: the engine copies an adapter into its slot when it is first asked for, and that is here and not
above. ``resident_swap_ms`` is what a request pays more whose adapter lies in a slot but was not the last one used, against one that uses
the same adapter again: nothing is moved, so it should be 0 within noise. Base: ``wide``, rank 16, fp32; one thread, since neither side
is helped by more.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch

from bench import models
from bench.common import Report, Side, arguments, by_turns, figure, quiet
from bench.ours import Ours, requests


class Peft:
    """A wrapped model with one adapter that stays, as a server of PEFT's would have it."""

    def __init__(self, base: Path, first: Path) -> None:
        self.model: Any = peft.PeftModel.from_pretrained(models.plain(base), str(first), adapter_name="first")
        self.model.eval()

    def cycle(self, directory: Path, then: Callable[[], object] = lambda: None, *, spare: bool = True) -> None:
        """``spare``: PEFT's ``low_cpu_mem_usage``, which leaves out an initialisation that the files overwrite."""
        self.model.load_adapter(str(directory), "next", low_cpu_mem_usage=spare)
        self.model.set_adapter("next")
        then()
        self.model.set_adapter("first")
        self.model.delete_adapter("next")

    @torch.inference_mode()
    def token(self) -> int:
        return int(self.model(input_ids=torch.tensor([[100]])).logits[0, -1].argmax())


def swap(ours: Ours, names: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of one-token requests: through one adapter again and again, and through all in turn."""
    ((prompt),) = models.prompts(1, 1)

    def asked(name: str) -> float:
        return Side(lambda: ours.sample(requests([prompt], 1, [name]))).run().wall * 1e3

    for name in names:
        asked(name)
    same: list[float] = []
    turn: list[float] = []
    for _ in range(rounds):
        asked(names[0])
        same += [asked(names[0]) for _ in names]
        turn += [asked(name) for name in names[1:] + names[:1]]
    medians = statistics.median(same), statistics.median(turn)
    return {"same_ms": round(medians[0], 3), "in_turn_ms": round(medians[1], 3), "n": len(same)}


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.set_defaults(threads=1)
    parser.add_argument("--base", default="wide")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    if options.quick:
        options.base, options.rounds = "narrow", 2
    quiet()
    torch.set_num_threads(options.threads)
    report = Report("engine_load", options)
    base = models.base(options.base)
    with tempfile.TemporaryDirectory() as folder, Ours(base, options.threads) as ours:
        fixed, fresh, touched, *others = models.adapters(base, Path(folder), 11, rank=options.rank)
        theirs = Peft(base, fixed)
        names = ours.load([fixed, *others])
        prompt = models.prompts(1, 1)

        def load(directory: Path = fresh) -> None:
            ours.wait(ours.engine.unload(ours.wait(ours.engine.load(directory)).id))

        def load_first() -> None:
            (touched / "adapter_config.json").touch()  # written to: what was known of it counts no more
            load(touched)

        def load_to_token() -> None:
            name = ours.wait(ours.engine.load(fresh)).id
            ours.sample(requests(prompt, 1, [name]))
            ours.wait(ours.engine.unload(name))

        time.sleep(2.5)  # files that were just made are not taken as known
        rounds = by_turns(
            {"engine_load": load, "engine_load_first": load_first, "peft_load": lambda: theirs.cycle(fresh),
             "peft_load_default": lambda: theirs.cycle(fresh, spare=False)},
            options.rounds, warm=3,
        )  # fmt: skip
        report.compare("load_vs_peft", rounds, "peft_load", "engine_load")
        report.compare("load_first_vs_peft", rounds, "peft_load", "engine_load_first")
        report.compare("load_vs_peft_default", rounds, "peft_load_default", "engine_load")
        rounds = by_turns(
            {"engine_load_token": load_to_token, "peft_load_token": lambda: theirs.cycle(fresh, theirs.token)}, options.rounds, warm=3
        )  # fmt: skip
        report.compare("load_to_token_vs_peft", rounds, "peft_load_token", "engine_load_token")
        swaps = swap(ours, names, options.rounds)
        report.raw["resident_swap"] = swaps
        report.ratios["resident_swap_ms"] = figure(swaps["in_turn_ms"] - swaps["same_ms"])
        size = (fresh / "adapter_model.safetensors").stat().st_size
        report.setup = {
            "base": options.base, "dtype": "float32", "rank": options.rank, "adapter_bytes": size, "rounds": options.rounds,
            "peft": "load_adapter(low_cpu_mem_usage=True), set_adapter, (one forward), set_adapter back, delete_adapter",
        }  # fmt: skip
    report.print()


if __name__ == "__main__":
    main()
