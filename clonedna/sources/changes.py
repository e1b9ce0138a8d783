"""Code before and code after: hunks of a person's latest commits.

A hunk is cut to what changed, from its first to its last changed line, so that no context of others stands around it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from clonedna.sources.history import Commit, clean_subject
from clonedna.sources.process import Git

MIN_AFTER, MAX_AFTER, MAX_BEFORE = 4, 40, 60
MAX_FILES, MAX_CHANGED_LINES, MAX_LINES = 30, 1500, 50_000
_COMMIT = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_INDEX = re.compile(rb"index ([0-9a-f]+)\.\.([0-9a-f]+)(?: 100\d{3})?$")
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class Change:
    """Lines ``start``..``end`` of ``path`` at ``commit`` (blob ``blob``, before it ``old_blob``) replaced ``before``.

    ``after``: these lines as the diff has them. ``added``: the share of the filled ones that this commit wrote.
    """

    commit: str
    path: str
    blob: str
    old_blob: str
    start: int
    end: int
    after: bytes
    before: bytes
    subject: str
    added: float


@dataclass(frozen=True, slots=True)
class _Hunk:
    """``first``: the line, in the new file, of the body's first line."""

    path: str
    blob: str
    old_blob: str
    first: int
    body: tuple[bytes, ...]


def find_changes(git: Git, commits: Sequence[Commit]) -> Generator[Change]:
    """Hunks of these commits, in their order, from one git process.

    None come from commits without a telling subject, that revert, over 30 files or over 1,500 changed lines (formatting, moves), and
    none that only add, only remove, or only move white space.
    """
    telling = {
        one.id: clean_subject(one.subject) for one in commits if 0 < len(one.paths) <= MAX_FILES and not one.reverts
    }
    wanted = [commit for commit, subject in telling.items() if subject]
    if not wanted:
        return
    with git.reading(
        "diff-tree", "--stdin", "-p", "-U3", "-r", "-M", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
        "--src-prefix=a/", "--dst-prefix=b/", stdin="".join(f"{commit}\n" for commit in wanted).encode(),
    ) as stream:  # fmt: skip
        for commit, lines in _commits(stream):
            hunks = _hunks(lines)
            if sum(line[:1] in (b"+", b"-") for hunk in hunks for line in hunk.body) <= MAX_CHANGED_LINES:
                for hunk in hunks:
                    change = _change(commit, hunk, telling[commit])
                    if change:
                        yield change


def _commits(stream: Iterable[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """``(commit, the lines of its diff)`` of diff-tree's output; no lines for a diff of more than ``MAX_LINES``."""
    commit = ""
    lines: list[bytes] = []
    for line in stream:
        # Lines of files carry a mark before them, so none of them can look like this.
        if _COMMIT.fullmatch(line.removesuffix(b"\n")):
            if commit:
                yield commit, lines if len(lines) <= MAX_LINES else []
            commit, lines = line.decode().strip(), []
        elif len(lines) <= MAX_LINES:
            lines.append(line)
    if commit:
        yield commit, lines if len(lines) <= MAX_LINES else []


def _hunks(lines: Sequence[bytes]) -> list[_Hunk]:
    path, blob, old_blob = "", "", ""
    hunks: list[_Hunk] = []
    i = 0
    while i < len(lines):
        line = lines[i].removesuffix(b"\n")
        i += 1
        if line.startswith(b"diff --git "):
            path, blob, old_blob = "", "", ""
        elif index := _INDEX.fullmatch(line):
            old_blob, blob = index[1].decode(), index[2].decode()
        elif line.startswith(b"+++ b/"):
            path = line[6:].rstrip(b"\t").decode("utf-8", "surrogateescape")
        elif header := _HUNK.match(line):
            body, i = _body(lines, i, int(header[1] or 1), int(header[3] or 1))
            if path and blob:
                hunks.append(_Hunk(path, blob, old_blob, int(header[2]), body))
    return hunks


def _body(lines: Sequence[bytes], i: int, left: int, right: int) -> tuple[tuple[bytes, ...], int]:
    """The lines of the hunk that begins at ``lines[i]``, and the index behind it; ``left`` and ``right`` count old and new lines to come.

    A line that has no end in its file gets none here: git says so in a line of its own behind it.
    """
    body: list[bytes] = []
    while i < len(lines) and (left > 0 or right > 0 or lines[i].startswith(b"\\")):
        if lines[i].startswith(b"\\"):
            body[-1:] = [line.removesuffix(b"\n") for line in body[-1:]]
        else:
            left -= lines[i][:1] in (b" ", b"-")
            right -= lines[i][:1] in (b" ", b"+")
            body.append(lines[i])
        i += 1
    return tuple(body), i


def _change(commit: str, hunk: _Hunk, subject: str) -> Change | None:
    """The hunk without the context around it, if it is one that replaces something by something else of a fitting size."""
    changed = [i for i, line in enumerate(hunk.body) if line[:1] in (b"+", b"-")]
    if not changed:
        return None
    core = hunk.body[changed[0] : changed[-1] + 1]
    after = [line[1:] for line in core if line[:1] in (b" ", b"+")]
    before = [line[1:] for line in core if line[:1] in (b" ", b"-")]
    added = sum(line[:1] == b"+" and bool(line[1:].strip()) for line in core)
    filled = sum(bool(line.strip()) for line in after)
    removed = any(line[:1] == b"-" and line[1:].strip() for line in core)
    if not (removed and added and MIN_AFTER <= len(after) <= MAX_AFTER and len(before) <= MAX_BEFORE):
        return None
    if b"".join(b"".join(before).split()) == b"".join(b"".join(after).split()):
        return None
    first = hunk.first + changed[0]
    return Change(
        commit, hunk.path, hunk.blob, hunk.old_blob, first, first + len(after) - 1, b"".join(after), b"".join(before), subject,
        added / filled,
    )  # fmt: skip
