"""Facts of a GitHub account: who it is, its repositories by stars, what its own commits say. Everything here was read, nothing guessed.

E-mail addresses of the account's commits are needed to find its lines; they leave this module only in ``Read.addresses``, never in a fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast
from urllib.parse import quote, urlsplit

from clonedna.core.errors import BadReference, DnaError, InputError, NotFound
from clonedna.core.people import Account, CommitSubject, GithubProfile, RepositoryFacts
from clonedna.sources.github_client import GitHub
from clonedna.sources.github_counts import Seen, rfc3339, rhythm, themes
from clonedna.sources.github_nodes import BY_STARS, AccountNode
from clonedna.sources.github_wire import (
    LOGIN,
    CommitWire,
    LicenceWire,
    RepositoryWire,
    UserBrief,
    UserWire,
    clean,
    read,
)

LISTED = 1000  # repositories looked at for the most starred ones
SUBJECTS = 25
COMMITS, COMMITS_WITH_TOKEN = 100, 300  # an hour has 60 requests without a token
MAX_TOPICS = 20


@dataclass(slots=True)
class Read:
    """An account as it was read. ``addresses``: e-mail -> number of commits that GitHub gives to this account under it."""

    profile: GithubProfile
    addresses: Counter[str] = field(default_factory=lambda: Counter[str]())


@dataclass(slots=True)
class _Reading:
    facts: list[RepositoryFacts]
    seen: list[Seen]
    addresses: Counter[str]
    refused: dict[str, str]


def handle_of(text: str) -> str:
    """The login in ``ada-example``, ``@ada-example`` or ``github:ada-example``. Raises ``BadReference``."""
    handle = text.removeprefix("github:").removeprefix("@")
    if not LOGIN.fullmatch(handle):
        raise BadReference(f"{text[:80]!r} is no GitHub login", "letters, digits and single hyphens, at most 39")
    return handle


def find_user(github: GitHub, handle: str) -> UserWire:
    """The account. Raises ``NotFound``, and ``InputError`` for an organisation or a bot: neither is a person."""
    user = read(UserWire, github.get(f"users/{handle_of(handle)}"), "an account")
    if user.type != "User":
        raise InputError(f"{user.login} is no person's account but of type {user.type}", "give a person's login")
    return user


def account_of(github: GitHub, user: UserWire) -> Account:
    return Account(id=user.id, login=user.login, name=clean(user.name), host=github.host)


def account(github: GitHub, handle: str) -> Account:
    """Who a handle is today. Raises as ``find_user`` does."""
    return account_of(github, find_user(github, handle))


def profile(github: GitHub, handle: str, *, most: int = 10, max_kilobytes: int | None = None) -> GithubProfile:
    """Typed facts of an account and its ``most`` most starred own repositories. Raises as ``GitHub.get`` and ``find_user`` do.

    A repository that cannot be read is named in ``refused``; the others are not affected.
    """
    return read_account(github, handle, most=most, max_kilobytes=max_kilobytes).profile


def read_account(github: GitHub, handle: str, *, most: int = 10, max_kilobytes: int | None = None) -> Read:
    """``profile``, with the addresses that lead to the account's lines."""
    user = find_user(github, handle)
    listed, refused = own_repositories(github, user, most, max_kilobytes)
    reading = _Reading([], [], Counter(), refused)
    for wire in listed:
        try:
            _read_repository(github, user, wire, reading)
        except NotFound as error:
            reading.refused[wire.full_name] = "blocked" if error.facts.get("status") == 451 else "gone"
    languages: Counter[str] = Counter()
    for one in reading.facts:
        languages.update(one.languages)
    topics = Counter(topic for one in reading.facts for topic in one.topics)
    made = GithubProfile(
        account=account_of(github, user), url=f"{github.web}/{user.login}", bio=clean(user.bio), location=clean(user.location),
        company=clean(user.company), websites=_websites(user), followers=user.followers, public_repositories=user.public_repos,
        created_at=user.created_at[:40], repositories=tuple(reading.facts), languages=_sorted(languages), topics=_sorted(topics),
        rhythm=rhythm(reading.seen), themes=themes(subject for one in reading.facts for subject in one.subjects), refused=reading.refused,
    )  # fmt: skip
    return Read(made, reading.addresses)


def own_repositories(
    github: GitHub, user: UserWire, most: int, max_kilobytes: int | None = None
) -> tuple[list[RepositoryWire], dict[str, str]]:
    """The account's own public repositories by stars (then name), at most ``most``, and why others are not among them."""
    chosen: list[RepositoryWire] = []
    refused: dict[str, str] = {}
    for wire in _by_stars(github, user) if github.authorised else _all_pages(github, user):
        reason = _why_not(wire, user, max_kilobytes)
        if reason is None:
            chosen.append(wire)
        elif reason != "private":  # not a word about what is not public
            refused[wire.full_name] = reason
    chosen.sort(key=lambda one: (-one.stargazers_count, one.name.casefold()))
    refused |= {wire.full_name: "over_max_repositories" for wire in chosen[most:]}
    return chosen[:most], refused


def _all_pages(github: GitHub, user: UserWire) -> Iterator[RepositoryWire]:
    """REST cannot list by stars, so all pages are read."""
    for value in github.pages(f"users/{user.login}/repos", LISTED, type="owner", sort="pushed"):
        yield read(RepositoryWire, value, "a repository")


def _by_stars(github: GitHub, user: UserWire) -> Iterator[RepositoryWire]:
    """The most starred hundred in one question; GitHub answers GraphQL with a token only."""
    answer = read(AccountNode, github.graphql(BY_STARS, {"login": user.login}).get("user"), "an account")
    for node in answer.repositories.nodes:
        yield RepositoryWire(
            id=node.id, name=node.name, owner=UserBrief(id=node.owner.id, login=node.owner.login), private=node.private, fork=node.fork,
            archived=node.archived, description=node.description, stargazers_count=node.stars, forks_count=node.forks, size=node.size,
            language=node.language and node.language.name, license=node.licence and LicenceWire(spdx_id=node.licence.spdx_id),
            topics=tuple(one.topic.name for one in node.topics.nodes), pushed_at=node.pushed_at,
        )  # fmt: skip


def _why_not(wire: RepositoryWire, user: UserWire, max_kilobytes: int | None) -> str | None:
    if wire.private:
        return "private"
    if wire.owner.id != user.id:
        return "of_another_account"
    if wire.fork:
        return "fork"
    if wire.size == 0:
        return "empty"
    return "too_large" if max_kilobytes is not None and wire.size > max_kilobytes else None


def _read_repository(github: GitHub, user: UserWire, wire: RepositoryWire, reading: _Reading) -> None:
    """Languages, newest commit, and the account's own commits of one repository."""
    route = f"repos/{quote(wire.owner.login)}/{quote(wire.name)}"
    languages = github.get(f"{route}/languages")
    try:
        head = next(iter(_commits(github, route, 1)), None)
        most = COMMITS_WITH_TOKEN if github.authorised else COMMITS
        listed = _commits(github, route, most, author=user.login) if head else []
    except DnaError as error:
        if error.facts.get("status") != 409:  # "Git Repository is empty."
            raise
        reading.refused[wire.full_name] = "empty"
        return
    # Whom GitHub gives a commit to is by verified address; what the filter lets through of others is not the account's.
    own = [one for one in listed if one.author is not None and one.author.id == user.id]
    reading.addresses.update(one.commit.author.email for one in own if "@" in one.commit.author.email)
    plain = [one for one in own if len(one.parents) < 2]
    complete = len(listed) < most
    reading.seen.append(Seen(tuple(one.authored for one in plain), complete))
    reading.facts.append(
        RepositoryFacts(
            id=wire.id, name=wire.name, owner=wire.owner.login, url=f"{github.web}/{wire.full_name}",
            description=clean(wire.description), stars=wire.stargazers_count, forks=wire.forks_count, size_kilobytes=wire.size,
            licence=wire.license.spdx_id if wire.license else None,
            languages=_bytes(languages),
            topics=tuple(clean(topic) for topic in wire.topics[:MAX_TOPICS]), head=head.sha if head else None,
            committed_at=rfc3339(head.authored) if head else "", pushed_at=clean(wire.pushed_at), archived=wire.archived,
            subjects=_subjects(plain), commits_seen=len(plain), all_commits=complete,
        )
    )  # fmt: skip


def _bytes(languages: object) -> dict[str, int]:
    """Language -> bytes, most first."""
    counts = cast("dict[object, object]", languages) if isinstance(languages, dict) else {}
    return _sorted({clean(str(name)): size for name, size in counts.items() if isinstance(size, int)})


def _commits(github: GitHub, route: str, most: int, **parameters: str) -> list[CommitWire]:
    return [read(CommitWire, value, "a commit") for value in github.pages(f"{route}/commits", most, **parameters)]


def _subjects(commits: Sequence[CommitWire]) -> tuple[CommitSubject, ...]:
    said = (
        CommitSubject(commit=one.sha, subject=text[:200], authored_at=rfc3339(one.authored))
        for one in commits
        if (text := clean(one.subject))
    )
    return tuple(islice(said, SUBJECTS))


def _websites(user: UserWire) -> tuple[str, ...]:
    """The ``blog`` field as an http URL with a host, if it is one."""
    text = clean(user.blog)
    url = text if "://" in text or not text else f"https://{text}"
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and "." in parts.hostname and " " not in url
    except ValueError:
        fits = False
    return (url,) if fits and "[e-mail]" not in url else ()


def _sorted(counts: dict[str, int] | Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
