"""The `git` source: a local repository or a git URL, read at one commit, never from the work tree.

Uncommitted changes do not count. Everything is read through a view (``clonedna.sources.views``); found spans carry commit, path,
lines, blob and licence.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from clonedna.core.errors import GitFailed, NoSuchAuthor, TimedOut
from clonedna.core.events import Emit, Note
from clonedna.core.work import Collection, Found, Identity, Repository
from clonedna.sources.collecting import Request, collect_spans
from clonedna.sources.description import description_of
from clonedna.sources.history import author_shares, identities, new_commits, own_commits, own_identities
from clonedna.sources.licences import repository_licence
from clonedna.sources.process import Git, Objects
from clonedna.sources.reformats import reformats_of
from clonedna.sources.views import Views


class GitSource:
    """Fulfils the ``Source`` seam.

    ``cache`` holds the views; ``timeout`` (seconds) bounds each call of git; ``max_clone_bytes`` what a URL may bring. Without
    ``mailmap`` authors are who the commits say: what a repository's own mailmap says of them does not count. ``outside``: only
    public https addresses are read.
    """

    def __init__(
        self, *, cache: Path, timeout: float = 600.0, max_clone_bytes: int = 2_000_000_000, mailmap: bool = True,
        outside: bool = False,
    ) -> None:  # fmt: skip
        self.timeout, self.mailmap = timeout, mailmap
        self.views = Views(cache.absolute(), timeout, max_clone_bytes, outside)

    def find(self, target: str, revision: str = "HEAD") -> Found:
        """Raises ``NotARepository`` (an empty one too), ``GitFailed`` (no such ``revision`` too), ``TimedOut``, ``NoSpace``.

        A URL is cloned, the second time fetched.
        """
        view = self.views.open(target)
        git = Git(view.directory, timeout=self.timeout)
        commit, _, committed_at = git.text("log", "-1", "--format=%H %cI", revision, "--").partition(" ")
        git = self._at(view.directory, commit)
        total, shares = author_shares(identities(git, commit))
        with Objects(git) as objects:
            licence = repository_licence(git, objects, commit)
            description = description_of(lambda name, most: objects.get(f"{commit}:{name}", most))
        repository = Repository(
            name=view.name, url=view.url, commit=commit, committed_at=committed_at, licence=licence, commits=total, authors=shares,
            description=description,
        )  # fmt: skip
        return Found(repository=repository, location=str(view.directory), you=view.you)

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit, since: Repository | None = None,
    ) -> Collection:  # fmt: skip
        """Spans in order of path and line. ``max_changes`` bounds both the commits looked at for hunks and the hunks.

        With ``since`` only commits count that its commit does not know: a definition is the person's new work when they wrote the
        owned share of its lines in such commits. Raises ``NoSuchAuthor`` (with the closest names), ``LicenceUnknown``,
        ``LicenceNotAllowed``, ``InputError`` (``since`` is no commit of this history), ``GitFailed``, ``TimedOut``.
        """
        directory, commit = Path(found.location), found.repository.commit
        git = self._at(directory, commit)
        who = own_identities(identities(git, commit), authors)
        if not who:
            raise _no_such_author(authors, found.repository)
        if (directory / "shallow").exists():
            emit(
                Note(
                    level="warning", text="the clone is shallow: older lines count for whoever wrote its oldest commits"
                )
            )
        _index_paths(git, emit)
        request = Request(found.repository, tuple(licences), owned_share, max_files, max_changes)
        own, others = own_commits(git, commit, who)
        if since is not None:
            new = new_commits(git, commit, since)
            own = [one for one in own if one.id in new]
        reformats = reformats_of(git, own, others)
        if reformats:
            emit(
                Note(text=f"{len(reformats)} commits only lay code out anew: their lines stay with whoever wrote them")
            )
        return collect_spans(git, request, own, emit, reformats)

    def _at(self, directory: Path, commit: str) -> Git:
        """Git for reading at ``commit``, with the mailmap of that commit or with none."""
        blob = f"{commit}:.mailmap" if self.mailmap else ""
        return Git(directory, timeout=self.timeout, settings=[f"mailmap.blob={blob}"])


def _index_paths(git: Git, emit: Emit) -> None:
    """Write the commit-graph with changed-path filters into the view: it makes blame of many files fast, and changes no answer."""
    try:
        git.run("commit-graph", "write", "--reachable", "--changed-paths", timeout=git.timeout)
    except (GitFailed, TimedOut) as error:
        emit(Note(text=f"no index of changed paths, reading will be slower: {error.message}"))


def _no_such_author(authors: Sequence[Identity], repository: Repository) -> NoSuchAuthor:
    known = {str(share.identity).casefold(): str(share.identity) for share in repository.authors}
    asked = ", ".join(str(author) for author in authors)
    close = [
        known[one] for author in authors for one in get_close_matches(str(author).casefold(), known, n=3, cutoff=0.4)
    ]
    shown = list(dict.fromkeys(close)) or list(known.values())[:3]
    return NoSuchAuthor(
        f"no commits by {asked or 'nobody'} in {repository.name}",
        f"{'closest' if close else 'most commits'}: {'; '.join(shown)}"
        if shown
        else "list the authors with: dna authors",
        candidates=shown,
    )
