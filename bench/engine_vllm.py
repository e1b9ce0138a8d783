"""Eight requests through eight adapters: the engine against vLLM's CPU build on the same base: `python -m bench.engine_vllm`.

``mixed_vs_vllm_cpu``: seconds that vLLM takes for 8 requests of 64 new tokens, each through its own adapter and all at once, by the
engine's. ``base_vs_vllm_cpu``: the same without adapters. vLLM runs in an environment of its own (``make vllm-env``) and is asked over
loopback HTTP with answers in one piece (on its side that costs milliseconds of seconds; the engine is asked through its seam), fp32,
with the same number of threads, room for all eight adapters in a batch, prefix caching left on (no two prompts begin alike). Base:
``wide``. Without that environment both are ``not_available``.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench import models
from bench.common import Report, Side, arguments, by_turns, figure, quiet, say
from bench.ours import Ours, requests
from tools.vllm_server import NotStarted, Server, serve

PROMPT, COUNT, WAIT = 32, 8, 300.0
RATIOS = ("mixed_vs_vllm_cpu", "base_vs_vllm_cpu")


def ask(server: Server, model: str, prompt: Sequence[int], tokens: int) -> str:
    body = {"model": model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{server.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT) as answer:
        told = json.load(answer)
    if told["usage"]["completion_tokens"] != tokens:
        raise SystemExit(f"vLLM made {told['usage']['completion_tokens']} tokens of {tokens}")
    return str(told["choices"][0]["text"])


def measure(report: Report, ours: Ours, server: Server, folders: dict[str, Path], tokens: int, rounds: int) -> None:
    prompts = models.prompts(COUNT, PROMPT, seed=8)
    names = ours.load(list(folders.values()))
    base, mixed = requests(prompts, tokens), requests(prompts, tokens, names)
    texts: dict[str, list[str]] = {}

    def theirs(kind: str, through: Sequence[str]) -> None:
        with ThreadPoolExecutor(COUNT) as pool:
            texts[kind] = list(
                pool.map(lambda pair: ask(server, pair[0], pair[1], tokens), zip(through, prompts, strict=True))
            )

    sides = {
        "engine_mixed_8": Side(lambda: ours.sample(mixed)), "engine_base_8": Side(lambda: ours.sample(base)),
        "vllm_mixed_8": Side(lambda: theirs("mixed", list(folders)), server.cpu_seconds),
        "vllm_base_8": Side(lambda: theirs("base", [server.model] * COUNT), server.cpu_seconds),
    }  # fmt: skip
    spent = by_turns(sides, rounds, warm=2)
    report.compare("mixed_vs_vllm_cpu", spent, "vllm_mixed_8", "engine_mixed_8")
    report.compare("base_vs_vllm_cpu", spent, "vllm_base_8", "engine_base_8")
    report.compare("vllm_mixed_vs_its_base", spent, "vllm_base_8", "vllm_mixed_8")
    with urllib.request.urlopen(f"{server.url}/version", timeout=WAIT) as answer:
        report.setup["vllm"] = json.load(answer)["version"]
    report.raw["vllm_memory_mib"] = server.memory() >> 20
    changed = sum(a != b for a, b in zip(texts["mixed"], texts["base"], strict=True)) / COUNT
    report.raw["vllm_answers_that_adapters_changed"] = figure(changed)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--base", default="wide")
    options = parser.parse_args()
    tokens = 64
    if options.quick:
        options.base, options.rounds, tokens = "narrow", 1, 16
    quiet()
    torch.set_num_threads(options.threads)
    report = Report("engine_vllm", options)
    base = models.base(options.base)
    report.setup = {
        "base": options.base, "dtype": "float32", "requests": COUNT, "prompt_tokens": PROMPT, "new_tokens": tokens, "rank": 16,
        "rounds": options.rounds,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = models.adapters(base, Path(folder), COUNT)
        folders = {path.name: path for path in made}
        served = serve(
            base, adapters=folders, threads=options.threads, max_loras=COUNT, max_rank=16,
            arguments=("--max-model-len", "1024"),
        )  # fmt: skip
        try:
            with served as server, Ours(base, options.threads) as ours:
                report.setup["vllm_started_seconds"] = round(server.started, 1)
                measure(report, ours, server, folders, tokens, options.rounds)
        except NotStarted as error:
            reason = str(error).splitlines()[0]
            report.not_available = dict.fromkeys(RATIOS, reason)
            say(f"engine_vllm: {reason}")
    report.print()


if __name__ == "__main__":
    main()
