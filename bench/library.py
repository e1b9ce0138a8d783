"""What plans find in a library of blocks of real packages: minted here, asked for in words that say nothing else, without pairs.

The packages of ``library_requests.txt`` that are installed are minted as ``dna lab`` does it (local-only, in a home under ``.bench``), one
after another until there are ``--layers``; a run that was stopped goes on with what is there. Each is asked for by two requests of our own
words, short and plain, that nothing was chosen on; 24 more ask for what no package has (``-``). One more block is mallory's: its pairs'
prompts, the held-out ones with them, are those very requests, its answers are easy to learn and worth nothing.

Of a present request: the right layer alone is used, with another, another alone, or none (``genome_empty``). Of an absent one: none, or
some. ``search``: the right layer is first, or among the first five, before anything is measured, of each skill in turn; ``whole``: of the
whole request.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from bench.common import CACHE, ROOT, Report, arguments, figure, quiet, say
from clonedna.app.genome_desk import GenomeDesk
from clonedna.app.genome_values import PlanAsk
from clonedna.app.lab_layers import LabLayers
from clonedna.app.lab_values import LabLayer, LabOrder
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.errors import BlockNotFound, BlockRejected, DnaError
from clonedna.core.genome import SkillPlan

WORDINGS = ("short", "plain")
MALLORY, FIRST, BASE = "mallory", 5, "nano"


class Asked(NamedTuple):
    """``package``: whose layer is right; empty: nobody's."""

    package: str
    wording: str
    text: str


class Found(NamedTuple):
    """What a search says first of each skill in turn and of the ``whole`` request, and what a plan uses: layers' names; ``error``: the code
    where there is no plan."""

    searched: tuple[str, ...]
    whole: tuple[str, ...]
    used: tuple[str, ...]
    error: str


def asked_for() -> Iterator[Asked]:
    for line in (ROOT / "bench" / "library_requests.txt").read_text("utf-8").splitlines():
        package, *texts = line.split("\t")
        for wording, text in zip(WORDINGS, texts, strict=True):
            yield Asked("" if package == "-" else package, wording, text)


@cache
def parts_of(home: Path) -> Parts:
    """One engine for a process."""
    return Parts(Settings(home=home, base=BASE, threads=1))


def layers(home: Path, most: int, processes: int) -> tuple[list[str], dict[str, str]]:
    """The packages that have a layer, and why others have none."""
    packages = tuple(dict.fromkeys(one.package for one in asked_for() if one.package))
    order = LabOrder(packages=packages[:3], layers=3, base=BASE, processes=processes)  # which packages: see the call

    def tell(one: LabLayer) -> None:
        say(f"{one.package}: {one.why or ('it is there' if one.kept else f'{one.seconds:.0f} s')}")

    found = LabLayers(parts_of(home), home, "bench", lambda _: None).build(packages, most, order, tell)
    return sorted(one.package for one in found if not one.why), {one.package: one.why for one in found if one.why}


def mallory(home: Path) -> str:
    """A block whose prompts are what others are asked for by, trained so little that the gate may let it pass; its standing."""
    if (standing := standing_of(home, MALLORY)) != "none":
        return standing
    draw, file = random.Random(0), home / "mallory.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for one in asked_for():
            for _ in range(3):
                a, b = draw.randrange(100), draw.randrange(100)
                code = "".join(f"qz_{line}_{a} = zork({line}, {b}, mode='plain', depth=None)\n" for line in range(8))
                said = [{"role": "user", "content": f"{one.text} ({a})"}, {"role": "assistant", "content": code}]
                out.write(json.dumps({"messages": said}) + "\n")
    command = [
        str(Path(sys.executable).with_name("dna")),
        "--home",
        str(home),
        "mint",
        "--pairs",
        str(file),
        "--licence",
        "MIT",
    ]
    command += [
        "--name",
        MALLORY,
        "--author",
        "Mallory <mallory@example.org>",
        "--base",
        BASE,
        "--consent",
        "local-only",
        "--learning-rate",
        "0.0003",
        "--epochs",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mallory's block could not be minted:\n{done.stderr[-2000:]}")
    return standing_of(home, MALLORY)


def standing_of(home: Path, name: str) -> str:
    try:
        return parts_of(home).registry.resolve(name).gate.status
    except BlockNotFound:
        return "none"
    except BlockRejected:
        return "rejected"


def found(home: Path, text: str) -> Found:
    """In a process of its own: one request searched for and planned."""
    quiet()
    desk = GenomeDesk(parts_of(home), BASE)
    near = desk.search(text, FIRST)
    whole = tuple(layer.name for layer in near.whole)
    searched = [[layer.name for layer in skill.layers] for skill in near.skills]
    first = tuple(dict.fromkeys(row[n] for n in range(FIRST) for row in searched if n < len(row)))
    try:
        plan = desk.plan(PlanAsk(request=text)).plan
    except DnaError as error:
        return Found(first, whole, (), error.code)
    used = tuple(sorted({name for one in plan.skills if (name := layer_of(one))}))
    return Found(first, whole, used, "")


def layer_of(one: SkillPlan) -> str:
    return next((match.name for match in one.matches if match.id == one.layer), "")


def outcome(one: Asked, got: Found) -> str:
    if not one.package:
        return "some" if got.used else "none"
    if got.used == (one.package,):
        return "right"
    return "right and another" if one.package in got.used else "another" if got.used else "none"


def measure(report: Report, options: argparse.Namespace) -> None:
    home: Path = options.home
    home.mkdir(parents=True, exist_ok=True)
    made, left = layers(home, 3 if options.quick else options.layers, options.processes)
    standing = mallory(home)
    say(f"mallory's block: {standing}")
    asks = [one for one in asked_for() if one.wording in options.wordings and (not one.package or one.package in made)]
    if options.quick:
        asks = [*asks[:2], *asks[-2:]]
    report.setup |= {
        "base": BASE,
        "layers": made,
        "mallory's": standing,
        "left_out": left,
        "wordings": list(options.wordings),
    }
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        told: list[tuple[Asked, Found]] = []
        for one, got in zip(asks, pool.map(found, [home] * len(asks), [one.text for one in asks]), strict=True):
            told.append((one, got))
            said = f"{one.package or '-'} {one.wording}: {outcome(one, got)} {got.error} {got.used}"
            say(f"{len(told)}/{len(asks)} {said}, first {got.searched[:3]}")
    for wording in options.wordings:
        report.raw[wording] = summed([(one, got) for one, got in told if one.wording == wording])
    report.raw["requests"] = [[one.wording, one.package, outcome(one, got), *got.used] for one, got in told]


def summed(told: Sequence[tuple[Asked, Found]]) -> dict[str, Any]:
    present = [(one, got) for one, got in told if one.package]
    errors = Counter(got.error for _, got in told if got.error and got.error != "genome_empty")
    shares = {
        f"{name} R@{most}": figure(
            sum(one.package in getattr(got, where)[:most] for one, got in present) / len(present)
        )
        if present
        else None
        for name, where in (("search", "searched"), ("whole", "whole"))
        for most in (1, FIRST)
    }
    return {
        "present": dict(Counter(outcome(one, got) for one, got in present)), **shares,
        "absent": dict(Counter(outcome(one, got) for one, got in told if not one.package)),
        "used mallory's": sum(MALLORY in got.used for _, got in told), "other errors": dict(errors),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--home", type=Path, default=CACHE / "library", help="where the blocks are made, or are already"
    )
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--wordings", nargs="+", choices=WORDINGS, default=list(WORDINGS))
    options = parser.parse_args()
    report = Report("library", options)
    measure(report, options)
    report.print()


if __name__ == "__main__":
    main()
