"""The languages that are read: a table. A further one is an entry here: suffixes, grammar, and what its syntax tree calls things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from tree_sitter import Language as Grammar
from tree_sitter import Parser, Tree

from clonedna.core.work import Language


@dataclass(frozen=True, slots=True)
class Entry:
    """``functions`` and ``classes``: definitions that have a name. ``values``: functions and classes that get theirs from what they are
    bound to. ``wrappers``: hold one definition (decorators, exports). ``through``: may hold definitions and are looked into.
    ``head_ends``: the token that ends a signature, where it is no part of the body. ``docstrings``: a body may begin with one.
    """

    language: Language
    suffixes: tuple[str, ...]
    grammar: str
    functions: frozenset[str]
    classes: frozenset[str]
    values: frozenset[str]
    wrappers: frozenset[str]
    through: frozenset[str]
    head_ends: str
    docstrings: bool = False


def _python() -> Entry:
    return Entry(
        language="python",
        suffixes=(".py",),
        grammar="tree_sitter_python:language",
        functions=frozenset(("function_definition",)),
        classes=frozenset(("class_definition",)),
        values=frozenset(),
        wrappers=frozenset(("decorated_definition",)),
        through=frozenset(
            ("module", "block", "if_statement", "else_clause", "elif_clause", "try_statement", "except_clause", "finally_clause",
             "with_statement", "for_statement", "while_statement")
        ),
        head_ends=":",
        docstrings=True,
    )  # fmt: skip


def _ecmascript(language: Language, suffixes: tuple[str, ...], grammar: str) -> Entry:
    return Entry(
        language=language,
        suffixes=suffixes,
        grammar=grammar,
        functions=frozenset(("function_declaration", "generator_function_declaration", "method_definition")),
        classes=frozenset(("class_declaration", "abstract_class_declaration")),
        values=frozenset(("arrow_function", "function_expression", "generator_function", "class")),
        wrappers=frozenset(("export_statement",)),
        # Anonymous functions are looked into: whole modules stand inside one.
        through=frozenset(
            ("program", "class_body", "statement_block", "if_statement", "else_clause", "try_statement", "internal_module", "module",
             "expression_statement", "export_statement", "lexical_declaration", "variable_declaration", "variable_declarator",
             "assignment_expression", "call_expression", "arguments", "parenthesized_expression", "unary_expression", "object", "pair",
             "arrow_function", "function_expression", "return_statement", "as_expression", "satisfies_expression", "ambient_declaration")
        ),
        head_ends="=>",
    )  # fmt: skip


ENTRIES = (
    _python(),
    _ecmascript("javascript", (".js", ".mjs", ".cjs", ".jsx"), "tree_sitter_javascript:language"),
    _ecmascript("typescript", (".tsx",), "tree_sitter_typescript:language_tsx"),
    _ecmascript("typescript", (".ts", ".mts", ".cts"), "tree_sitter_typescript:language_typescript"),
)
_DECLARATIONS = re.compile(r"\.d\.[mc]?ts$")


def entry_of(path: str) -> Entry | None:
    """The entry for a path by its suffix; declaration files (``.d.ts``) have none."""
    name = path.rpartition("/")[2].casefold()
    if _DECLARATIONS.search(name):
        return None
    return next((entry for entry in ENTRIES if name.endswith(entry.suffixes)), None)


@cache
def parser_of(grammar: str) -> Parser:
    """The parser of a grammar given as ``module:function``."""
    module, _, attribute = grammar.partition(":")
    return Parser(Grammar(getattr(import_module(module), attribute)()))  # pyright: ignore[reportDeprecated]


def parse(language: Language, text: str) -> Tree | None:
    """The syntax tree of a text (its bytes are those of UTF-8), with error nodes where it is not of the language; ``None`` when no
    grammar is here. Where a language has several grammars, the first that reads it whole, else the first.
    """
    trees = (
        parser_of(one.grammar).parse(text.encode("utf-8", "replace"))
        for one in reversed(ENTRIES)
        if one.language == language
    )
    first: Tree | None = None
    for tree in trees:
        if not tree.root_node.has_error:
            return tree
        first = first or tree
    return first
