"""How long it takes to list, search and publish among 10,000 blocks, on SQLite and PostgreSQL: milliseconds, median and 95th percentile.

The catalogue is filled with rows of made-up manifests (``fill``): what a list or a search reads is what it would be of real blocks, but
their directories are not there. What is published among them is real: signed, stored, verified. A part of the made-up texts is encoded;
the vectors of the others lie between two of those, since exact search takes as long whatever stands in them. Each question is asked after
something was committed to the catalogue, so that it is read; and (``again``) after nothing was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from sqlalchemy import text

from bench.common import Report, figure, say, threads_here
from clonedna.app.catalogue import Catalogue
from clonedna.app.parts import Parts
from clonedna.core.block import Candidate, Capability, GateVerdict, Manifest, Measure
from clonedna.core.canonical import sha256
from clonedna.core.catalogue import ListQuery, SearchQuery
from clonedna.core.vectors import Vectors
from clonedna.store import lines
from clonedna.store.database import Database
from clonedna.store.registry import row_of
from tests.postgres.cluster import Missing, cluster
from tests.serving import ServerParts, running
from tests.unit.store.making import manifest as made_manifest
from tests.unit.store.making import write_block

LANGUAGES = ("python", "javascript", "typescript", "rust", "go", "java", "c", "ruby")
THINGS = (
    "http client retries", "binary parser", "terminal colours", "date arithmetic", "matrix decomposition", "image resizing", "job queue",
    "template engine", "sql query builder", "audio filter", "graph layout", "test runner", "package resolver", "markdown renderer",
    "password hashing", "rate limiter", "geometry kernel", "log shipper", "schema validation", "cache eviction", "websocket server",
)  # fmt: skip
PLACES = (
    "library",
    "service",
    "command line tool",
    "plugin",
    "compiler pass",
    "notebook",
    "daemon",
    "extension",
    "driver",
    "protocol",
)


def synthetic(number: int) -> Manifest:
    """A manifest of a block that is not there; the same for the same number."""
    draw = random.Random(number)
    first, second = draw.sample(LANGUAGES, 2)
    thing, other, place = draw.choice(THINGS), draw.choice(THINGS), draw.choice(PLACES)
    told = f"{first}, {second}. A {place} with {thing}, {other}. module_{number % 977} parse_{other.split()[0]}"
    gain, maturity = draw.gauss(0.2, 0.1), draw.random()
    made = made_manifest({}, sha256("key"))
    measured = {"status": "measured", "how": "made up"}
    return made.model_copy(
        update={
            "id": sha256(f"block {number}"), "name": f"person-{number % 4000}", "version": f"1.{number // 4000}.0",
            "created_at": f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:{number % 60:02d}:{number % 59:02d}Z",
            "candidate": Candidate(handle=f"person-{number % 4000}", name=f"Person {number % 4000}", expertise_domains=(first, second),
                                   consent_verified=False),
            "specialization": f"{first} code for a {thing} {place}", "tags": ("lora", first, *other.split()),
            "capability": Capability(text=told),
            "license": draw.choice(("MIT", "Apache-2.0", "BSD-3-Clause")),
            "gate": GateVerdict(status="accepted" if draw.random() < 0.9 else "rejected"),
            "eval_summary": made.eval_summary.model_copy(
                update={"nll_delta": Measure(value=gain, **measured), "maturity": Measure(value=maturity, **measured)}
            ),
        }
    )  # fmt: skip


def fill(database: Database, count: int) -> list[Manifest]:
    """``count`` rows and lines of made-up blocks, as publishing them would write them, but with nothing in the store."""
    made = [synthetic(number) for number in range(count)]
    for start in range(0, count, 1000):
        with database.session() as session:
            for manifest in made[start : start + 1000]:
                session.add(row_of(manifest))
                lines.enter(session, manifest, "Writes small functions, and tests for them.")
    return made


def fill_vectors(parts: Parts, some: int) -> None:
    """Vectors for every line: of ``some`` texts by the encoder, of the others between two of those."""
    told = parts.lines.meanings()
    keys = list(told)
    real = parts.encoder.encode([told[key] for key in keys[:some]]).rows
    draw = np.random.default_rng(0)
    shares = draw.random((len(keys) - len(real), 1)).astype(np.float32)
    a, b = draw.integers(0, len(real), (2, len(keys) - len(real)))
    rest = shares * real[a] + (1 - shares) * real[b]
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    parts.vectors.add(keys, Vectors(parts.encoder.name, np.concatenate([real, rest])))


def timed(work: Callable[[], object], rounds: int, before: Callable[[], object] = bool) -> dict[str, float]:
    """Milliseconds of each call after three that warm up; ``cpu``: the median of this process's own, which a busy machine touches less.
    ``before`` each call something is done that does not count."""
    took, cpu = list[float](), list[float]()
    for turn in range(-3, rounds):
        before()
        began, spent = time.perf_counter(), time.process_time()
        work()
        if turn >= 0:
            took.append((time.perf_counter() - began) * 1000)
            cpu.append((time.process_time() - spent) * 1000)
    return spread(took) | {"cpu": figure(float(np.percentile(cpu, 50)))}


def spread(took: list[float]) -> dict[str, float]:
    return {
        "p50": figure(float(np.percentile(took, 50))),
        "p95": figure(float(np.percentile(took, 95))),
        "n": len(took),
    }


def commit(database: Database) -> None:
    """Change something in the catalogue, and nothing of what is asked: what was kept of it is read again."""
    with database.session() as session:
        session.execute(text("UPDATE blocks SET status = status WHERE id = (SELECT min(id) FROM blocks)"))


def questions(parts: Parts) -> dict[str, Callable[[], object]]:
    """What is asked, each time with other words."""
    catalogue, numbers = Catalogue(parts), itertools.count()
    deep, accepted = ListQuery(), [one.name for one in map(synthetic, range(300)) if one.gate.status == "accepted"]
    for _ in range(20):
        deep = deep.model_copy(update={"cursor": catalogue.page(deep).next})

    def page(**fields: Any) -> Callable[[], object]:
        return lambda: catalogue.page(ListQuery(**fields))

    def search(mode: str, **fields: Any) -> Callable[[], object]:
        def ask() -> object:
            n = next(numbers)
            words = f"{THINGS[n % len(THINGS)]} {PLACES[n % len(PLACES)]}"
            return catalogue.search(SearchQuery.model_validate({"q": words, "mode": mode, **fields}))

        return ask

    return {
        "list": page(), "list_deep": lambda: catalogue.page(deep), "list_gain": page(sort="gain"), "list_name": page(sort="name"),
        "filter": page(domain="parser", language="rust", maturity=0.5), "filter_none": page(licence="0BSD"),
        "text": search("text"), "text_common": lambda: catalogue.search(SearchQuery(q="code with a python module", mode="text")),
        "text_filter": search("text", language="rust", score=0.1),
        "semantic": search("semantic"), "semantic_filter": search("semantic", language="rust", maturity=0.5), "hybrid": search("hybrid"),
        "resolve": lambda: parts.registry.resolve(f"{accepted[next(numbers) % len(accepted)]}@1.0.0"),
        "resolve_mistyped": lambda: _suppressed(parts, f"persn-{next(numbers) % 4000}"),
    }  # fmt: skip


def _suppressed(parts: Parts, name: str) -> str:
    from clonedna.core.errors import BlockNotFound

    try:
        parts.registry.resolve(name)
    except BlockNotFound as error:
        return error.code
    raise AssertionError(f"{name} is there")


def publishing(parts: Parts, home: Path, count: int) -> dict[str, float]:
    """Blocks that were stored before, published one after the other."""
    made: list[Manifest] = []
    for number in range(count + 3):
        directory = home / f"made-{number}"
        made.append(write_block(directory, parts.signer, note=str(number), name=f"published-{number}"))
        parts.store.put(directory)
    following = iter(made)
    return timed(lambda: parts.registry.publish(next(following)), count)


def over_http(parts: Parts, rounds: int) -> dict[str, dict[str, float]]:
    """Lists and searches through a server in this process, one after the other and eight at once."""
    with running(parts, whole=True) as url, httpx2.Client(trust_env=False) as client:

        def get(path: str) -> None:
            client.get(f"{url}/api/v1/registry{path}").raise_for_status()

        found = {
            "http_list": timed(lambda: get(""), rounds),
            "http_text": timed(lambda: get("/search?q=binary+parser&mode=text"), rounds),
        }
        took: list[float] = []

        def many() -> None:
            for _ in range(rounds // 4):
                began = time.perf_counter()
                get("")
                took.append((time.perf_counter() - began) * 1000)

        threads = [threading.Thread(target=many) for _ in range(8)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        return found | {"http_list_8": spread(took) | {"per_second": figure(len(took) / seconds)}}


def measure(home: Path, url: str | None, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Each figure as it is known."""
    parts = ServerParts(home, **({"database_url": url} if url else {}))
    began = time.perf_counter()
    fill(parts.database, options.blocks)
    yield "fill_seconds", {"all": figure(time.perf_counter() - began)}
    fill_vectors(parts, min(options.encoded, options.blocks))
    for name, ask in questions(parts).items():
        yield name, timed(ask, options.rounds, partial(commit, parts.database))
        yield f"{name}_again", timed(ask, options.rounds)
    yield "publish", publishing(parts, home, min(options.rounds, 50))
    yield from over_http(parts, options.rounds).items()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--encoded", type=int, default=400, help="texts that the encoder really reads")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=threads_here())
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="few blocks: to see that it runs, not to measure")
    options = parser.parse_args()
    if options.quick:
        options.blocks, options.encoded, options.rounds = 300, 20, 5
    report = Report("registry", options, setup={"blocks": options.blocks, "encoded": options.encoded, "page": 48})
    for kind in ("sqlite", "postgres"):
        if options.only in (None, kind):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                try:
                    url = stack.enter_context(cluster(durable=True)).new() if kind == "postgres" else None
                except Missing as reason:
                    report.not_available[kind] = str(reason)
                    continue
                for name, found in measure(Path(folder), url, options):
                    report.raw[f"{kind}_{name}"] = found
                    say(f"{kind} {name}: {json.dumps(found)}")
    report.print()


if __name__ == "__main__":
    main()
