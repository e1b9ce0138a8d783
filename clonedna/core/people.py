"""A person's public account as values: who they are, their repositories, what can be counted of their work.

Everything here was said by an API and is data of third parties: never markup, never an instruction. E-mail addresses stand in none of
these values; where a text held one, ``[e-mail]`` stands in its place. Counts say what they are counted over.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clonedna.core.value import Value

Role = Literal["pm", "swe", "designer"]


class Account(Value):
    """An account of a forge. ``id`` is what stays: logins are renamed and given to others. ``host``: e.g. ``github.com``."""

    id: int = Field(ge=1)
    login: str
    name: str = ""
    host: str = "github.com"


class CommitSubject(Value):
    """The first line of a commit's message. ``authored_at``: RFC 3339, UTC."""

    commit: str
    subject: str
    authored_at: str


class RepositoryFacts(Value):
    """One public repository of an account. ``licence`` is the SPDX id that the API gives; ``None``: none found; ``NOASSERTION``: one that
    it does not know. ``languages``: bytes. ``head``: the newest commit of the default branch, ``None`` when it is empty. ``subjects``: of
    the account's own newest commits, newest first. ``commits_seen``: how many of those were looked at; ``all_commits``: these were all.
    """

    id: int
    name: str
    owner: str
    url: str
    description: str = ""
    stars: int
    forks: int = 0
    size_kilobytes: int = 0
    licence: str | None
    languages: dict[str, int] = Field(default_factory=dict)
    topics: tuple[str, ...] = ()
    head: str | None = None
    committed_at: str = ""
    pushed_at: str = ""
    archived: bool = False
    subjects: tuple[CommitSubject, ...] = ()
    commits_seen: int = 0
    all_commits: bool = True


class CommitTheme(Value):
    """A kind of work that commit subjects name. ``share`` is of the ``n`` subjects read; ``commits`` are up to three of them."""

    theme: str
    count: int
    share: float
    n: int
    commits: tuple[str, ...]


class Rhythm(Value):
    """When somebody commits, over ``commits`` commits of their own from ``since`` to ``until`` (RFC 3339).

    ``commits_per_week`` is over the whole weeks of that time, at least one; the time begins where every repository's commits are known
    completely, at most a year before the newest. ``peak_hour_utc``: the hour (0-23) with most commits, the earliest of equals.
    Both are ``None`` when there are no commits.
    """

    commits_per_week: float | None
    peak_hour_utc: int | None
    commits: int
    since: str = ""
    until: str = ""


class GithubProfile(Value):
    """What GitHub says of an account and what can be counted of its repositories. ``languages``: bytes over these repositories.

    ``refused``: repositories that were not read, by full name, with a word for why (``fork``, ``empty``, ``blocked``, ``gone``,
    ``too_large``, ``over_max_repositories``).
    """

    account: Account
    url: str
    bio: str = ""
    location: str = ""
    company: str = ""
    websites: tuple[str, ...] = ()
    followers: int = 0
    public_repositories: int = 0
    created_at: str = ""
    repositories: tuple[RepositoryFacts, ...] = ()
    languages: dict[str, int] = Field(default_factory=dict)
    topics: dict[str, int] = Field(default_factory=dict)
    rhythm: Rhythm
    themes: tuple[CommitTheme, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)


class PersonFound(Value):
    """One account that a search found. ``stars`` and ``languages`` are of its own repositories (forks left out), most starred first, as
    far as one page of the listing goes; ``complete`` says whether that was all.
    """

    account: Account
    url: str
    bio: str = ""
    location: str = ""
    followers: int = 0
    public_repositories: int = 0
    stars: int = 0
    languages: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    complete: bool = True


class HuntBegun(Value):
    """The first that a search says: what was sent, and how many it found."""

    query: str
    role: Role | None
    total: int
    incomplete: bool


class HuntRefused(Value):
    """Somebody that a search found and that could not be read, with a word for why."""

    login: str
    reason: str


HuntStep = HuntBegun | PersonFound | HuntRefused


class Headhunt(Value):
    """A search's answer. ``query`` is what was sent. ``incomplete``: GitHub's own search ran out of time (``incomplete_results``).

    ``refused``: logins that could not be read, with a word for why.
    """

    query: str
    role: Role | None
    total: int
    incomplete: bool
    people: tuple[PersonFound, ...]
    refused: dict[str, str] = Field(default_factory=dict)
