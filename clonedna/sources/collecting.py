"""From a history to one person's spans: which files, whose lines, which definitions and hunks, and why everything else was left out.

The result does not depend on the number of workers. No more than a few files are held in memory at once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from clonedna.core.canonical import sha256
from clonedna.core.errors import GitFailed, TimedOut
from clonedna.core.events import Emit, Note
from clonedna.core.work import Collection, Span
from clonedna.sources.blame import blame, ignored_revisions
from clonedna.sources.changes import Change, find_changes
from clonedna.sources.filters import email_in, path_refusal
from clonedna.sources.history import Commit
from clonedna.sources.languages import Entry, entry_of
from clonedna.sources.licences import licence_files, licence_of_files
from clonedna.sources.process import Git, Objects
from clonedna.sources.secrets import secret_in
from clonedna.sources.spans import innermost
from clonedna.sources.usable import MAX_FILE_BYTES, Request, Usable, UsableFile, place

WORKERS = 2
AHEAD = 8
SECONDS_BETWEEN_EVENTS = 0.5


def collect_spans(
    git: Git, request: Request, own: Sequence[Commit], emit: Emit, reformats: frozenset[str] = frozenset()
) -> Collection:
    """The spans of the person whose commits are ``own``, in order of path and line. Raises ``LicenceUnknown``, ``LicenceNotAllowed``.

    ``reformats``: commits, of anybody, that blame looks through and that make no line anybody's.
    """
    with Objects(git) as objects:
        work = _Work(git, objects, request, [one for one in own if one.id not in reformats], emit)
        work.reformats = reformats
        definitions = list(work.definitions())
        work.judge_licence()
        spans = sorted([*definitions, *work.hunks()], key=lambda span: (span.path, span.start, span.commit, span.end))
    return Collection(
        repository=request.repository, spans=tuple(spans), refusals=tuple(sorted(set(work.refusals), key=place)), files_seen=work.seen,
        files_used=len({span.path for span in definitions}), lines_owned=work.lines_owned,
    )  # fmt: skip


class _Work(Usable):
    """One collection in progress."""

    def __init__(self, git: Git, objects: Objects, request: Request, own: Sequence[Commit], emit: Emit) -> None:
        super().__init__(objects, request, emit)
        self.git, self.git_objects = git, objects
        self.latest = list(own)
        self.own = {commit.id: commit for commit in own if not commit.reverts}
        self.reformats: frozenset[str] = frozenset()
        self._licences: dict[tuple[tuple[str, str], ...], str | None] = {}

    # Definitions, as they are today.

    def definitions(self) -> Iterator[Span]:
        """Functions, methods and classes at the commit that was found, file by file."""
        candidates = self._candidates()
        began = told = time.monotonic()
        with (
            ignored_revisions(self.git, self.git_objects, self.request.repository.commit, self.reformats) as ignored,
            _workers(self.git) as pool,
        ):
            waiting: deque[tuple[UsableFile, Future[list[str]]]] = deque()
            for done, (path, blob, entry) in enumerate(candidates, 1):
                file = self.usable(path, blob, entry, self.request.repository.licence.spdx)
                if file and file.definitions:
                    blamed = pool.submit(blame, self.git, self.request.repository.commit, path, ignored)
                    waiting.append((file, blamed))
                while waiting and (len(waiting) >= AHEAD or done == len(candidates)):
                    yield from self._of_file(*waiting.popleft())
                if (now := time.monotonic()) - told > SECONDS_BETWEEN_EVENTS or done == len(candidates):
                    self.tell(done - len(waiting), len(candidates), now - began)
                    told = now

    def _candidates(self) -> list[tuple[str, str, Entry]]:
        """``(path, blob, language)`` of today's files that the person touched, by path: the ``max_files`` with most of their commits."""
        touched = Counter(path for commit in self.latest for path in commit.paths)
        chosen: list[tuple[str, str, Entry]] = []
        for record in self.git.fields("ls-tree", "-r", "-z", "--full-tree", self.request.repository.commit):
            meta, _, path = record.partition("\t")
            entry = entry_of(path)
            if not meta.startswith("100") or entry is None:
                continue
            self.seen += 1
            if path not in touched:
                continue
            reason = path_refusal(path)
            if reason:
                self.refuse(path, reason)
            else:
                chosen.append((path, meta.split()[2], entry))
        chosen.sort(key=lambda one: (-touched[one[0]], one[0]))
        most = self.request.max_files
        for path, _, _ in chosen[most:]:
            self.refuse(path, "over_max_files", f"more than {most} files")
        if len(chosen) > most:
            self.emit(
                Note(
                    level="warning",
                    text=f"only the {most} files with most of the person's commits are read, of {len(chosen)}",
                )
            )
        return sorted(chosen[:most], key=lambda one: one[0])

    def _of_file(self, file: UsableFile, blamed: Future[list[str]]) -> list[Span]:
        """The spans of one file whose blame is there or on its way."""
        try:
            owners = blamed.result()
        except TimedOut:
            self.refuse(file.path, "blame_timeout")
            return []
        except GitFailed as error:
            self.refuse(file.path, "blame_failed", error.message)
            return []
        return self.owned_spans(file, [self.own.get(owner) for owner in owners])

    # Hunks, as they were when they were committed.

    def hunks(self) -> list[Span]:
        """Before -> after of the person's latest commits, newest first, at most ``max_changes``.

        What a hunk leaves must be the person's to the same share as a definition, and its repository's licence is that of its own commit.
        """
        spans: list[Span] = []
        files: dict[tuple[str, str], UsableFile | None] = {}
        for change in find_changes(self.git, self.latest[: self.request.max_changes]):
            if len(spans) >= self.request.max_changes:
                break
            entry = entry_of(change.path)
            if entry is None or path_refusal(change.path) or change.added < self.request.owned_share:
                continue
            key = (change.path, change.blob)
            if key not in files:
                file = self.usable(change.path, change.blob, entry, self._licence_at(change.commit))
                if file and (secret := self.secret(change.blob, file.text)):
                    self.refuse(change.path, "secret", secret)
                    file = None
                files = {key: file}  # hunks of one file come one after the other
            kept = files[key]
            if kept and (span := self._hunk(kept, change)):
                spans.append(span)
        return spans

    def _hunk(self, file: UsableFile, change: Change) -> Span | None:
        lines = (change.start, change.end)
        source = file.text.split("\n")
        text = "\n".join(source[change.start - 1 : change.end]) + ("\n" if change.end < len(source) else "")
        old = self.objects.get(change.old_blob, MAX_FILE_BYTES)
        if text.encode() != change.after or old is None or change.before not in old:
            return self.refuse(change.path, "not_verbatim", "the diff is not what the file says", lines)
        try:
            before = change.before.decode("utf-8")
        except UnicodeDecodeError:
            return self.refuse(change.path, "not_utf8", "before the change", lines)
        if email_in(text) or email_in(before):
            return self.refuse(change.path, "email", "", lines)
        secret = self.secret(change.old_blob, old.decode("utf-8", "replace")) or secret_in(change.subject)
        if secret:
            return self.refuse(change.path, "secret", f"{secret}, before the change", lines)
        around = innermost(file.definitions, change.start)
        stem = change.path.rpartition("/")[2].partition(".")[0]
        return Span(
            path=change.path, language=file.entry.language, kind="hunk", name=around.name if around else stem, start=change.start,
            end=change.end, text=text, sha256=sha256(text), blob=change.blob, commit=change.commit, subject=change.subject, before=before,
            owned=round(change.added, 4), licence=file.licence, age=self.own[change.commit].order,
        )  # fmt: skip

    def _licence_at(self, commit: str) -> str | None:
        """The repository's licence as of an older commit."""
        files = licence_files(self.git, commit)
        if files not in self._licences:
            self._licences[files] = licence_of_files(self.git_objects, files).spdx
        return self._licences[files]


@contextmanager
def _workers(git: Git) -> Generator[ThreadPoolExecutor]:
    """Threads that wait for git; when something goes wrong its processes are stopped, not waited for."""
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            git.stop()
            raise
