"""A person's public record as values: repositories, the files and spans they wrote, the pairs made of them, and what was refused.

Nothing here exists without its origin: repository, commit, path, line range, author and licence.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from clonedna.core.model import Message
from clonedna.core.people import Account
from clonedna.core.value import Value

Language = Literal["python", "javascript", "typescript", "text"]
SpanKind = Literal["function", "method", "class", "hunk", "example"]
Split = Literal["train", "validation", "holdout"]
Form = Literal["whole", "body", "change", "given"]

_IDENTITY = re.compile(r"^\s*(?P<name>[^<>]*?)\s*(?:<(?P<email>[^<>\s]*)>)?\s*$")


class Identity(Value):
    """A commit author. Matched by e-mail (case-folded) where there is one, else by name."""

    name: str = ""
    email: str = ""

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read ``Name <mail>``, ``mail@host`` or ``Name``. Raises ``ValueError`` when neither is there."""
        match = _IDENTITY.match(text)
        if not match or not (match["name"] or match["email"]):
            raise ValueError(f"not an author: {text!r}")
        name, email = match["name"], match["email"] or ""
        if not email and "@" in name and " " not in name:
            name, email = "", name
        return cls(name=name, email=email)

    def matches(self, name: str, email: str) -> bool:
        """Whether a commit by ``name <email>`` is this identity's."""
        if self.email:
            return self.email.casefold() == email.casefold()
        return self.name.casefold() == name.casefold()

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>" if self.email else self.name


class Licence(Value):
    """An SPDX id (or ``None`` for unknown), how it was found (``file:LICENSE score 0.98``, ``header``) and the score of that match."""

    spdx: str | None
    how: str
    score: float | None = None


class AuthorShare(Value):
    """One author's part of a repository's history."""

    identity: Identity
    commits: int
    share: float


class Repository(Value):
    """A repository at one commit. ``url`` is fit for a block: no credentials, never a local path (``local:NAME`` when it has no remote).

    Of a whole account: ``parts`` are its repositories, ``commit`` the first 40 hex digits of the SHA-256 of their ``url commit`` lines,
    and ``commits`` those that the account's API listing showed. ``description``: what it says that it is for, one plain line; a claim.
    """

    name: str
    url: str
    commit: str
    committed_at: str
    licence: Licence
    commits: int
    authors: tuple[AuthorShare, ...] = ()
    parts: tuple[Repository, ...] = ()
    description: str = ""


class Refusal(Value):
    """Something that was not used, and why. ``reason`` is a stable word, ``detail`` a few more; never the content."""

    path: str
    start: int | None = None
    end: int | None = None
    reason: str
    detail: str = ""


class About(Value):
    """What a teacher may be told of a person, all of it third-party text: languages by share, topics, how they describe themselves."""

    languages: tuple[tuple[str, float], ...] = ()
    topics: tuple[str, ...] = ()
    bio: str = ""


class Found(Value):
    """What ``Source.find`` found. ``location`` is where this machine reads it (a path); it never enters a block.

    ``account``: set when a forge's account was asked for, whose commits alone then count; what consent is about. ``refusals``: what of it
    will not be read. ``about``: what it says of the person. ``local_only``: set where what was found is no person (a package), who could
    consent or be asked: why nothing but `local-only` can hold.
    """

    repository: Repository
    location: str
    you: Identity | None = None
    account: Account | None = None
    refusals: tuple[Refusal, ...] = ()
    about: About | None = None
    local_only: str = ""


class Span(Value):
    """A run of whole lines of one file at one commit, written by one person.

    ``text`` is byte-identical to lines ``start``..``end`` (1-based, inclusive, with the last line's newline when it has one)
    of ``path`` at ``commit``. ``owned`` is the share of its non-blank lines that blame gives to the person.
    ``body_start`` is the first line after signature and docstring, where there is a docstring and a body.
    ``before`` is set for hunks: the lines that ``text`` replaced.
    ``repository`` and ``url``: which of several repositories it stands in; empty where the collection is of one.
    ``age``: how many commits of its repository's history are newer than the newest of the person's that wrote it; 0 is the newest.
    """

    path: str
    language: Language
    kind: SpanKind
    name: str
    signature: str = ""
    arguments: tuple[str, ...] = ()
    start: int
    end: int
    text: str
    sha256: str
    blob: str
    commit: str
    subject: str = ""
    comment: str = ""
    docstring: str = ""
    body_start: int | None = None
    before: str | None = None
    owned: float
    licence: str
    repository: str = ""
    url: str = ""
    age: int | None = None


class Collection(Value):
    """What a source gives for one person: the spans, and every refusal with its reason."""

    repository: Repository
    spans: tuple[Span, ...]
    refusals: tuple[Refusal, ...]
    files_seen: int
    files_used: int
    lines_owned: int


class Provenance(Value):
    """Where a pair's completion comes from: lines ``start``..``end`` of ``path`` at ``commit``; ``sha256`` is of exactly these bytes.

    Of a pair that was given in a file: ``path`` is the file's name, ``blob`` its SHA-256, ``start`` the line, ``commit`` empty.
    """

    repository: str
    url: str
    commit: str
    path: str
    blob: str
    start: int
    end: int
    sha256: str
    licence: str
    author: str


class Pair(Value):
    """One training example: an instruction that a teacher wrote, and a verbatim span that the person wrote.

    Of a pair that was given in a file (``form`` is ``given``), ``messages`` is the whole prompt, ``tools`` what it could call, and
    ``instruction`` the last turn's words.
    ``ancestor``: the id of the earlier version that it was first a part of (one that is trained on again, or that stays held out);
    empty for a block's own.
    """

    id: str
    form: Form
    instruction: str
    completion: str
    split: Split
    kind: SpanKind
    name: str
    language: Language
    teacher: str
    provenance: Provenance
    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    ancestor: str = ""


class Example(Value):
    """A task of some skill and an answer to it, both written by a teacher: something to measure on, never to train from."""

    task: str = Field(min_length=1, max_length=2000)
    answer: str = Field(min_length=1, max_length=8000)


class Instruction(Value):
    """What a teacher wrote for a span: the task, its form, and the span's line at which the completion starts.

    Lines before ``completion_start`` (signature and docstring in the ``body`` form) are shown in ``text``, so they are not in the answer.
    """

    form: Form
    text: str
    completion_start: int
