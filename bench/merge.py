"""Merging by `svd`: PEFT's own against ours, in one run and by turns: `python bench/merge.py`.

PEFT: ``add_weighted_adapter(combination_type="svd")`` in memory, as it is called by default (``svd_full_matrices=True``) and with reduced
matrices. Ours: the whole of ``merge_adapters``: reading the files, merging, measuring the distance in every module, writing the result.
A random Qwen2 of the given widths, adapters of equal rank on all linears. Medians of process CPU time and of wall time, and the relative
error of both results against the weighted sum, computed densely for both in the same way. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.utils import logging as transformers_logging

from clonedna.core.merge import MergePart, MergeSpec
from clonedna.core.model import ALL_LINEAR
from clonedna.engine.adapters import read_adapter, write_adapter
from clonedna.engine.merging import merge_adapters, own_shapes

FINGERPRINT = "0" * 64


def make_adapter(directory: Path, shapes: dict[str, tuple[int, int]], rank: int, seed: int) -> Path:
    """An adapter of normal factors: no structure that would make a truncation easy."""
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        name: (torch.randn(rank, inside, generator=draw) / inside**0.5, torch.randn(outside, rank, generator=draw) / rank**0.5)
        for name, (inside, outside) in shapes.items()
    }  # fmt: skip
    write_adapter(directory, matrices, rank=rank, alpha=2 * rank, rslora=False, base="bench", fingerprint=FINGERPRINT)
    return directory


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def deltas(directory: Path) -> dict[str, torch.Tensor]:
    adapter = read_adapter(directory, own_shapes(directory), FINGERPRINT)
    return {name: adapter.scale * (b.double() @ a.double()) for name, (a, b) in adapter.matrices.items()}


def relative_error(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    off = sum(float((got[name].double() - wanted[name]).square().sum()) for name in wanted)
    return (off / sum(float(one.square().sum()) for one in wanted.values())) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure merging by svd against PEFT.")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--intermediate", type=int, default=4864)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    config = Qwen2Config(
        hidden_size=options.hidden, intermediate_size=options.intermediate, num_hidden_layers=options.layers, vocab_size=256,
        num_attention_heads=max(1, options.hidden // 64), num_key_value_heads=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    shapes = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ALL_LINEAR
    }
    weights = [1 / (i + 1) for i in range(options.adapters)]
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "peft": [], "peft_reduced": []}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "merged"
        paths = [make_adapter(Path(folder) / str(i), shapes, options.rank, i) for i in range(options.adapters)]
        wrapped = peft.PeftModel.from_pretrained(model, str(paths[0]), adapter_name="0")
        for i, path in enumerate(paths[1:], 1):
            wrapped.load_adapter(str(path), str(i))
        parts = [MergePart(path, weight) for path, weight in zip(paths, weights, strict=True)]
        spec = MergeSpec(method="svd", rank=options.rank)
        names = [str(i) for i in range(options.adapters)]

        def ours() -> None:
            merge_adapters(parts, out, spec, base="bench", fingerprint=FINGERPRINT)

        def theirs(full: bool) -> None:
            wrapped.add_weighted_adapter(
                names, weights, "merged", combination_type="svd", svd_rank=options.rank, svd_full_matrices=full
            )

        ours()  # warms up what both use: LAPACK, threads
        for _ in range(options.turns):
            seconds["ours"].append(timed(ours))
            for name, full in (("peft_reduced", False), ("peft", True)):
                seconds[name].append(timed(lambda full=full: theirs(full)))
                by_peft = {
                    key.removeprefix("base_model.model."): module.get_delta_weight("merged").detach()
                    for key, module in wrapped.named_modules()
                    if isinstance(module, peft.tuners.lora.LoraLayer)
                }
                wrapped.delete_adapter("merged")
        wanted: dict[str, torch.Tensor] = {}
        for path, weight in zip(paths, weights, strict=True):
            for name, delta in deltas(path).items():
                wanted[name] = wanted.get(name, 0) + weight * delta
        errors = {"ours": relative_error(deltas(out), wanted), "peft": relative_error(by_peft, wanted)}
    cpu, wall = (
        {name: statistics.median(pair[i] for pair in pairs) for name, pairs in seconds.items()} for i in (0, 1)
    )
    result = {
        "bench": "merge", "hidden": options.hidden, "intermediate": options.intermediate, "layers": options.layers, "rank": options.rank,
        "adapters": options.adapters, "threads": options.threads, "turns": options.turns, "modules": len(shapes),
        "cpu_seconds": {name: round(value, 4) for name, value in cpu.items()},
        "wall_seconds": {name: round(value, 4) for name, value in wall.items()},
        "cpu_seconds_each": {name: [round(pair[0], 4) for pair in pairs] for name, pairs in seconds.items()},
        "relative_error": {name: float(f"{value:.8g}") for name, value in errors.items()},
        "ratios": {
            "merge_vs_peft_svd": round(cpu["peft"] / cpu["ours"], 1),
            "merge_vs_peft_svd_reduced": round(cpu["peft_reduced"] / cpu["ours"], 1),
            "merge_vs_peft_svd_wall": round(wall["peft"] / wall["ours"], 1),
        },
        "versions": {name: version(name) for name in ("torch", "peft", "transformers", "safetensors")},
        "machine": {"machine": platform.machine(), "python": platform.python_version(), "cpus": os.cpu_count()},
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
