"""How well layers are found: the bundled set's requests against all of its layers, with the encoder that is the default.

Ways to find them: ``cosine`` with the layers' texts; ``nearest``, the greater of text and nearest middle of the exemplars; ``words``
alone; ``fused``, the places by cosine and by words, as the registry's search has them; ``ranking`` (clonedna/genomes/ranking.py);
``whole``, the same without asking for the parts of a request; ``skills``, the ranking for each skill that the request is read as.

What the figures are is told in clonedna/genomes/finding.py. Milliseconds of encoding and finding, a request at a time, on one thread.
Nothing here is fitted; what was chosen was chosen on ``dev``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from bench.common import Report, arguments, figure, say
from clonedna.app.catalogue import fused
from clonedna.core.block import Measure
from clonedna.engine.encoder import MiniLM, open_minilm
from clonedna.genomes.finding import FOUND, Find, by_ranking, known, mean, one_way, place
from clonedna.genomes.needs import Reader
from clonedna.genomes.ranking import Known, Ranked, Ranking, asked_parts, in_turn
from clonedna.genomes.retrieval_set import Kind, RetrievalSet, Split, retrieval_set
from clonedna.genomes.taxonomy import load_taxonomy

SIZES = (50, 100, 200)


def ordered(keys: Sequence[str], scores: np.ndarray) -> tuple[Ranked, ...]:
    """All of ``keys`` (sorted), the greatest score first, of equals the first key."""
    rounded = np.round(scores.astype(np.float64), 6)
    return tuple(Ranked(keys[i], float(rounded[i])) for i in np.argsort(-rounded, kind="stable"))


def ways(layers: Sequence[Known], encoder: MiniLM) -> dict[str, Find]:
    """Every way to find layers: a vector and its text to all layers in order."""
    layers = sorted(layers, key=lambda one: one.key)
    keys, ranking, reader = [one.key for one in layers], Ranking(layers), Reader(load_taxonomy(), encoder)
    texts = np.stack([one.text for one in layers])
    middles, starts = (
        np.concatenate([one.middles for one in layers]),
        np.cumsum([0, *(len(one.middles) for one in layers[:-1])]),
    )

    def cosine(asked: np.ndarray, _: str) -> tuple[Ranked, ...]:
        return ordered(keys, texts @ asked)

    def nearest(asked: np.ndarray, _: str) -> tuple[Ranked, ...]:
        return ordered(keys, np.maximum(texts @ asked, np.maximum.reduceat(middles @ asked, starts)))

    def words(_: np.ndarray, text: str) -> tuple[Ranked, ...]:
        return ordered(keys, ranking.overlaps(text))

    def places(asked: np.ndarray, text: str) -> tuple[Ranked, ...]:
        sharing = tuple((one.key, one.score) for one in words(asked, text) if one.score > 0)
        return tuple(Ranked(*one) for one in fused(sharing[:50], cosine(asked, text)[:50]))

    def whole(asked: np.ndarray, text: str) -> tuple[Ranked, ...]:
        return ranking.best(asked, text, len(keys))

    def skills(_: np.ndarray, text: str) -> tuple[Ranked, ...]:
        asked = [skill.text for skill in reader.read(text).skills]
        rows = encoder.encode(asked).rows
        return in_turn([ranking.best(row, one, len(keys)) for row, one in zip(rows, asked, strict=True)], len(keys))

    return {
        "cosine": cosine, "nearest": nearest, "words": words, "fused": places, "whole": whole, "ranking": by_ranking(ranking, encoder),
        "skills": skills,
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


def by_form(held: RetrievalSet, find: Find, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
    """R@1 of short requests and paraphrases for each form of the layer that is wanted, both splits."""
    forms = {one.id: one.form for one in held.layers}
    found: dict[str, Any] = {}
    for kind in ("short", "paraphrase"):
        for form in ("terse", "line", "sentences"):
            some = [one for one in held.asked(kind) if forms[one.wants[0]] == form]
            hits = [float(place((*one.wants, *one.also), find(vectors[one.id], one.text)) == 1) for one in some]
            found[f"{kind} {form}"] = shown(
                mean(hits, [one.domain for one in some], "share whose first layer is right")
            )
    return found


def by_size(held: RetrievalSet, ranking: Ranking, vectors: dict[str, np.ndarray], draws: int) -> dict[str, Any]:
    """R@1 of ``whole`` on ``test`` among fewer layers, drawn at random with the one that is wanted; words count as among all of them."""
    found: dict[str, Any] = {}
    kinds: tuple[Kind, ...] = ("short", "paraphrase")
    for size in SIZES:
        draw, hits = np.random.default_rng(size), {kind: list[float]() for kind in kinds}
        for _ in range(draws):
            some = {ranking.keys[i] for i in draw.choice(len(ranking.keys), size - 1, replace=False)}
            for kind, told in hits.items():
                for one in held.asked(kind, "test"):
                    among = some | set(one.wants)
                    first = ranking.best(vectors[one.id], one.text, 1, among=among)
                    told.append(float(place((*one.wants, *one.also), first) == 1))
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


def timed(
    held: RetrievalSet, layers: Sequence[Known], finds: dict[str, Find], encoder: MiniLM, count: int
) -> dict[str, Any]:
    """From a request's text to the order of all layers, by several ways; and of that, what the ranking alone takes."""
    ranking, row, many = Ranking(layers), layers[0].text, len(layers)

    def parted(text: str) -> object:
        parts = asked_parts(text)
        return ranking.answer(encoder.encode(parts).rows, parts, many)

    works: dict[str, Callable[[str], object]] = {
        "cosine": lambda text: finds["cosine"](encoder.encode([text]).rows[0], text),
        "whole": lambda text: finds["whole"](encoder.encode([text]).rows[0], text),
        "ranking": parted,
        "skills": lambda text: finds["skills"](row, text),
        "ranking_alone": lambda text: ranking.best(row, text, many),
    }
    return {name: times(held, work, count) for name, work in works.items()}


def measure(report: Report, options: argparse.Namespace) -> None:
    held, encoder = retrieval_set(), open_minilm()
    layers = known(held, encoder)
    rows = encoder.encode([one.text for one in held.requests]).rows
    vectors = {one.id: row for one, row in zip(held.requests, rows, strict=True)}
    report.setup |= {"encoder": encoder.name, "layers": len(layers), "requests": len(held.requests)}
    finds = ways(layers, encoder)
    for name, find in finds.items():
        report.raw[name] = nested(one_way(held, find, vectors))
        for split in get_args(Split):
            figures = {kind: report.raw[name][f"{split} {kind}"] for kind in FOUND}
            told = "; ".join(f"{kind} {one['R@1']['value']} {one['R@5']['value']}" for kind, one in figures.items())
            say(f"{name} {split} (R@1 R@5): {told}; auroc {report.raw[name][f'{split} auroc']['value']}")
    report.raw["ranking_by_form"] = by_form(held, finds["ranking"], vectors)
    report.raw["ranking_among_fewer"] = by_size(held, Ranking(layers), vectors, 1 if options.quick else 20)
    report.raw["milliseconds"] = timed(held, layers, finds, encoder, 10 if options.quick else 100)
    say(f"milliseconds: {report.raw['milliseconds']}")


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    report = Report("retrieval", options)
    with threadpool_limits(options.threads):
        measure(report, options)
    report.print()


if __name__ == "__main__":
    main()
