"""Where a persona comes from: its versions, the genomes and blocks behind them, what these were made from, and what was measured.

A graph as a value, as Mermaid's text, and as a drawing of ours. Names and texts are data: in both they are escaped, and cut.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

from clonedna.app.lineage import LineageGraph, status_of
from clonedna.app.parts import Parts, factory
from clonedna.core.block import Manifest, Measure
from clonedna.core.errors import DnaError
from clonedna.core.genome import GenomeManifest
from clonedna.core.persona import Persona, PersonaVersion
from clonedna.core.value import Value

MOST_NODES, MOST_LABEL, MOST_FIGURES = 300, 40, 4
NodeStatus = Literal["ready", "rejected", "revoked", "not_here"]


class Figure(Value):
    """A figure of a genome or a block, under a short name."""

    name: str
    measure: Measure


class GraphNode(Value):
    """``id``: of a genome or block, or the persona's name. ``versions``: those of the persona that it speaks or spoke for."""

    id: str
    kind: Literal["persona", "genome", "block"]
    label: str
    status: NodeStatus
    versions: tuple[int, ...] = ()
    current: bool = False
    figures: tuple[Figure, ...] = ()


class GraphEdge(Value):
    """From what is made to what it is made of. ``weight``: of a layer in its genome."""

    source: str
    target: str
    relation: str
    weight: float | None = None


class PersonaGraph(Value):
    """``left_out``: nodes beyond the bound that were not looked at; 0: this is everything."""

    persona: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    left_out: int = 0


class PersonaLineages:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def of(self, name: str) -> PersonaGraph:
        """Raises ``NotFound``, ``Corrupt``. The catalogue is believed: what is used is verified by who opens it."""
        persona: Persona = self.parts.personas.get(name)
        kin = factory("registry", "kin")(self.parts.database, self.parts.store)
        growing = _Growing(persona)
        genomes = {one.id: one for one in self.parts.genomes.manifests()}
        blocks = growing.genomes([one for one in persona.versions if one.kind == "genome"], genomes)
        blocks += [one.id for one in persona.versions if one.kind == "block"]
        wanted = list(dict.fromkeys(blocks))
        while wanted:
            known = {one.manifest.id: one for one in kin.named(wanted)}
            above: list[str] = []
            for one in wanted:
                relative = known.get(one)
                growing.block(one, relative.manifest if relative else None, relative.status if relative else "not_here")
                above += relative.manifest.lineage.parents if relative else ()
            wanted = [one for one in dict.fromkeys(above) if one not in growing.nodes]
        return growing.graph(self._fault(persona))

    def _fault(self, persona: Persona) -> bool:
        from clonedna.app.personas import Personas

        try:
            return not Personas(self.parts).show(persona.name).speaks
        except DnaError:
            return True


class _Growing:
    """The graph as it grows, from the persona down."""

    def __init__(self, persona: Persona) -> None:
        self.persona = persona
        self.nodes: dict[str, GraphNode] = {}
        self.edges: dict[tuple[str, str], GraphEdge] = {}
        self.left_out = 0

    def genomes(self, versions: Sequence[PersonaVersion], known: dict[str, GenomeManifest]) -> list[str]:
        """Genomes, those before them, and the ids of their layers."""
        blocks: list[str] = []
        wanted = [one.id for one in versions]
        named = {one.id: one.called for one in versions}
        while wanted:
            fresh, wanted = [one for one in dict.fromkeys(wanted) if one not in self.nodes], []
            for one in fresh:
                genome = known.get(one)
                label = f"genome:{genome.name}@{genome.version}" if genome else named.get(one, one[:12])
                figures = figures_of_genome(genome) if genome else ()
                self._add(
                    GraphNode(
                        id=one, kind="genome", label=label, status="ready" if genome else "not_here", figures=figures
                    )
                )
                if genome is None:
                    continue
                if genome.parent is not None:
                    self._link(one, genome.parent, "made from")
                    wanted.append(genome.parent)
                for layer in genome.layers:
                    self._link(one, layer.id, "layer", layer.weight)
                    blocks.append(layer.id)
        return blocks

    def block(self, block_id: str, manifest: Manifest | None, status: str) -> None:
        label = f"{manifest.name}@{manifest.version}" if manifest else block_id[:12]
        if manifest is not None and status == "registered":
            status = "ready" if status_of(manifest) == "registered" else "rejected"
        figures = figures_of_block(manifest) if manifest else ()
        self._add(
            GraphNode.model_validate(
                {"id": block_id, "kind": "block", "label": label, "status": status, "figures": figures}
            )
        )
        if manifest is not None:
            for parent in manifest.lineage.parents:
                self._link(block_id, parent, manifest.lineage.relation)

    def graph(self, silent: bool) -> PersonaGraph:
        """With the persona before everything, and the versions that each node spoke for."""
        me, current = self.persona, self.persona.current
        spoke: dict[str, list[int]] = {}
        for one in me.versions:
            spoke.setdefault(one.id, []).append(one.number)
        nodes = [GraphNode(id=me.name, kind="persona", label=me.title, status="not_here" if silent else "ready")]
        for node in self.nodes.values():
            now = current is not None and node.id == current.id
            nodes.append(node.model_copy(update={"versions": tuple(spoke.get(node.id, ())), "current": now}))
        edges = [
            GraphEdge(source=me.name, target=one, relation=", ".join(f"v{number}" for number in numbers[-6:]))
            for one, numbers in spoke.items()
            if one in self.nodes
        ]
        edges += [edge for edge in self.edges.values() if edge.target in self.nodes and edge.source in self.nodes]
        return PersonaGraph(persona=me.name, nodes=tuple(nodes), edges=tuple(edges), left_out=self.left_out)

    def _add(self, node: GraphNode) -> None:
        if node.id in self.nodes:
            return
        if len(self.nodes) >= MOST_NODES:
            self.left_out += 1
            return
        self.nodes[node.id] = node

    def _link(self, source: str, target: str, relation: str, weight: float | None = None) -> None:
        self.edges.setdefault(
            (source, target), GraphEdge(source=source, target=target, relation=relation, weight=weight)
        )


def of_blocks(graph: LineageGraph) -> PersonaGraph:
    """The lineage of a block in the same form, for the same drawing; without figures."""
    nodes = tuple(
        GraphNode(
            id=one.id, kind="block", label=f"{one.name}@{one.version}" if one.name else one.id[:12],
            status="ready" if one.status == "registered" else one.status, current=one.id == graph.block.id,
        )
        for one in graph.blocks
    )  # fmt: skip
    edges = tuple(
        GraphEdge(source=one.child, target=one.parent, relation=one.relation, weight=one.weight) for one in graph.edges
    )
    return PersonaGraph(persona=graph.block.name, nodes=nodes, edges=edges, left_out=graph.left_out)


def figures_of_genome(genome: GenomeManifest) -> tuple[Figure, ...]:
    """What was measured of a composition: s* by skill, then its interference index, then the least retention of a layer."""
    said = genome.evaluation
    found = [
        Figure(name=f"s* {skill}", measure=Measure(value=one.value, status="measured", n=one.n, how=one.how))
        for skill, one in sorted(said.similarity.items())
        if one.status == "measured"
    ]
    kept = [one for one in said.retention.values() if one.status == "measured" and one.value is not None]
    if kept:
        found.append(Figure(name="least retention", measure=min(kept, key=lambda one: one.value or 0.0)))
    if said.interference.status == "measured":
        found.append(Figure(name="interference", measure=said.interference))
    return tuple(found[:MOST_FIGURES])


def figures_of_block(manifest: Manifest) -> tuple[Figure, ...]:
    """What was measured of a block: the gain on held-out code, what it forgets, its maturity."""
    said = manifest.eval_summary
    named = (("gain", said.nll_delta), ("forgetting", said.forgetting), ("maturity", said.maturity))
    return tuple(
        Figure(name=name, measure=one) for name, one in named if one.status == "measured" and one.value is not None
    )


def told(figure: Figure) -> str:
    """``gain 0.31 (n 96)``."""
    n = "" if figure.measure.n is None else f" (n {figure.measure.n})"
    value = "none" if figure.measure.value is None else f"{figure.measure.value:.3g}"
    return f"{_short(figure.name)} {value}{n}"


def lines_of(node: GraphNode) -> list[str]:
    """What is written in a node, line by line."""
    kind = {"persona": "persona", "genome": f"genome {node.id[:12]}", "block": f"block {node.id[:12]}"}[node.kind]
    state = {"ready": "", "not_here": "does not speak" if node.kind == "persona" else "not here"}.get(
        node.status, node.status
    )
    return [_short(node.label), f"{kind}{f' ({state})' if state else ''}", *(told(one) for one in node.figures)]


def edge_label(edge: GraphEdge) -> str:
    return f"{edge.relation}{'' if edge.weight is None else f', weight {edge.weight:g}'}"


def mermaid(graph: PersonaGraph) -> str:
    """The graph as a Mermaid flowchart. Every text of anybody's is written as character references, so none of it is markup."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        text = "<br/>".join(_referenced(line) for line in lines_of(node))
        opening, closing = (
            ("([", "])") if node.kind == "persona" else ("[[", "]]") if node.kind == "genome" else ("[", "]")
        )
        lines.append(f'  {names[node.id]}{opening}"{text}"{closing}')
    for edge in graph.edges:
        lines.append(f'  {names[edge.source]} -->|"{_referenced(edge_label(edge))}"| {names[edge.target]}')
    lines += [f"  style {names[node.id]} stroke-width:3px" for node in graph.nodes if node.current]
    if graph.left_out:
        lines.append(f'  more["and at least {graph.left_out} more"]')
    return "\n".join(lines) + "\n"


def _referenced(text: str) -> str:
    """Letters, digits and ``. @ -`` as they are; all else as Mermaid's ``#number;``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".@- ") else f"#{ord(c)};" for c in text)


def _short(text: str) -> str:
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= MOST_LABEL else f"{flat[: MOST_LABEL - 1]}…"


def escaped(text: str) -> str:
    """A text inside SVG."""
    return html.escape(text, quote=True)
