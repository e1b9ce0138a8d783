"""What is counted in a Python syntax tree (grammar: https://github.com/tree-sitter/tree-sitter-python)."""

from __future__ import annotations

import re
from collections.abc import Callable

from tree_sitter import Node

from clonedna.evals.style_lines import count_comments, count_name, count_variables
from clonedna.evals.style_trees import Body, Place, Shapes, Tally, Text, first_statement, leaves_at_once, places

SHAPES = Shapes(
    functions=frozenset(("function_definition",)),
    control=frozenset(("if_statement", "for_statement", "while_statement", "with_statement", "try_statement", "match_statement")),
    blocks=frozenset(("block", "module")),
    returns="return_statement", tries="try_statement", raises="raise_statement",
)  # fmt: skip
_JUMPS = frozenset(("return_statement", "raise_statement", "continue_statement", "break_statement"))
_STRINGS = frozenset(("string", "concatenated_string"))
_COMPREHENSIONS = frozenset(
    ("list_comprehension", "set_comprehension", "dictionary_comprehension", "generator_expression")
)
_LISTS = frozenset(("argument_list", "parameters", "list", "dictionary", "set", "tuple"))
_PERCENT = re.compile(r"%[-+ #0-9.]*[sdrfgixeoc(]")


def count_python(tally: Tally, text: Text) -> None:
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
            "function_definition": self._function, "class_definition": self._class, "lambda": self._lambda, "comment": self.comments.append,
            "string": self._string, "import_statement": self._import, "import_from_statement": self._import_from,
            "for_statement": self._loop, "if_statement": self._if, "conditional_expression": self._ternary, "call": self._call,
            "assignment": self._assignment, "named_expression": self._walrus, "as_pattern_target": self._target,
            "binary_operator": self._operator,
        }  # fmt: skip

    def see(self, place: Place) -> None:
        node, add = place.node, self.tally.add
        if place.parent in SHAPES.blocks and node.type != "comment":
            add("nesting.depth", place.nesting)
            add("statement.assert", node.type == "assert_statement")
            add("statement.walrus", 0)
            add("with", node.type == "with_statement")
        if node.type in _COMPREHENSIONS:
            add("loop.comprehension", 1)
        if node.type in _LISTS and node.end_point.row > node.start_point.row and node.named_child_count:
            add("bracket.trailing_comma", [one.type for one in node.children if one.type != "comment"][-2] == ",")
        if work := self.by_type.get(node.type):
            work(node)

    def end(self) -> None:
        count_variables(self.tally, self.names)
        count_comments(self.tally, self.text, self.comments)
        for body in self.text.bodies:
            # A body cut out of its function has its returns outside of any.
            if body.node is not None or body.returns:
                self._body(body)

    def _body(self, body: Body) -> None:
        add = self.tally.add
        block = self.text.root if body.node is None else body.node.child_by_field_name("body")
        add("function.statements", body.statements)
        add("function.returns", body.returns)
        add("function.try", body.tries > 0)
        add("function.raise", body.raises > 0)
        if block is not None:
            add("function.guard", leaves_at_once(first_statement(block, _STRINGS), _JUMPS))

    def _function(self, node: Node) -> None:
        add = self.tally.add
        name = node.child_by_field_name("name")
        if name is not None:
            count_name(self.tally, "name.function.snake", self.text.of(name))
            self._private(self.text.of(name))
        add("function.lines", node.end_point.row - node.start_point.row + 1)
        add("function.async", node.children[0].type == "async")
        add("type.returns", node.child_by_field_name("return_type") is not None)
        add("lambda", 0)
        self._head(node)
        parameters = node.child_by_field_name("parameters")
        self._arguments(parameters.named_children if parameters is not None else [])

    def _arguments(self, nodes: list[Node]) -> None:
        count = 0
        for node in nodes:
            named = node.type.removeprefix("typed_").removesuffix("_pattern")
            if named not in ("identifier", "parameter", "default_parameter", "list_splat", "dictionary_splat"):
                continue
            name = self.text.of(node.child_by_field_name("name") or (node.named_children or [node])[0]).lstrip("*")
            if name in ("self", "cls"):
                continue
            count += 1
            self.tally.add("function.defaults", node.type.endswith("default_parameter"))
            self.tally.add("type.arguments", node.type.startswith("typed_"))
        self.tally.add("function.arguments", count)

    def _head(self, node: Node) -> None:
        """Decorators and the docstring of a function or class."""
        self.tally.add("function.decorated", node.parent is not None and node.parent.type == "decorated_definition")
        body = node.child_by_field_name("body")
        first = next((one for one in body.named_children if one.type != "comment"), None) if body is not None else None
        holds = first is not None and first.type == "expression_statement" and first.named_child_count == 1
        string = first.named_children[0] if first is not None and holds else None
        documented = string is not None and string.type in _STRINGS
        self.tally.add("docstring.rate", documented)
        if string is not None and documented:
            self.tally.add("docstring.lines", string.end_point.row - string.start_point.row + 1)

    def _class(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        if name is not None:
            bare = self.text.of(name).lstrip("_")
            self.tally.add("name.class.pascal", bare[:1].isupper() and "_" not in bare)
        self._head(node)

    def _lambda(self, node: Node) -> None:
        self.tally.add("lambda", 1)

    def _string(self, node: Node) -> None:
        opening = self.text.of(node.children[0]).casefold() if node.children else ""
        if opening.endswith(('"""', "'''")) or not opening:
            return
        self.tally.add("quote.double", opening.endswith('"'))
        if "f" in opening and any(one.type == "interpolation" for one in node.children):
            self._formatted("f")

    def _formatted(self, how: str) -> None:
        self.tally.add("string.formatted.f", how == "f")
        self.tally.add("string.formatted.percent", how == "percent")

    def _operator(self, node: Node) -> None:
        left, operator = node.child_by_field_name("left"), node.child_by_field_name("operator")
        divides = left is None or left.type not in _STRINGS or operator is None or operator.type != "%"
        if left is not None and not divides and _PERCENT.search(self.text.of(left)):
            self._formatted("percent")

    def _call(self, node: Node) -> None:
        called, given = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        if called is not None and called.type == "attribute":
            owner, name = called.child_by_field_name("object"), called.child_by_field_name("attribute")
            if owner is not None and owner.type in _STRINGS and name is not None and self.text.of(name) == "format":
                self._formatted("format")
        for one in given.named_children if given is not None and given.type == "argument_list" else []:
            if one.type != "comment":
                self.tally.add("call.keywords", one.type == "keyword_argument")

    def _import(self, node: Node) -> None:
        self.tally.add("import.from", 0)
        self.tally.add("import.relative", 0)

    def _import_from(self, node: Node) -> None:
        module = node.child_by_field_name("module_name")
        self.tally.add("import.from", 1)
        self.tally.add("import.relative", module is not None and module.type == "relative_import")
        names = node.children_by_field_name("name")
        if names:
            self.tally.add("import.grouped", len(names) > 1)

    def _loop(self, node: Node) -> None:
        self.tally.add("loop.comprehension", 0)
        self._bind(node.child_by_field_name("left"))

    def _if(self, node: Node) -> None:
        self.tally.add("branch.ternary", 0)
        self.tally.add("branch.else", node.child_by_field_name("alternative") is not None)

    def _ternary(self, node: Node) -> None:
        self.tally.add("branch.ternary", 1)

    def _assignment(self, node: Node) -> None:
        self._bind(node.child_by_field_name("left"))

    def _walrus(self, node: Node) -> None:
        self.tally.add("statement.walrus", 1)
        self._bind(node.child_by_field_name("name"))

    def _target(self, node: Node) -> None:
        self._bind(node.named_children[0] if node.named_child_count else None)

    def _bind(self, target: Node | None) -> None:
        """Names on the left of an assignment; of an attribute only whether it is private."""
        todo = [target] if target is not None else []
        while todo:
            node = todo.pop()
            if node.type == "identifier":
                self.names.add(self.text.of(node))
            elif node.type in ("pattern_list", "tuple_pattern", "list_pattern", "list_splat_pattern"):
                todo.extend(node.named_children)
            elif node.type == "attribute" and (name := node.child_by_field_name("attribute")) is not None:
                self._private(self.text.of(name))

    def _private(self, name: str) -> None:
        if not (name.startswith("__") and name.endswith("__")):
            self.tally.add("name.private", name.startswith("_"))
