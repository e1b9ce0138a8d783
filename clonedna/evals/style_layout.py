"""Taking layout away: the same code as a formatter writes it, so that one sees what of a style is left without it.

Python is formatted by black (https://github.com/psf/black), as a library: it parses and never executes. Its magic trailing comma is off, so
that how somebody broke a list over lines is taken away as well. There is no formatter of JavaScript or TypeScript that is a Python library.
"""

from __future__ import annotations

from importlib.metadata import version

from tree_sitter import Node

from clonedna.core.work import Language
from clonedna.evals.style_lines import dedented
from clonedna.evals.style_trees import Parse

MAX_BYTES = 8000
DEEPEST = 60
"""Levels of a syntax tree that are formatted: black takes time in the square of the depth of brackets."""
MOST_LINES_OFF = 12


def formatter(language: Language) -> str | None:
    """The formatter of a language with its version, ``None`` where there is none."""
    return f"black {version('black')}" if language == "python" else None


def formatted(language: Language, text: str, parse: Parse) -> str | None:
    """``text`` as the formatter writes it; ``None`` when it cannot be read as code.

    An answer often ends in the middle of a statement: up to twelve lines are taken off its end until the rest is whole.
    """
    if formatter(language) is None:
        return None
    lines = dedented(text).split("\n")
    for off in range(min(MOST_LINES_OFF, len(lines) - 1) + 1):
        part = "\n".join(lines[: len(lines) - off]) + "\n"
        if part.strip() and (found := _black(part, parse)) is not None:
            return found
    return None


def _black(text: str, parse: Parse) -> str | None:
    import black  # takes 0.2 s
    from black.mode import Mode, TargetVersion

    tree = parse("python", text)
    if (
        tree is None
        or tree.root_node.has_error
        or len(text.encode("utf-8", "replace")) > MAX_BYTES
        or _too_deep(tree.root_node)
    ):
        return None
    mode = Mode(target_versions={TargetVersion.PY311}, magic_trailing_comma=False)
    try:
        return black.format_str(text, mode=mode)
    except Exception:  # black raises its own, its parser's and Python's errors; all say that it does not read this text
        return None


def _too_deep(root: Node) -> bool:
    level = [root]
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.named_children]
    return bool(level)
