"""Many streams over many blocks for a while: `python -m bench.serving_load` (`--engine`: without HTTP, `--seconds 20`: a try).

A `dna serve` of its own process over loopback answers ``--streams`` clients at once, each asking again as soon as it is answered: a
block or the base, one of a few prompts (half behind a common beginning), greedy or seeded. Reported: requests and tokens by second,
times to the first event and between events of a stream as the client sees them, the server's memory at start, peak and end, statuses,
and how many of the texts differ from the same request asked alone at the end (a sample; all that were said to it are compared).
With ``--engine`` the same clients call the engine in this process. The clients share the machine with the server: figures are low
bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio
import httpx2
import psutil

from bench import models
from bench.common import Report, figure, quiet, say, threads_here
from clonedna.core.errors import DnaError
from clonedna.core.model import Layer, SampleRequest
from clonedna.engine.statistics import spread

BEGINNING = '"""Tools for small shapes: plain, documented, and named after what they give."""\n\nimport math\n' * 3
PROMPTS = ["def area(width, height):\n", "class Stack:\n", "for name in names:\n", "import json\n\n\ndef read("]


@dataclass(frozen=True, slots=True)
class Ask:
    block: int | None
    prompt: str
    tokens: int
    temperature: float
    seed: int


class Refused(Exception):
    """A status that is no answer."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Server(Protocol):
    """What is under load: HTTP or the engine. ``pid``: the process that holds the base."""

    pid: int

    def said(self, ask: Ask) -> AsyncIterator[tuple[str, int]]:
        """Pieces of text, with how many tokens have been made once that is told (0 before). Raises ``Refused``."""
        ...

    async def status(self) -> dict[str, Any]: ...


class Http:
    def __init__(self, client: httpx2.AsyncClient, names: list[str], pid: int) -> None:
        self._client, self._names, self.pid = client, names, pid

    async def said(self, ask: Ask) -> AsyncIterator[tuple[str, int]]:
        body = {
            "model": "nano" if ask.block is None else self._names[ask.block], "prompt": ask.prompt, "max_tokens": ask.tokens,
            "temperature": ask.temperature, "seed": ask.seed, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        async with self._client.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise Refused(str(reply.status_code))
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise Refused(f"error {event['error']['code']}")
                used = event.get("usage")
                yield "".join(one["text"] for one in event["choices"]), used["completion_tokens"] if used else 0

    async def status(self) -> dict[str, Any]:
        return (await self._client.get("/api/v1/engine")).json()["engine"]


class Direct:
    def __init__(self, engine: Any, ids: list[str]) -> None:
        self._engine, self._ids, self.pid = engine, ids, os.getpid()

    async def said(self, ask: Ask) -> AsyncIterator[tuple[str, int]]:
        layers = () if ask.block is None else (Layer(adapter=self._ids[ask.block]),)
        request = SampleRequest(
            prompt=ask.prompt, layers=layers, max_tokens=ask.tokens, temperature=ask.temperature, seed=ask.seed, ignore_eos=True
        )  # fmt: skip
        try:
            async for chunk in self._engine.sample(request):
                yield chunk.text, chunk.completion_tokens or 0
        except DnaError as error:
            raise Refused(str(error.http_status)) from error

    async def status(self) -> dict[str, Any]:
        return self._engine.status.model_dump(mode="json")


@dataclass
class Seen:
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    texts: dict[Ask, set[str]] = field(default_factory=dict)
    rss: list[int] = field(default_factory=list)


def asks(blocks: int) -> list[Ask]:
    draw = random.Random(models.SEED)
    made: list[Ask] = []
    for block in [*range(blocks), None]:
        for i in range(4):
            prompt = (BEGINNING if draw.random() < 0.5 else "") + draw.choice(PROMPTS)
            made.append(Ask(block, prompt, draw.choice((16, 32, 64)), 0.8 * (i % 2), draw.randrange(1000)))
    return made


async def client(server: Server, pool: list[Ask], until: float, seen: Seen, draw: random.Random) -> None:
    while time.monotonic() < until:
        ask = draw.choice(pool)
        try:
            text, tokens = await once(server, ask, seen)
            seen.statuses["200"] += 1
            seen.tokens += tokens
            seen.texts.setdefault(ask, set()).add(text)
        except Refused as refused:
            seen.statuses[refused.status] += 1
            await asyncio.sleep(0.2)
        except httpx2.HTTPError as error:
            seen.statuses[type(error).__name__] += 1
            await asyncio.sleep(0.2)


async def once(server: Server, ask: Ask, seen: Seen | None = None) -> tuple[str, int]:
    """Text and number of tokens; times go to ``seen``."""
    text, tokens = "", 0
    last = time.monotonic()
    begun = False
    async for piece, told in server.said(ask):
        now = time.monotonic()
        text, tokens = text + piece, max(tokens, told)
        if seen is not None:
            (seen.gaps if begun else seen.first).append((now - last) * 1e3)
        begun, last = True, now
    return text, tokens


async def watch(process: psutil.Process, seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        seen.rss.append(process.memory_info().rss)
        await asyncio.sleep(0.25)


async def load(server: Server, options: argparse.Namespace, report: Report) -> None:
    pool, seen = asks(options.blocks), Seen()
    process = psutil.Process(server.pid)
    start = process.memory_info().rss
    say(f"serving_load: {options.streams} streams for {options.seconds} s")
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch(process, seen, began + options.seconds))
        for i in range(options.streams):
            group.create_task(client(server, pool, began + options.seconds, seen, random.Random(i)))
    took = time.monotonic() - began
    status = await server.status()
    while status["running"] + status["waiting"]:
        await asyncio.sleep(0.1)
        status = await server.status()
    end = process.memory_info().rss
    say("serving_load: the same requests alone")
    sample = random.Random(0).sample(sorted(seen.texts, key=repr), min(options.checked, len(seen.texts)))
    wrong = compared = 0
    for ask in sample:
        text, _ = await once(server, ask)
        compared += 1
        wrong += seen.texts[ask] != {text}
    done = seen.statuses["200"]
    report.raw = {
        "seconds": round(took, 2), "requests": done, "requests_per_second": figure(done / took), "tokens": seen.tokens,
        "tokens_per_second": figure(seen.tokens / took), "statuses": dict(seen.statuses), "first_ms": spread(seen.first).model_dump(),
        "gap_ms": spread(seen.gaps).model_dump(), "checked": compared, "wrong": wrong,
        "rss_mib": {"start": start >> 20, "peak": max([*seen.rss, start]) >> 20, "end": end >> 20},
        "still_held": sum(one["uses"] for one in status["adapters"]), "engine": {key: status[key] for key in ENGINE},
    }  # fmt: skip


ENGINE = (
    "exact",
    "slots",
    "slots_used",
    "hits",
    "loads",
    "evictions",
    "prefix_hits",
    "prefix_queries",
    "gap",
    "first_token",
)


def make_blocks(home: Path, count: int, base: Path) -> list[str]:
    """Signed blocks of random adapters in the home's store, without a mint; gives their names."""
    from clonedna.app.parts import Parts
    from clonedna.app.settings import Settings
    from clonedna.engine.bases import load_base
    from tests.unit.store.making import contents, write_block

    parts = Parts(Settings(home=home))
    fingerprint = load_base(str(base)).fingerprint
    names = [f"block-{i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        for name, adapter in zip(names, models.adapters(base, Path(folder), count), strict=True):
            files = contents(note=name) | {
                path.name: path.read_bytes() for path in adapter.iterdir() if path.name.startswith("adapter_")
            }
            directory = Path(folder) / name
            manifest = write_block(
                directory, parts.signer, files, name=name, base_fingerprint=fingerprint, rank=16, alpha=32.0
            )
            parts.store.put(directory)
            parts.registry.publish(manifest)
    anyio.run(parts.close)
    return names


@contextmanager
def serving(home: Path, threads: int) -> Generator[tuple[str, int]]:
    """A `dna serve` on a free port: its address and process."""
    settings = {"HOME": home, "PORT": 0, "THREADS": threads, "MAX_REQUESTS": 1024}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")}
    log = (home / "server.log").open("w")  # a line for each request: what a server does costs what it costs
    process = subprocess.Popen(
        [Path(sys.executable).with_name("dna"), "serve", "--json"], stdout=subprocess.PIPE, stderr=log, text=True,
        env=environment | {f"DNA_{key}": str(value) for key, value in settings.items()},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@asynccontextmanager
async def http(home: Path, options: argparse.Namespace) -> AsyncGenerator[Server]:
    names = await anyio.to_thread.run_sync(make_blocks, home, options.blocks, models.base("narrow"))
    with serving(home, options.threads) as (url, pid):
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=options.streams)
        async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
            yield Http(client, names, pid)


@asynccontextmanager
async def direct(home: Path, options: argparse.Namespace) -> AsyncGenerator[Server]:
    from clonedna.engine.local import open_engine

    base = models.base("narrow")
    engine = open_engine(str(base), threads=options.threads)
    try:
        yield Direct(engine, [(await engine.load(path)).id for path in models.adapters(base, home, options.blocks)])
    finally:
        await engine.close()


async def measure(home: Path, options: argparse.Namespace, report: Report) -> None:
    async with (direct if options.engine else http)(home, options) as server:
        await load(server, options, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--checked", type=int, default=100, help="requests that are asked again alone")
    parser.add_argument("--engine", action="store_true", help="the engine in this process, without HTTP")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs, not to measure")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.streams, options.blocks, options.checked = 5, 20, 8, 20
    quiet()
    report = Report("serving_load", options)
    report.setup = {
        "base": "narrow", "rank": 16, "streams": options.streams, "blocks": options.blocks, "face": "engine" if options.engine else "http",
        "prompts": "4, half behind a common beginning", "max_tokens": [16, 32, 64],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), options, report))
    report.print()


if __name__ == "__main__":
    main()
