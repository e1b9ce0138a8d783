"""Walking a syntax tree that may be broken: its sound nodes, each with how deep it is nested and whose body it stands in.

A model's answer, or a piece cut out of a file, seldom parses whole. The parser marks what it cannot read as error nodes; these are left
out (but for whole statements inside them), and their bytes are counted. Nothing here recurses, so no nesting is too deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tree_sitter import Node, Tree

from clonedna.core.work import Language
from clonedna.evals.style_table import features_of

Parse = Callable[[Language, str], Tree | None]
"""Gives the syntax tree over the UTF-8 bytes of a text, ``None`` for a language without a grammar."""

SCRIPT_WRAPPERS = (("class X {\n", "\n}"), ("({\n", "\n})"))
"""A method, or a key of an object, is no program by itself: it is read inside of these."""


class Tally:
    """Sums of one text: for each feature of its language how many things were counted, their sum and their sum of squares."""

    def __init__(self, language: Language) -> None:
        self.sums: dict[str, list[float]] = {one.name: [0.0, 0.0, 0.0] for one in features_of(language)}

    def add(self, name: str, value: float) -> None:
        """Count one thing; a feature that the language does not have is not counted."""
        if sums := self.sums.get(name):
            sums[0] += 1
            sums[1] += value
            sums[2] += value * value

    def share(self, name: str, holds: int, over: int) -> None:
        """Count ``over`` things at once, for ``holds`` of which the feature holds."""
        if sums := self.sums.get(name):
            self.sums[name] = [sums[0] + over, sums[1] + holds, sums[2] + holds]


@dataclass(slots=True)
class Body:
    """What stands in one function's body (or, without a ``node``, outside of all functions)."""

    node: Node | None
    statements: int = 0
    returns: int = 0
    tries: int = 0
    raises: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A sound node: ``nesting`` control statements around it in its function, which is ``body``. ``parent``: the type of its parent.

    (The tree's own way to a parent begins at the root, which is slow in deep code.)
    """

    node: Node
    nesting: int
    body: Body
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a grammar calls things. ``blocks`` hold statements; ``control`` statements nest what is inside of them."""

    functions: frozenset[str]
    control: frozenset[str]
    blocks: frozenset[str]
    returns: str
    tries: str
    raises: str


@dataclass(slots=True)
class Text:
    """One text as it is counted. ``source``: the bytes that ``root`` is the tree of; ``broken``: bytes in error nodes, of ``size``."""

    text: str
    source: bytes
    root: Node
    size: int
    broken: int
    bodies: list[Body] = field(default_factory=list)

    def of(self, node: Node) -> str:
        return self.source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def read(language: Language, text: str, parse: Parse) -> Text | None:
    """The tree of ``text`` that has the fewest broken bytes, of it alone and (JavaScript, TypeScript) of it as a member of something."""
    wrappers = (("", ""), *(() if language == "python" else SCRIPT_WRAPPERS))
    best: Text | None = None
    for before, after in wrappers:
        whole = f"{before}{text}{after}"
        tree = parse(language, whole)
        if tree is None:
            return None
        source, root = whole.encode("utf-8", "replace"), tree.root_node
        size = len(source) - len(before) - len(after)
        found = Text(text, source, root, size, min(size, broken_bytes(root)))
        if before and found.broken == 0:
            found.root = _inside(root)
        if best is None or found.broken < best.broken:
            best = found
        if not found.broken:
            break
    return best


def _inside(root: Node) -> Node:
    """The body of the wrapper, so that the wrapper itself is not counted."""
    here = root
    while here.type not in ("class_body", "object") and here.named_child_count:
        here = here.named_children[-1]
    return here


def broken_bytes(root: Node) -> int:
    """Bytes in error nodes, without the whole statements that stand inside of them."""
    total, todo = 0, [root]
    while todo:
        node = todo.pop()
        if node.is_error:
            kept = sound_parts(node)
            total += node.end_byte - node.start_byte - sum(one.end_byte - one.start_byte for one in kept)
        elif node.has_error:
            todo.extend(node.children)
    return total


def sound_parts(error: Node) -> list[Node]:
    """Statements and definitions inside an error node that parse whole."""
    ends = ("_statement", "_definition", "_declaration")
    return [one for one in error.named_children if not one.has_error and one.type.endswith(ends)]


def places(text: Text, shapes: Shapes) -> Iterator[Place]:
    """Every named, sound node in the order of the text. ``text.bodies`` is complete when this has ended, the outermost body first."""
    top = Body(None)
    text.bodies = [top]
    todo = [Place(text.root, 0, top)]
    while todo:
        place = todo.pop()
        node, body, nesting = place.node, place.body, place.nesting
        if node.is_error:
            todo.extend(Place(one, nesting, body, node.type) for one in reversed(sound_parts(node)))
            continue
        if place.parent in shapes.blocks and node.type != "comment":
            body.statements += 1
        body.returns += node.type == shapes.returns
        body.tries += node.type == shapes.tries
        body.raises += node.type == shapes.raises
        yield place
        if node.type in shapes.functions:
            body, nesting = Body(node), 0
            text.bodies.append(body)
        inner = nesting + (node.type in shapes.control)
        todo.extend(Place(one, inner, body, node.type) for one in reversed(node.named_children))


def first_statement(block: Node, skip: frozenset[str]) -> Node | None:
    """The first statement of a block, behind its comments and docstring."""
    for child in block.named_children:
        if child.type == "comment" or child.is_error:
            continue
        if (
            child.type == "expression_statement"
            and child.named_child_count == 1
            and child.named_children[0].type in skip
        ):
            continue
        return child
    return None


def leaves_at_once(statement: Node | None, jumps: frozenset[str]) -> bool:
    """Whether this is a guard clause: an ``if`` without else whose last statement leaves."""
    if (
        statement is None
        or statement.type != "if_statement"
        or statement.child_by_field_name("alternative") is not None
    ):
        return False
    inner = statement.child_by_field_name("consequence")
    if inner is None:
        return False
    if inner.type in jumps:
        return True
    statements = [child for child in inner.named_children if child.type != "comment"]
    return bool(statements) and statements[-1].type in jumps
