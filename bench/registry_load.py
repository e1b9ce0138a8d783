"""Reads of the registry at a fixed rate while a mint runs: `python -m bench.registry_load` (`--rate 200 --seconds 20 --blocks 200`).

A `dna serve` of its own process on the bundled base, over loopback, with made-up blocks. Requests leave at their times whether or not
earlier ones were answered (open loop), and each one's time is counted from when it should have left: a server that falls behind cannot
hide it. Drawn among them: pages of the list, searches by words, one block, its versions, its card. Measured twice, alone and while a mint
of a made-up repository trains in the same server; reported are the rate that was reached, p50, p95, p99 and longest in milliseconds by
kind of read, every status that was not 200, and the CPU time of the server (alone: of the requests; beside a mint: of both). The client
shares the machine with the server: figures are low bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil

from bench.common import ROOT, Report, figure, quiet, say, threads_here
from bench.serving_load import serving
from clonedna.app.job_asks import MintAsk
from clonedna.client import Client

AUTHOR = "Person 0 <person0@example.org>"
WORDS = ("parser", "colours", "tables", "paths", "small", "abacus")


def make_blocks(home: Path, count: int) -> list[str]:
    """Signed blocks in the home's store and catalogue; their weights are a few bytes, which nothing here reads."""
    from clonedna.app.parts import Parts
    from clonedna.app.settings import Settings
    from tests.unit.store.making import contents, write_block

    parts, names = Parts(Settings(home=home)), [f"block-{i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            directory = Path(folder) / name
            about = f"{WORDS[i % len(WORDS)]} and {WORDS[(i // 7) % len(WORDS)]} in Python"
            made = write_block(directory, parts.signer, contents(note=name), name=name, specialization=about)
            parts.store.put(directory)
            parts.registry.publish(made)
    anyio.run(parts.close)
    return names


def reads(names: list[str], draw: random.Random) -> tuple[str, str]:
    """A kind of read, and its path."""
    name = draw.choice(names)
    return draw.choice((
        ("list", "/api/v1/registry?limit=48"), ("list", "/api/v1/registry?limit=20&sort=name"),
        ("search", f"/api/v1/registry/search?q={draw.choice(WORDS)}&mode=text"),
        ("show", f"/api/v1/registry/{name}"), ("versions", f"/api/v1/registry/{name}/versions"), ("card", f"/api/v1/registry/{name}/card"),
    ))  # fmt: skip


async def load(url: str, names: list[str], options: argparse.Namespace, server: psutil.Process) -> dict[str, Any]:
    """Requests at the rate for the time; figures of all that were answered, and the server's CPU time meanwhile."""
    draw, took, statuses = random.Random(options.seed), {}, Counter()
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits, trust_env=False) as client:

        async def one(kind: str, path: str, due: float) -> None:
            try:
                answer = await client.get(path)
                statuses[str(answer.status_code)] += 1
            except httpx2.HTTPError as error:
                statuses[type(error).__name__] += 1
            took.setdefault(kind, []).append((time.monotonic() - due) * 1e3)

        for kind, path in {
            reads(names, random.Random(i)) for i in range(40)
        }:  # once each before it counts: what is made when first asked
            await one(kind, path, time.monotonic())
        took.clear()
        statuses.clear()
        began, cpu, wanted = time.monotonic(), _cpu(server), round(options.rate * options.seconds)
        async with asyncio.TaskGroup() as group:
            for i in range(wanted):
                due = began + i / options.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(one(*reads(names, draw), due))
        seconds, cpu = time.monotonic() - began, _cpu(server) - cpu
    return {
        "server_cpu_seconds": figure(cpu), "server_cpu_ms_each": figure(1e3 * cpu / max(1, statuses["200"])),
        "asked": wanted, "seconds": round(seconds, 2), "rate": figure(wanted / seconds), "statuses": dict(statuses),
        "errors": wanted - statuses["200"], "ms": {"all": spread([ms for each in took.values() for ms in each])}
        | {kind: spread(each) for kind, each in sorted(took.items())},
    }  # fmt: skip


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def spread(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return {
        "n": len(values),
        "p50": figure(cuts[49]),
        "p95": figure(cuts[94]),
        "p99": figure(cuts[98]),
        "max": figure(max(values)),
    }


def begin_mint(client: Client, folder: Path) -> str:
    """A mint in the server that has come to its training; gives the job's id."""
    repository = folder / "repository"
    words = [sys.executable, str(ROOT / "bench/make_repo.py"), str(repository), "--files", "150", "--commits", "600"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    ask = MintAsk(
        kind="mint", target=str(repository), authors=(AUTHOR,), name="minted", consent="local-only", epochs=20
    )
    job = client.jobs.start(ask).id
    for _ in range(600):
        view = client.jobs.get(job)
        if view.doing == "train":
            return job
        if view.error is not None:
            raise SystemExit(f"the mint failed: {view.error.code}: {view.error.message}")
        time.sleep(0.2)
    raise SystemExit("the mint did not come to its training")


def measure(folder: Path, options: argparse.Namespace, report: Report) -> None:
    home = folder / "home"
    say(f"registry_load: {options.blocks} blocks")
    names = make_blocks(home, options.blocks)
    with serving(home, options.threads) as (url, pid), Client(url) as client:
        server = psutil.Process(pid)
        say(f"registry_load: {options.rate:g} requests a second for {options.seconds:g} s, alone")
        report.raw["alone"] = asyncio.run(load(url, names, options, server))
        job = begin_mint(client, folder)
        say("registry_load: the same while a mint trains")
        report.raw["minting"] = asyncio.run(load(url, names, options, server))
        view = client.jobs.get(job)
        report.raw["minting"]["stage_at_the_end"] = view.doing or view.status
        client.jobs.cancel(job)
    for name in ("alone", "minting"):
        one = report.raw[name]
        say(f"registry_load: {name}: {one['rate']} requests a second, {one['errors']} errors, {one['ms']['all']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs, not to measure")
    options = parser.parse_args()
    if options.quick:
        options.rate, options.seconds, options.blocks = 20, 2, 10
    quiet()
    report = Report("registry_load", options)
    report.setup = {
        "base": "nano", "blocks": options.blocks, "rate": options.rate, "seconds": options.seconds,
        "reads": "list (two kinds), search by words, show, versions, card; evenly", "loop": "open",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options, report)
    report.print()


if __name__ == "__main__":
    main()
