"""What every benchmark here does the same way: take turns, keep time, describe the machine, print one line of JSON.

Promises: two sides are measured in one process tree and by turns (the order changes from round to round) after rounds that warm up;
a ratio is the median over the rounds of one round's ratio, so that a drift of the machine touches both sides alike. ``ratios`` are of
wall time, ``ratios_cpu`` of the CPU time of all processes involved. Raw seconds stand beside them. What could not be measured is
under ``not_available`` with the reason; a ratio is never filled in.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"  # made models and adapters; git ignores it
LIBRARIES = ("clone-dna", "torch", "transformers", "peft", "trl", "safetensors", "tokenizers")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that a piece of work took: on the wall, and of CPU."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison. ``cpu`` reads the CPU time so far of the process that works (default: this one)."""

    work: Callable[[], object]
    cpu: Callable[[], float] = time.process_time

    def run(self) -> Spent:
        wall, cpu = time.perf_counter(), self.cpu()
        self.work()
        return Spent(time.perf_counter() - wall, self.cpu() - cpu)


Rounds = dict[str, list[Spent]]


def by_turns(sides: Mapping[str, Side | Callable[[], object]], rounds: int, warm: int = 1) -> Rounds:
    """Run all sides once a round, forwards and backwards by turns; the first ``warm`` rounds do not count."""
    made = {name: side if isinstance(side, Side) else Side(side) for name, side in sides.items()}
    spent: Rounds = {name: [] for name in made}
    for turn in range(-warm, rounds):
        for name in made if turn % 2 == 0 else reversed(made):
            one = made[name].run()
            if turn >= 0:
                spent[name].append(one)
    return spent


def ratio(rounds: Rounds, over: str, under: str, clock: str = "wall") -> float:
    """Median over the rounds of ``over``'s seconds by ``under``'s: how many times as long ``over`` takes."""
    pairs = zip(rounds[over], rounds[under], strict=True)
    return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)


def threads_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments(description: str | None, rounds: int = 3) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--rounds", type=int, default=rounds, help="that count, after one that warms up")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs, not to measure")
    return parser


def quiet() -> None:
    """No warnings, progress bars or advice from the libraries: standard output has one line, and people read standard error."""
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def seconds(rounds: Sequence[Spent]) -> dict[str, Any]:
    """Raw figures of one side."""
    return {
        "wall": round(statistics.median(one.wall for one in rounds), 5), "cpu": round(statistics.median(one.cpu for one in rounds), 5),
        "wall_each": [round(one.wall, 5) for one in rounds], "cpu_each": [round(one.cpu, 5) for one in rounds],
    }  # fmt: skip


@dataclass(slots=True)
class Report:
    """The line of one benchmark, filled while it runs. ``setup``: sizes and settings of both sides; ``raw``: their figures."""

    bench: str
    options: argparse.Namespace
    setup: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    ratios_cpu: dict[str, float] = field(default_factory=dict)
    not_available: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def compare(self, name: str, rounds: Rounds, over: str, under: str) -> None:
        """Keep both sides' seconds, and ``over`` by ``under`` as the ratio ``name``."""
        self.raw |= {side: seconds(rounds[side]) for side in (over, under)}
        self.ratios[name] = figure(ratio(rounds, over, under))
        self.ratios_cpu[name] = figure(ratio(rounds, over, under, "cpu"))
        say(f"{self.bench}: {name} {self.ratios[name]} (CPU time: {self.ratios_cpu[name]})")

    def print(self) -> None:
        result = {
            "bench": self.bench, **stamp(self.bench), "quick": self.options.quick, "seconds": round(time.monotonic() - self.began, 1),
            "ratios": self.ratios, "ratios_cpu": self.ratios_cpu, "not_available": self.not_available, "setup": self.setup,
            "raw": self.raw, "versions": versions(), "machine": machine(self.options.threads),
        }  # fmt: skip
        print(json.dumps(result), flush=True)


def peak_memory() -> int:
    """Highest resident bytes of this process so far. Not ``ru_maxrss``: on Linux that begins with what the parent held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process' highest resident memory")


def figure(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def stamp(bench: str) -> dict[str, Any]:
    """When, at which commit (``changed``: files under version control differ from it), and the command to run it again."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": _git("rev-parse", "--short=10", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "clonedna", "bench")),
        "command": " ".join(["python", "-m", f"bench.{bench}", *sys.argv[1:]]),
    }  # fmt: skip


def _git(*words: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine(threads: int) -> dict[str, Any]:
    """What this ran on. ``load`` is the system's load average of the last minute: well above ``threads``, somebody else was at work."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "threads": threads, "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(), "processor": platform.machine(), "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
