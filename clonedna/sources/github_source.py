"""The `github` source: all repositories of one account, and of their lines only those of the account's own commits.

``find`` asks the API and clones nothing. ``collect`` goes through the repositories by stars: one that its licence does not allow is not
even cloned; of the others the whole history is read as the `git` source reads it, but without the repository's own mailmap, which would
let a repository hand other people's lines to the account. Whose a commit is, GitHub says: by an address that the account has verified, or
by one that GitHub itself made for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clonedna.core.canonical import sha256
from clonedna.core.errors import DnaError, LicenceNotAllowed, LicenceUnknown, NoSpace, NoSuchAuthor, TooFewSpans
from clonedna.core.events import Emit, Note
from clonedna.core.people import Account, GithubProfile, RepositoryFacts
from clonedna.core.work import About, AuthorShare, Collection, Found, Identity, Licence, Refusal, Repository, Span
from clonedna.sources.description import one_line
from clonedna.sources.git import GitSource
from clonedna.sources.github import Read, read_account
from clonedna.sources.github_client import GitHub
from clonedna.sources.licences import agreed, allowed
from clonedna.sources.views import identity

NOT_KNOWN = (None, "NOASSERTION", "OTHER")


@dataclass(slots=True)
class _Gathered:
    """What the repositories gave so far."""

    spans: list[Span] = field(default_factory=lambda: list[Span]())
    refusals: list[Refusal] = field(default_factory=lambda: list[Refusal]())
    parts: list[Repository] = field(default_factory=lambda: list[Repository]())
    files_seen: int = 0
    files_used: int = 0
    lines: int = 0


class GitHubSource:
    """Fulfils the ``Source`` seam for a handle. ``connect`` makes a client for one question; ``most`` repositories at most are read.

    ``cache``, ``timeout`` and ``max_clone_bytes``: as of ``GitSource``, for each repository.
    """

    def __init__(
        self, connect: Callable[[], GitHub], *, cache: Path, most: int = 10, timeout: float = 600.0, max_clone_bytes: int = 2_000_000_000
    ) -> None:  # fmt: skip
        self._connect, self._most, self._max_bytes, self._cache = connect, most, max_clone_bytes, cache
        self._timeout = timeout

    def find(self, target: str) -> Found:
        """The account behind a handle, its repositories at their newest commits, and its identities in them.

        Raises ``BadReference``, ``InputError`` (no person), ``NotFound``, ``TooFewSpans`` (nothing public of its own), and what a client
        raises.
        """
        with self._connect() as github:
            read = read_account(github, target, most=self._most, max_kilobytes=self._max_bytes // 1024)
            noreply = github.noreply_host
        account, facts = read.profile.account, read.profile.repositories
        refusals = tuple(Refusal(path=name, reason=reason) for name, reason in sorted(read.profile.refused.items()))
        if not facts:
            raise TooFewSpans(
                f"{account.login} has no public repository of its own with code in it",
                "choose another account, or give a repository",
            )
        parts = tuple(_part(one) for one in facts)
        repository = Repository(
            name=account.login, url=read.profile.url, commit=sha256("".join(f"{one.url} {one.commit}\n" for one in parts))[:40],
            committed_at=max(one.committed_at for one in parts), licence=_together(parts), commits=read.addresses.total(),
            authors=_identities(account, read, noreply), parts=parts,
        )  # fmt: skip
        self._cache.mkdir(parents=True, exist_ok=True)
        return Found(
            repository=repository,
            location=str(self._cache),
            you=identity(self._cache),
            account=account,
            refusals=refusals,
            about=_about(read.profile),
        )

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit, since: Repository | None = None,
    ) -> Collection:  # fmt: skip
        """Spans of all repositories in order of path and line. ``max_files`` and ``max_changes`` are for all of them together.

        With ``since`` what counts is new to it: commits that a part did not have then, and parts that it did not have.

        ``authors`` that are not the account's are refused: consent is the account's. A repository that fails is a refusal with its
        reason; the others are not affected. Raises ``NoSuchAuthor``, ``NoSpace``, and where no repository may be used ``LicenceUnknown``
        or ``LicenceNotAllowed``.
        """
        repository = found.repository
        known = [share.identity for share in repository.authors]
        own = [one for one in known if any(author.matches(one.name, one.email) for author in authors)]
        if not own:
            raise NoSuchAuthor(
                f"none of the given authors is an identity of {repository.name}",
                "leave --author out: the account's own addresses are used",
            )
        git = self._git(found)
        gathered = _Gathered(refusals=list(found.refusals))
        earlier = {part.url: part for part in since.parts} if since is not None else {}
        for number, part in enumerate(repository.parts, 1):
            emit(Note(text=f"repository {number} of {len(repository.parts)}: {part.name}"))
            before = len(gathered.spans)
            hunks = sum(span.kind == "hunk" for span in gathered.spans)
            try:
                self._check(part, licences)
                there = self._at(git, part)
                collection = git.collect(
                    there, own, licences=licences, owned_share=owned_share, max_files=max(0, max_files - gathered.files_used),
                    max_changes=max(0, max_changes - hunks), emit=emit, since=earlier.get(part.url),
                )  # fmt: skip
            except NoSpace:
                raise
            except DnaError as error:
                word = "no_own_commits" if isinstance(error, NoSuchAuthor) else error.code
                gathered.refusals.append(Refusal(path=_full(part), reason=word, detail=(part.licence.spdx or "")[:100]))
                continue
            _add(gathered, there.repository, collection)
            emit(Note(text=f"{part.name}: {len(gathered.spans) - before} spans"))
        if not gathered.parts:
            raise _nothing(repository, gathered.refusals, licences)
        spans = sorted(gathered.spans, key=lambda span: (span.path, span.start, span.commit, span.end, span.url))
        return Collection(
            repository=repository.model_copy(update={"parts": tuple(gathered.parts)}), spans=tuple(spans),
            refusals=tuple(gathered.refusals), files_seen=gathered.files_seen, files_used=gathered.files_used, lines_owned=gathered.lines,
        )  # fmt: skip

    @staticmethod
    def _check(part: Repository, licences: Sequence[str]) -> None:
        """The API's word comes first: nothing is cloned that it does not allow. What it does not know, the files may still say."""
        spdx = part.licence.spdx
        if spdx is None and part.licence.how == NONE_FOUND:
            raise LicenceUnknown(f"GitHub finds no licence in {part.name}", "a repository needs a LICENSE file")
        if spdx is not None and not allowed(spdx, licences):
            raise LicenceNotAllowed(
                f"{part.name} is under {spdx}", f"allow it with --allow-licence {spdx}", licence=spdx
            )

    def _git(self, found: Found) -> GitSource:
        """Clones of one account lie in one folder, so that they can be forgotten together."""
        folder = clones_of(self._cache, found.account) if found.account else self._cache
        return GitSource(cache=folder, timeout=self._timeout, max_clone_bytes=self._max_bytes, mailmap=False)

    @staticmethod
    def _at(git: GitSource, part: Repository) -> Found:
        """The clone of a part, at the commit that was found; its licence is what the API and its own files say together, its
        description what the API says, else its files."""
        there = git.find(f"{part.url}.git", part.commit)
        mine = there.repository
        named = {
            "name": part.name, "url": part.url, "licence": agreed(part.licence.spdx, mine.licence), "authors": (),
            "description": part.description or mine.description,
        }  # fmt: skip
        return there.model_copy(update={"repository": mine.model_copy(update=named)})


def clones_of(cache: Path, account: Account) -> Path:
    """The folder of an account's clones; by number, since logins change."""
    return cache / f"account-{account.id}-{sha256(account.host)[:8]}"


def forget(cache: Path, account: Account) -> None:
    """Delete what was cloned of an account."""
    shutil.rmtree(clones_of(cache, account), ignore_errors=True)


NONE_FOUND = "github: none found"


def _add(gathered: _Gathered, part: Repository, collection: Collection) -> None:
    gathered.spans += [span.model_copy(update={"repository": part.name, "url": part.url}) for span in collection.spans]
    gathered.refusals += [
        refusal.model_copy(update={"path": f"{_full(part)}: {refusal.path}"[:600]}) for refusal in collection.refusals
    ]
    gathered.parts.append(part)
    gathered.files_seen += collection.files_seen
    gathered.files_used += collection.files_used
    gathered.lines += collection.lines_owned


def _about(profile: GithubProfile) -> About:
    """Languages by share of bytes, topics by how many repositories have them, the account's own biography."""
    whole = sum(profile.languages.values())
    return About(
        languages=tuple((name, size / whole) for name, size in profile.languages.items()) if whole else (),
        topics=tuple(profile.topics),
        bio=profile.bio,
    )


def _part(facts: RepositoryFacts) -> Repository:
    known = facts.licence not in NOT_KNOWN
    how = "github: spdx_id" if known else NONE_FOUND if facts.licence is None else f"github: {facts.licence}"
    return Repository(
        name=facts.name, url=facts.url, commit=facts.head or "", committed_at=facts.committed_at,
        licence=Licence(spdx=facts.licence if known else None, how=how), commits=facts.commits_seen,
        description=one_line(facts.description),
    )  # fmt: skip


def _together(parts: Sequence[Repository]) -> Licence:
    """The licences of all repositories that have a known one: all of them hold."""
    each = sorted({one.licence.spdx for one in parts if one.licence.spdx})
    return Licence(spdx=" AND ".join(each) or None, how="github: of the repositories, each its own")


def _identities(account: Account, read: Read, noreply: str) -> tuple[AuthorShare, ...]:
    """The account's addresses: GitHub's own for it (``ID+LOGIN@`` and ``LOGIN@``), and those of commits GitHub gives to it."""
    counts = {address.casefold(): count for address, count in read.addresses.items()}
    for own in (f"{account.id}+{account.login}@{noreply}", f"{account.login}@{noreply}"):
        counts.setdefault(own.casefold(), 0)
    total = max(1, sum(counts.values()))
    name = account.name or account.login
    shares = [
        AuthorShare(identity=Identity(name=name, email=address), commits=count, share=count / total)
        for address, count in counts.items()
    ]
    return tuple(sorted(shares, key=lambda one: (-one.commits, one.identity.email)))


def _full(part: Repository) -> str:
    return "/".join(part.url.rsplit("/", 2)[-2:])


def _nothing(repository: Repository, refusals: Sequence[Refusal], licences: Sequence[str]) -> DnaError:
    reasons = {refusal.reason for refusal in refusals if refusal.path in {_full(part) for part in repository.parts}}
    if "licence_not_allowed" in reasons:
        return LicenceNotAllowed(
            f"no repository of {repository.name} is under a licence that is allowed here ({', '.join(licences)})",
            "allow a further one with --allow-licence",
        )
    if "licence_unknown" in reasons:
        return LicenceUnknown(
            f"the licences of the repositories of {repository.name} are unknown",
            "a repository needs a LICENSE file with a standard text",
        )
    return NoSuchAuthor(
        f"no repository of {repository.name} could be read with commits of its own ({', '.join(sorted(reasons))})",
        "look at it with: dna profile",
    )
