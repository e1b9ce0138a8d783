"""What can be counted of somebody's commits: how many a week, at what hour, and which kinds of work their subjects name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from clonedna.core.people import CommitSubject, CommitTheme, Rhythm

YEAR = timedelta(days=365)
EXAMPLES = 3
# A theme and the words that a subject of it begins with: conventional-commit types (conventionalcommits.org) and plain verbs.
_THEMES = {
    "fixing": r"fix(es|ed)?|bug ?fix|hotfix|repair|correct|resolve|handle|prevent|avoid",
    "new features": r"feat|feature|add(s|ed)?|implement(s|ed)?|introduce|support|allow|enable|create|provide",
    "refactoring": r"refactor(s|ed|ing)?|simplif(y|ies|ied)|clean ?up|extract|rename|move|split|rework|restructure|unify|remove|drop",
    "documentation": r"docs?|document(s|ed)?|readme|changelog|explain|comment|clarify",
    "tests": r"tests?|testing|cover(age)?",
    "performance": r"perf(ormance)?|speed ?up|optimi[sz]e|faster|cache|reduce",
    "build and release": r"build|ci|chore|release|bump|upgrade|update|version|package|deps?|pin",
    "security": r"security|harden|sanitise|sanitize|escape|validate|refuse",
    "style": r"style|format|lint|typo|whitespace",
}  # fmt: skip
_STARTS = {theme: re.compile(rf"(?:{words})\b", re.IGNORECASE) for theme, words in _THEMES.items()}
_TYPE = re.compile(r"^(\w+)(?:\([^)]*\))?!?:\s*")


@dataclass(frozen=True, slots=True)
class Seen:
    """When somebody's commits in one repository were authored (UTC), any order; ``complete``: these are all there are."""

    times: tuple[datetime, ...]
    complete: bool


def rhythm(repositories: Sequence[Seen]) -> Rhythm:
    """Commits a week and the hour with most of them; see ``Rhythm`` for over which time."""
    times = sorted(time for one in repositories for time in one.times)
    if not times:
        return Rhythm(commits_per_week=None, peak_hour_utc=None, commits=0)
    known_from = [min(one.times) for one in repositories if one.times and not one.complete]
    since = max(times[0], times[-1] - YEAR, *known_from)
    inside = [time for time in times if time >= since]
    weeks = max(1.0, (times[-1] - since) / timedelta(weeks=1))
    hours = Counter(time.hour for time in inside)
    peak = min(hours, key=lambda hour: (-hours[hour], hour))
    return Rhythm(
        commits_per_week=round(len(inside) / weeks, 2), peak_hour_utc=peak, commits=len(inside), since=rfc3339(since),
        until=rfc3339(times[-1]),
    )  # fmt: skip


def themes(subjects: Iterable[CommitSubject]) -> tuple[CommitTheme, ...]:
    """Themes by number of subjects, most first. A subject counts for the first theme whose words it begins with, or for none."""
    found: dict[str, list[str]] = defaultdict(list)
    n = 0
    for one in subjects:
        n += 1
        theme = theme_of(one.subject)
        if theme:
            found[theme].append(one.commit)
    return tuple(
        CommitTheme(
            theme=theme, count=len(commits), share=round(len(commits) / n, 4), n=n, commits=tuple(commits[:EXAMPLES])
        )
        for theme, commits in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def theme_of(subject: str) -> str | None:
    """The theme that a subject's type (``feat(x):``) or else its first words name."""
    typed = _TYPE.match(subject)
    for text in ([typed[1]] if typed else []) + [subject[typed.end() :] if typed else subject]:
        for theme, pattern in _STARTS.items():
            if pattern.match(text):
                return theme
    return None


def rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
