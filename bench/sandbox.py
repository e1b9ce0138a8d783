"""The sandbox: what a cold run costs beside the same command without one, and how many attacks get out.

    python -m bench.sandbox [--rounds 20] [--quick]

`exec_ms` is the median wall time of `Sandbox.exec` of a command that does nothing (`true`), everything counted: our supervisor,
bubblewrap, watching, ending, reaping; `exec_cpu_ms` is the CPU time of all that, which a busy machine changes less; `plain_ms` is
`true` without a sandbox, at the same time. `run_ms` is the part from the supervisor's fork to the last process reaped. `tasks_ms` is
one answer to a programming task: a workspace made, a program written, Python started, the workspace removed. Attacks are those of
bench/attacks.py, started as this user and, as root, also as a plain user, and once without cgroups; `escapes` counts those from which
anything got out. `race_leaks` counts reads through a link among `race_tries`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

from bench.attacks import ATTACKS, as_plain_user
from bench.common import ROOT, Report, arguments, figure, say
from clonedna.core.errors import NotFound, PathRefused, SandboxUnavailable
from clonedna.evals.tasks import passes
from clonedna.evals.tasks_files import bundled_tasks
from clonedna.sandbox.files import read_beneath
from clonedna.sandbox.trial import Sandboxes


def cpu() -> float:
    """CPU seconds so far of this process and of all below it that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


async def costs(report: Report, rounds: int) -> None:
    """Cold runs, in milliseconds."""
    sandboxes = Sandboxes()
    began = time.perf_counter()
    sandbox = await sandboxes.open()
    trial = time.perf_counter() - began
    walls: dict[str, list[float]] = {name: [] for name in ("exec_ms", "exec_cpu_ms", "run_ms", "plain_ms", "tasks_ms")}
    task = bundled_tasks()[0]
    for turn in range(-1, rounds):
        seen: dict[str, float] = {}
        began = time.perf_counter()
        subprocess.run(["true"], check=True)  # noqa: ASYNC221 - nothing else runs in this loop
        seen["plain_ms"], began = time.perf_counter() - began, time.perf_counter()
        spent = cpu()
        ran = await sandbox.exec(["true"])
        seen["exec_cpu_ms"] = cpu() - spent
        seen["exec_ms"], seen["run_ms"], began = time.perf_counter() - began, ran.seconds, time.perf_counter()
        if not await passes(sandboxes.open, task, task.reference):
            raise SystemExit("a reference does not pass")
        seen["tasks_ms"] = time.perf_counter() - began
        for name, value in seen.items() if turn >= 0 else ():
            walls[name].append(round(1000 * value, 2))
    sandbox.close()
    for name, each in walls.items():
        report.raw[name] = {"each": each}
        report.ratios[name] = figure(statistics.median(each))
    report.ratios["self_test_ms"] = figure(1000 * trial)
    say(f"sandbox: {report.ratios}")


_SWAPPER = """
import ctypes, os, sys
here, exchange = os.open(sys.argv[1], os.O_RDONLY), ctypes.CDLL(None).renameat2
print("swapping", flush=True)
while True: exchange(here, b"swapped", here, b"other", 2)
"""


def race(report: Report, tries: int) -> None:
    """Somebody swaps a folder for a link to the outside as fast as they can, while a file in it is read: by our file tools, and, to
    see that the race is one, by looking where the path leads before opening it.
    """
    with tempfile.TemporaryDirectory(prefix="clonedna-race-") as name:
        outside, workspace = Path(name, "outside"), Path(name, "workspace")
        for place, text in ((outside, b"outside"), (workspace / "swapped", b"inside")):
            place.mkdir(parents=True)
            (place / "file").write_bytes(text)
        (workspace / "other").symlink_to(outside)
        with subprocess.Popen([sys.executable, "-c", _SWAPPER, str(workspace)], stdout=subprocess.PIPE) as swapper:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            for side, read in (("file_tools", _by_tools), ("resolve_then_open", _by_resolving)):
                count = tries if side == "file_tools" else tries // 20
                answers = Counter(read(workspace) for _ in range(count))
                report.raw[f"race_{side}"] = {
                    "tries": count, "read inside": answers[b"inside"], "refused": answers[b""], "leaked": answers[b"outside"]
                }  # fmt: skip
                say(f"sandbox: race, {side}: {report.raw[f'race_{side}']}")
            swapper.kill()
    report.ratios |= {"race_tries": tries, "race_leaks": report.raw["race_file_tools"]["leaked"]}


def _by_tools(workspace: Path) -> bytes:
    try:
        return read_beneath(workspace, "swapped/file", 100)
    except (PathRefused, NotFound):
        return b""


def _by_resolving(workspace: Path) -> bytes:
    path = workspace / "swapped/file"
    try:
        return path.read_bytes() if path.resolve().is_relative_to(workspace.resolve()) else b""
    except OSError:
        return b""


def attacks(report: Report, side: str, words: list[str], plain: bool) -> None:
    """One side's attacks and escapes."""
    command = ["-m", "bench.attacks", *words]
    if plain:
        done: Any = as_plain_user(command)
        if isinstance(done, str):
            report.not_available[f"escapes_{side}"] = done
            return
    else:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        report.not_available[f"escapes_{side}"] = done.stderr.strip().splitlines()[-1][:300]
        return
    found = json.loads(done.stdout)["escaped"]
    out = {name: said for name, said in found.items() if said}
    report.raw[f"attacks_{side}"] = {"tried": len(found), "known": len(ATTACKS), "escaped": out}
    report.ratios[f"attacks_{side}"], report.ratios[f"escapes_{side}"] = len(found), len(out)
    say(f"sandbox: {side}: {len(found)} attacks, {len(out)} out")


def main() -> None:
    options = arguments(__doc__, rounds=20).parse_args()
    report = Report("sandbox", options)
    names = ["read.bait", "network.tcp", "syscall.bpf"] if options.quick else []
    try:
        anyio.run(costs, report, 2 if options.quick else options.rounds)
    except SandboxUnavailable as error:
        for name in ("exec_ms", "escapes_root", "escapes_plain"):
            report.not_available[name] = error.message
        report.print()
        return
    root = os.geteuid() == 0
    race(report, 2000 if options.quick else 400_000)
    report.setup = {"attacks": len(ATTACKS), "root": root}
    if root:
        attacks(report, "root", names, plain=False)
    else:
        report.not_available["escapes_root"] = "not started as root"
    attacks(report, "plain", names, plain=root)
    attacks(report, "no_cgroups", [*names, "--no-cgroups"], plain=False)
    report.print()


if __name__ == "__main__":
    main()
