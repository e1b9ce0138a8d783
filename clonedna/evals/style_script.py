"""What is counted in a JavaScript or TypeScript syntax tree.

Grammars: https://github.com/tree-sitter/tree-sitter-javascript and https://github.com/tree-sitter/tree-sitter-typescript.
"""

from __future__ import annotations

from collections.abc import Callable

from tree_sitter import Node

from clonedna.evals.style_lines import count_comments, count_name, count_variables
from clonedna.evals.style_trees import Body, Place, Shapes, Tally, Text, first_statement, leaves_at_once, places

_METHODS = frozenset(("map", "filter", "forEach", "reduce", "flatMap", "some", "every", "find", "findIndex"))
_FUNCTIONS = frozenset(
    ("function_declaration", "generator_function_declaration", "function_expression", "generator_function", "arrow_function",
     "method_definition")
)  # fmt: skip
_LOOPS = frozenset(("for_statement", "for_in_statement", "while_statement", "do_statement"))
SHAPES = Shapes(
    functions=_FUNCTIONS, control=_LOOPS | {"if_statement", "try_statement", "switch_statement"},
    blocks=frozenset(("program", "statement_block", "switch_case", "switch_default")),
    returns="return_statement", tries="try_statement", raises="throw_statement",
)  # fmt: skip
_JUMPS = frozenset(("return_statement", "throw_statement", "continue_statement", "break_statement"))
_NO_DOCSTRING: frozenset[str] = frozenset()
_LISTS = frozenset(
    (
        "arguments",
        "formal_parameters",
        "array",
        "object",
        "object_pattern",
        "array_pattern",
        "named_imports",
        "export_clause",
    )
)
_ENDED = frozenset(
    ("expression_statement", "lexical_declaration", "variable_declaration", "return_statement", "throw_statement", "import_statement",
     "break_statement", "continue_statement")
)  # fmt: skip


def count_script(tally: Tally, text: Text) -> None:
    """Add the features of one parsed text."""
    counting = _Counting(tally, text)
    for place in places(text, SHAPES):
        counting.see(place)
    counting.end()


class _Counting:
    """One text's nodes, by type; ``names``: the variables that it binds."""

    def __init__(self, tally: Tally, text: Text) -> None:
        self.tally, self.text = tally, text
        self.names: set[str] = set()
        self.comments: list[Node] = []
        self.by_type: dict[str, Callable[[Node], None]] = {
            "class_declaration": self._class, "comment": self.comments.append, "template_string": self._template,
            "import_statement": self._import, "call_expression": self._call, "if_statement": self._if,
            "ternary_expression": self._ternary, "binary_expression": self._binary, "variable_declarator": self._declarator,
            "lexical_declaration": self._declaration, "variable_declaration": self._declaration,
            "assignment_expression": self._assignment, "field_definition": self._field, "public_field_definition": self._field,
        }  # fmt: skip

    def see(self, place: Place) -> None:
        node, add = place.node, self.tally.add
        if place.parent in SHAPES.blocks and node.type != "comment":
            add("nesting.depth", place.nesting)
        if node.type in _ENDED:
            add("semicolon", bool(node.children) and node.children[-1].type == ";" and not node.children[-1].is_missing)
        if node.type == "string" and not place.parent.startswith("jsx"):
            add("quote.double", self.text.of(node).startswith('"'))
        if node.type in _LOOPS:
            add("loop.method", 0)
            if node.type == "for_in_statement":
                self._bind(node.child_by_field_name("left"))
        if node.type in _FUNCTIONS:
            self._function(node)
        if node.type in _LISTS and node.end_point.row > node.start_point.row and node.named_child_count:
            add("bracket.trailing_comma", [one.type for one in node.children if one.type != "comment"][-2:-1] == [","])
        if work := self.by_type.get(node.type):
            work(node)

    def end(self) -> None:
        count_variables(self.tally, self.names)
        count_comments(self.tally, self.text, self.comments)
        for body in self.text.bodies:
            block = body.node.child_by_field_name("body") if body.node is not None else None
            if block is not None and block.type == "statement_block":
                self._body(body, block)

    def _body(self, body: Body, block: Node) -> None:
        add = self.tally.add
        add("function.statements", body.statements)
        add("function.returns", body.returns)
        add("function.try", body.tries > 0)
        add("function.raise", body.raises > 0)
        add("function.guard", leaves_at_once(first_statement(block, _NO_DOCSTRING), _JUMPS))

    def _function(self, node: Node) -> None:
        add, body = self.tally.add, node.child_by_field_name("body")
        name = node.child_by_field_name("name")
        if name is None and node.parent is not None and node.parent.type in ("variable_declarator", "pair"):
            name = node.parent.child_by_field_name("name") or node.parent.child_by_field_name("key")
        if name is not None:
            count_name(self.tally, "name.function.snake", self.text.of(name))
            self._private(name)
        if body is not None and body.type == "statement_block":
            add("function.lines", node.end_point.row - node.start_point.row + 1)
        if node.type != "method_definition":
            add("function.arrow", node.type == "arrow_function")
        add("function.async", any(one.type == "async" for one in node.children))
        add("type.returns", node.child_by_field_name("return_type") is not None)
        single, several = node.child_by_field_name("parameter"), node.child_by_field_name("parameters")
        self._arguments([single] if single is not None else several.named_children if several is not None else [])

    def _arguments(self, nodes: list[Node]) -> None:
        kept = [one for one in nodes if one.type != "comment" and not one.is_error]
        for node in kept:
            # JavaScript wraps an argument with a default, TypeScript gives each argument a `value`.
            default = node.type == "assignment_pattern" or node.child_by_field_name("value") is not None
            self.tally.add("function.defaults", default)
            self.tally.add("type.arguments", node.child_by_field_name("type") is not None)
        self.tally.add("function.arguments", len(kept))

    def _class(self, node: Node) -> None:
        if (name := node.child_by_field_name("name")) is not None:
            bare = self.text.of(name).lstrip("_$")
            self.tally.add("name.class.pascal", bare[:1].isupper() and "_" not in bare)

    def _template(self, node: Node) -> None:
        if any(one.type == "template_substitution" for one in node.children):
            self.tally.add("string.template", 1)

    def _import(self, node: Node) -> None:
        source = node.child_by_field_name("source")
        self.tally.add("import.require", 0)
        if source is not None:
            self.tally.add("import.relative", self.text.of(source).strip("'\"").startswith("."))
        names = [one for clause in node.named_children for one in clause.named_children if one.type == "named_imports"]
        if names:
            self.tally.add("import.grouped", sum(one.type == "import_specifier" for one in names[0].named_children) > 1)

    def _call(self, node: Node) -> None:
        called, given = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        if called is None or given is None or not given.named_child_count:
            return
        first = given.named_children[0]
        if called.type == "identifier" and self.text.of(called) == "require" and first.type == "string":
            self.tally.add("import.require", 1)
            self.tally.add("import.relative", self.text.of(first).strip("'\"").startswith("."))
        if called.type == "member_expression" and first.type in _FUNCTIONS:
            name = called.child_by_field_name("property")
            if name is not None and self.text.of(name) in _METHODS:
                self.tally.add("loop.method", 1)

    def _if(self, node: Node) -> None:
        inner = node.child_by_field_name("consequence")
        self.tally.add("branch.ternary", 0)
        self.tally.add("branch.else", node.child_by_field_name("alternative") is not None)
        self.tally.add("branch.braces", inner is not None and inner.type == "statement_block")

    def _ternary(self, node: Node) -> None:
        self.tally.add("branch.ternary", 1)

    def _binary(self, node: Node) -> None:
        operator = node.child_by_field_name("operator")
        sides = [node.child_by_field_name(name) for name in ("left", "right")]
        if operator is None:
            return
        if operator.type in ("===", "!==", "==", "!="):
            self.tally.add("equality.strict", len(operator.type) == len("==="))
        elif operator.type == "+" and any(side is not None and side.type == "string" for side in sides):
            self.tally.add("string.template", 0)

    def _declaration(self, node: Node) -> None:
        word = node.children[0].type
        self.tally.add("variable.const", word == "const")
        self.tally.add("variable.var", word == "var")

    def _declarator(self, node: Node) -> None:
        value = node.child_by_field_name("value")
        if value is None or value.type not in _FUNCTIONS:
            self._bind(node.child_by_field_name("name"))

    def _assignment(self, node: Node) -> None:
        left = node.child_by_field_name("left")
        name = left.child_by_field_name("property") if left is not None and left.type == "member_expression" else None
        if name is not None:
            self._private(name)

    def _field(self, node: Node) -> None:
        if (name := node.child_by_field_name("property") or node.child_by_field_name("name")) is not None:
            self._private(name)

    def _bind(self, target: Node | None) -> None:
        todo = [target] if target is not None else []
        while todo:
            node = todo.pop()
            if node.type in ("identifier", "shorthand_property_identifier_pattern"):
                self.names.add(self.text.of(node))
            elif node.type in ("object_pattern", "array_pattern", "rest_pattern"):
                todo.extend(node.named_children)
            elif node.type == "pair_pattern":
                todo.extend(filter(None, [node.child_by_field_name("value")]))
            elif node.type.endswith("assignment_pattern"):
                todo.extend(filter(None, [node.child_by_field_name("left")]))

    def _private(self, name: Node) -> None:
        self.tally.add("name.private", self.text.of(name).startswith(("_", "#")))
