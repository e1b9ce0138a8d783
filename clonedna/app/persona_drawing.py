"""The lineage of a persona as SVG: one column for each step away from it, drawn here, without scripts, links or fonts of others.

A line that passes a column has a place of its own in it, so that none runs behind a box (Sugiyama et al. 1981).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

from clonedna.app.persona_lineage import GraphEdge, GraphNode, PersonaGraph, edge_label, escaped, lines_of

LETTER, LINE, PAD, GAP, STEP, MARGIN, PORT = 7.7, 16.0, 10.0, 22.0, 110.0, 24.0, 16.0
FILLS = {"persona": "#dbeafe", "genome": "#dcfce7", "block": "#f4f5f7"}
INK, SOFT, RULE, ALARM, PAPER = "#1b1f24", "#59636e", "#8c959f", "#b42318", "#ffffff"


@dataclass(slots=True)
class _Box:
    """A node, or the place of a line that passes (``node`` is ``None``). ``x`` and ``y``: its upper left corner."""

    node: GraphNode | None
    lines: tuple[str, ...]
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0


def svg(graph: PersonaGraph) -> str:
    """The drawing. Texts are escaped; the same graph gives the same bytes."""
    boxes, ways = _laid_out(graph)
    width, height = _placed(boxes, ways)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escaped(f'Lineage of {graph.persona}')}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{RULE}"/></marker></defs>',
    ]
    leaving, arriving = _ports(boxes, ways, 0), _ports(boxes, ways, -1)
    parts += [_line(edge, [boxes[one] for one in way], leaving[n], arriving[n]) for n, (edge, way) in enumerate(ways)]
    parts += [_node(box, box.node) for box in boxes.values() if box.node is not None]
    if graph.left_out:
        parts.append(f'<text x="{MARGIN}" y="{height - 8:.0f}" fill="{SOFT}">and at least {graph.left_out} more</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _columns(graph: PersonaGraph) -> dict[str, int]:
    """How many steps away from what nothing is made of each node is at most; in a circle, which no true ids can have, 0."""
    targets: dict[str, list[str]] = {}
    waits = dict.fromkeys((node.id for node in graph.nodes), 0)
    for edge in graph.edges:
        targets.setdefault(edge.source, []).append(edge.target)
        waits[edge.target] += 1
    column = dict.fromkeys(waits, 0)
    ready = deque(one for one, count in waits.items() if not count)
    while ready:
        one = ready.popleft()
        for target in targets.get(one, ()):
            column[target] = max(column[target], column[one] + 1)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    return column


def _laid_out(graph: PersonaGraph) -> tuple[dict[str, _Box], list[tuple[GraphEdge, list[str]]]]:
    """Boxes column by column, from left to right, and for each edge the boxes that its line goes through. ``x`` is the column's number."""
    column = _columns(graph)
    many = Counter(edge.target for edge in graph.edges) | Counter(edge.source for edge in graph.edges)
    boxes: dict[str, _Box] = {}
    for node in graph.nodes:
        lines = tuple(lines_of(node))
        height = max(len(lines) * LINE + 2 * PAD, (many[node.id] + 1) * PORT)
        boxes[node.id] = _Box(node, lines, max(map(len, lines)) * LETTER + 2 * PAD, height, x=column[node.id])
    ways: list[tuple[GraphEdge, list[str]]] = []
    for number, edge in enumerate(graph.edges):
        way = [edge.source]
        for step in range(column[edge.source] + 1, column[edge.target]):
            way.append(f"{number}/{step}")
            boxes[way[-1]] = _Box(None, (), 0.0, LINE, x=step)
        ways.append((edge, [*way, edge.target]))
    return boxes, ways


def _placed(boxes: dict[str, _Box], ways: list[tuple[GraphEdge, list[str]]]) -> tuple[float, float]:
    """Give each box its place; the drawing's width and height."""
    before: dict[str, list[str]] = {}
    for _, way in ways:
        for one, following in pairwise(way):
            before.setdefault(following, []).append(one)
    columns: dict[int, list[str]] = {}
    for one, box in boxes.items():
        columns.setdefault(int(box.x), []).append(one)
    x, lowest = MARGIN, 0.0
    for step in sorted(columns):
        # Beside what they belong to.
        members = sorted(columns[step], key=lambda one: (_middle([boxes[b] for b in before.get(one, ())]), one))
        width, y = max(boxes[one].width for one in members), MARGIN
        for one in members:
            box = boxes[one]
            box.x, box.y = x, y
            box.width = width
            y += box.height + GAP
        x, lowest = x + width + STEP, max(lowest, y)
    for step in sorted(columns):
        shift = (lowest - max(boxes[one].y + boxes[one].height + GAP for one in columns[step])) / 2
        for one in columns[step]:
            boxes[one].y += shift
    return x - STEP + MARGIN, lowest - GAP + 1.5 * MARGIN


def _middle(found: list[_Box]) -> float:
    return sum(box.y + box.height / 2 for box in found) / len(found) if found else 0.0


def _ports(boxes: dict[str, _Box], ways: list[tuple[GraphEdge, list[str]]], end: int) -> list[float]:
    """Where each line leaves (``end`` 0) or arrives (-1): heights apart from each other, in the order of where the lines go."""
    beside = 1 if end == 0 else -2
    order = sorted(range(len(ways)), key=lambda n: (boxes[ways[n][1][beside]].y, n))
    many, seen = Counter(way[end] for _, way in ways), Counter[str]()
    found = [0.0] * len(ways)
    for number in order:
        one = ways[number][1][end]
        seen[one] += 1
        found[number] = boxes[one].y + boxes[one].height * seen[one] / (many[one] + 1)
    return found


def _node(box: _Box, node: GraphNode) -> str:
    stroke = ALARM if node.status != "ready" else INK if node.current else RULE
    thick = 2.5 if node.current else 1.2
    radius = 16 if node.kind == "persona" else 5
    drawn = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}" '
        f'fill="{FILLS[node.kind]}" stroke="{stroke}" stroke-width="{thick}"/>'
    ]
    top = box.y + (box.height - len(box.lines) * LINE) / 2
    for number, line in enumerate(box.lines):
        weight = ' font-weight="600"' if number == 0 else ""
        colour = INK if number != 1 else ALARM if node.status != "ready" else SOFT
        y = top + (number + 0.75) * LINE
        drawn.append(f'<text x="{box.x + PAD:.1f}" y="{y:.1f}" fill="{colour}"{weight}>{escaped(line)}</text>')
    return "\n".join(drawn)


def _line(edge: GraphEdge, way: list[_Box], leaves: float, arrives: float) -> str:
    x, y = way[0].x + way[0].width, leaves
    drawn = f"M{x:.1f} {y:.1f}"
    for box in [*way[1:-1], None]:
        x2, y2 = (way[-1].x - 2, arrives) if box is None else (box.x, box.y + box.height / 2)
        half = (x2 - x) / 2
        drawn += f"C{x + half:.1f} {y:.1f} {x2 - half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        if box is not None:
            x2 = box.x + box.width
            drawn += f"H{x2:.1f}"
        x, y = x2, y2
    text = edge_label(edge)
    return (
        f'<path d="{drawn}" fill="none" stroke="{RULE}" stroke-width="1.2" marker-end="url(#end)"/>\n'
        f'<text x="{x - 10:.1f}" y="{y - 3:.1f}" font-size="10" text-anchor="end" paint-order="stroke" stroke="{PAPER}" '
        f'stroke-width="3" fill="{SOFT}">{escaped(text)}</text>'
    )
