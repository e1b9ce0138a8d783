"""How well layers are found: the bundled set's requests against all of its layers, with the encoder that is the default, or ``--encoder``.

Ways to find them: ``cosine`` with the layers' texts; ``nearest``, the greatest of text, middles of the exemplars and meanings of names;
``words`` of texts and meanings alone; ``fused``, the places by cosine and by words, as the registry's search has them; ``whole``, what all
three say (genomes/ranking.py) of the request's text; ``names``, of the names of the skills that it is read as; ``skills``, of what is read
for each skill: a plan's way.

``queried``: the same, where a teacher wrote what people may type who look for each layer (`dna reindex --teacher`); ``queried_apart``:
without the lines that copy a request by the rules of the set. ``--queries FILE``: other lines than the bundled ones, one JSON object a
layer; with ``--teacher openai`` or ``engine``, of the settings, what lacks in FILE is asked for first, and kept there as it comes.

What the figures are is told in clonedna/genomes/finding.py. Milliseconds of encoding and finding, a request at a time, on one thread.
Nothing here is fitted; what was chosen was chosen on ``dev``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import numpy as np
from threadpoolctl import threadpool_limits

from bench.common import Report, arguments, figure, say
from clonedna.app.catalogue import fused
from clonedna.app.parts import Parts
from clonedna.app.querying import ASKED, AT_ONCE
from clonedna.app.settings import Settings
from clonedna.core.block import Measure
from clonedna.core.errors import BadAnswer
from clonedna.core.seams import Encoder
from clonedna.genomes.finding import FOUND, Find, Shelf, by_skills, mean, one_way, place
from clonedna.genomes.needs import Reader
from clonedna.genomes.ranking import Ranked, in_order, in_turn
from clonedna.genomes.retrieval_set import (
    Kind,
    LayerText,
    Queries,
    RetrievalSet,
    Split,
    in_other_words,
    read,
    retrieval_set,
    values,
)
from clonedna.genomes.taxonomy import load_taxonomy

SIZES = (50, 100, 200)


def ways(shelf: Shelf, encoder: Encoder) -> dict[str, Find]:
    """Every way to find layers: a text to all layers in order."""
    reader, count = Reader(load_taxonomy(), encoder), len(shelf.keys)

    def cosine(text: str) -> tuple[Ranked, ...]:
        return in_order({one.id: one.text_cosine for one in shelf.near(encoder.encode([text]).rows)})

    def nearest(text: str) -> tuple[Ranked, ...]:
        return in_order({one.id: one.best for one in shelf.near(encoder.encode([text]).rows)})

    def words(text: str) -> tuple[Ranked, ...]:
        share = shelf.rarity.sharing([text])
        return in_order({key: share(key) for key in shelf.keys})

    def places(text: str) -> tuple[Ranked, ...]:
        sharing = tuple((one.key, one.score) for one in words(text) if one.score > 0)
        return tuple(Ranked(*one) for one in fused(sharing[:50], cosine(text)[:50]))

    def names(text: str) -> tuple[Ranked, ...]:
        return in_turn([shelf.order([one.text]) for one in reader.read(text).skills], count)

    return {
        "cosine": cosine, "nearest": nearest, "words": words, "fused": places, "whole": lambda text: shelf.order([text]),
        "names": names, "skills": by_skills(shelf, reader),
    }  # fmt: skip


def shown(one: Measure) -> dict[str, Any]:
    """As a line of the history has it."""
    ends = one.ci95 or (one.value or 0.0,) * 2
    return {"value": figure(one.value or 0.0), "ci95": [figure(end) for end in ends], "n": one.n}


def nested(found: dict[str, Measure]) -> dict[str, Any]:
    """``dev short R@1`` under ``dev short``, as the history has it."""
    told: dict[str, Any] = {}
    for name, one in found.items():
        group, _, last = name.rpartition(" ")
        if last == "auroc":
            told[name] = shown(one)
        else:
            told.setdefault(group, {})[last] = shown(one)
    return told


def by_form(held: RetrievalSet, find: Find) -> dict[str, Any]:
    """R@1 of short requests and paraphrases for each form of the layer that is wanted, both splits."""
    forms = {one.id: one.form for one in held.layers}
    found: dict[str, Any] = {}
    for kind in ("short", "paraphrase"):
        for form in ("terse", "line", "sentences"):
            some = [one for one in held.asked(kind) if forms[one.wants[0]] == form]
            hits = [float(place((*one.wants, *one.also), find(one.text)) == 1) for one in some]
            found[f"{kind} {form}"] = shown(
                mean(hits, [one.domain for one in some], "share whose first layer is right")
            )
    return found


def by_size(held: RetrievalSet, shelf: Shelf, draws: int) -> dict[str, Any]:
    """R@1 of ``whole`` on ``test`` among fewer layers, drawn at random with the one that is wanted; words count as among all of them."""
    kinds: tuple[Kind, ...] = ("short", "paraphrase")
    orders = {one.id: shelf.order([one.text]) for kind in kinds for one in held.asked(kind, "test")}
    found: dict[str, Any] = {}
    for size in SIZES:
        draw, hits = np.random.default_rng(size), {kind: list[float]() for kind in kinds}
        for _ in range(draws):
            some = {shelf.keys[i] for i in draw.choice(len(shelf.keys), size - 1, replace=False)}
            for kind, told in hits.items():
                for one in held.asked(kind, "test"):
                    among = [ranked for ranked in orders[one.id] if ranked.key in some or ranked.key in one.wants]
                    told.append(float(place((*one.wants, *one.also), among) == 1))
        found[str(size)] = {kind: figure(float(np.mean(told))) for kind, told in hits.items()}
    return found


def times(held: RetrievalSet, work: Callable[[str], object], count: int) -> dict[str, Any]:
    """Milliseconds of ``work`` for a request's text; ``cpu``: of this process's own time, which others touch less."""
    took, spent = list[float](), list[float]()
    for turn, request in enumerate((*held.requests[:5], *held.requests[:: max(1, len(held.requests) // count)])):
        began, busy = time.perf_counter(), time.process_time()
        work(request.text)
        if turn >= 5:
            took.append((time.perf_counter() - began) * 1000)
            spent.append((time.process_time() - busy) * 1000)
    clocks = {"wall": took, "cpu": spent}
    return {"n": len(took)} | {
        f"{name} p{p}": figure(float(np.percentile(values, p))) for name, values in clocks.items() for p in (50, 95)
    }


def timed(held: RetrievalSet, shelf: Shelf, finds: dict[str, Find], count: int) -> dict[str, Any]:
    """From a request's text to the order of all layers, by several ways; and of ``whole`` what is not encoding."""
    row = shelf.texts[:1]

    def ordering(text: str) -> object:
        return shelf.ranked([text], shelf.near(row))

    works: dict[str, Callable[[str], object]] = {name: finds[name] for name in ("cosine", "whole", "skills")}
    return {name: times(held, work, count) for name, work in (works | {"ordering": ordering}).items()}


def told_of(name: str, way: dict[str, Any]) -> None:
    """Say the main figures of one way."""
    for split in get_args(Split):
        figures = {kind: way[f"{split} {kind}"] for kind in FOUND}
        told = "; ".join(f"{kind} {one['R@1']['value']} {one['R@5']['value']}" for kind, one in figures.items())
        say(f"{name} {split} (R@1 R@5): {told}; auroc {way[f'{split} auroc']['value']}")


def looked_for(options: argparse.Namespace) -> RetrievalSet:
    """The set with the queries that are to be measured."""
    held = retrieval_set()
    if options.queries is None:
        return held
    path = Path(options.queries)
    known = (
        {one.layer: one.queries for one in values(read(path.read_bytes(), path.name), Queries)} if path.exists() else {}
    )
    if options.teacher:
        anyio.run(ask, options.teacher, [one for one in held.layers if one.id not in known], known, path)
    if lacking := [one.id for one in held.layers if one.id not in known]:
        say(f"{len(lacking)} layers have no queries: {', '.join(lacking[:5])} ...")
    return replace(held, queries={one.id: known.get(one.id, ()) for one in held.layers})


async def ask(name: str, layers: Sequence[LayerText], known: dict[str, tuple[str, ...]], path: Path) -> None:
    """What the teacher of this name writes of the layers' texts, into ``known`` and to the end of the file as it comes."""
    teacher: Any = Parts(Settings()).teacher(name, base=Settings().base)
    waiting, began = list(reversed(layers)), time.monotonic()

    async def ask_on() -> None:
        while waiting:
            one = waiting.pop()
            try:
                told = (await teacher.queries(one.text)).queries
            except BadAnswer as error:
                say(f"{one.id}: no line can be used: {error.facts.get('why')}")
                continue
            known[one.id] = told
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"layer": one.id, "queries": told}) + "\n")
            done = len(layers) - len(waiting)
            say(f"{done} of {len(layers)}, {(time.monotonic() - began) / done * len(waiting):.0f} s left (estimated)")

    try:
        async with anyio.create_task_group() as group:
            for _ in range(min(AT_ONCE, len(layers))):
                group.start_soon(ask_on)
    finally:
        await teacher.close()


def measure(report: Report, options: argparse.Namespace) -> None:
    held, encoder = looked_for(options), Parts(Settings()).open_encoder(options.encoder)
    shelf = Shelf(held, encoder)
    report.setup |= {
        "encoder": encoder.name, "layers": len(held.layers), "requests": len(held.requests), "queries": options.queries or "bundled",
        "query_lines": sum(map(len, held.queries.values())),
    }  # fmt: skip
    finds = ways(shelf, encoder)
    for name, find in finds.items():
        report.raw[name] = nested(one_way(held, find))
        told_of(name, report.raw[name])
    for group, given in (("queried", held), ("queried_apart", in_other_words(held))):
        beside = ways(Shelf(given, encoder, queried=True), encoder)
        report.raw[group] = {
            name: nested(one_way(given, beside[name])) for name in ("nearest", "words", "whole", "skills")
        }
        for name, some in report.raw[group].items():
            told_of(f"{group} {name}", some)
    report.raw["skills_by_form"] = by_form(held, finds["skills"])
    report.raw["whole_among_fewer"] = by_size(held, shelf, 1 if options.quick else 20)
    report.raw["milliseconds"] = timed(held, shelf, finds, 10 if options.quick else 100)
    say(f"milliseconds: {report.raw['milliseconds']}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--encoder", default="minilm", help="as the setting names it: minilm:FILE")
    parser.add_argument("--queries", help="a file of other lines than the bundled ones")
    parser.add_argument("--teacher", choices=ASKED, help="asks for what lacks in the file of --queries")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    if options.teacher and options.queries is None:
        parser.error("--teacher needs --queries FILE, where its answers are kept")
    report = Report("retrieval", options)
    with threadpool_limits(options.threads):
        measure(report, options)
    report.print()


if __name__ == "__main__":
    main()
