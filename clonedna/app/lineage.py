"""Where a block comes from and what was made from it, over any number of steps, as values and as a picture in Mermaid's text form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from clonedna.app.details import ref
from clonedna.app.parts import Parts, factory
from clonedna.core.block import BlockRef, Manifest
from clonedna.core.errors import DnaError
from clonedna.core.value import Value

MOST_BLOCKS, MOST_ANCESTORS = 300, 64
Status = Literal["registered", "rejected", "revoked"]
Relation = Literal["minted", "continued", "forked", "merged", "distilled"]


class KinBlock(Value):
    """A block of the graph. ``step``: how far up (below zero) or down from the one that was asked about.

    Of one that is ``not_here`` nothing but its id is known.
    """

    id: str
    name: str = ""
    version: str = ""
    relation: Relation | None = None
    status: Literal["registered", "rejected", "revoked", "not_here"]
    step: int


class KinEdge(Value):
    """``child`` was made from ``parent``. ``weight``: the parent's, in a merge."""

    parent: str
    child: str
    relation: Relation
    weight: float | None = None


class LineageGraph(Value):
    """``left_out``: blocks beyond the bound whose own kin was not looked at; 0: this is everything."""

    block: BlockRef
    blocks: tuple[KinBlock, ...]
    edges: tuple[KinEdge, ...]
    left_out: int = 0


class Relative(Protocol):
    """A block that is known, and how it stands."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def status(self) -> Status: ...


class Kin(Protocol):
    """Who knows which blocks were made from which: ``store.kin.Kin`` asks the catalogue, ``Loaded`` has them at hand."""

    def named(self, ids: Sequence[str]) -> Sequence[Relative]: ...
    def children(self, ids: Sequence[str]) -> Sequence[Relative]: ...


class _Known(NamedTuple):
    manifest: Manifest
    status: Status


class Loaded:
    """Kin among manifests that were read already, for who asks about many blocks."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._all = {one.id: _Known(one, status_of(one)) for one in manifests}
        self._children: dict[str, list[_Known]] = {}
        for known in self._all.values():
            for parent in known.manifest.lineage.parents:
                self._children.setdefault(parent, []).append(known)

    def named(self, ids: Sequence[str]) -> Sequence[Relative]:
        return [self._all[one] for one in ids if one in self._all]

    def children(self, ids: Sequence[str]) -> Sequence[Relative]:
        found = {child.manifest.id: child for one in ids for child in self._children.get(one, ())}
        return list(found.values())


class Lineages:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def of(self, reference: str) -> LineageGraph:
        """Parents and their parents, what was made from it and from that. Raises what resolving ``reference`` raises.

        The catalogue is believed: nothing is verified but by who opens a block.
        """
        manifest = self.parts.registry.resolve(reference, unsafe=True)
        return graph_of(manifest, factory("registry", "kin")(self.parts.database, self.parts.store))


def status_of(manifest: Manifest) -> Literal["registered", "rejected"]:
    """How a block stands that is not revoked."""
    return "rejected" if manifest.gate.status == "rejected" else "registered"


def graph_of(manifest: Manifest, kin: Kin) -> LineageGraph:
    """The graph around one block, by what ``kin`` knows."""
    graph = _Graph(manifest)
    graph.climb(kin)
    graph.descend(kin)
    return LineageGraph(
        block=ref(manifest), blocks=tuple(sorted(graph.blocks.values(), key=lambda one: (one.step, one.name, one.version, one.id))),
        edges=tuple(sorted(graph.edges.values(), key=lambda one: (one.parent, one.child))), left_out=graph.left_out,
    )  # fmt: skip


class _Graph:
    """The graph as it grows, a step up or down at a time."""

    def __init__(self, manifest: Manifest) -> None:
        self.start = manifest
        self.blocks: dict[str, KinBlock] = {manifest.id: _block(manifest, status_of(manifest), 0)}
        self.edges: dict[tuple[str, str], KinEdge] = {}
        self.left_out = 0

    def climb(self, kin: Kin) -> None:
        step, above = 0, [self.start]
        while above:
            step -= 1
            fresh = sorted({parent for child in above for parent in child.lineage.parents} - self.blocks.keys())
            fresh = self._within(fresh)
            found = kin.named(fresh)
            for one in found:
                self.blocks[one.manifest.id] = _block(one.manifest, one.status, step)
            for missing in set(fresh) - self.blocks.keys():
                self.blocks[missing] = KinBlock(id=missing, status="not_here", step=step)
            for child in above:
                self._link(child)
            above = [one.manifest for one in found]

    def descend(self, kin: Kin) -> None:
        step, below = 0, [self.start.id]
        while below:
            step += 1
            made = {one.manifest.id: one for one in kin.children(below)}
            fresh = self._within(sorted(made.keys() - self.blocks.keys()))
            for block_id in fresh:
                self.blocks[block_id] = _block(made[block_id].manifest, made[block_id].status, step)
            for one in made.values():
                if one.manifest.id in self.blocks:
                    self._link(one.manifest)
            below = fresh

    def _within(self, fresh: list[str]) -> list[str]:
        room = max(0, MOST_BLOCKS - len(self.blocks))
        self.left_out += len(fresh[room:])
        return fresh[:room]

    def _link(self, child: Manifest) -> None:
        """Edges from the parents that are in the graph."""
        merge = child.lineage.merge
        weights = {parent.id: parent.weight for parent in merge.parents} if merge else {}
        for parent in child.lineage.parents:
            if parent in self.blocks:
                self.edges[parent, child.id] = KinEdge(
                    parent=parent, child=child.id, relation=child.lineage.relation, weight=weights.get(parent)
                )  # fmt: skip


def _block(manifest: Manifest, status: Status, step: int) -> KinBlock:
    return KinBlock(
        id=manifest.id, name=manifest.name, version=manifest.version, relation=manifest.lineage.relation, status=status, step=step
    )  # fmt: skip


def in_words(graph: LineageGraph) -> str:
    """``continued from a@1.0.0 (1234abcd5678); continued by a@1.2.0 (...)``: the nearest kin, in one line."""
    names, me = {one.id: one for one in graph.blocks}, graph.block.id
    parents = [called(names[edge.parent]) for edge in graph.edges if edge.child == me]
    relation = names[me].relation or "minted"
    told = [f"{relation} from {' and '.join(parents)}" if parents else relation]
    for edge in graph.edges:
        if edge.parent == me:
            child = names[edge.child]
            word = {"continued": "continued by", "merged": "merged into"}.get(edge.relation, "parent of")
            told.append(f"{word} {called(child)}{'' if child.status == 'registered' else f', {child.status}'}")
    return "; ".join(told)


def called(block: KinBlock) -> str:
    """``name@version (digits)``, or the digits alone of a block that is not here."""
    if block.status == "not_here":
        return f"{block.id[:12]}, which is not here"
    return f"{block.name}@{block.version} ({block.id[:12]})"


def mermaid(graph: LineageGraph) -> str:
    """The graph as a Mermaid flowchart. A manifest's names have letters, digits and ``. _ -``, its ids are digits: no markup."""
    lines = ["flowchart TD"]
    for one in graph.blocks:
        name = f"{one.name}@{one.version}<br/>" if one.name else ""
        lines.append(
            f'  b{one.id[:16]}["{name}{one.id[:12]}{"" if one.status == "registered" else f" ({one.status})"}"]'
        )
    for edge in graph.edges:
        weight = "" if edge.weight is None else f" {edge.weight:g}"
        lines.append(f'  b{edge.parent[:16]} -->|"{edge.relation}{weight}"| b{edge.child[:16]}')
    lines += [f"  style b{graph.block.id[:16]} stroke-width:3px"]
    return "\n".join(lines) + "\n"


def ancestors_of(parts: Parts, manifest: Manifest) -> tuple[str, ...]:
    """Ids of all that a block was made from, the nearest first, as far as they are catalogued here."""
    found, waiting = list[str](), list(manifest.lineage.parents)
    while waiting and len(found) < MOST_ANCESTORS:
        parent = waiting.pop(0)
        if parent in found:
            continue
        found.append(parent)
        try:
            waiting += parts.registry.resolve(parent, unsafe=True).lineage.parents
        except DnaError:  # not here, or revoked: its own parents are not asked for
            continue
    return tuple(found)
