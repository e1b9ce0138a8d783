"""Who did what in a repository's history: its people by share, and one person's commits with the files they touched.

The mailmap is honoured. Merges and bots are left out. Subjects and names are data: records are told apart by a mark that is new each time.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clonedna.core.errors import InputError
from clonedna.core.work import AuthorShare, Identity, Repository
from clonedna.sources.process import Git

_BOT = re.compile(
    r"\[bot\]|[-_. ]bot$|^(dependabot|renovate|github[- ]actions?|pre-commit[-. ]ci|greenkeeper|snyk|codecov|web-flow|allcontributors|"
    r"imgbot|mergify|semantic-release|deepsource|pyup|release-please|weblate|transifex|gitlab[- ]ci)\b",
    re.IGNORECASE,
)
_REVERT = re.compile(r'revert(ed|s)?\b(:| ")', re.IGNORECASE)
_NOISE = (
    re.compile(r"\S+@\S+\.\w+|(https?|ftp|git|ssh)://\S+"),
    re.compile(r"\s*\(?(?:\b[\w.-]+/[\w.-]+)?#\d+\)?"),
    re.compile(r"\s*\(?\b(?:gh|bpo|issue|pr)-?\s?\d+\)?", re.IGNORECASE),
    re.compile(r"\b(?:co-authored-by|signed-off-by|reviewed-by|change-id):.*$", re.IGNORECASE),
)  # fmt: skip
_TRIVIAL = re.compile(
    r"(wip|fix(es|ed)?|(fix(ed)? )?typos?|updates?|updated|cleanup|clean up|refactor(ing)?|merge\b.*|initial commit|first commit|tests?|"
    r"lint|linting|format(ting)?|black|ruff|prettier|style|misc|tweaks?|changes|minor|oops|temp|tmp|more|bump\b.*|release\b.*|revert\b.*|v?\d[\d.]*\w*|\W*)",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^\w+(\([\w ./-]*\))?!?:\s*")
MAX_SUBJECT = 100
MAX_OTHERS = 20_000
Person = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Commit:
    """A person's commit. ``order``: 0 is the newest of all. ``paths``: what it touched, under today's names as far as renames tell."""

    id: str
    subject: str
    order: int
    paths: tuple[str, ...]

    @property
    def reverts(self) -> bool:
        """It brings back what somebody else may have written, so its lines are not the reverter's."""
        return bool(_REVERT.match(self.subject))


@dataclass(frozen=True, slots=True)
class Author:
    """An author as the mailmap has them (``name``, ``email``) and as the commits say (``raw_name``, ``raw_email``)."""

    name: str
    email: str
    raw_name: str
    raw_email: str

    @property
    def bot(self) -> bool:
        names = (self.name, self.raw_name, *(email.partition("@")[0] for email in (self.email, self.raw_email)))
        return any(_BOT.search(name) for name in names)


def identities(git: Git, revision: str) -> Counter[Author]:
    """How many commits (no merges) each author has in the history of ``revision``."""
    fields = git.fields("log", "-z", "--no-merges", "--format=%aN%x00%aE%x00%an%x00%ae", revision, "--")
    return Counter(Author(*four) for four in zip(fields, fields, fields, fields, strict=False))


def author_shares(authors: Counter[Author]) -> tuple[int, tuple[AuthorShare, ...]]:
    """Number of commits, and the people behind them (one for each e-mail, bots left out), most commits first."""
    total = authors.total()
    names: dict[str, Counter[Person]] = defaultdict(Counter)
    for author, count in authors.items():
        if not author.bot:
            names[author.email.casefold() or f"\0{author.name.casefold()}"][author.name, author.email] += count
    shares = [
        AuthorShare(
            identity=Identity(name=_printable(name), email=_printable(email)), commits=each.total(), share=each.total() / total
        )
        for each in names.values()
        for name, email in [max(sorted(each), key=lambda person: each[person])]
    ]  # fmt: skip
    return total, tuple(sorted(shares, key=lambda one: (-one.commits, one.identity.email, one.identity.name)))


def own_identities(authors: Iterable[Author], people: Sequence[Identity]) -> frozenset[Person]:
    """The mailmap's ``(name, email)`` of ``people``. Who is known only under an older address is found by that one."""
    known = [author for author in authors if not author.bot]
    mine = {(a.name, a.email) for a in known for p in people if p.matches(a.name, a.email)}
    old = {(a.name, a.email) for a in known for p in people if p.email and p.matches(a.raw_name, a.raw_email)}
    return frozenset(mine | old)


def own_commits(git: Git, revision: str, who: frozenset[Person]) -> tuple[list[Commit], list[Commit]]:
    """Their commits without merges, newest first; and those of everybody else (the newest ``MAX_OTHERS``), without their subjects."""
    mark = secrets.token_hex(16)
    fields = git.fields(
        "log", "-z", "--no-merges", "--name-status", "-M", "-l1000", "--no-ext-diff", "--no-textconv",
        f"--format={mark}%x00%H%x00%aN%x00%aE%x00%s", revision, "--",
    )  # fmt: skip
    today: dict[str, str] = {}
    own: list[Commit] = []
    others: list[Commit] = []
    order = -1
    field = next(fields, None)
    while field is not None:
        head = [next(fields, "") for _ in range(4)]
        order += 1
        paths, field = _paths(fields, mark, today)
        if (head[1], head[2]) in who:
            own.append(Commit(head[0], head[3], order, paths))
        elif len(others) < MAX_OTHERS:
            others.append(Commit(head[0], "", order, paths))
    return own, others


def new_commits(git: Git, revision: str, since: Repository) -> frozenset[str]:
    """Ids of the commits that ``revision`` knows and ``since.commit`` does not. Raises ``InputError`` when that is none of its history."""
    known = git.run("cat-file", "--batch-check", stdin=f"{since.commit}^{{commit}}\n".encode()).split()
    if known[1:2] != [b"commit"]:
        raise InputError(
            f"commit {since.commit[:12]} of {since.name} is not in this repository",
            "give the repository that the block was minted from, with its whole history", commit=since.commit,
        )  # fmt: skip
    return frozenset(git.run("rev-list", revision, f"^{since.commit}", "--").decode().split())


def _paths(fields: Iterable[str], mark: str, today: dict[str, str]) -> tuple[tuple[str, ...], str | None]:
    """One commit's paths, and the field behind them. ``today``: older name -> the name that a newer commit gave it, updated here."""
    paths: list[str] = []
    renames: list[tuple[str, str]] = []
    following = iter(fields)
    behind: str | None = None
    for field in following:
        status = field.lstrip("\n")
        if status == mark:
            behind = status
            break
        if status[:1] in ("R", "C"):
            old, new = next(following, ""), next(following, "")
            paths.append(today.get(new, new))
            if status[0] == "R":
                renames.append((old, today.get(new, new)))
        elif status:
            path = next(following, "")
            paths.append(today.get(path, path))
    for old, new in renames:
        today.setdefault(old, new)
    return tuple(paths), behind


def _printable(text: str) -> str:
    return " ".join("".join(c for c in text if (c.isprintable() or c.isspace()) and c not in "<>").split())[:120]


def clean_subject(subject: str) -> str:
    """A commit's subject without issue numbers, trailers, addresses and links, at most 100 characters; empty when it says nothing.

    A conventional-commit prefix stays, when something is said behind it.
    """
    text = _printable(subject)
    for pattern in _NOISE:
        text = pattern.sub("", text)
    text = " ".join(text.split()).rstrip(" .,;:-")
    said = _PREFIX.sub("", text)
    if _TRIVIAL.fullmatch(said) or _TRIVIAL.fullmatch(text) or len(said) < 5:
        return ""
    return text if len(text) <= MAX_SUBJECT else text[:MAX_SUBJECT].rsplit(" ", 1)[0]
