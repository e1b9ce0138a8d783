"""Commits that only lay code out anew: whoever ran a formatter over it did not write it.

A commit counts as such when, file by file, what it removed and what it added are the same but for white space, the kind of quote
marks, commas, semicolons, backslashes and parentheses: what formatters add and take away. A commit over 20 files or more may also hold
a little else (imports put in order, a prefix of strings): at most 2 % of its words and signs come or go.
Blame is told to look
through these commits, as through those that a repository names in `.git-blame-ignore-revs`, and a line that stays with one is nobody's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Sequence

from clonedna.sources.history import Commit
from clonedna.sources.languages import entry_of
from clonedna.sources.process import Git

WIDE = 20
OTHER_SHARE = 0.02
MAX_FILE_BYTES = 1_000_000
_COMMIT = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_LAYOUT = re.compile(rb"[\s(),;\\]+")
_SIGN = re.compile(rb"\w+|[^\w\s(),;\\'\"]")
File = tuple[int, bool, int, int]


def reformats_of(git: Git, own: Iterable[Commit], others: Iterable[Commit]) -> frozenset[str]:
    """Of a person's commits, and of others' that touched the same files. Raises as ``reformatting``."""
    mine = list(own)
    touched = {path for one in mine for path in one.paths}
    return reformatting(git, [one.id for one in (*mine, *(one for one in others if not touched.isdisjoint(one.paths)))])


def reformatting(git: Git, commits: Sequence[str]) -> frozenset[str]:
    """Those of ``commits`` (full ids, no merges) that changed the layout of code and nothing else. Raises ``GitFailed``, ``TimedOut``.

    One git process, read as it prints; memory is bounded by one file's changes.
    """
    if not commits:
        return frozenset()
    with git.reading(
        "diff-tree", "--stdin", "-p", "-U0", "-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/",
        "--dst-prefix=b/", stdin="".join(f"{commit}\n" for commit in commits).encode(),
    ) as stream:  # fmt: skip
        return frozenset(commit for commit, files in _commits(stream) if _only_layout(files))


def _only_layout(files: Sequence[File]) -> bool:
    if not any(lines for lines, *_ in files):
        return False
    if all(same for _, same, *_ in files):
        return True
    return len(files) >= WIDE and sum(f[2] for f in files) <= OTHER_SHARE * sum(f[3] for f in files)


def _commits(stream: Iterable[bytes]) -> Generator[tuple[str, list[File]]]:
    """``(commit, [(changed lines, whether only layout, signs that came or went, signs) of each code file])`` of a diff with no context."""
    commit, path = "", ""
    files: list[File] = []
    removed, added = bytearray(), bytearray()
    lines = left = right = 0

    def end_file() -> None:
        nonlocal lines
        if lines:
            fits = max(len(removed), len(added)) <= MAX_FILE_BYTES
            old, new = Counter(_SIGN.findall(bytes(removed))), Counter(_SIGN.findall(bytes(added)))
            other = ((old - new) + (new - old)).total()
            files.append((lines, fits and _words(removed) == _words(added), other, old.total() + new.total()))
        lines = 0
        removed.clear()
        added.clear()

    for line in stream:
        if left > 0 or right > 0:
            # Counted, so that no line of a file can pass for a header.
            if line.startswith(b"\\"):
                continue
            side = removed if line.startswith(b"-") else added
            left, right = left - line.startswith(b"-"), right - line.startswith(b"+")
            if path:
                lines += 1
                if len(side) <= MAX_FILE_BYTES:
                    side += line[1:]
        elif header := _HUNK.match(line):
            left, right = int(header[1] or 1), int(header[2] or 1)
        elif line.startswith(b"diff --git "):
            end_file()
            path = ""
        elif line.startswith(b"+++ b/"):
            named = line[6:].rstrip(b"\t\n").decode("utf-8", "surrogateescape")
            path = named if entry_of(named) else ""
        elif _COMMIT.fullmatch(line.removesuffix(b"\n")):
            end_file()
            if commit:
                yield commit, files
            commit, files, path = line.decode().strip(), [], ""
    end_file()
    if commit:
        yield commit, files


def _words(lines: bytearray) -> bytes:
    """The text without what a formatter decides."""
    return _LAYOUT.sub(b"", bytes(lines)).replace(b'"', b"'")
