"""The bundled set that finding layers is measured on: what layers say of themselves, and requests with the layers that answer them.

Nothing of it is ever trained on. Whole domains are held out (``split`` is ``test``) from every choice of a weight or a threshold. How it
was written, and what it cannot tell, is in ``data/retrieval/README.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from clonedna.core.errors import Corrupt
from clonedna.core.value import Value
from clonedna.core.words import telling_words

MOST_BYTES, MOST_LINES, MOST_TEXT = 2_000_000, 5000, 1000
LEAST_LAYERS, LEAST_REQUESTS = 300, {"short": 100, "paraphrase": 100, "two-skill": 60, "absent": 60}
MOST_SHARED = {"short": 2 / 3, "paraphrase": 0.35, "two-skill": 0.6}
"""Of a request's telling words, the share that what it looks for may have."""
LONGEST_RUN = 3  # words in a row: a copy
BEGINNING = 5  # letters by which "render" and "rendering" are one word
ELSEWHERE = "elsewhere"
"""The domain of requests that have nothing to do with programs. No layer is in it, and it has both splits."""

Kind = Literal["short", "paraphrase", "two-skill", "absent"]
Split = Literal["dev", "test"]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
Text = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
V = TypeVar("V", bound=Value)


class LayerText(Value):
    """What one layer says of itself. ``form``: as the mint writes it, as a line of its author, or as two sentences."""

    id: Key
    text: Text
    languages: tuple[Text, ...] = Field(min_length=1, max_length=8)
    domain: Key
    split: Split
    form: Literal["terse", "line", "sentences"]


class Request(Value):
    """What somebody asks for. ``wants``: the layers that answer it, one for each skill in the order of the text, none for ``absent``;
    ``also``: what may stand in for the one layer that is wanted."""

    id: Key
    kind: Kind
    text: Text
    wants: tuple[Key, ...] = Field(max_length=2)
    also: tuple[Key, ...] = Field(default=(), max_length=8)
    domain: Key
    split: Split


class Exemplars(Value):
    """Prompts that one layer was trained to answer, in the words of the ``own-words`` teacher."""

    layer: Key
    prompts: tuple[Text, ...] = Field(min_length=1, max_length=8)


class Queries(Value):
    """What people may type who look for one layer, in the form of a teacher that is asked (`dna reindex --teacher`)."""

    layer: Key
    queries: tuple[Text, ...] = Field(min_length=1, max_length=8)


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """``exemplars``: the prompts of each layer, by its id; ``queries``: what may be typed by who looks for it."""

    layers: tuple[LayerText, ...]
    requests: tuple[Request, ...]
    exemplars: Mapping[str, tuple[str, ...]]
    queries: Mapping[str, tuple[str, ...]]

    def asked(self, kind: Kind, split: Split | None = None) -> tuple[Request, ...]:
        """The requests of one kind, of one split or of both."""
        return tuple(one for one in self.requests if one.kind == kind and split in (None, one.split))


def copies(request: str, text: str, most: float) -> bool:
    """Whether a text has three of a request's telling words in a row, or more than ``most`` of them. Words that begin alike are one."""
    asked, told = content(request), content(text)
    return longest_run(asked, told) >= LONGEST_RUN or len(set(asked) & set(told)) > most * len(set(asked))


def content(text: str) -> list[str]:
    """The beginnings of a text's telling words, in order."""
    return [word[:BEGINNING] for word in telling_words(text.casefold())]


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Words of the longest run that is in both."""
    best, before = 0, [0] * (len(b) + 1)
    for one in a:
        row = [0] * (len(b) + 1)
        for place, other in enumerate(b, 1):
            row[place] = before[place - 1] + 1 if one == other else 0
        best, before = max(best, *row), row
    return best


def in_other_words(held: RetrievalSet) -> RetrievalSet:
    """The set without the queries that copy a request for their layer."""
    left = {key: set(queries) for key, queries in held.queries.items()}
    for one in held.requests:
        for key in one.wants:
            left[key] -= {told for told in left[key] if copies(one.text, told, MOST_SHARED[one.kind])}
    return replace(
        held, queries={key: tuple(one for one in told if one in left[key]) for key, told in held.queries.items()}
    )


@cache
def retrieval_set() -> RetrievalSet:
    """The bundled set, checked. Raises ``Corrupt``."""
    folder = files("clonedna.genomes") / "data" / "retrieval"
    layers, requests, exemplars, queries = (
        read(folder.joinpath(f"{name}.jsonl").read_bytes(), name)
        for name in ("layers", "requests", "exemplars", "queries")
    )
    return checked(
        values(layers, LayerText), values(requests, Request), values(exemplars, Exemplars), values(queries, Queries)
    )


def read(data: bytes, name: str) -> list[str]:
    """The lines of a file. Raises ``Corrupt`` where it is too large or not UTF-8."""
    if len(data) > MOST_BYTES:
        raise _corrupt(f"{name} is over {MOST_BYTES} bytes")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise _corrupt(f"{name} is not UTF-8") from None
    if len(lines) > MOST_LINES:
        raise _corrupt(f"{name} has over {MOST_LINES} lines")
    return lines


def values(lines: Sequence[str], kind: type[V]) -> tuple[V, ...]:
    """One value a line. Raises ``Corrupt`` with the number of a line that is none."""
    return tuple(_values(lines, kind))


def checked(
    layers: tuple[LayerText, ...], requests: tuple[Request, ...], exemplars: tuple[Exemplars, ...], queries: tuple[Queries, ...],
) -> RetrievalSet:  # fmt: skip
    """The set, if its parts fit together. Raises ``Corrupt`` naming the first that does not."""
    for named in ([one.id for one in layers], [one.id for one in requests], [one.text for one in (*layers, *requests)]):
        twice = [name for name, count in Counter(named).items() if count > 1]
        if twice:
            raise _corrupt(f"{twice[0]!r} is there twice")
    domains = _domains(layers)
    known = {one.id: one for one in layers}
    for one in requests:
        if problem := _problem(one, known, domains):
            raise _corrupt(f"request {one.id}: {problem}")
    if sorted(one.layer for one in exemplars) != sorted(known):
        raise _corrupt("not every layer has its exemplars, once")
    if sorted(one.layer for one in queries) != sorted(known):
        raise _corrupt("not every layer has its queries, once")
    counts = Counter(one.kind for one in requests)
    if len(layers) < LEAST_LAYERS or any(counts[kind] < least for kind, least in LEAST_REQUESTS.items()):
        raise _corrupt(f"there are too few: {len(layers)} layers, {dict(counts)}")
    prompts, asked = {one.layer: one.prompts for one in exemplars}, {one.layer: one.queries for one in queries}
    return RetrievalSet(layers, requests, prompts, asked)


def _values(lines: Sequence[str], kind: type[V]) -> Iterator[V]:
    for number, line in enumerate(lines, 1):
        try:
            yield kind.model_validate(json.loads(line))
        except (ValidationError, ValueError, RecursionError) as error:
            raise _corrupt(f"line {number} is no {kind.__name__}: {type(error).__name__}") from None


def _domains(layers: Sequence[LayerText]) -> dict[str, Split]:
    """The split of each domain, which is the same for all of it."""
    found: dict[str, Split] = {}
    for one in layers:
        if one.domain == ELSEWHERE or found.setdefault(one.domain, one.split) != one.split:
            raise _corrupt(f"layer {one.id}: {one.domain} is not a domain that is {one.split} as a whole")
    return found


def _problem(one: Request, known: dict[str, LayerText], domains: dict[str, Split]) -> str:
    """What is wrong with a request, or nothing."""
    named = (*one.wants, *one.also)
    if missing := [key for key in named if key not in known]:
        return f"no layer is called {missing[0]}"
    if len(set(named)) < len(named):
        return "a layer is named twice"
    if len(one.wants) != {"absent": 0, "two-skill": 2}.get(one.kind, 1) or (one.also and len(one.wants) != 1):
        return f"that is not what a request of kind {one.kind} wants"
    if one.wants and one.domain not in {known[key].domain for key in one.wants}:
        return f"what it wants is not in {one.domain}"
    if any(known[key].split != one.split for key in one.wants):
        return "what it wants is of the other split"
    if one.domain != ELSEWHERE and domains.get(one.domain) != one.split:
        return f"{one.domain} is not {one.split}"
    return ""


def _corrupt(what: str) -> Corrupt:
    return Corrupt(f"the retrieval set: {what}", "install the package again")
