"""Features of lines and names, the same in every language: lengths, blank lines, indentation, comments, how names are written."""

from __future__ import annotations

import re
import textwrap

from tree_sitter import Node

from clonedna.evals.style_trees import Tally, Text

_CAMEL = re.compile(r"[a-z0-9][A-Z]")


def dedented(text: str) -> str:
    """The text without the indentation that all its lines share, and without blank lines before and after it."""
    return textwrap.dedent(text.replace("\r\n", "\n")).strip("\n")


def count_lines(tally: Tally, text: str) -> None:
    """``line.*`` and ``indent.width`` of a dedented text."""
    steps: list[int] = []
    for line in text.split("\n"):
        bare = line.strip()
        tally.add("line.blank", not bare)
        if bare:
            length = len(line.rstrip())
            tally.add("line.length", length)
            tally.add("line.spread", length)
            indentation = line[: len(line) - len(line.lstrip())]
            if indentation:
                steps.append(1 if "\t" in indentation else len(indentation))
    if steps:
        tally.add("indent.width", min(steps))


def count_comments(tally: Tally, text: Text, comments: list[Node]) -> None:
    """``comment.*``: lines that hold one, and comments with code before them on their line."""
    rows = {row for node in comments for row in range(node.start_point.row, node.end_point.row + 1)}
    tally.share("comment.density", len(rows), sum(bool(line.strip()) for line in text.text.split("\n")))
    for node in comments:
        start = text.source.rfind(b"\n", 0, node.start_byte) + 1
        tally.add("comment.behind", bool(text.source[start : node.start_byte].strip()))


def words_of(name: str) -> str:
    """How a name of two or more words is written: ``snake``, ``camel`` (also with a first capital), or empty for one word, or capitals."""
    bare = name.strip("_$#")
    if "_" in bare:
        return "snake" if bare.casefold() == bare else ""
    return "camel" if _CAMEL.search(bare) else ""


def count_name(tally: Tally, feature: str, name: str) -> None:
    """A name for a share of snake_case among the names of two or more words."""
    if written := words_of(name):
        tally.add(feature, written == "snake")


def count_variables(tally: Tally, names: set[str]) -> None:
    """``name.variable.*`` of the distinct names that one text binds."""
    for name in sorted(names):
        count_name(tally, "name.variable.snake", name)
        tally.add("name.variable.length", len(name))
        tally.add("name.variable.short", len(name) <= 2)
