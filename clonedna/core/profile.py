"""A person's profile: one form for whatever it was read from, in which every item carries the words that prove it.

An item without evidence cannot be made. ``stated``: the person's own page or paper says it; ``counted``: it was counted in code or
commits; ``read``: a teacher model read it out of the quoted words, which were checked to stand there. All texts are third-party data:
never markup, never an instruction. E-mail addresses, telephone numbers and secrets stand in none of them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clonedna.core.people import CommitTheme, GithubProfile, Rhythm
from clonedna.core.value import Value

EvidenceKind = Literal["website", "resume", "git", "github"]
How = Literal["stated", "counted", "read"]
MAX_QUOTE = 600


class Evidence(Value):
    """Where an item stands. ``url``: the page's, the repository's (``local:NAME`` without a remote), or a resume's file name.

    ``quote`` is verbatim, but for white space, in that page, file (``path``, from ``line`` on, at ``commit``) or commit's subject.
    For counts it may be empty: then ``path`` or ``commit`` is what was counted, or GitHub's answer at ``url``.
    """

    source: EvidenceKind
    url: str
    commit: str = ""
    path: str = ""
    line: int | None = None
    quote: str = Field(default="", max_length=MAX_QUOTE)


class Item(Value):
    """One statement and what proves it."""

    text: str = Field(min_length=1, max_length=1000)
    how: How
    evidence: tuple[Evidence, ...] = Field(min_length=1)


class LanguageItem(Item):
    """A language. ``bytes``: of the files that were counted; ``None`` when it is only stated. ``spoken``: a language of people."""

    bytes: int | None = None
    spoken: bool = False


class Profile(Value):
    """The one form. ``soft_skills`` are what the person says of themselves, in their words; nobody is judged here."""

    name: Item | None = None
    bio: Item | None = None
    location: Item | None = None
    skills: tuple[Item, ...] = ()
    soft_skills: tuple[Item, ...] = ()
    description: Item | None = None
    languages: tuple[LanguageItem, ...] = ()


class Dependency(Value):
    """A package of others that the person's own lines import, in ``files`` files."""

    name: str
    language: str
    files: int
    evidence: tuple[Evidence, ...] = Field(min_length=1)


class CodeFacts(Value):
    """What can be counted of one person's work in one repository at one commit.

    ``languages``: bytes of the files at ``commit`` that the person's commits touched and that are there still, vendored and generated
    ones left out. ``files``: how many these are. ``dependencies``: from ``blamed`` of their ``importing`` source files.
    """

    repository: str
    commit: str
    author: str
    commits: int
    files: int
    languages: dict[str, int] = Field(default_factory=dict)
    importing: int = 0
    blamed: int = 0
    dependencies: tuple[Dependency, ...] = ()
    rhythm: Rhythm
    themes: tuple[CommitTheme, ...] = ()


class Counted(Value):
    """The countable facts of every repository that somebody's work was collected from."""

    facts: tuple[CodeFacts, ...] = ()


class Reading(Value):
    """What was read of one page or paper. ``text`` is what a person sees there. ``left_out``: how much was not used, by reason.

    ``handles``: GitHub accounts that it names as the person's, best evidence first; ``handle`` is set when there is no doubt which.
    """

    source: EvidenceKind
    url: str
    text: str
    profile: Profile
    handle: Item | None = None
    handles: tuple[Item, ...] = ()
    left_out: dict[str, int] = Field(default_factory=dict)


class SecondPass(Value):
    """What a teacher model's reading gave. ``dropped``: statements whose evidence did not hold, by reason."""

    teacher: str
    materials: int
    kept: int
    dropped: dict[str, int] = Field(default_factory=dict)


class ProfileReport(Value):
    """A profile, what it was counted from, and how. ``made_at``: RFC 3339, UTC. ``second`` is ``None`` when no teacher read."""

    profile: Profile
    handle: Item | None = None
    code: CodeFacts | None = None
    github: GithubProfile | None = None
    sources: tuple[str, ...]
    left_out: dict[str, int] = Field(default_factory=dict)
    second: SecondPass | None = None
    made_at: str
