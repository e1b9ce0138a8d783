"""A made-up GitHub as data: accounts, and repositories whose commits, files and trees are those of real git repositories on the disk."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass
class Account:
    """``emails``: addresses that this account has verified."""

    id: int
    login: str
    name: str = ""
    emails: tuple[str, ...] = ()
    bio: str | None = None
    location: str | None = None
    blog: str | None = None
    followers: int = 0
    type: str = "User"
    keys: list[str] = field(default_factory=list)
    signing_keys: list[str] = field(default_factory=list)
    gists: list[Json] = field(default_factory=list)

    def brief(self) -> Json:
        return {"id": self.id, "login": self.login, "type": self.type, "node_id": f"U_{self.id}"}


@dataclass
class Repository:
    """``git``: the repository it is read from, or ``None`` for one without a commit. ``spdx``: what the licence API says."""

    id: int
    owner: Account
    name: str
    git: Path | None
    stars: int = 0
    spdx: str | None = "MIT"
    fork: bool = False
    private: bool = False
    archived: bool = False
    languages: dict[str, int] = field(default_factory=lambda: {"Python": 1000})
    topics: tuple[str, ...] = ()
    description: str | None = None
    kilobytes: int = 12
    truncate: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"

    def run(self, *arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(self.git), *arguments], check=True, capture_output=True).stdout

    def resolve(self, revision: str) -> str | None:
        try:
            return self.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
        except subprocess.CalledProcessError:
            return None


@dataclass
class World:
    """``noreply``: the host of GitHub's own addresses. Without ``strict_filter`` ``commits?author=`` lets other people's through."""

    accounts: list[Account] = field(default_factory=list)
    repositories: list[Repository] = field(default_factory=list)
    renamed: dict[str, int] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    noreply: str = "users.noreply.github.com"
    strict_filter: bool = True

    def account(self, login: str) -> Account | None:
        return next((one for one in self.accounts if one.login.casefold() == login.casefold()), None)

    def repository(self, full_name: str) -> Repository | None:
        return next((one for one in self.repositories if one.full_name.casefold() == full_name.casefold()), None)

    def rename(self, old: str, new: str) -> None:
        """The repository goes by ``new``; its old address redirects, as GitHub does it."""
        repository = self.repository(old)
        assert repository is not None
        repository.name = new
        self.renamed[old.casefold()] = repository.id

    def owner_of(self, email: str) -> Account | None:
        """Whom GitHub gives a commit by ``email`` to: by verified address, or by its own noreply addresses."""
        local, _, host = email.partition("@")
        if host == self.noreply:
            number, _, login = local.rpartition("+")
            return next(
                (one for one in self.accounts if (str(one.id) == number if number else one.login == login)), None
            )
        return next(
            (one for one in self.accounts if email.casefold() in {mail.casefold() for mail in one.emails}), None
        )

    # What the routes answer.

    def user_json(self, account: Account) -> Json:
        public = [one for one in self.repositories if one.owner is account and not one.private]
        return account.brief() | {
            "name": account.name or None, "company": None, "blog": account.blog or "", "location": account.location, "email": None,
            "bio": account.bio, "public_repos": len(public), "followers": account.followers, "created_at": "2020-01-02T03:04:05Z",
        }  # fmt: skip

    def repository_json(self, one: Repository, web: str) -> Json:
        licence = {"key": one.spdx.casefold(), "spdx_id": one.spdx, "name": one.spdx} if one.spdx else None
        return {
            "id": one.id, "name": one.name, "full_name": one.full_name, "owner": one.owner.brief(), "private": one.private,
            "fork": one.fork, "archived": one.archived, "description": one.description, "stargazers_count": one.stars, "forks_count": 0,
            "size": one.kilobytes if one.git else 0, "language": next(iter(one.languages), None), "license": licence,
            "topics": list(one.topics), "default_branch": "main", "pushed_at": "2026-02-01T00:00:00Z",
            "html_url": f"{web}/{one.full_name}", "clone_url": f"{web}/{one.full_name}.git",
        }  # fmt: skip

    def commits_json(self, one: Repository, revision: str, author: str | None) -> list[Json]:
        out = one.run("log", "-z", "--format=%H%x1f%an%x1f%ae%x1f%aI%x1f%P%x1f%B", revision, "--").decode()
        found: list[Json] = []
        for record in filter(None, out.split("\0")):
            sha, name, email, date, parents, message = record.split("\x1f", 5)
            account = self.owner_of(email)
            if (
                author is not None
                and self.strict_filter
                and (account is None or account.login.casefold() != author.casefold())
            ):
                continue
            who = {"name": name, "email": email, "date": date}
            found.append({
                "sha": sha, "commit": {"author": who, "committer": who, "message": message.rstrip("\n")},
                "author": account.brief() if account else None, "parents": [{"sha": parent} for parent in parents.split()],
            })  # fmt: skip
        return found

    def tree_json(self, one: Repository, revision: str, recursive: bool) -> Json:
        out = one.run("ls-tree", "-l", "-z", *(["-r", "-t"] if recursive else []), revision).decode()
        entries: list[Json] = []
        for record in filter(None, out.split("\0")):
            meta, _, path = record.partition("\t")
            mode, kind, sha, size = meta.split()
            entries.append(
                {"path": path, "mode": mode, "type": kind, "sha": sha} | ({"size": int(size)} if kind == "blob" else {})
            )
        cut = one.truncate and recursive
        return {"sha": revision, "tree": entries[: len(entries) // 2] if cut else entries, "truncated": cut}

    def content_json(self, one: Repository, path: str, revision: str) -> Json | None:
        try:
            sha = one.run("rev-parse", "--verify", "--quiet", f"{revision}:{path}").decode().strip()
            data = one.run("cat-file", "blob", sha)
        except subprocess.CalledProcessError:
            return None
        return {
            "type": "file", "name": path.rpartition("/")[2], "path": path, "sha": sha, "size": len(data), "encoding": "base64",
            "content": base64.encodebytes(data).decode(),
        }  # fmt: skip
