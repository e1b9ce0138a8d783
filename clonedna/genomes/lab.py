"""The bundled lab that the default calibration is fitted from: what real adapters on the base `nano` bring to requests, as measured.

Blocks and requests with what was measured between them, exemplar by exemplar, so that s* can be computed again under another idea of a
pass, and features under any encoder. How it was made: ``tools/calibration_lab.py``. Requests were worded before anything was measured.

An outcome is one layer that an index would give for one wording in one pool. Pools: the lab's blocks alone, and among them the bundled
retrieval set's descriptions (``dev`` alone; nothing is measured of those); each once whole, and once without the request's domain, so that
what is wanted is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from clonedna.core.canonical import sha256, strict_json
from clonedna.core.errors import Corrupt
from clonedna.core.genome import Features, Similarity
from clonedna.core.model import Score
from clonedna.core.seams import Encoder
from clonedna.core.value import Value
from clonedna.core.vectors import Near
from clonedna.genomes.exemplars import encoded, greatest
from clonedna.genomes.features import POOL, features_of, hubness, neighbours
from clonedna.genomes.fitting import Outcome
from clonedna.genomes.glossary import load_glossary
from clonedna.genomes.probing import Bar, Specialist, bar_of, similarity_of
from clonedna.genomes.rarity import Rarity
from clonedna.genomes.retrieval_set import Queries, read, retrieval_set, values

MOST_BYTES = 4_000_000
PROBED = 5
"""Layers of each wording and pool that are outcomes: as many as a plan probes."""
Wording = Literal["short", "paraphrase"]
Pool = Literal["lab", "library"]
Rows = NDArray[np.float32]
Distances = Callable[[str, str], float | None]
_POOLS: tuple[tuple[Pool, bool], ...] = (("lab", False), ("library", True))


class LabBlock(Value):
    """``text``: what an index reads of it. ``base``, ``adapter``: nats a token on its own held-out files."""

    name: str
    domain: str
    text: str
    base: float = Field(gt=0)
    adapter: float = Field(gt=0)


class LabRequest(Value):
    """``block``: the one that was made for exactly this. ``base``: nats and tokens of each exemplar; ``through``: nats by block."""

    block: str
    domain: str
    short: str
    paraphrase: str
    base: tuple[tuple[float, int], ...]
    through: dict[str, tuple[float, ...]]


class Lab(Value):
    """``made``: with what, in words."""

    format: Literal["dna-lab/1"] = "dna-lab/1"
    base: str
    base_fingerprint: str
    made: str
    blocks: tuple[LabBlock, ...]
    requests: tuple[LabRequest, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One outcome and where it is from. ``right``: the layer was made for this request; ``first``: the index' best of what was measured."""

    outcome: Outcome
    request: str
    wording: Wording
    pool: Pool
    present: bool
    right: bool
    first: bool

    @property
    def question(self) -> tuple[str, str, str, bool]:
        return self.request, self.wording, self.pool, self.present


def bundled_lab() -> Lab:
    """Raises ``Corrupt``."""
    return read_lab(files("clonedna.genomes").joinpath("data", "lab.json").read_bytes())


@cache
def lab_queries() -> tuple[Queries, ...]:
    """What people may type who look for each block of the bundled lab. Raises ``Corrupt``."""
    data = files("clonedna.genomes").joinpath("data", "lab-queries.jsonl").read_bytes()
    return values(read(data, "lab-queries"), Queries)


def read_lab(data: bytes) -> Lab:
    """Raises ``Corrupt`` for what is no lab."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"over {MOST_BYTES} bytes")
        return Lab.model_validate(strict_json(data))
    except (ValueError, ValidationError, RecursionError) as error:
        raise Corrupt(f"this is no lab: {str(error)[:200]}", "make it again: tools/calibration_lab.py") from error


def bar_in(lab: Lab) -> Bar:
    """What a pass is, by the lab's own blocks, as a home has it by its own."""
    return bar_of([Specialist(base=one.base, adapter=one.adapter) for one in lab.blocks], whose="blocks of the lab")


def measured(lab: Lab) -> dict[tuple[str, str], Similarity]:
    """s* with its interval, by request and block. Raises ``Corrupt`` where the lab's blocks do not say what a pass is."""
    found: dict[tuple[str, str], Similarity] = {}
    bar = bar_in(lab)
    if bar.gain is None:
        raise Corrupt(f"this is no lab: {bar.how}", "make it again: tools/calibration_lab.py")
    for request in lab.requests:
        base = [Score(nll=nll, tokens=tokens, bytes=0) for nll, tokens in request.base]
        for name, nats in request.through.items():
            tuned = [Score(nll=nll, tokens=one.tokens, bytes=0) for nll, one in zip(nats, base, strict=True)]
            found[request.block, name] = similarity_of(base, tuned, bar)
    return found


def outcomes_of(
    lab: Lab, encoder: Encoder, *, distance: Distances | None = None, hubs: bool = False, queried: bool = False
) -> tuple[Asked, ...]:
    """Every outcome of the lab, with the features that ``encoder`` gives. ``distance``: of a wording and a block's text; ``queried``: with
    what people may type who look for each layer."""
    return tuple(_Questions(lab, encoder, distance, hubs=hubs, queried=queried).outcomes())


class _Questions:
    """The lab's wordings and all texts under one encoder."""

    def __init__(self, lab: Lab, encoder: Encoder, distance: Distances | None, *, hubs: bool, queried: bool) -> None:
        self.lab, self.encoder, self.distance, self.truth = lab, encoder, distance, measured(lab)
        self.blocks = {sha256(one.name): one for one in lab.blocks}
        others = {sha256(f"set:{one.text}"): one for one in retrieval_set().layers if one.split == "dev"}
        self.texts = {key: one.text for key, one in (*self.blocks.items(), *others.items())}
        lines = dict[str, tuple[str, ...]]()
        if queried:
            own = {one.layer: one.queries for one in lab_queries()}
            lines = {key: own.get(one.name, ()) for key, one in self.blocks.items()}
            lines |= {key: retrieval_set().queries[one.id] for key, one in others.items()}
        self.ids = list(self.texts)
        self.vectors = encoder.encode(list(self.texts.values())).rows
        glossary = load_glossary()
        self.explained = {
            key: " ".join((glossary.explained(text), *lines.get(key, ()))) for key, text in self.texts.items()
        }
        told = [(*glossary.meanings(text), *lines.get(key, ())) for key, text in self.texts.items()]
        self.meant, self.meant_of = encoded(encoder, told)
        anybody = [one.text for one in retrieval_set().requests if one.split == "dev"] if hubs else []
        self.anybody = self._cosines(anybody) if anybody else ()

    def outcomes(self) -> Iterator[Asked]:
        wordings = [one for request in self.lab.requests for one in _wordings(request)]
        cosines = self._cosines([text for *_, text in wordings])
        for pool, library in _POOLS:
            for present in (True, False):
                for (request, wording, text), row in zip(wordings, cosines, strict=True):
                    kept = self._pool(request.domain, library=library, present=present)
                    features = self._features(text, row, kept)
                    near = [
                        one
                        for one in features
                        if one in self.blocks and (request.block, self.blocks[one].name) in self.truth
                    ]
                    for place, one in enumerate(near[:PROBED]):
                        yield Asked(
                            outcome=self._outcome(request, text, one, features[one]), request=request.block, wording=wording, pool=pool,
                            present=present, right=self.blocks[one].name == request.block, first=place == 0,
                        )  # fmt: skip

    def _cosines(self, texts: Sequence[str]) -> list[tuple[Rows, Rows]]:
        """Of each text with every layer's, and with the nearest meaning of a name in it; -2 where there is none."""
        asked = self.encoder.encode(texts).rows
        return list(zip(asked @ self.vectors.T, greatest(asked @ self.meant.T, self.meant_of), strict=True))

    def _pool(self, domain: str, *, library: bool, present: bool) -> list[int]:
        found: list[int] = []
        for i, one in enumerate(self.ids):
            block = self.blocks.get(one)
            if library if block is None else present or block.domain != domain:
                found.append(i)
        return found

    def _features(self, text: str, row: tuple[Rows, Rows], kept: list[int]) -> dict[str, Features]:
        """Of the nearest blocks of a pool, the nearest first."""
        near = self._nearest(row, kept, POOL)
        hubs = None
        if self.anybody:
            hubs = hubness([self._nearest(one, kept, neighbours(len(kept))) for one in self.anybody], len(kept))
        distance = None if self.distance is None else partial(self._distance, text)
        rarity = Rarity({self.ids[i]: self.explained[self.ids[i]] for i in kept})
        return features_of([text], near, rarity, hubs=hubs, distance=distance)

    def _distance(self, text: str, block: str) -> float | None:
        return None if self.distance is None else self.distance(text, self.texts[block])

    def _nearest(self, row: tuple[Rows, Rows], kept: list[int], most: int) -> list[Near]:
        texts, meant = row
        found = (Near(self.ids[i], float(texts[i]), None, float(meant[i]) if meant[i] > -2 else None) for i in kept)
        return sorted(found, key=lambda one: (-one.best, one.id))[:most]

    def _outcome(self, request: LabRequest, text: str, block: str, features: Features) -> Outcome:
        value = self.truth[request.block, self.blocks[block].name]
        return Outcome(
            skill=text, domain=request.domain, block=block, features=features, encoder=self.encoder.name,
            dimension=self.encoder.dimension, base_fingerprint=self.lab.base_fingerprint, value=value.value or 0.0,
            low=value.low or 0.0, high=value.high or 0.0, n=value.n or 1, at="",
        )  # fmt: skip


def _wordings(one: LabRequest) -> tuple[tuple[LabRequest, Wording, str], ...]:
    return (one, "short", one.short), (one, "paraphrase", one.paraphrase)
