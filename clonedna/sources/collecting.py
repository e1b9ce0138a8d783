"""From a history to one person's spans: which files, whose lines, which definitions and hunks, and why everything else was left out.

The result does not depend on the number of workers. No more than a few files are held in memory at once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from clonedna.core.canonical import sha256
from clonedna.core.errors import GitFailed, LicenceNotAllowed, LicenceUnknown, TimedOut
from clonedna.core.events import Emit, Note, StageProgress
from clonedna.core.work import Collection, Refusal, Repository, Span
from clonedna.sources.blame import blame, ignored_revisions
from clonedna.sources.changes import Change, find_changes
from clonedna.sources.filters import email_in, path_refusal, shown_path, text_refusal
from clonedna.sources.history import Commit, clean_subject
from clonedna.sources.languages import Entry, entry_of
from clonedna.sources.licences import allowed, contradicts, header_licence, licence_files, licence_of_files
from clonedna.sources.process import Git, Objects
from clonedna.sources.secrets import secret_in
from clonedna.sources.spans import Definition, find_definitions, innermost

MAX_FILE_BYTES = 512 * 1024
WORKERS = 2
AHEAD = 8
SECONDS_BETWEEN_EVENTS = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: ``Source.collect``'s arguments."""

    repository: Repository
    licences: tuple[str, ...]
    owned_share: float
    max_files: int
    max_changes: int


@dataclass(frozen=True, slots=True)
class _File:
    """A file of one commit that may be used, as far as can be said before its secrets are looked for."""

    path: str
    blob: str
    entry: Entry
    licence: str
    text: str
    definitions: list[Definition]


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
        repository=request.repository, spans=tuple(spans), refusals=tuple(sorted(set(work.refusals), key=_place)), files_seen=work.seen,
        files_used=len({span.path for span in definitions}), lines_owned=work.lines_owned,
    )  # fmt: skip


def _place(refusal: Refusal) -> tuple[str, int, int, str, str]:
    return refusal.path, refusal.start or 0, refusal.end or 0, refusal.reason, refusal.detail


class _Work:
    """One collection in progress."""

    def __init__(self, git: Git, objects: Objects, request: Request, own: Sequence[Commit], emit: Emit) -> None:
        self.git, self.objects, self.request, self.emit = git, objects, request, emit
        self.latest = list(own)
        self.own = {commit.id: commit for commit in own if not commit.reverts}
        self.reformats: frozenset[str] = frozenset()
        self.refusals: list[Refusal] = []
        self.seen = self.licensed = self.lines_owned = 0
        self._secrets: dict[str, str | None] = {}
        self._licences: dict[tuple[tuple[str, str], ...], str | None] = {}

    def refuse(self, path: str, reason: str, detail: str = "", lines: tuple[int, int] | None = None) -> None:
        start, end = lines or (None, None)
        self.refusals.append(
            Refusal(path=shown_path(path)[:500], start=start, end=end, reason=reason, detail=detail[:100])
        )

    # Definitions, as they are today.

    def definitions(self) -> Iterator[Span]:
        """Functions, methods and classes at the commit that was found, file by file."""
        candidates = self._candidates()
        began = told = time.monotonic()
        with (
            ignored_revisions(self.git, self.objects, self.request.repository.commit, self.reformats) as ignored,
            _workers(self.git) as pool,
        ):
            waiting: deque[tuple[_File, Future[list[str]]]] = deque()
            for done, (path, blob, entry) in enumerate(candidates, 1):
                file = self.usable(path, blob, entry, self.request.repository.licence.spdx)
                if file and file.definitions:
                    blamed = pool.submit(blame, self.git, self.request.repository.commit, path, ignored)
                    waiting.append((file, blamed))
                while waiting and (len(waiting) >= AHEAD or done == len(candidates)):
                    yield from self._of_file(*waiting.popleft())
                if (now := time.monotonic()) - told > SECONDS_BETWEEN_EVENTS or done == len(candidates):
                    self._tell(done - len(waiting), len(candidates), now - began)
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

    def usable(self, path: str, blob: str, entry: Entry, licence: str | None) -> _File | None:
        """A file that may be used, or nothing and a refusal. ``licence``: the repository's; a header may choose among its parts."""
        data = self.objects.get(blob, MAX_FILE_BYTES)
        if data is None:
            return self.refuse(path, "too_large_or_missing", f"over {MAX_FILE_BYTES} bytes, or not in this clone")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return self.refuse(path, "not_utf8")
        reason = text_refusal(text)
        if reason:
            return self.refuse(path, reason)
        header = header_licence(text)
        stated = header or licence
        if stated is None:
            return self.refuse(path, "licence_unknown")
        if header and contradicts(header, licence):
            return self.refuse(path, "licence_contradicts", f"{header} in the file, {licence} of the repository")
        if not allowed(stated, self.request.licences):
            return self.refuse(path, "licence_not_allowed", stated)
        self.licensed += 1
        return _File(path, blob, entry, stated, text, find_definitions(data, entry))

    def judge_licence(self) -> None:
        """The whole is refused when the repository's licence does not allow it and no file's own header does."""
        repository, licences = self.request.repository, self.request.licences
        licence = repository.licence
        if self.licensed or (licence.spdx and allowed(licence.spdx, licences)):
            return
        if licence.spdx is None:
            raise LicenceUnknown(
                f"the licence of {repository.name} is unknown: {licence.how}",
                "if the code is yours, commit a LICENSE file with a standard text, or SPDX-License-Identifier headers in the files",
            )
        raise LicenceNotAllowed(
            f"{repository.name} is under {licence.spdx}, which is not allowed here (allowed: {', '.join(licences)})",
            f"allow it with --allow-licence {licence.spdx}, or in the setting licences", licence=licence.spdx,
        )  # fmt: skip

    def _of_file(self, file: _File, blamed: Future[list[str]]) -> list[Span]:
        """The spans of one file whose blame is there or on its way."""
        try:
            owners = blamed.result()
        except TimedOut:
            self.refuse(file.path, "blame_timeout")
            return []
        except GitFailed as error:
            self.refuse(file.path, "blame_failed", error.message)
            return []
        source = file.text.split("\n")
        mine = [self.own.get(owner) for owner in owners]
        self.lines_owned += sum(one is not None for one in mine)
        spans = [span for definition in file.definitions for span in self._own(file, definition, source, mine)]
        secret = self._secret(file.blob, file.text) if spans else None
        if secret:
            self.refuse(file.path, "secret", secret)
            return []
        return spans

    def _own(self, file: _File, top: Definition, source: list[str], mine: list[Commit | None]) -> Iterator[Span]:
        """What of a definition is the person's: all of it, or of a class that is large or shared the methods. Not-theirs is no refusal."""
        todo = [top]
        while todo:
            one = todo.pop()
            if one.kind == "class" and not one.one_piece:
                todo.extend(one.inside)
                continue
            filled = [row for row in range(one.start - 1, min(one.end, len(mine))) if source[row].strip()]
            own = [commit for row in filled if (commit := mine[row])]
            share = len(own) / len(filled) if filled else 0.0
            lines = (one.start, one.end)
            if not own:
                continue
            if one.inside and (share < self.request.owned_share or one.refusal()):
                todo.extend(one.inside)
            elif share < self.request.owned_share:
                self.refuse(file.path, "not_owned", f"{100 * share:.0f} % of its lines", lines)
            elif refusal := one.refusal():
                self.refuse(file.path, *refusal, lines)
            elif email_in(one.text) or email_in(one.comment):
                self.refuse(file.path, "email", "", lines)
            else:
                yield self._span(file, one, share, min(own, key=lambda commit: commit.order))

    def _span(self, file: _File, one: Definition, share: float, latest: Commit) -> Span:
        return Span(
            path=file.path, language=file.entry.language, kind=one.kind, name=one.name, signature=one.signature, arguments=one.arguments,
            start=one.start, end=one.end, text=one.text, sha256=sha256(one.text), blob=file.blob, commit=self.request.repository.commit,
            subject=self._subject(latest), comment=one.comment, docstring=one.docstring, body_start=one.body_start, owned=round(share, 4),
            licence=file.licence,
        )  # fmt: skip

    @staticmethod
    def _subject(commit: Commit) -> str:
        subject = clean_subject(commit.subject)
        return "" if secret_in(subject) else subject

    def _tell(self, done: int, total: int, seconds: float) -> None:
        rate = done / seconds if seconds else None
        self.emit(
            StageProgress(
                stage="collect", done=done, total=total, unit="files", rate=round(rate, 1) if rate else None,
                eta_seconds=round((total - done) / rate, 1) if rate else None,
            )
        )  # fmt: skip

    # Hunks, as they were when they were committed.

    def hunks(self) -> list[Span]:
        """Before -> after of the person's latest commits, newest first, at most ``max_changes``.

        What a hunk leaves must be the person's to the same share as a definition, and its repository's licence is that of its own commit.
        """
        spans: list[Span] = []
        files: dict[tuple[str, str], _File | None] = {}
        for change in find_changes(self.git, self.latest[: self.request.max_changes]):
            if len(spans) >= self.request.max_changes:
                break
            entry = entry_of(change.path)
            if entry is None or path_refusal(change.path) or change.added < self.request.owned_share:
                continue
            key = (change.path, change.blob)
            if key not in files:
                file = self.usable(change.path, change.blob, entry, self._licence_at(change.commit))
                if file and (secret := self._secret(change.blob, file.text)):
                    self.refuse(change.path, "secret", secret)
                    file = None
                files = {key: file}  # hunks of one file come one after the other
            kept = files[key]
            if kept and (span := self._hunk(kept, change)):
                spans.append(span)
        return spans

    def _hunk(self, file: _File, change: Change) -> Span | None:
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
        secret = self._secret(change.old_blob, old.decode("utf-8", "replace")) or secret_in(change.subject)
        if secret:
            return self.refuse(change.path, "secret", f"{secret}, before the change", lines)
        around = innermost(file.definitions, change.start)
        stem = change.path.rpartition("/")[2].partition(".")[0]
        return Span(
            path=change.path, language=file.entry.language, kind="hunk", name=around.name if around else stem, start=change.start,
            end=change.end, text=text, sha256=sha256(text), blob=change.blob, commit=change.commit, subject=change.subject, before=before,
            owned=round(change.added, 4), licence=file.licence,
        )  # fmt: skip

    def _secret(self, blob: str, text: str) -> str | None:
        """``secret_in``, asked once for each blob."""
        if blob not in self._secrets:
            self._secrets[blob] = secret_in(text)
        return self._secrets[blob]

    def _licence_at(self, commit: str) -> str | None:
        """The repository's licence as of an older commit."""
        files = licence_files(self.git, commit)
        if files not in self._licences:
            self._licences[files] = licence_of_files(self.objects, files).spdx
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
