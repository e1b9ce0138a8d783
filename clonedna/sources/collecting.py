"""From a history to one person's spans: which files, whose lines, which definitions and hunks, and why everything else was left out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from clonedna.core.canonical import sha256
from clonedna.core.errors import LicenceNotAllowed, LicenceUnknown
from clonedna.core.events import Emit, StageProgress
from clonedna.core.work import Collection, Language, Refusal, Repository, Span
from clonedna.sources.blame import blame_files, ignored_revisions
from clonedna.sources.changes import Change, find_changes
from clonedna.sources.filters import email_in, path_refusal, secret_in, text_refusal
from clonedna.sources.history import Commit, clean_subject
from clonedna.sources.licences import allowed, header_licence
from clonedna.sources.process import Git
from clonedna.sources.spans import Found, find_spans, language_of

MAX_FILE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    repository: Repository
    licences: tuple[str, ...]
    owned_share: float
    max_files: int
    max_changes: int


@dataclass(slots=True)
class _File:
    path: str
    blob: str
    language: Language
    licence: str = ""
    text: str = ""
    found: list[Found] = field(default_factory=list)


class _Work:
    """One collection in progress."""

    def __init__(
        self, git: Git, request: Request, commits: Sequence[Commit], own: Sequence[Commit], emit: Emit
    ) -> None:
        self.git, self.request, self.emit = git, request, emit
        self.commits = {commit.id: commit for commit in commits}
        self.own = {commit.id for commit in own}
        self.refusals: list[Refusal] = []
        self.licence = request.repository.licence.spdx
        self.checked: dict[str, str | None] = {}

    def refuse(
        self, path: str, reason: str, detail: str = "", start: int | None = None, end: int | None = None
    ) -> None:
        self.refusals.append(Refusal(path=_printable(path), start=start, end=end, reason=reason, detail=detail))

    def read(self, path: str, blob: str, language: Language, data: bytes | None) -> _File | None:
        """A file that may be used, or nothing and a refusal."""
        if data is None:
            return self.refuse(path, "too_large", f"over {MAX_FILE_BYTES} bytes")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return self.refuse(path, "not_utf8")
        reason = text_refusal(text)
        if reason:
            return self.refuse(path, reason)
        licence = header_licence(text) or self.licence
        if licence is None:
            return self.refuse(path, "licence_unknown")
        if not allowed(licence, self.request.licences):
            return self.refuse(path, "licence_not_allowed", licence[:60])
        secret = secret_in(text)
        if secret:
            return self.refuse(path, "secret", secret)
        return _File(path, blob, language, licence, text)


def collect_spans(
    git: Git, request: Request, commits: Sequence[Commit], own: Sequence[Commit], emit: Emit
) -> Collection:
    """The spans of the people whose commits are ``own``, in order of path and line. Raises ``LicenceUnknown``, ``LicenceNotAllowed``."""
    work = _Work(git, request, commits, own, emit)
    listed = _tree(git, request.repository.commit)
    touched = Counter(path for commit in own for path in commit.paths)
    candidates = _candidates(work, listed, touched)
    files: list[_File] = []
    for path, blob, data in _contents(git, candidates):
        file = work.read(path, blob, candidates[path][1], data)
        if file is not None:
            file.found, long = find_spans(file.text.encode(), file.language, path)
            for one in long:
                work.refuse(path, "too_long", one.name, one.start, one.end)
            files.append(file)
    _judge_licence(work, files)
    spans: list[Span] = []
    used = lines = 0
    began = time.monotonic()
    with_spans = {file.path: file for file in files if file.found}
    with ignored_revisions(git, request.repository.commit) as ignored:
        blamed = blame_files(git, request.repository.commit, list(with_spans), ignored)
        for done, (path, owners) in enumerate(blamed, 1):
            if owners is None:
                work.refuse(path, "blame_failed", "it took too long, or git could not")
            else:
                mine = [owner in work.own for owner in owners]
                kept = _own_spans(work, with_spans[path], owners, mine)
                spans.extend(kept)
                lines += sum(mine)
                used += bool(kept)
            seconds = time.monotonic() - began
            emit(
                StageProgress(
                    stage="collect", done=done, total=len(with_spans), unit="files", rate=round(done / seconds, 1) if seconds else None,
                    eta_seconds=round(seconds / done * (len(with_spans) - done), 1),
                )
            )  # fmt: skip
    spans.extend(_hunks(work, own))
    spans.sort(key=lambda span: (span.path, span.start, span.commit))
    return Collection(
        repository=request.repository, spans=tuple(spans), refusals=tuple(sorted(work.refusals, key=lambda r: (r.path, r.start or 0, r.reason))),
        files_seen=len(listed), files_used=used, lines_owned=lines,
    )  # fmt: skip


def _tree(git: Git, commit: str) -> dict[str, str]:
    """Path -> blob id of the regular files at a commit: no symbolic links, no submodules."""
    listed: dict[str, str] = {}
    for record in git.run("ls-tree", "-r", "-z", "--full-tree", commit).decode("utf-8", "surrogateescape").split("\0"):
        meta, _, path = record.partition("\t")
        if meta.startswith("100"):
            listed[path] = meta.split()[2]
    return listed


def _candidates(work: _Work, listed: dict[str, str], touched: Counter[str]) -> dict[str, tuple[str, Language]]:
    """Path -> (blob, language) of files the person ever touched, those with most of their commits first, at most ``max_files``."""
    chosen: list[tuple[str, str, Language]] = []
    for path in sorted(touched, key=lambda p: (-touched[p], p)):
        language = language_of(path)
        if path not in listed or language is None:
            continue
        reason = path_refusal(path)
        if reason or path != path.encode("utf-8", "replace").decode():
            work.refuse(path, reason or "not_utf8")
        else:
            chosen.append((path, listed[path], language))
    for path, _, _ in chosen[work.request.max_files :]:
        work.refuse(path, "over_max_files", f"more than {work.request.max_files} files")
    return {path: (blob, language) for path, blob, language in sorted(chosen[: work.request.max_files])}


def _contents(git: Git, candidates: dict[str, tuple[str, Language]]):
    paths = list(candidates)
    blobs = [candidates[path][0] for path in paths]
    for path, (blob, data) in zip(paths, git.blobs(blobs, MAX_FILE_BYTES), strict=True):
        yield path, blob, data


def _judge_licence(work: _Work, files: Sequence[_File]) -> None:
    """The whole repository is refused only when no file of it may be used, and its licence is why."""
    if files:
        return
    licence = work.request.repository.licence
    reasons = {refusal.reason for refusal in work.refusals}
    if licence.spdx is None and "licence_unknown" in reasons:
        raise LicenceUnknown(
            f"the licence of {work.request.repository.name} is unknown: {licence.how}",
            "add a LICENSE file with a standard text, or SPDX-License-Identifier headers, and commit them",
        )
    if "licence_not_allowed" in reasons:
        raise LicenceNotAllowed(
            f"{work.request.repository.name} is under {licence.spdx}, which is not allowed here",
            f"allow it with --allow-licence {licence.spdx}, or in the setting licences; allowed now: {', '.join(work.request.licences)}",
            licence=licence.spdx,
        )


def _own_spans(work: _Work, file: _File, owners: list[str], mine: list[bool]) -> list[Span]:
    source = file.text.split("\n")
    spans: list[Span] = []
    for one in file.found:
        rows = [row for row in range(one.start - 1, one.end) if row < len(mine) and source[row].strip()]
        own = [row for row in rows if mine[row]]
        share = len(own) / len(rows) if rows else 0.0
        if share < work.request.owned_share:
            if own:
                work.refuse(file.path, "not_owned", f"{100 * share:.0f} % of its lines", one.start, one.end)
            continue
        if email_in(one.text) or email_in(one.comment):
            work.refuse(file.path, "email", "", one.start, one.end)
            continue
        latest = min((work.commits[owners[row]] for row in own), key=lambda commit: commit.order)
        spans.append(
            Span(
                path=file.path, language=file.language, kind=one.kind, name=one.name, signature=one.signature, arguments=one.arguments,
                start=one.start, end=one.end, text=one.text, sha256=sha256(one.text), blob=file.blob,
                commit=work.request.repository.commit, subject=clean_subject(latest.subject), comment=one.comment, docstring=one.docstring,
                body_start=one.body_start, owned=round(share, 4), licence=file.licence,
            )
        )  # fmt: skip
    return spans


def _hunks(work: _Work, own: Sequence[Commit]) -> list[Span]:
    """Before -> after of the person's latest commits; what a hunk leaves must be theirs to the same share as a definition."""
    changes: list[Change] = []
    for change in find_changes(work.git, own[: work.request.max_changes]):
        if language_of(change.path) and not path_refusal(change.path) and change.added >= work.request.owned_share:
            changes.append(change)
    wanted = sorted({change.blob for change in changes})
    blobs = dict(work.git.blobs(wanted, MAX_FILE_BYTES))
    files: dict[str, _File | None] = {}
    spans: list[Span] = []
    for change in changes:
        language = language_of(change.path)
        assert language is not None
        key = f"{change.path}\0{change.blob}"
        if key not in files:
            files[key] = work.read(change.path, change.blob, language, blobs.get(change.blob))
        file = files[key]
        if file is None:
            continue
        lines = file.text.split("\n")
        text = "\n".join(lines[change.start - 1 : change.end]) + ("\n" if change.end < len(lines) else "")
        if email_in(text) or email_in(change.before) or secret_in(change.before):
            work.refuse(change.path, "email_or_secret", "in a change", change.start, change.end)
            continue
        spans.append(
            Span(
                path=change.path, language=language, kind="hunk", name=change.name, start=change.start, end=change.end, text=text,
                sha256=sha256(text), blob=change.blob, commit=change.commit, subject=change.subject, before=change.before,
                owned=round(change.added, 4), licence=file.licence,
            )
        )  # fmt: skip
    return spans


def _printable(path: str) -> str:
    return path.encode("utf-8", "replace").decode()
