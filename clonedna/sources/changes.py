"""Code before and code after: hunks of a person's latest commits, checked byte by byte against the file as that commit left it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clonedna.sources.history import Commit, clean_subject
from clonedna.sources.process import Git

MIN_AFTER, MAX_AFTER, MAX_BEFORE = 4, 40, 60
MAX_FILES_A_COMMIT = 30
_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$")
_DEFINED = re.compile(r"\b(?:def|class|function)\s+([A-Za-z_$][\w$]*)")


@dataclass(frozen=True, slots=True)
class Change:
    """Lines ``start``..``end`` of ``path`` at ``commit`` (blob ``blob``), which replaced ``before``; ``added`` share of its filled lines is new."""

    commit: str
    path: str
    blob: str
    start: int
    end: int
    before: str
    name: str
    subject: str
    added: float


def find_changes(git: Git, commits: Sequence[Commit]) -> Iterator[Change]:
    """Hunks of these commits. Commits over 30 files, without a telling subject, or that only move white space give none."""
    telling = [c for c in commits if clean_subject(c.subject) and 0 < len(c.paths) <= MAX_FILES_A_COMMIT]
    if not telling:
        return
    subjects = {c.id: clean_subject(c.subject) for c in telling}
    out = git.run(
        "diff-tree", "--stdin", "-p", "-U3", "-r", "-M", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
        "--src-prefix=a/", "--dst-prefix=b/", stdin="".join(f"{c.id}\n" for c in telling).encode(),
    )  # fmt: skip
    commit, path, blob = "", "", ""
    lines = out.split(b"\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        i += 1
        if re.fullmatch(rb"[0-9a-f]{40}|[0-9a-f]{64}", line):
            commit = line.decode()
        elif line.startswith(b"diff --git "):
            path, blob = "", ""
        elif line.startswith(b"index "):
            blob = line.split()[1].split(b"..")[1].decode()
        elif line.startswith(b"+++ b/"):
            path = line[6:].rstrip(b"\t").decode("utf-8", "surrogateescape")
        elif header := _HUNK.match(line):
            body: list[bytes] = []
            left, right = int(header[2] or 1), int(header[4] or 1)
            while i < len(lines) and (left > 0 or right > 0):
                mark = lines[i][:1]
                left, right = left - (mark in b" -" and mark != b""), right - (mark in b" +" and mark != b"")
                if mark == b"\\":
                    left, right = left, right
                body.append(lines[i])
                i += 1
            if path and blob and commit:
                yield from _change(
                    commit, path, blob, int(header[3]), body, header[5].decode("utf-8", "replace"), subjects[commit]
                )


def _change(
    commit: str, path: str, blob: str, start: int, body: list[bytes], context: str, subject: str
) -> Iterator[Change]:
    """The hunk without the context around it: from the first to the last line that changed."""
    body = [line for line in body if line[:1] in (b" ", b"+", b"-")]
    changed = [i for i, line in enumerate(body) if line[:1] in (b"+", b"-")]
    if not changed:
        return
    lead, core = body[: changed[0]], body[changed[0] : changed[-1] + 1]
    after = [line[1:] for line in core if line[:1] in (b" ", b"+")]
    before = [line[1:] for line in core if line[:1] in (b" ", b"-")]
    added = [line[1:] for line in core if line[:1] == b"+" and line[1:].strip()]
    filled = [line for line in after if line.strip()]
    removed = any(line[:1] == b"-" and line[1:].strip() for line in core)
    if not (removed and filled and MIN_AFTER <= len(after) <= MAX_AFTER and len(before) <= MAX_BEFORE):
        return
    if b"".join(b"".join(before).split()) == b"".join(b"".join(after).split()):
        return
    first = start + len(lead)
    try:
        old = b"\n".join(before).decode() + "\n"
    except UnicodeDecodeError:
        return
    names = _DEFINED.findall(context) or [path.rpartition("/")[2].partition(".")[0]]
    yield Change(commit, path, blob, first, first + len(after) - 1, old, names[-1], subject, len(added) / len(filled))
