"""What a repository says that it is for, in one line: third-party text, a claim of whoever wrote it.

It comes from the project's own metadata at the root (``[project] description`` and its like), else from the first paragraph of its
README. What comes out is plain: letters, digits and a little punctuation; no markup, no addresses, nothing that holds a secret.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from markdown_it import MarkdownIt

from clonedna.sources.secrets import secret_in

MOST = 200
"""Characters of a description."""
MOST_BYTES = 500_000
LEAST_WORDS = 3
"""Fewer in a README's paragraph are a title, or what stands beside a badge."""
PLAIN = frozenset(" .,:;!?'’()/+#&%=–—-")


_TAG = re.compile(r"</?[A-Za-z][^<>]{0,300}>")


def one_line(text: str) -> str:
    """At most ``MOST`` characters of a text, cut behind a whole word; empty where it holds a secret."""
    if secret_in(text[:4000]) is not None:
        return ""
    words: list[str] = []
    for word in _TAG.sub(" ", text[:4000]).split():
        if "://" in word or "@" in word or word.casefold().startswith("www."):
            continue
        kept = "".join(c if c.isalnum() or c in PLAIN else " " for c in word).split()
        if sum(map(len, words)) + len(words) + sum(map(len, kept)) + len(kept) > MOST + 1:
            break
        words += kept
    line = " ".join(words).strip(" ,:;-–—")
    return line if any(c.isalpha() for c in line) else ""


def description_of(read: Callable[[str, int], bytes | None]) -> str:
    """The first that says something. ``read`` gives a file at the root by its name, ``None`` where it is missing or over so many bytes."""
    for name, told in _METADATA.items():
        data = read(name, MOST_BYTES)
        if data is not None and (line := one_line(_said(told, data.decode("utf-8", "replace")))):
            return line
    for name, paragraph in _READMES.items():
        data = read(name, MOST_BYTES)
        if data is not None and (line := one_line(paragraph(data.decode("utf-8", "replace")[:20_000]))):
            return line
    return ""


def _said(told: Callable[[str], Any], text: str) -> str:
    """What the metadata say; nothing where they cannot be read."""
    try:
        found = told(text)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SyntaxError,
        RecursionError,
        MemoryError,
        configparser.Error,
    ):
        return ""
    return found if isinstance(found, str) else ""


def _pyproject(text: str) -> Any:
    fields = tomllib.loads(text)
    poetry: Mapping[str, Any] = fields.get("tool", {}).get("poetry", {})
    return fields.get("project", {}).get("description") or poetry.get("description")


def _setup_cfg(text: str) -> Any:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    return parser.get("metadata", "description")


def _json(text: str) -> Any:
    return json.loads(text)["description"]


def _cargo(text: str) -> Any:
    return tomllib.loads(text)["package"]["description"]


def _setup_py(text: str) -> Any:
    """The literal that ``setup`` is called with; nothing is run."""
    calls = (one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Call))
    named = (word.value for call in calls for word in call.keywords if word.arg == "description")
    return next((one.value for one in named if isinstance(one, ast.Constant)), None)


_METADATA: dict[str, Callable[[str], Any]] = {
    "pyproject.toml": _pyproject, "setup.cfg": _setup_cfg, "setup.py": _setup_py, "package.json": _json, "Cargo.toml": _cargo,
    "composer.json": _json,
}  # fmt: skip


def _markdown(text: str) -> str:
    """The first paragraph that says something in words of its own: its text without links' targets and pictures."""
    tokens = MarkdownIt("commonmark").parse(text)
    for at, token in enumerate(tokens):
        if token.type == "paragraph_open" and token.level == 0:
            said, own, links = "", "", 0
            for one in tokens[at + 1].children or []:
                links += (one.type == "link_open") - (one.type == "link_close")
                word = one.content if one.type in ("text", "code_inline") else " " if one.type.endswith("break") else ""
                said, own = said + word, own + (word if links == 0 else "")
            if len(one_line(own).split()) >= LEAST_WORDS:  # a row of links is no description
                return said
    return ""


def _restructured(text: str) -> str:
    """The first paragraph of reStructuredText, or of plain text, that is no title, directive, list or table."""
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.strip() for line in block.strip("\n").splitlines()]
        ruled = any(len(set(line)) == 1 and not line[0].isalnum() for line in lines if line)
        if not lines or ruled or block[:1].isspace() or not (lines[0][:1].isalnum() or lines[0][:1] in "*`\"'("):
            continue
        if len(" ".join(lines).split()) >= LEAST_WORDS:
            return " ".join(lines)
    return ""


_READMES: dict[str, Callable[[str], str]] = {
    "README.md": _markdown, "readme.md": _markdown, "README.markdown": _markdown, "README.rst": _restructured, "README": _restructured,
    "README.txt": _restructured,
}  # fmt: skip
