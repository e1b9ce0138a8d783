"""Who did what in a repository's history: commits with their files, authors by share, and which of today's files a person ever touched."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from clonedna.core.work import AuthorShare, Identity
from clonedna.sources.process import Git

_BOT = re.compile(
    r"\[bot\]|^(dependabot|renovate|github-actions?|pre-commit-ci|greenkeeper|snyk-bot|codecov|web-flow|semantic-release-bot)\b",
    re.IGNORECASE,
)
_NOISE = (
    (re.compile(r"\S+@\S+\.\w+|https?://\S+"), ""),
    (re.compile(r"\s*\(?\b(?:(?:fix(?:es|ed)?|close[sd]?|resolve[sd]?|refs?|see)\s+)?(?:[\w.-]+/[\w.-]+)?#\d+\)?", re.IGNORECASE), ""),
    (re.compile(r"\s*\(?\b(?:gh|bpo|issue|pr)-?\s?\d+\)?", re.IGNORECASE), ""),
)  # fmt: skip
_TRIVIAL = re.compile(
    r"(wip|fix(es|ed)?|typos?|fix(ed)? typos?|updates?|updated|cleanup|clean up|refactor(ing)?|merge\b.*|initial commit|first commit|tests?|lint|linting|"
    r"format(ting)?|black|ruff|style|misc|tweaks?|changes|minor|oops|temp|tmp|more|bump\b.*|release\b.*|v?\d[\d.]*\w*|\W*)",
    re.IGNORECASE,
)
MAX_SUBJECT = 100


@dataclass(frozen=True, slots=True)
class Commit:
    """``order``: 0 is the newest. ``paths``: what it touched, under the names these files have at HEAD as far as renames tell."""

    id: str
    name: str
    email: str
    subject: str
    order: int
    paths: tuple[str, ...]

    def by(self, people: Sequence[Identity]) -> bool:
        return any(person.matches(self.name, self.email) for person in people)


def is_bot(name: str, email: str) -> bool:
    return bool(_BOT.search(name) or "[bot]" in email.casefold())


def author_shares(git: Git, revision: str) -> tuple[int, tuple[AuthorShare, ...]]:
    """Number of commits without merges, and the people behind them (mailmap honoured, bots left out), most commits first."""
    log = git.text("log", "--no-merges", "--use-mailmap", "--format=%aN%x1f%aE", revision, "--")
    names: dict[str, Counter[str]] = defaultdict(Counter)
    spelling: dict[str, str] = {}
    total = 0
    for line in log.splitlines():
        name, _, email = line.partition("\x1f")
        total += 1
        if is_bot(name, email):
            continue
        key = email.casefold() or f"\x1f{name.casefold()}"
        names[key][name] += 1
        spelling.setdefault(key, email)
    shares = [
        AuthorShare(
            identity=Identity(name=_clean(count.most_common(1)[0][0]), email=spelling[key]),
            commits=count.total(),
            share=count.total() / total,
        )
        for key, count in names.items()
    ]
    return total, tuple(sorted(shares, key=lambda one: (-one.commits, one.identity.email, one.identity.name)))


def _clean(name: str) -> str:
    return " ".join("".join(c for c in name if c.isprintable() and c not in "<>").split())[:120]


def read_history(git: Git, revision: str) -> list[Commit]:
    """All commits without merges, newest first; paths follow renames forward to the names at ``revision``."""
    log = git.run(
        "log", "--no-merges", "--use-mailmap", "--name-status", "-M", "-z", "--no-ext-diff", "--no-textconv",
        "--format=%x01%H%x1f%aN%x1f%aE%x1f%s", revision, "--",
    ).decode("utf-8", "surrogateescape")  # fmt: skip
    today: dict[str, str] = {}
    commits: list[Commit] = []
    for order, record in enumerate(log.split("\x01")[1:]):
        head, _, rest = record.partition("\0")
        fields = head.split("\x1f", 3)
        if len(fields) != 4:
            continue
        commits.append(Commit(fields[0], fields[1], fields[2], fields[3].rstrip("\n"), order, _paths(rest, today)))
    return commits


def _paths(rest: str, today: dict[str, str]) -> tuple[str, ...]:
    tokens = [token.lstrip("\n") for token in rest.split("\0")]
    paths: list[str] = []
    renames: list[tuple[str, str]] = []
    i = 0
    while i < len(tokens):
        status = tokens[i]
        if not status:
            i += 1
        elif status[0] in "RC" and i + 2 < len(tokens):
            old, new = tokens[i + 1], tokens[i + 2]
            paths.append(today.get(new, new))
            if status[0] == "R":
                renames.append((old, today.get(new, new)))
            i += 3
        elif i + 1 < len(tokens):
            paths.append(today.get(tokens[i + 1], tokens[i + 1]))
            i += 2
        else:
            break
    for old, new in renames:
        today.setdefault(old, new)
    return tuple(paths)


def clean_subject(subject: str) -> str:
    """A commit's subject without issue numbers, addresses and links, at most 100 characters; empty when it says nothing."""
    text = subject
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split()).rstrip(" .,;:-")
    if _TRIVIAL.fullmatch(text) or len(text) < 5:
        return ""
    return text if len(text) <= MAX_SUBJECT else text[:MAX_SUBJECT].rsplit(" ", 1)[0]
