"""How well layers are found: the bundled set's requests against all of its layers, with the encoder that is the default.

Ways to find them: ``cosine`` with the layers' texts; ``nearest``, the greater of text and nearest middle of the exemplars; ``words``
alone; ``fused``, the places by cosine and by words, as the registry's search has them; ``ranking`` (clonedna/genomes/ranking.py);
``whole``, the same without asking for the parts of a request; ``skills``, the ranking for each skill that the request is read as.

``R@1``: the share whose first layer is right; ``R@5``: a right one is among the first five, of two skills the share of them; ``MRR``: one
over the place of the first right one. Each with its 95 % interval over requests and over domains, the wider. ``auroc``: how often a
present request's best score is above an absent one's. Milliseconds of encoding and finding, a request at a time, on one thread. Nothing
here is fitted; what was chosen was chosen on ``dev``.
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
from clonedna.engine.encoder import MiniLM, open_minilm
from clonedna.evals.bootstrap import paired_gain
from clonedna.genomes.exemplars import centroids
from clonedna.genomes.needs import Reader
from clonedna.genomes.ranking import Known, Ranked, Ranking, asked_parts, in_turn, stems
from clonedna.genomes.retrieval_set import Kind, Request, RetrievalSet, Split, retrieval_set
from clonedna.genomes.taxonomy import load_taxonomy

Find = Callable[[np.ndarray, str], tuple[Ranked, ...]]
FOUND: tuple[Kind, ...] = ("short", "paraphrase", "two-skill")
FIRST, DRAWS = 5, 2000
SIZES = (50, 100, 200)


def known(held: RetrievalSet, encoder: MiniLM) -> list[Known]:
    """The set's layers as the ranking wants them."""
    texts = encoder.encode([one.text for one in held.layers]).rows
    made: list[Known] = []
    for one, row in zip(held.layers, texts, strict=True):
        prompts = held.exemplars[one.id]
        made.append(Known(one.id, row, centroids(encoder.encode(prompts).rows), stems([one.text, *prompts])))
    return made


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

    def ranked(asked: np.ndarray, text: str) -> tuple[Ranked, ...]:
        parts = asked_parts(text)
        rows = asked[None] if len(parts) == 1 else np.concatenate([asked[None], encoder.encode(parts[1:]).rows])
        return ranking.answer(rows, parts, len(keys))

    def skills(_: np.ndarray, text: str) -> tuple[Ranked, ...]:
        asked = [skill.text for skill in reader.read(text).skills]
        rows = encoder.encode(asked).rows
        return in_turn([ranking.best(row, one, len(keys)) for row, one in zip(rows, asked, strict=True)], len(keys))

    return {
        "cosine": cosine, "nearest": nearest, "words": words, "fused": places, "whole": whole, "ranking": ranked, "skills": skills,
    }  # fmt: skip


def place(request: Request, order: Sequence[Ranked]) -> float:
    """The place of the first right layer, from 1; infinite where none is found."""
    right = {*request.wants, *request.also}
    return next((float(n) for n, one in enumerate(order, 1) if one.key in right), float("inf"))


def share(request: Request, order: Sequence[Ranked]) -> float:
    """Of two skills the share whose layer is among the first five; of one skill whether it is."""
    first = {one.key for one in order[:FIRST]}
    if len(request.wants) == 1:
        return float(bool(first & {*request.wants, *request.also}))
    return sum(key in first for key in request.wants) / len(request.wants)


def mean(values: Sequence[float], domains: Sequence[str]) -> dict[str, Any]:
    """The mean, its 95 % interval, and of how many."""
    value, (low, high) = paired_gain(values, [0.0] * len(values), [1] * len(values), clusters=domains)
    return {"value": figure(value), "ci95": [figure(low), figure(high)], "n": len(values)}


def measured(requests: Sequence[Request], orders: Sequence[Sequence[Ranked]]) -> dict[str, Any]:
    domains = [one.domain for one in requests]
    at = [place(one, order) for one, order in zip(requests, orders, strict=True)]
    shares = [share(one, order) for one, order in zip(requests, orders, strict=True)]
    found = {
        "R@1": mean([float(one == 1) for one in at], domains), "R@5": mean(shares, domains),
        "MRR": mean([1 / one for one in at], domains),
    }  # fmt: skip
    if requests[0].kind == "two-skill":
        found["both@5"] = mean([float(one == 1) for one in shares], domains)
    return found


def auroc(present: Sequence[float], absent: Sequence[float]) -> dict[str, Any]:
    """The area under the curve (Mann and Whitney 1947) and its 95 % interval by drawing both sides again."""
    above = np.subtract.outer(np.asarray(present), np.asarray(absent))
    wins = (above > 0) + 0.5 * (above == 0)
    draw = np.random.default_rng(0)
    rows, columns = (draw.multinomial(n, np.full(n, 1 / n), DRAWS) for n in wins.shape)
    low, high = np.percentile(np.einsum("dp,pa,da->d", rows, wins, columns, optimize=True) / wins.size, [2.5, 97.5])
    return {"value": figure(float(wins.mean())), "ci95": [figure(low), figure(high)], "n": list(wins.shape)}


def one_way(held: RetrievalSet, find: Find, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Every figure of one way to find."""
    found: dict[str, Any] = {}
    for split in get_args(Split):
        tops: dict[str, list[float]] = {}
        for kind in get_args(Kind):
            requests = held.asked(kind, split)
            orders = [find(vectors[one.id], one.text) for one in requests]
            tops[kind] = [order[0].score if order else 0.0 for order in orders]
            if kind in FOUND:
                found[f"{split} {kind}"] = measured(requests, orders)
        found[f"{split} auroc"] = auroc(tops["short"] + tops["paraphrase"], tops["absent"])
    return found


def by_form(held: RetrievalSet, find: Find, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
    """R@1 of short requests and paraphrases for each form of the layer that is wanted, both splits."""
    forms = {one.id: one.form for one in held.layers}
    found: dict[str, Any] = {}
    for kind in ("short", "paraphrase"):
        for form in ("terse", "line", "sentences"):
            some = [one for one in held.asked(kind) if forms[one.wants[0]] == form]
            hits = [float(place(one, find(vectors[one.id], one.text)) == 1) for one in some]
            found[f"{kind} {form}"] = mean(hits, [one.domain for one in some])
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
                    told.append(float(place(one, ranking.best(vectors[one.id], one.text, 1, among=among)) == 1))
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
        report.raw[name] = one_way(held, find, vectors)
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
