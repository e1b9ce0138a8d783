"""Our own words for what code can be about: languages, frameworks, activities, domains, in the shape of SKOS (W3C, 2009).

A node has a preferred label, other spellings of it, and links to broader and related nodes. The bundled file is
``data/capabilities.json``; a second one with ids of its own namespace may extend it. Reading is bounded, and what does not hold together is
refused with the node's id.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from clonedna.core.canonical import canonical
from clonedna.core.errors import BadConfig
from clonedna.core.value import Value
from clonedna.core.words import words
from clonedna.genomes.extension import read_extension

FORMAT = "dna-capabilities/1"
MOST_BYTES, MOST_NODES, MOST_ALIASES = 4_000_000, 5000, 60
FAR = 8
"""No path of the graph that is longer is looked for."""
_ID = r"^([a-z][a-z0-9-]{0,30}:)?(lang|fw|act|dom)/[a-z0-9][a-z0-9-]{0,60}$"
_NET = re.compile(r"(?<!\w)\.net(?!\w)", re.IGNORECASE)

NodeId = Annotated[str, Field(pattern=_ID, max_length=120)]
Spelling = Annotated[str, Field(min_length=1, max_length=80)]


class Node(Value):
    """One capability. ``aliases``: other spellings. ``everyday``: those that are ordinary words, too, and count only where they are written
    as a name. ``shared``: those that other nodes have as well. ``broader`` and ``related``: ids.

    ``linguist``, ``github``, ``onet``, ``esco``: what it is called in linguist's list, as a topic, and in the two lists of occupations.
    """

    id: NodeId
    label: Spelling
    aliases: tuple[Spelling, ...] = Field(default=(), max_length=MOST_ALIASES)
    everyday: tuple[Spelling, ...] = Field(default=(), max_length=MOST_ALIASES)
    shared: tuple[Spelling, ...] = Field(default=(), max_length=MOST_ALIASES)
    broader: tuple[NodeId, ...] = Field(default=(), max_length=20)
    related: tuple[NodeId, ...] = Field(default=(), max_length=20)
    linguist: tuple[Spelling, ...] = Field(default=(), max_length=8)
    github: tuple[Spelling, ...] = Field(default=(), max_length=20)
    onet: tuple[Annotated[str, Field(pattern=r"^\d\d-\d{4}\.\d\d$")], ...] = Field(default=(), max_length=8)
    esco: tuple[Annotated[str, Field(pattern=r"^https?://data\.europa\.eu/esco/[\w/.-]+$", max_length=200)], ...] = ()

    @property
    def spellings(self) -> tuple[str, ...]:
        """The label and all aliases, each once."""
        return tuple(dict.fromkeys((self.label, *self.aliases, *self.everyday, *self.shared)))


class Capabilities(Value):
    """A file of nodes. ``number`` grows with each change of it."""

    format: Literal["dna-capabilities/1"]
    number: int = Field(ge=1, lt=2**31)
    nodes: tuple[Node, ...] = Field(min_length=1, max_length=MOST_NODES)


class Alias(Value):
    """A spelling as requests are searched for it. ``nodes``: more than one only where it is marked as shared."""

    nodes: tuple[str, ...]
    words: tuple[str, ...]
    everyday: bool = False


def spoken(text: str) -> str:
    """``.NET`` as a word of its own, beside what ``core.words`` does for ``C++`` and ``C#``."""
    return _NET.sub("dotnet", text)


def parts(text: str) -> tuple[str, ...]:
    """The words of a spelling, as ``core.words`` takes them apart."""
    return tuple(words(spoken(text), wholes=False))


def key(text: str) -> str:
    """Equal for spellings that differ in case, accents, spaces, hyphens and dots: ``Node.js``, ``node-js`` and ``NodeJS``."""
    return "".join(parts(text))


class Taxonomy:
    """Nodes that hold together. ``version``: the file's number and the first digits of a digest over everything in it."""

    def __init__(self, number: int, nodes: Sequence[Node]) -> None:
        """Raises ``BadConfig``: an id twice, a link to nothing, a circle of broader nodes, a spelling on two nodes that is not marked."""
        self.nodes = {node.id: node for node in nodes}
        if len(self.nodes) != len(nodes):
            twice = next(one for one, count in Counter(node.id for node in nodes).items() if count > 1)
            raise _bad(twice, "is there twice")
        self._check_links()
        self.aliases = _aliases(nodes)
        self.longest = max(len(alias.words) for alias in self.aliases.values())
        digest = sha256(canonical([node.model_dump(mode="json") for node in nodes])).hexdigest()
        self.version = f"{number}-{digest[:16]}"

    def _check_links(self) -> None:
        for node in self.nodes.values():
            for link in (*node.broader, *node.related):
                if link not in self.nodes or link == node.id:
                    raise _bad(
                        node.id, f"is linked to {link!r}, which is {'itself' if link == node.id else 'not there'}"
                    )
        done: set[str] = set()
        for start in self.nodes:
            above = [(start, iter(self.nodes[start].broader))]
            way = {start}
            while above:
                one, rest = above[-1]
                following = next(rest, None)
                if following is None:
                    done.add(one)
                    way.discard(one)
                    above.pop()
                elif following in way:
                    raise _bad(following, "is broader than itself, over other nodes")
                elif following not in done:
                    way.add(following)
                    above.append((following, iter(self.nodes[following].broader)))

    @cached_property
    def _frequency(self) -> Counter[str]:
        return Counter(
            word for node in self.nodes.values() for word in {w for one in node.spellings for w in parts(one)}
        )

    def rarity(self, asked: Iterable[str]) -> float:
        """Mean inverse document frequency of these words: ``ln((1 + N) / (1 + n)) + 1``, n of N nodes having the word (Sparck Jones 1972,
        smoothed). 0 for no words."""
        found = [math.log((1 + len(self.nodes)) / (1 + self._frequency[word])) + 1 for word in asked]
        return math.fsum(found) / len(found) if found else 0.0

    def text(self, node: str) -> str:
        """What an encoder reads of a node: its label and how else it is called. Raises ``KeyError``."""
        one = self.nodes[node]
        return ", ".join(one.spellings[:6])

    def distance(self, first: str, second: str) -> int | None:
        """Links between two nodes, either way, on the shortest path; ``None``: more than ``FAR``, or none. Raises ``KeyError``."""
        if second not in self.nodes:
            raise KeyError(second)
        seen, waiting = {first: 0}, deque([first])
        while waiting:
            one = waiting.popleft()
            if one == second:
                return seen[one]
            for near in self._links[one]:
                if near not in seen and seen[one] < FAR:
                    seen[near] = seen[one] + 1
                    waiting.append(near)
        return None

    @cached_property
    def _links(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, dict[str, None]] = {one: {} for one in self.nodes}
        for node in self.nodes.values():
            for link in (*node.broader, *node.related):
                found[node.id][link] = found[link][node.id] = None
        return {one: tuple(links) for one, links in found.items()}


def load_taxonomy(extension: Path | None = None) -> Taxonomy:
    """The bundled nodes, and those of a file that extends them: the same form, each id with a namespace (``acme:fw/forge``).

    Raises ``BadConfig`` for a file that cannot be read, is too large, or does not hold together with the bundled nodes.
    """
    own = _bundled()
    if extension is None:
        return _alone()
    more = _read(read_extension(extension, MOST_BYTES, "taxonomy_extension"), str(extension))
    for node in more.nodes:
        if ":" not in node.id:
            raise _bad(node.id, f"of {extension} has no namespace: write name:{node.id}")
    return Taxonomy(own.number, (*own.nodes, *more.nodes))


@cache
def _bundled() -> Capabilities:
    return _read(files("clonedna.genomes").joinpath("data", "capabilities.json").read_bytes(), "capabilities.json")


@cache
def _alone() -> Taxonomy:
    return Taxonomy(_bundled().number, _bundled().nodes)


def _read(data: bytes, name: str) -> Capabilities:
    if len(data) > MOST_BYTES:
        raise BadConfig(f"{name} has more than {MOST_BYTES} bytes", "a taxonomy is a list of names: make it shorter")
    try:
        return Capabilities.model_validate(json.loads(data, object_pairs_hook=_once), strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise BadConfig(f"{name}: {where or 'the file'}: {first['msg'][:200]}", f"its form is {FORMAT}") from None
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"{name} is not JSON: {str(error)[:200]}", f"its form is {FORMAT}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _aliases(nodes: Sequence[Node]) -> dict[str, Alias]:
    """Every spelling's key. Raises ``BadConfig`` where two nodes have one and not both say so."""
    found: dict[str, Alias] = {}
    for node in nodes:
        everyday, shared = {key(one) for one in node.everyday}, {key(one) for one in node.shared}
        for spelling in node.spellings:
            name, said = key(spelling), parts(spelling)
            if not name:
                raise _bad(node.id, f"has a spelling without letters or digits: {spelling!r}")
            known = found.get(name)
            if known is None:
                found[name] = Alias(nodes=(node.id,), words=said, everyday=name in everyday)
            elif node.id not in known.nodes:
                others = [one for one in nodes if one.id in known.nodes]
                if name not in shared or any(name not in {key(s) for s in other.shared} for other in others):
                    raise _bad(
                        node.id,
                        f"has the spelling {spelling!r} of {known.nodes[0]}, and it is not marked as shared on both",
                    )
                found[name] = known.model_copy(update={"nodes": tuple(sorted((*known.nodes, node.id)))})
    return found


def _bad(node: str, why: str) -> BadConfig:
    return BadConfig(
        f"the taxonomy's node {node[:120]} {why}", "correct the file (taxonomy_extension, or the bundled one)"
    )
