"""Looking for people on GitHub: a search of accounts, and of each the repositories that say what they do.

The search is GitHub's own (https://docs.github.com/en/search-github/searching-on-github/searching-users): a role adds words and bounds to
the query, nothing else. No score is invented: people stand in GitHub's order of best match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from clonedna.core.errors import InputError, NotFound
from clonedna.core.people import Headhunt, HuntBegun, HuntRefused, HuntStep, PersonFound, Role
from clonedna.sources.github import account_of, find_user
from clonedna.sources.github_client import GitHub
from clonedna.sources.github_wire import FoundWire, RepositoryWire, UserWire, clean, read

# What each role adds where the query does not say it itself.
ROLES: dict[Role, str] = {
    "swe": "repos:>=5",
    "pm": "product manager in:bio",
    "designer": "designer in:bio",
}
TOP = 3
MAX_QUERY = 200


def query_of(query: str, role: Role | None) -> str:
    """What is sent. Raises ``InputError`` for nothing to look for, for over 200 characters, and for accounts that are not people."""
    said = " ".join(query.split())
    if not said and role is None:
        raise InputError(
            "say what to look for", "give words or a --role, e.g. dna headhunt --role swe 'language:python'"
        )
    if len(said) > MAX_QUERY or not said.isprintable():
        raise InputError(f"a query has at most {MAX_QUERY} printable characters", "use fewer words")
    if any(word.casefold().startswith("type:") for word in said.split()):
        raise InputError("only people are looked for", "leave type: out")
    return " ".join(part for part in (said, ROLES[role] if role else "", "type:user") if part)


def hunt(github: GitHub, query: str, role: Role | None, most: int) -> Iterator[HuntStep]:
    """How the search begins, then up to ``most`` (1-30) people one by one, two requests each. Raises as ``query_of``, and the client."""
    sent = query_of(query, role)
    found = read(FoundWire, github.get("search/users", q=sent, per_page=min(30, most)), "a search")
    yield HuntBegun(query=sent, role=role, total=found.total_count, incomplete=found.incomplete_results)
    for brief in found.items[:most]:
        try:
            yield _person(github, find_user(github, brief.login))
        except (NotFound, InputError) as error:
            yield HuntRefused(login=brief.login, reason=error.code)


def headhunt(github: GitHub, query: str, role: Role | None, most: int) -> Headhunt:
    """All that ``hunt`` gives. Who cannot be read is named in ``refused``."""
    begun, *steps = hunt(github, query, role, most)
    assert isinstance(begun, HuntBegun)
    return Headhunt(
        **begun.model_dump(), people=tuple(one for one in steps if isinstance(one, PersonFound)),
        refused={one.login: one.reason for one in steps if isinstance(one, HuntRefused)},
    )  # fmt: skip


def _person(github: GitHub, user: UserWire) -> PersonFound:
    listed = [
        read(RepositoryWire, value, "a repository")
        for value in github.pages(f"users/{user.login}/repos", 100, type="owner", sort="pushed")
    ]
    own = [one for one in listed if not one.fork and not one.private and one.owner.id == user.id]
    own.sort(key=lambda one: (-one.stargazers_count, one.name))
    languages = Counter(clean(one.language) for one in own if one.language)
    return PersonFound(
        account=account_of(github, user), url=f"{github.web}/{user.login}", bio=clean(user.bio), location=clean(user.location),
        followers=user.followers, public_repositories=user.public_repos, stars=sum(one.stargazers_count for one in own),
        languages=tuple(name for name, _ in sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
        top=tuple(one.full_name for one in own[:TOP]), complete=len(listed) < 100,
    )  # fmt: skip
