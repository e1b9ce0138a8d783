"""Whose line is it: `git blame` over many files at once, white-space changes looked through, reformatting commits named by the repository too."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from clonedna.core.errors import DnaError, TimedOut
from clonedna.sources.process import Git

WORKERS = 2
FILE_SECONDS = 60.0
_LINE = re.compile(rb"^([0-9a-f]{40}|[0-9a-f]{64}) \d+ (\d+)(?: \d+)?$")


@contextmanager
def ignored_revisions(git: Git, revision: str) -> Generator[list[str]]:
    """Arguments for blame from the repository's own `.git-blame-ignore-revs` (only lines that name commits there are)."""
    try:
        text = git.text("cat-file", "blob", f"{revision}:.git-blame-ignore-revs")
    except DnaError:
        yield []
        return
    named = [line.split("#")[0].strip() for line in text.splitlines()]
    wanted = [line for line in named if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", line)]
    checked = (
        git.run("cat-file", "--batch-check", stdin="".join(f"{one}\n" for one in wanted).encode()).decode().splitlines()
    )
    real = [line.split()[0] for line in checked if line.endswith(tuple("0123456789")) and " commit " in line]
    with tempfile.NamedTemporaryFile("w", suffix=".revs") as file:
        file.write("".join(f"{one}\n" for one in real))
        file.flush()
        yield ["--ignore-revs-file", file.name] if real else []


def blame_files(
    git: Git, revision: str, paths: Sequence[str], extra: Sequence[str]
) -> Generator[tuple[str, list[str] | None]]:
    """``(path, commit id of each line)`` in the order of ``paths``; ``None`` for a file that took longer than its bound or failed."""

    def one(path: str) -> list[str] | None:
        try:
            out = git.run("blame", "-w", "--porcelain", *extra, revision, "--", path, timeout=FILE_SECONDS)
        except (TimedOut, DnaError, subprocess.SubprocessError):
            return None
        return parse(out)

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            yield from zip(paths, pool.map(one, paths), strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def parse(porcelain: bytes) -> list[str]:
    """Commit ids by line from blame's porcelain output. The line's own text follows a tab, so it cannot be taken for a header."""
    owners: list[str] = []
    for line in porcelain.split(b"\n"):
        if not line.startswith(b"\t"):
            match = _LINE.match(line)
            if match and int(match[2]) == len(owners) + 1:
                owners.append(match[1].decode())
    return owners
