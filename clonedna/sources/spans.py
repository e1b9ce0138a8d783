"""Functions, methods and classes of a file, found with tree-sitter, as runs of whole lines.

Definitions never overlap: nested functions belong to their parent, methods stand inside their class. Which of them become spans is
decided later, when it is known who wrote the lines. Nothing here recurses, so no nesting is too deep.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tree_sitter import Node, Tree

from clonedna.core.work import SpanKind
from clonedna.sources.languages import Entry, parser_of

MIN_LINES, MAX_LINES, MAX_BYTES = 3, 120, 6000
CLASS_LINES, CLASS_BYTES = 80, 3000
MAX_HEAD, MAX_COMMENT = 500, 1000
_BEHIND = re.compile(rb"^[;,]?\s*((//|#).*|/\*.*\*/\s*)?$")
_BOUND_NAME = re.compile(r"[\w$.#'\"\[\]-]{1,80}")
_MARKS = re.compile(r"^\s*(#+|//+!?|/\*+!?|\*+(?!/))?\s?|\s*\*+/\s*$")
_DIRECTIVE = re.compile(
    r"^(type:|noqa|pylint|eslint|jshint|ts-|@ts-|prettier|biome|istanbul|c8 |v8 |pragma|region|endregion|fmt:|isort|mypy|-\*-|!|"
    r"copyright|spdx-|licen[cs]ed? under|@licen[cs]e|@preserve)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Definition:
    """Lines ``start``..``end`` (1-based, inclusive) and what they say of themselves. ``inside``: the methods of a class, and its classes.

    ``sound``: the parser found no syntax error in it. ``text`` is byte-exact; it ends with the last line's end, where that has one.
    """

    kind: SpanKind
    name: str
    start: int
    end: int
    text: str
    sound: bool
    signature: str
    arguments: tuple[str, ...]
    comment: str
    docstring: str
    body_start: int | None
    inside: list[Definition] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return self.end - self.start + 1

    @property
    def one_piece(self) -> bool:
        """Whether this class is small enough to be one span."""
        return self.lines <= CLASS_LINES and len(self.text.encode()) <= CLASS_BYTES

    def refusal(self) -> tuple[str, str] | None:
        """Why it cannot be a span, whoever wrote it: ``syntax_error``, ``too_short`` or ``too_long``, with a detail."""
        if not self.sound:
            return "syntax_error", self.name
        if self.lines < MIN_LINES:
            return "too_short", f"{self.lines} lines"
        if self.lines > MAX_LINES or len(self.text.encode()) > MAX_BYTES:
            return "too_long", f"{self.lines} lines"
        return None


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where the walk is: the node whose children are next, the names around it, and who gets the definitions found there."""

    node: Node
    prefix: str
    in_class: bool
    sink: list[Definition]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A definition in its wrappings: ``outer`` is the whole statement, ``named`` what carries the name, ``inner`` the function or class."""

    outer: Node
    inner: Node
    name: str


class _File:
    def __init__(self, source: bytes, entry: Entry, tree: Tree) -> None:
        self.source, self.entry, self.root = source, entry, tree.root_node
        self.lines = source.split(b"\n")

    def text(self, node: Node) -> str:
        return self.source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def find_definitions(source: bytes, entry: Entry) -> list[Definition]:
    """The outermost definitions of a UTF-8 file, in the order of their lines."""
    file = _File(source, entry, parser_of(entry.grammar).parse(source))
    found: list[Definition] = []
    todo = [_Scope(file.root, "", False, found)]
    sinks = [found]
    while todo:
        scope = todo.pop()
        decorators: Node | None = None
        for child in scope.node.named_children:
            if child.type == "decorator":
                decorators = decorators or child
                continue
            bound = _bound(file, child)
            if bound is None:
                if child.type in entry.through:
                    todo.append(_Scope(child, scope.prefix + _bound_prefix(file, child), scope.in_class, scope.sink))
            else:
                made = _definition(file, bound, scope, decorators or bound.outer)
                body = bound.inner.child_by_field_name("body")
                if bound.inner.type in entry.classes or bound.inner.type == "class":
                    inside: list[Definition] = made.inside if made else []
                    sinks.append(inside)
                    if body is not None:
                        todo.append(_Scope(body, f"{scope.prefix}{bound.name}.", True, inside if made else scope.sink))
                if made:
                    scope.sink.append(made)
            decorators = None
    for sink in sinks:
        _apart(sink)
    return found


def innermost(definitions: list[Definition], line: int) -> Definition | None:
    """The smallest definition around a line."""
    around: Definition | None = None
    level = definitions
    while level:
        here = next((one for one in level if one.start <= line <= one.end), None)
        if here is None:
            break
        around, level = here, here.inside
    return around


def _apart(sink: list[Definition]) -> None:
    """In order of lines, and of two that share a line only the first."""
    sink.sort(key=lambda one: (one.start, one.end))
    last = 0
    for one in tuple(sink):
        if one.start > last:
            last = one.end
        else:
            sink.remove(one)


def _bound(file: _File, node: Node) -> _Bound | None:
    """The definition that ``node`` is or wraps, else ``None``."""
    inner, entry = node, file.entry
    while inner.type in entry.wrappers:
        held = next(
            filter(None, (inner.child_by_field_name(name) for name in ("definition", "declaration", "value"))), None
        )
        if held is None:
            return None
        inner = held
    if inner.type in entry.functions or inner.type in entry.classes:
        name = inner.child_by_field_name("name")
        return _Bound(node, inner, " ".join(file.text(name).split())[:80] if name is not None else "default")
    if inner.type in entry.values and inner is not node:
        return _Bound(node, inner, "default")
    if inner.type == "expression_statement" and inner.named_child_count == 1:
        inner = inner.named_children[0]
    elif inner.type in ("lexical_declaration", "variable_declaration"):
        declared = [child for child in inner.named_children if child.type == "variable_declarator"]
        inner = declared[0] if len(declared) == 1 else inner
    if inner.type not in (
        "variable_declarator",
        "assignment_expression",
        "pair",
        "field_definition",
        "public_field_definition",
    ):
        return None
    value = inner.child_by_field_name("value") or inner.child_by_field_name("right")
    name = _key(file, inner)
    if value is None or value.type not in entry.values or not name:
        return None
    return _Bound(node, value, name)


def _key(file: _File, node: Node) -> str:
    """What a value is bound to: a name, a dotted name or a key; empty when it is a pattern or computed."""
    for name in ("name", "left", "key", "property"):
        found = node.child_by_field_name(name)
        if found is not None:
            text = file.text(found)
            return text.strip("'\"") if _BOUND_NAME.fullmatch(text) else ""
    return ""


def _bound_prefix(file: _File, node: Node) -> str:
    """Functions in an object are named after what the object is bound to."""
    if node.type in ("variable_declarator", "assignment_expression", "pair"):
        value = node.child_by_field_name("value") or node.child_by_field_name("right")
        name = _key(file, node)
        if value is not None and value.type in ("object", "as_expression", "satisfies_expression") and name:
            return name + "."
    return ""


def _definition(file: _File, bound: _Bound, scope: _Scope, start: Node) -> Definition | None:
    """The definition with its lines; ``None`` when other code stands on its first or last line."""
    outer, inner = bound.outer, bound.inner
    first, last = start.start_point.row, outer.end_point.row
    behind = file.lines[last][outer.end_point.column :].rstrip()
    if file.lines[first][: start.start_point.column].strip() or not _BEHIND.match(behind):
        return None
    raw = b"\n".join(file.lines[first : last + 1]) + (b"\n" if last + 1 < len(file.lines) else b"")
    is_class = inner.type in file.entry.classes or inner.type == "class"
    is_method = scope.in_class or inner.type == "method_definition" or outer.type == "pair"
    docstring, body_start = _docstring(file, inner) if file.entry.docstrings else ("", None)
    return Definition(
        kind="class" if is_class else "method" if is_method else "function", name=scope.prefix + bound.name, start=first + 1, end=last + 1,
        text=raw.decode("utf-8"), sound=not outer.has_error, signature=_signature(file, bound), arguments=_arguments(file, inner),
        comment=_comment(file, first), docstring=docstring, body_start=body_start,
    )  # fmt: skip


def _signature(file: _File, bound: _Bound) -> str:
    """From the definition's first word (behind decorators) up to and including what opens its body, on one line."""
    body = bound.inner.child_by_field_name("body")
    start = bound.inner if bound.outer.type == "decorated_definition" else bound.outer
    if start.type in ("class_declaration", "abstract_class_declaration", "export_statement"):
        words = [child for child in start.children if child.type != "decorator"]
        start = words[0] if words else start
    ends = [child.end_byte for child in bound.inner.children if child.type == file.entry.head_ends]
    end = body.start_byte if body is not None else bound.outer.end_byte
    if body is not None and file.source[end : end + 1] == b"{":
        end += 1
    elif ends:
        end = ends[-1]
    return " ".join(file.source[start.start_byte : end].decode("utf-8", "replace").split())[:MAX_HEAD]


def _docstring(file: _File, inner: Node) -> tuple[str, int | None]:
    """The docstring, and the first line behind it when it ends its line and a body follows it."""
    body = inner.child_by_field_name("body")
    statements = [child for child in body.named_children if child.type != "comment"] if body is not None else []
    if not statements or statements[0].type != "expression_statement":
        return "", None
    string = statements[0].named_children[0] if statements[0].named_child_count == 1 else None
    if string is None or string.type != "string":
        return "", None
    parts = {part.type: part for part in string.children}
    opening, closing = parts.get("string_start"), parts.get("string_end")
    if (
        opening is None
        or closing is None
        or "interpolation" in parts
        or set(file.text(opening).casefold()) & {"f", "b"}
    ):
        return "", None
    content = file.source[opening.end_byte : closing.start_byte].decode("utf-8", "replace")
    row = string.end_point.row
    alone = not file.lines[row][string.end_point.column :].strip()
    follows = len(statements) > 1 and statements[1].start_point.row > row
    return inspect.cleandoc(content).strip(), row + 2 if alone and follows else None


def _arguments(file: _File, inner: Node) -> tuple[str, ...]:
    """Names of the parameters; a gathering one with its stars or dots, a destructured one as ``{a, b}``."""
    parameters = inner.child_by_field_name("parameters")
    single = inner.child_by_field_name("parameter")
    nodes = parameters.named_children if parameters is not None else [single] if single is not None else []
    names = [
        _argument(file, node)
        for node in nodes
        if node.type not in ("comment", "keyword_separator", "positional_separator")
    ]
    return tuple(name for name in names if name and name not in ("self", "cls", "this"))


def _argument(file: _File, node: Node) -> str:
    while node.type not in ("identifier", "object_pattern", "array_pattern"):
        within = next(filter(None, (node.child_by_field_name(name) for name in ("name", "pattern", "left"))), None)
        if node.type in ("list_splat_pattern", "dictionary_splat_pattern", "rest_pattern"):
            return " ".join(file.text(node).split())[:80]
        if within is None:
            within = node.named_children[0] if node.named_child_count else None
        if within is None:
            return " ".join(file.text(node).split())[:80]
        node = within
    if node.type == "identifier":
        return file.text(node)
    names = [file.text(one) for one in _leaves(node, "shorthand_property_identifier_pattern", "identifier")]
    return f"{{{', '.join(names)}}}"[:120] if node.type == "object_pattern" else f"[{', '.join(names)}]"[:120]


def _leaves(node: Node, *types: str) -> Iterator[Node]:
    """Nodes of these types in a pattern, without looking into defaults."""
    todo = [node]
    while todo:
        here = todo.pop(0)
        if here.type in types:
            yield here
        elif here.type.endswith("assignment_pattern"):
            left = here.child_by_field_name("left")
            todo[:0] = [left] if left is not None else []
        else:
            todo[:0] = here.named_children


def _comment(file: _File, first: int) -> str:
    """The comment that ends on the line above line ``first`` (0-based) and stands alone on its lines, without its marks."""
    taken: list[str] = []
    row = first - 1
    # One blank line may follow a documentation comment: many put it there.
    if row > 0 and not file.lines[row].strip() and file.lines[row - 1].rstrip().endswith(b"*/"):
        row -= 1
    while row >= 0 and len(taken) < 40 and (line := file.lines[row]).strip():
        column = len(line) - len(line.lstrip())
        node = file.root.named_descendant_for_point_range((row, column), (row, column + 1))
        if (
            node is None
            or node.type != "comment"
            or file.lines[node.start_point.row][: node.start_point.column].strip()
        ):
            break
        taken.append(file.text(node))
        row = node.start_point.row - 1
    lines = [_MARKS.sub("", line).strip() for text in reversed(taken) for line in text.splitlines()]
    said = " ".join(" ".join(line for line in lines if not _DIRECTIVE.match(line)).split())
    return re.sub(r"<?\S+@[\w-]+\.\w+>?", "", said)[:MAX_COMMENT].strip()
