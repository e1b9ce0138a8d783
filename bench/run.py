"""Run benchmarks and keep their lines: `python -m bench.run [NAME ...] [--quick]`.

Each benchmark is a process of its own; its line of JSON goes to standard output and to the end of ``bench/history/NAME.jsonl``. A line
that does not say when, at which commit, by which command or on what it was measured is given that here. Quick runs are not kept. One
that fails does not stop the others; the exit status tells.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common import ROOT, machine, say, stamp, threads_here

HISTORY = ROOT / "bench" / "history"
PEERS = ROOT / ".venv-bench" / "bin" / "python"  # has the peers that are not among our own dependencies
NAMES = (
    "engine_load", "engine_decode", "engine_training", "engine_prefix", "engine_serving", "engine_vllm",
    "interference", "merge", "mint", "registry",
    "registry_load", "needs", "retrieval", "capability", "index", "sandbox",
)  # fmt: skip
HOURS = ("library",)  # run only when they are named
NEED_PEERS = frozenset({"engine_training"})
NOT_QUICK = frozenset({"merge", "mint"})


def completed(line: dict[str, Any], name: str, words: Sequence[str]) -> dict[str, Any]:
    """``line`` with what it lacks of date, commit, command and machine."""
    made = stamp(name)
    made["command"] = " ".join(["python", "-m", f"bench.{name}", *words])
    if "cpu" not in line.get("machine", {}):
        made["machine"] = machine(threads_here()) | line.get("machine", {})
    return {**made, **line, **({"machine": made["machine"]} if "machine" in made else {})}


def keep(line: dict[str, Any], name: str, history: Path = HISTORY) -> None:
    history.mkdir(parents=True, exist_ok=True)
    with (history / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def run(name: str, words: Sequence[str], *, kept: bool) -> bool:
    """One benchmark; whether it ended well and said something."""
    python = PEERS if name in NEED_PEERS else Path(sys.executable)
    if not python.is_file():
        say(f"{name}: no {python.relative_to(ROOT)}; run `make bench-env` first")
        return False
    say(f"{name} ...")
    began = time.monotonic()
    done = subprocess.run(
        [str(python), "-m", f"bench.{name}", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    found = False
    for text in done.stdout.splitlines():
        line = completed(json.loads(text), name, words)
        print(json.dumps(line), flush=True)
        found = True
        if kept and not done.returncode:
            keep(line, name)
    say(f"{name}: {'done' if found and not done.returncode else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return found and not done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Run benchmarks and keep their lines in bench/history.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}; by name also {', '.join(HOURS)}"
    )
    parser.add_argument("--quick", action="store_true", help="see that they run; nothing is kept")
    given = parser.parse_args()
    names = given.names or [name for name in NAMES if not (given.quick and name in NOT_QUICK)]
    if unknown := set(names) - {*NAMES, *HOURS}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    words = ["--quick"] if given.quick else []
    ended = [run(name, words, kept=not given.quick) for name in names if (ROOT / "bench" / f"{name}.py").is_file()]
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
