"""Which files, and which definitions of them, may become spans: the same questions whatever the code is read from.

A file is refused for its size, its encoding, its text (generated, minified, data), its licence or a secret in it; a definition for its
size, a syntax error, an e-mail address, or because too little of it is the person's. Every refusal is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from clonedna.core.canonical import sha256
from clonedna.core.errors import LicenceNotAllowed, LicenceUnknown
from clonedna.core.events import Emit, StageProgress
from clonedna.core.work import Refusal, Repository, Span
from clonedna.sources.filters import email_in, shown_path, text_refusal
from clonedna.sources.history import Commit, clean_subject
from clonedna.sources.languages import Entry
from clonedna.sources.licences import allowed, contradicts, header_licence
from clonedna.sources.secrets import secret_in
from clonedna.sources.spans import Definition, find_definitions

MAX_FILE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: ``Source.collect``'s arguments."""

    repository: Repository
    licences: tuple[str, ...]
    owned_share: float
    max_files: int
    max_changes: int


class Contents(Protocol):
    """Where bytes are read by the name that a source gives them."""

    def get(self, name: str, most: int) -> bytes | None:
        """``None`` when it is missing or over ``most`` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class UsableFile:
    """A file that may be used, as far as can be said before its secrets are looked for."""

    path: str
    blob: str
    entry: Entry
    licence: str
    text: str
    definitions: list[Definition]


def place(refusal: Refusal) -> tuple[str, int, int, str, str]:
    """What refusals are put in order by."""
    return refusal.path, refusal.start or 0, refusal.end or 0, refusal.reason, refusal.detail


class Usable:
    """One collection in progress: what was refused so far, and what may be used."""

    def __init__(self, objects: Contents, request: Request, emit: Emit) -> None:
        self.objects, self.request, self.emit = objects, request, emit
        self.refusals: list[Refusal] = []
        self.seen = self.licensed = self.lines_owned = 0
        self._secrets: dict[str, str | None] = {}

    def refuse(self, path: str, reason: str, detail: str = "", lines: tuple[int, int] | None = None) -> None:
        start, end = lines or (None, None)
        self.refusals.append(
            Refusal(path=shown_path(path)[:500], start=start, end=end, reason=reason, detail=detail[:100])
        )

    def usable(self, path: str, blob: str, entry: Entry, licence: str | None) -> UsableFile | None:
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
        return UsableFile(path, blob, entry, stated, text, find_definitions(data, entry))

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

    def owned_spans(self, file: UsableFile, mine: Sequence[Commit | None]) -> list[Span]:
        """The spans of one file; ``mine``: for each of its lines the person's commit, ``None`` for somebody else's."""
        source = file.text.split("\n")
        self.lines_owned += sum(one is not None for one in mine)
        spans = [span for one in file.definitions for span in self._owned(file, one, source, mine)]
        secret = self.secret(file.blob, file.text) if spans else None
        if secret:
            self.refuse(file.path, "secret", secret)
            return []
        return spans

    def _owned(
        self, file: UsableFile, top: Definition, source: list[str], mine: Sequence[Commit | None]
    ) -> Iterator[Span]:
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

    def _span(self, file: UsableFile, one: Definition, share: float, latest: Commit) -> Span:
        return Span(
            path=file.path, language=file.entry.language, kind=one.kind, name=one.name, signature=one.signature, arguments=one.arguments,
            start=one.start, end=one.end, text=one.text, sha256=sha256(one.text), blob=file.blob, commit=self.request.repository.commit,
            subject=self._subject(latest), comment=one.comment, docstring=one.docstring, body_start=one.body_start, owned=round(share, 4),
            licence=file.licence, age=latest.order,
        )  # fmt: skip

    @staticmethod
    def _subject(commit: Commit) -> str:
        subject = clean_subject(commit.subject)
        return "" if secret_in(subject) else subject

    def tell(self, done: int, total: int, seconds: float) -> None:
        rate = done / seconds if seconds else None
        self.emit(
            StageProgress(
                stage="collect", done=done, total=total, unit="files", rate=round(rate, 1) if rate else None,
                eta_seconds=round((total - done) / rate, 1) if rate else None,
            )
        )  # fmt: skip

    def secret(self, blob: str, text: str) -> str | None:
        """``secret_in``, asked once for each blob."""
        if blob not in self._secrets:
            self._secrets[blob] = secret_in(text)
        return self._secrets[blob]
