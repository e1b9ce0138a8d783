"""Whose line is it: `git blame` of one file, white-space changes looked through, moves inside the file and from files that the same commit
changed followed to whoever wrote the line, and reformatting commits skipped: those that the repository itself names, and those found.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

from clonedna.core.errors import GitFailed
from clonedna.sources.process import Git, Objects

FILE_SECONDS = 60.0
IGNORED = ".git-blame-ignore-revs"
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GROUP = re.compile(rb"^([0-9a-f]{40,64}) \d+ (\d+) (\d+)$", re.MULTILINE)


@contextmanager
def ignored_revisions(git: Git, objects: Objects, revision: str, also: Iterable[str] = ()) -> Generator[list[str]]:
    """Arguments for blame from the repository's own `.git-blame-ignore-revs` and the commits ``also``.

    Lines of that file that name no commit there is are passed over.
    """
    text = (objects.get(f"{revision}:{IGNORED}", 1_000_000) or b"").decode("utf-8", "replace")
    named = [word for line in text.splitlines() if _ID.fullmatch(word := line.partition("#")[0].strip())]
    answers = git.run("cat-file", "--batch-check", stdin="".join(f"{one}\n" for one in named).encode()).decode()
    real = sorted(also) + [answer.split()[0] for answer in answers.splitlines() if answer.split()[1] == "commit"]
    with tempfile.NamedTemporaryFile("w", suffix=".revs") as file:
        file.write("".join(f"{one}\n" for one in real))
        file.flush()
        yield [f"--ignore-revs-file={file.name}"] if real else []


def blame(git: Git, revision: str, path: str, extra: Sequence[str]) -> list[str]:
    """The id of the commit behind each line of ``path``. Raises ``TimedOut`` after a minute, ``GitFailed``."""
    seconds = min(FILE_SECONDS, git.timeout)
    out = git.run("blame", "-w", "-M", "-C", "--root", "--incremental", *extra, revision, "--", path, timeout=seconds)
    return parse(out)


def parse(incremental: bytes) -> list[str]:
    """Commit ids by line from blame's incremental output: groups ``id line-then line-now count`` in any order.

    Raises ``GitFailed`` when a line is missing.
    """
    groups = [(int(match[2]), int(match[3]), match[1].decode()) for match in _GROUP.finditer(incremental)]
    owners: list[str] = []
    for first, count, commit in sorted(groups):
        if first != len(owners) + 1:
            raise GitFailed("git blame left lines out", "check that the repository is whole: git fsck")
        owners.extend([commit] * count)
    return owners
