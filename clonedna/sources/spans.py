"""Functions, methods and classes of a file, found with tree-sitter, as runs of whole lines. A further language is one more entry in ``LANGUAGES``.

Spans never overlap: nested functions belong to their parent; a class is one span when it is small, else its methods are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

from tree_sitter import Language as Grammar
from tree_sitter import Node, Parser

from clonedna.core.work import Language, SpanKind

MIN_LINES, MAX_LINES, MAX_BYTES = 3, 120, 6000
CLASS_LINES, CLASS_BYTES = 80, 3000


@dataclass(frozen=True, slots=True)
class Entry:
    """How one language's syntax tree names things. ``wrappers`` hold a definition (decorators, exports); ``through`` are looked into."""

    suffixes: tuple[str, ...]
    grammar: str
    functions: frozenset[str]
    classes: frozenset[str]
    wrappers: frozenset[str]
    through: frozenset[str]
    comment_marks: tuple[str, ...]
    docstrings: bool = False


_JS = {
    "functions": frozenset(("function_declaration", "generator_function_declaration", "method_definition")),
    "classes": frozenset(("class_declaration", "abstract_class_declaration")),
    "wrappers": frozenset(("export_statement",)),
    "through": frozenset(("program", "class_body", "statement_block", "if_statement", "else_clause", "internal_module", "module", "expression_statement")),
    "comment_marks": ("//", "/*"),
}  # fmt: skip
LANGUAGES: dict[Language, Entry] = {
    "python": Entry(
        suffixes=(".py",), grammar="tree_sitter_python:language", functions=frozenset(("function_definition",)),
        classes=frozenset(("class_definition",)), wrappers=frozenset(("decorated_definition",)),
        through=frozenset(
            ("module", "block", "if_statement", "else_clause", "elif_clause", "try_statement", "except_clause", "finally_clause", "with_statement")
        ),
        comment_marks=("#",), docstrings=True,
    ),
    "javascript": Entry(suffixes=(".js", ".mjs", ".cjs", ".jsx"), grammar="tree_sitter_javascript:language", **_JS),  # type: ignore[arg-type]
    "typescript": Entry(suffixes=(".ts", ".mts", ".cts"), grammar="tree_sitter_typescript:language_typescript", **_JS),  # type: ignore[arg-type]
}  # fmt: skip
TSX = "tree_sitter_typescript:language_tsx"


@dataclass(frozen=True, slots=True)
class Found:
    """A definition: lines ``start``..``end`` (1-based, inclusive), its text, and what it says of itself."""

    kind: SpanKind
    name: str
    start: int
    end: int
    text: str
    signature: str
    arguments: tuple[str, ...]
    comment: str
    docstring: str
    body_start: int | None


@dataclass(frozen=True, slots=True)
class TooLong:
    name: str
    start: int
    end: int


@dataclass(slots=True)
class _File:
    source: bytes
    entry: Entry
    lines: list[bytes] = field(default_factory=list)


def language_of(path: str) -> Language | None:
    """The language of a path by its suffix; declaration files (``.d.ts``) are none."""
    name = path.rpartition("/")[2].casefold()
    if re.search(r"\.d\.[mc]?ts$", name):
        return None
    for language, entry in LANGUAGES.items():
        if name.endswith((*entry.suffixes, ".tsx") if language == "typescript" else entry.suffixes):
            return language
    return None


@cache
def _parser(grammar: str) -> Parser:
    module, _, attribute = grammar.partition(":")
    return Parser(Grammar(getattr(import_module(module), attribute)()))


def find_spans(source: bytes, language: Language, path: str = "") -> tuple[list[Found], list[TooLong]]:
    """Definitions of a UTF-8 file in the order of their lines, and those that are too long to be one span."""
    entry = LANGUAGES[language]
    tree = _parser(TSX if path.casefold().endswith(".tsx") else entry.grammar).parse(source)
    file = _File(source, entry, source.split(b"\n"))
    found: list[Found] = []
    long: list[TooLong] = []
    _collect(file, tree.root_node, "", False, found, long)
    found.sort(key=lambda one: one.start)
    apart: list[Found] = []
    for one in found:
        if not apart or one.start > apart[-1].end:
            apart.append(one)
    return apart, long


def _collect(file: _File, node: Node, prefix: str, in_class: bool, found: list[Found], long: list[TooLong]) -> None:
    for child in node.named_children:
        definition = _unwrap(file.entry, child)
        if definition is None:
            if child.type in file.entry.through:
                _collect(file, child, prefix, in_class, found, long)
            continue
        named, inner = definition
        name = prefix + _name(named)
        if child.has_error or not _whole_lines(file, child):
            continue
        lines, size = child.end_point.row - child.start_point.row + 1, child.end_byte - child.start_byte
        if inner.type in file.entry.classes:
            if lines > CLASS_LINES or size > CLASS_BYTES:
                body = inner.child_by_field_name("body")
                if body is not None:
                    _collect(file, body, name + ".", True, found, long)
                continue
            kind: SpanKind = "class"
        else:
            kind = "method" if in_class else "function"
        if lines > MAX_LINES or size > MAX_BYTES:
            long.append(TooLong(name, child.start_point.row + 1, child.end_point.row + 1))
        elif lines >= MIN_LINES:
            found.append(_found(file, child, inner, kind, name))


def _unwrap(entry: Entry, node: Node) -> tuple[Node, Node] | None:
    """``(node that has the name, definition)`` inside decorators, exports and ``const f = () => ...``; ``None`` when it is none."""
    while node.type in entry.wrappers:
        inner = (
            node.child_by_field_name("definition")
            or node.child_by_field_name("declaration")
            or node.child_by_field_name("value")
        )
        if inner is None:
            return None
        node = inner
    if node.type in entry.functions or node.type in entry.classes:
        return node, node
    if node.type in ("lexical_declaration", "variable_declaration"):
        declared = [child for child in node.named_children if child.type == "variable_declarator"]
        if len(declared) == 1:
            value = declared[0].child_by_field_name("value")
            if value is not None and value.type in ("arrow_function", "function_expression", "generator_function"):
                return declared[0], value
    return None


def _name(node: Node) -> str:
    name = node.child_by_field_name("name")
    text = (name.text or b"").decode("utf-8", "replace") if name is not None else "anonymous"
    return " ".join(text.split())[:80]


def _whole_lines(file: _File, node: Node) -> bool:
    """Nothing but white space stands before the node on its first line, and at most a semicolon or comma behind it on its last."""
    before = file.lines[node.start_point.row][: node.start_point.column]
    after = file.lines[node.end_point.row][node.end_point.column :]
    return not before.strip() and after.strip() in (b"", b";", b",")


def _found(file: _File, node: Node, definition: Node, kind: SpanKind, name: str) -> Found:
    first, last = node.start_point.row, node.end_point.row
    text = b"\n".join(file.lines[first : last + 1]) + (b"\n" if last + 1 < len(file.lines) else b"")
    body = definition.child_by_field_name("body")
    docstring, body_start = (
        _docstring(file, body) if file.entry.docstrings and body is not None and kind != "class" else ("", None)
    )
    head_end = body.start_byte if body is not None else node.end_byte
    signature = " ".join(file.source[definition.start_byte : head_end].decode("utf-8", "replace").split())[:300]
    return Found(
        kind=kind, name=name, start=first + 1, end=last + 1, text=text.decode("utf-8"), signature=signature.rstrip("{ "),
        arguments=_arguments(definition), comment=_comment(file, first), docstring=docstring, body_start=body_start,
    )  # fmt: skip


def _docstring(file: _File, body: Node) -> tuple[str, int | None]:
    """The docstring, and the first line behind it when there is a body behind it and the docstring ends its line."""
    children = [child for child in body.named_children if child.type != "comment"]
    if len(children) < 2 or children[0].type != "expression_statement":
        return "", None
    string = children[0].named_children[0] if children[0].named_children else None
    if string is None or string.type != "string" or body.named_children[0].type == "comment":
        return "", None
    end = string.end_point.row
    content = "".join(
        (part.text or b"").decode("utf-8", "replace") for part in string.named_children if part.type == "string_content"
    )
    after = file.lines[end][string.end_point.column :].strip()
    if after or children[1].start_point.row <= end:
        return "", None
    return inspect.cleandoc(content), end + 2


def _arguments(definition: Node) -> tuple[str, ...]:
    parameters = definition.child_by_field_name("parameters") or definition.child_by_field_name("parameter")
    if parameters is None:
        return ()
    if parameters.type == "identifier":
        return ((parameters.text or b"").decode("utf-8", "replace"),)
    names: list[str] = []
    for child in parameters.named_children:
        identifier = next(_identifiers(child), None)
        if identifier and identifier not in ("self", "cls", "this"):
            names.append(identifier)
    return tuple(names)


def _identifiers(node: Node) -> Iterator[str]:
    """The parameter's own name comes first in its subtree, before its type and default."""
    if node.type in ("identifier", "shorthand_property_identifier_pattern"):
        yield (node.text or b"").decode("utf-8", "replace")
        return
    for child in node.named_children:
        yield from _identifiers(child)


def _comment(file: _File, first: int) -> str:
    """The comment lines that stand directly above line ``first`` (0-based), without their marks."""
    taken: list[str] = []
    row = first - 1
    while row >= 0 and len(taken) < 30:
        line = file.lines[row].decode("utf-8", "replace").strip()
        if not line.startswith((*file.entry.comment_marks, *(("*",) if "/*" in file.entry.comment_marks else ()))):
            break
        taken.append(line)
        row -= 1
    text = " ".join(re.sub(r"^(#+!?|//+|/\*+|\*+/?)\s?|\s*\*+/$", "", line).strip() for line in reversed(taken))
    return (
        ""
        if re.match(r"(type:|noqa|pylint|eslint|ts-|prettier|!|-\*-|pragma|region|endregion|fmt:)", text)
        else " ".join(text.split())
    )
