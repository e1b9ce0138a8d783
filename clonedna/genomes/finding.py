"""How well layers are found, as a measure: requests, the order that some way of finding gives, and which layer each asks for.

``R@1``: the share whose first layer is right; ``R@5``: a right one is among the first five, of two skills the share of them; ``MRR``: one
over the place of the first right one; ``both@5`` of two skills: both are among the first five. Each with its 95 % interval over requests
and over domains, the wider. ``auroc``: how often a present request's best score is above an absent one's. What is measured here is what
``bench/retrieval.py`` and ``dna lab`` say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import Measure
from clonedna.core.seams import Encoder
from clonedna.core.vectors import Near
from clonedna.evals.bootstrap import paired_gain
from clonedna.genomes.exemplars import centroids, encoded, greatest
from clonedna.genomes.glossary import load_glossary
from clonedna.genomes.needs import Reader
from clonedna.genomes.ranking import Ranked, in_order, in_turn, likeness
from clonedna.genomes.rarity import Rarity
from clonedna.genomes.retrieval_set import Kind, Request, RetrievalSet, Split

Rows = NDArray[np.float32]
Find = Callable[[str], tuple[Ranked, ...]]
"""A way to find: a text to layers in order."""
FOUND: tuple[Kind, ...] = ("short", "paraphrase", "two-skill")
FIRST, DRAWS = 5, 2000


class Shelf:
    """The set's layers with their vectors, asked as a plan asks an index. ``only``: these ids alone."""

    def __init__(self, held: RetrievalSet, encoder: Encoder, *, queried: bool = False) -> None:
        """``queried``: with what a teacher wrote that people may type who look for them."""
        self.encoder, layers = encoder, sorted(held.layers, key=lambda one: one.id)
        self.keys = tuple(one.id for one in layers)
        self.texts = encoder.encode([one.text for one in layers]).rows
        middles = [centroids(encoder.encode(held.exemplars[one.id]).rows) for one in layers]
        self.middles, self._middles_of = np.concatenate(middles), [len(some) for some in middles]
        glossary = load_glossary()
        lines = [held.queries[one.id] if queried else () for one in layers]
        told = [(*glossary.meanings(one.text), *some) for one, some in zip(layers, lines, strict=True)]
        self.meant, self._meant_of = encoded(encoder, told)
        self.rarity = Rarity(
            {one.id: " ".join((glossary.explained(one.text), *some)) for one, some in zip(layers, lines, strict=True)}
        )

    def near(self, asked: Rows, *, only: Collection[str] | None = None) -> list[Near]:
        """Of every layer the mean cosine with vectors [n, d], with its nearest middle, and with the nearest meaning of a name in its text
        or query. By key."""
        mean = asked.mean(axis=0)
        middles, meant = greatest(self.middles @ mean, self._middles_of), greatest(self.meant @ mean, self._meant_of)
        told = zip(self.keys, (self.texts @ mean).tolist(), middles.tolist(), meant.tolist(), strict=True)
        return [Near(key, a, b, c if c > -2 else None) for key, a, b, c in told if only is None or key in only]

    def order(self, words: Sequence[str], *, only: Collection[str] | None = None) -> tuple[Ranked, ...]:
        """What answers some texts, all counting alike."""
        return self.orders([words], only=only)[0]

    def orders(
        self, groups: Sequence[Sequence[str]], *, only: Collection[str] | None = None
    ) -> tuple[tuple[Ranked, ...], ...]:
        """The same for several groups of texts, each text encoded once."""
        texts = list(dict.fromkeys(text for some in groups for text in some))
        rows = dict(zip(texts, self.encoder.encode(texts).rows, strict=True))
        near = [self.near(np.stack([rows[text] for text in some]), only=only) for some in groups]
        return tuple(self.ranked(some, row) for some, row in zip(groups, near, strict=True))

    def ranked(self, words: Sequence[str], near: Sequence[Near]) -> tuple[Ranked, ...]:
        """Layers in order, by what an index said of them."""
        share = self.rarity.sharing(words)
        return in_order({one.id: likeness(*one[1:], share(one.id)) for one in near})


def by_skills(shelf: Shelf, reader: Reader) -> Find:
    """The way of a plan: what answers each skill of the request, in turn, the weightiest first."""

    def find(text: str) -> tuple[Ranked, ...]:
        return in_turn(shelf.orders([one.words for one in reader.read(text).skills]), len(shelf.keys))

    return find


def place(wanted: Sequence[str], order: Sequence[Ranked]) -> float:
    """The place of the first right layer, from 1; infinite where none is found."""
    return next((float(n) for n, one in enumerate(order, 1) if one.key in wanted), float("inf"))


def share(request: Request, order: Sequence[Ranked]) -> float:
    """Of two skills the share whose layer is among the first five; of one skill whether it is."""
    first = {one.key for one in order[:FIRST]}
    if len(request.wants) == 1:
        return float(bool(first & {*request.wants, *request.also}))
    return sum(key in first for key in request.wants) / len(request.wants)


def mean(values: Sequence[float], domains: Sequence[str], how: str, *, seed: int = 0) -> Measure:
    """The mean of n >= 1 values, its 95 % interval (the bootstrap of ``paired_gain``, over values and over domains, the wider)."""
    value, ends = paired_gain(values, [0.0] * len(values), [1] * len(values), clusters=domains, seed=seed)
    return Measure(value=value, status="measured", n=len(values), how=how, ci95=ends)


def measured(requests: Sequence[Request], orders: Sequence[Sequence[Ranked]], *, seed: int = 0) -> dict[str, Measure]:
    """The figures of requests of one kind, by the orders that they got."""
    domains = [one.domain for one in requests]
    at = [place((*one.wants, *one.also), order) for one, order in zip(requests, orders, strict=True)]
    shares = [share(one, order) for one, order in zip(requests, orders, strict=True)]
    found = {
        "R@1": mean([float(one == 1) for one in at], domains, "share whose first layer is right", seed=seed),
        "R@5": mean(shares, domains, "share of wanted layers among the first five", seed=seed),
        "MRR": mean([1 / one for one in at], domains, "mean of one over the place of the first right layer", seed=seed),
    }
    if requests[0].kind == "two-skill":
        both = [float(one == 1) for one in shares]
        found["both@5"] = mean(both, domains, "share with both layers among the first five", seed=seed)
    return found


def auroc(present: Sequence[float], absent: Sequence[float], *, seed: int = 0) -> Measure:
    """The area under the curve (Mann and Whitney 1947) and its 95 % interval by drawing both sides again."""
    above = np.subtract.outer(np.asarray(present), np.asarray(absent))
    wins = (above > 0) + 0.5 * (above == 0)
    draw = np.random.default_rng(seed)
    rows, columns = (draw.multinomial(n, np.full(n, 1 / n), DRAWS) for n in wins.shape)
    low, high = np.percentile(np.einsum("dp,pa,da->d", rows, wins, columns, optimize=True) / wins.size, [2.5, 97.5])
    how = "how often a present request's best score is above an absent one's"
    return Measure(
        value=float(wins.mean()), status="measured", n=sum(wins.shape), how=how, ci95=(float(low), float(high))
    )


def one_way(held: RetrievalSet, find: Find, *, seed: int = 0) -> dict[str, Measure]:
    """Every figure of one way to find: ``dev short R@1``, ``test auroc``, and so on."""
    found: dict[str, Measure] = {}
    for split in get_args(Split):
        tops: dict[str, list[float]] = {}
        for kind in get_args(Kind):
            requests = held.asked(kind, split)
            orders = [find(one.text) for one in requests]
            tops[kind] = [order[0].score if order else 0.0 for order in orders]
            if kind in FOUND:
                told = measured(requests, orders, seed=seed)
                found |= {f"{split} {kind} {name}": one for name, one in told.items()}
        found[f"{split} auroc"] = auroc(tops["short"] + tops["paraphrase"], tops["absent"], seed=seed)
    return {name: one.model_copy(update={"split": name.partition(" ")[0]}) for name, one in found.items()}
