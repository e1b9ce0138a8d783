"""What can be counted of one person's work in a git repository: languages, imported packages, rhythm, kinds of commits. No judgement.

Read at one commit, from a view, never from the work tree. A package counts only when blame gives the line that imports it to the
person; its evidence is that line. Imports are found by tree-sitter in Python, JavaScript and TypeScript.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from tree_sitter import Node

from clonedna.core.errors import GitFailed, NoSuchAuthor, TimedOut
from clonedna.core.people import CommitSubject
from clonedna.core.profile import MAX_QUOTE, CodeFacts, Dependency, Evidence
from clonedna.core.work import Found, Identity
from clonedna.sources.blame import blame, ignored_revisions
from clonedna.sources.filters import email_in, path_refusal, text_refusal
from clonedna.sources.github_counts import Seen, rhythm, themes
from clonedna.sources.history import Commit, Person, clean_subject, identities, own_commits, own_identities
from clonedna.sources.languages import Entry, entry_of, parser_of
from clonedna.sources.process import Git, Objects
from clonedna.sources.reading import clean
from clonedna.sources.reformats import reformats_of
from clonedna.sources.secrets import secret_in

MAX_FILE, MAX_BLAMED, MAX_PROOFS, WORKERS = 400_000, 400, 3, 2
_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
_BY_SUFFIX = {suffix: name for name, suffixes in _WORDS["languages"].items() for suffix in suffixes.split()}
_NODE = frozenset(_WORDS["node"].split())


def count_code(
    found: Found, authors: Sequence[Identity], *, timeout: float, max_blamed: int = MAX_BLAMED, mailmap: bool = True
) -> CodeFacts:
    """Facts of ``authors``' work in what ``GitSource.find`` found; the same repository and commit always give the same.

    ``timeout``: seconds for each call of git. ``max_blamed``: of their importing files, the most recently touched are looked at.
    ``mailmap``: whether the repository's own says who is who. Raises ``NoSuchAuthor``, ``GitFailed``, ``TimedOut``.
    """
    repository, commit = found.repository, found.repository.commit
    blob = f"{commit}:.mailmap" if mailmap else ""
    git = Git(Path(found.location), timeout=timeout, settings=[f"mailmap.blob={blob}"])
    who = own_identities(identities(git, commit), authors)
    if not who:
        raise NoSuchAuthor(
            f"nobody of this name has commits in {repository.name}", "list the authors with: dna authors"
        )
    own, others = own_commits(git, commit, who)
    reformats = reformats_of(git, own, others)
    files = _files(git, commit, own)
    languages: Counter[str] = Counter()
    for path, (_, size) in files.items():
        language = _BY_SUFFIX.get(PurePosixPath(path).suffix.lstrip(".").casefold())
        if language:
            languages[language] += size
    importing, blamed, dependencies = _dependencies(_At(git, repository.url, commit, reformats), own, files, max_blamed)
    times = _times(git, commit, who)
    name = next((name for person, _ in sorted(who) if (name := clean(person)[0])), "unnamed")
    return CodeFacts(
        repository=repository.url, commit=commit, author=name, commits=len(own), files=len(files),
        languages=dict(sorted(languages.items(), key=lambda one: (-one[1], one[0]))), importing=importing, blamed=blamed,
        dependencies=dependencies, rhythm=rhythm([Seen(tuple(times.values()), complete=True)]),
        themes=themes(_subjects(own, times)),
    )  # fmt: skip


def subjects_of(found: Found, authors: Sequence[Identity], *, timeout: float, most: int = 100) -> list[tuple[str, str]]:
    """Commit id and cleaned subject of the person's ``most`` newest commits that say something. Raises as ``count_code``."""
    commit = found.repository.commit
    git = Git(Path(found.location), timeout=timeout, settings=[f"mailmap.blob={commit}:.mailmap"])
    own, _ = own_commits(git, commit, own_identities(identities(git, commit), authors))
    said = ((one.id, clean_subject(one.subject)) for one in own)
    return [(one, text) for one, text in said if text and not secret_in(text)][:most]


def _subjects(own: Sequence[Commit], times: dict[str, datetime]) -> Iterator[CommitSubject]:
    for one in own:
        when = times.get(one.id)
        yield CommitSubject(
            commit=one.id, subject=one.subject[:500], authored_at=f"{when:%Y-%m-%dT%H:%M:%SZ}" if when else ""
        )


def _times(git: Git, commit: str, who: frozenset[Person]) -> dict[str, datetime]:
    """When each of the person's commits was authored, in UTC. A time that is no date is left out."""
    fields = git.fields("log", "-z", "--no-merges", "--format=%H%x00%aN%x00%aE%x00%at", commit, "--")
    found: dict[str, datetime] = {}
    for name, author, email, seconds in zip(fields, fields, fields, fields, strict=False):
        if (author, email) in who and seconds.isdigit():
            try:
                found[name.strip()] = datetime.fromtimestamp(int(seconds), UTC)
            except (OverflowError, ValueError, OSError):
                continue
    return found


def _files(git: Git, commit: str, own: Sequence[Commit]) -> dict[str, tuple[str, int]]:
    """Path -> (blob, bytes) of files that are there at ``commit`` and that the person touched, newest touch first."""
    there: dict[str, tuple[str, int]] = {}
    for entry in git.fields("ls-tree", "-r", "-l", "-z", commit):
        head, _, path = entry.partition("\t")
        parts = head.split()
        if len(parts) == 4 and parts[1] == "blob" and parts[0] != "120000" and parts[3].isdigit():
            there[path] = (parts[2], int(parts[3]))
    touched = dict.fromkeys(path for one in own for path in one.paths)
    return {
        path: there[path] for path in touched if path in there and path_refusal(path) is None and not email_in(path)
    }


@dataclass(frozen=True, slots=True)
class _At:
    """A repository at a commit, and the commits that blame looks through."""

    git: Git
    url: str
    commit: str
    reformats: frozenset[str]


def _dependencies(
    at: _At, own: Sequence[Commit], files: dict[str, tuple[str, int]], most: int
) -> tuple[int, int, tuple[Dependency, ...]]:
    """How many of the files import packages of others, how many of those blame was asked for, and the packages."""
    git, commit = at.git, at.commit
    local = _local_names(git, commit)
    candidates: list[tuple[str, Entry, list[tuple[str, int]], list[str]]] = []
    with Objects(git) as objects:
        for path, (blob, _) in files.items():
            entry = entry_of(path)
            data = objects.get(blob, MAX_FILE) if entry else None
            text = _text(data)
            if entry is None or data is None or text is None:
                continue
            named = [(name, line) for name, line in imports(data, entry) if _foreign(name, entry, local)]
            if named:
                candidates.append((path, entry, named, text.split("\n")))
        chosen = candidates[:most]
        mine = {one.id for one in own if not one.reverts} - at.reformats
        with ignored_revisions(git, objects, commit, at.reformats) as ignored, ThreadPoolExecutor(WORKERS) as pool:
            owners = list(pool.map(lambda one: _owners(git, commit, one[0], ignored), chosen))
    proofs: dict[tuple[str, str], list[Evidence]] = defaultdict(list)
    paths: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (path, entry, named, lines), behind in zip(chosen, owners, strict=True):
        for name, line in named:
            quote = lines[line - 1].strip()
            if line > len(behind) or behind[line - 1] not in mine or email_in(quote) or secret_in(quote):
                continue
            key = (name, entry.language)
            if path not in paths[key] and len(proofs[key]) < MAX_PROOFS:
                proof = Evidence(
                    source="git", url=at.url, commit=commit, path=path[:500], line=line, quote=quote[:MAX_QUOTE]
                )
                proofs[key].append(proof)
            paths[key].add(path)
    made = [
        Dependency(name=name, language=language, files=len(paths[name, language]), evidence=tuple(proof))
        for (name, language), proof in proofs.items()
    ]
    return len(candidates), len(chosen), tuple(sorted(made, key=lambda one: (-one.files, one.name, one.language)))


def _owners(git: Git, commit: str, path: str, ignored: Sequence[str]) -> list[str]:
    """Blame of one file; a file that cannot be blamed proves nothing."""
    try:
        return blame(git, commit, path, ignored)
    except (GitFailed, TimedOut):
        return []


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if text_refusal(text) else text


def imports(source: bytes, entry: Entry) -> list[tuple[str, int]]:
    """Packages that a file imports by name, with the line (from 1): ``a.b`` is ``a``, ``@scope/a/b`` is ``@scope/a``; relative ones not."""
    found: dict[str, int] = {}
    todo = [parser_of(entry.grammar).parse(source).root_node]
    while todo:
        node = todo.pop()
        for name in _named(node, source, python=entry.language == "python"):
            found.setdefault(name, node.start_point.row + 1)
        todo.extend(reversed(node.named_children))
    return sorted(found.items(), key=lambda one: (one[1], one[0]))


def _named(node: Node, source: bytes, *, python: bool) -> Iterator[str]:
    """What one import statement (or call of ``require``) names."""

    def text(one: Node) -> str:
        return source[one.start_byte : one.end_byte].decode("utf-8", "replace")

    if python and node.type in ("import_statement", "import_from_statement"):
        module = node.child_by_field_name("module_name")
        named = [module] if module is not None else node.children_by_field_name("name")
        for one in named:
            inner = one.child_by_field_name("name") if one.type == "aliased_import" else one
            if inner is not None and inner.type == "dotted_name":
                yield text(inner).partition(".")[0]
    elif not python:
        from_ = node.child_by_field_name("source") if node.type in ("import_statement", "export_statement") else None
        if node.type == "call_expression":
            called, given = node.child_by_field_name("function"), node.child_by_field_name("arguments")
            if called is not None and given is not None and text(called) in ("require", "import"):
                from_ = given.named_children[0] if given.named_child_count == 1 else None
        if from_ is not None and from_.type == "string":
            parts = text(from_).strip("'\"`").split("/")
            yield "/".join(parts[:2]) if parts[0].startswith("@") else parts[0]


def _foreign(name: str, entry: Entry, local: frozenset[str]) -> bool:
    """Whether a name is a package of others: not the standard library, not a file or folder of this repository, not an alias of paths."""
    if not name or not name.isprintable() or len(name) > 100:
        return False
    if entry.language == "python":
        return (
            name not in sys.stdlib_module_names
            and name not in local
            and name.isidentifier()
            and not name.startswith("_")
        )
    elsewhere = name.startswith((".", "~", "#", "/", "@/")) or ":" in name or name == "@"
    return not elsewhere and name not in _NODE


def _local_names(git: Git, commit: str) -> frozenset[str]:
    """Names of the repository's own Python modules and packages, wherever they stand."""
    names: set[str] = set()
    for path in git.fields("ls-tree", "-r", "-z", "--name-only", commit):
        if path.endswith((".py", ".pyi", ".pyx")):
            parts = PurePosixPath(path).parts
            names.update(parts[:-1])
            names.add(parts[-1].partition(".")[0])
    return frozenset(names)
