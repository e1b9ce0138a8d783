"""Attribution and safety of the git source, on repositories made here by people who do not exist."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clonedna.core.errors import DnaError, InputError, LicenceNotAllowed, LicenceUnknown, NotARepository
from clonedna.core.events import silent
from clonedna.core.work import Collection, Identity
from clonedna.sources.git import GitSource
from clonedna.sources.views import clean_url
from tests.people import MIT

ADA, BOB = "Ada Example <ada@example.org>", "Bob Sample <bob@example.org>"
FUNCTION = "def {name}(items):\n    total = 0\n    for item in items:\n        total += item.{name}\n    return total\n"


class Repo:
    """A repository that a test fills commit by commit."""

    def __init__(self, path: Path, licence: str | None = MIT) -> None:
        self.path = path
        self.day = 0
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        if licence:
            self.commit(BOB, "add the licence", {"LICENSE": licence})

    def git(self, *arguments: str, person: str = ADA) -> str:
        name, _, mail = person.partition(" <")
        self.day += 1
        who = {
            "NAME": name,
            "EMAIL": mail.rstrip(">"),
            "DATE": f"2026-01-01T{self.day // 60:02d}:{self.day % 60:02d}:00Z",
        }
        environment = os.environ | {
            f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()
        }
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, person: str, subject: str, files: dict[str, str | bytes | None]) -> str:
        for name, text in files.items():
            path = self.path / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", subject, person=person)
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


def collect(repo: Repo | Path | str, who: str = ADA, **changes: object) -> Collection:
    target = repo.path if isinstance(repo, Repo) else repo
    source = GitSource(cache=(repo.path if isinstance(repo, Repo) else Path(str(repo))).parent / "cache")
    given: dict[str, object] = {
        "licences": ["MIT"],
        "owned_share": 0.8,
        "max_files": 1000,
        "max_changes": 100,
        "emit": silent,
    }
    return source.collect(source.find(str(target)), [Identity.parse(who)], **(given | changes))  # type: ignore[arg-type]


def names(found: Collection) -> list[str]:
    return [span.name for span in found.spans if span.kind != "hunk"]


def test_only_what_blame_gives_to_the_person(repo: Repo) -> None:
    repo.commit(ADA, "add one and two", {"a.py": FUNCTION.format(name="one") + "\n\n" + FUNCTION.format(name="two")})
    repo.commit(
        BOB,
        "rewrite two",
        {"a.py": FUNCTION.format(name="one") + "\n\n" + FUNCTION.format(name="two").replace("total", "whole")},
    )
    found = collect(repo)
    assert names(found) == ["one"]
    assert "not_owned" in {r.reason for r in found.refusals}


def test_an_indentation_by_somebody_else_takes_nothing_away(repo: Repo) -> None:
    text = FUNCTION.format(name="one")
    repo.commit(ADA, "add one", {"a.py": text})
    repo.commit(BOB, "reformat", {"a.py": text.replace("    ", "  ")})
    assert names(collect(repo)) == ["one"]


def test_ignored_revisions_are_looked_through_and_rubbish_in_the_file_is_no_error(repo: Repo) -> None:
    text = FUNCTION.format(name="one")
    repo.commit(ADA, "add one", {"a.py": text})
    reformat = repo.commit(BOB, "quote differently", {"a.py": text.replace("total", "total_")})
    repo.commit(BOB, "say so", {".git-blame-ignore-revs": f"# reformat\n{reformat}\nrubbish\n{'0' * 40}\n"})
    assert names(collect(repo)) == ["one"]


def test_mailmap_joins_identities(repo: Repo) -> None:
    repo.commit("Ada <old@example.org>", "add one", {"a.py": FUNCTION.format(name="one")})
    repo.commit(BOB, "add the mailmap", {".mailmap": "Ada Example <ada@example.org> <old@example.org>\n"})
    assert names(collect(repo)) == ["one"]


def test_a_file_that_somebody_else_renamed_still_counts(repo: Repo) -> None:
    repo.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    repo.git("mv", "a.py", "b.py")
    repo.commit(BOB, "rename", {})
    assert names(collect(repo)) == ["one"]


def test_hunks_are_the_lines_of_the_blob_they_name(repo: Repo) -> None:
    old = "def price(items):\n    a = 1\n    b = 2\n    c = 3\n    return a\n"
    new = "def price(items):\n    first = sum(items)\n    second = first * 2\n    third = second + 3\n    fourth = third\n    return fourth\n"
    repo.commit(BOB, "add price", {"a.py": old})
    commit = repo.commit(ADA, "compute the price from the items", {"a.py": new})
    (hunk,) = [span for span in collect(repo).spans if span.kind == "hunk"]
    assert hunk.commit == commit
    assert hunk.text == "".join(line + "\n" for line in new.split("\n")[hunk.start - 1 : hunk.end])
    assert hunk.before == "    a = 1\n    b = 2\n    c = 3\n    return a\n"
    assert hunk.subject == "compute the price from the items"


def test_a_change_of_white_space_is_no_hunk(repo: Repo) -> None:
    text = "".join(f"x{i} = {i}\n" for i in range(8))
    repo.commit(BOB, "add numbers", {"a.py": text})
    repo.commit(ADA, "put more room around the signs", {"a.py": text.replace(" = ", "  =  ")})
    assert not [span for span in collect(repo).spans if span.kind == "hunk"]


def test_uncommitted_changes_do_not_count_and_nothing_is_written(repo: Repo) -> None:
    repo.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    (repo.path / "a.py").write_text(FUNCTION.format(name="changed"))

    def listing() -> list[tuple[str, int]]:
        return sorted((str(p), p.stat().st_mtime_ns) for p in repo.path.rglob("*"))

    before = listing()
    assert names(collect(repo)) == ["one"]
    assert listing() == before


@pytest.mark.parametrize("way", ["sub-directory", "bare", "worktree", "shallow", "url"])
def test_every_way_to_name_a_repository(repo: Repo, tmp_path: Path, way: str) -> None:
    repo.commit(ADA, "add one", {"pkg/a.py": FUNCTION.format(name="one")})
    target = tmp_path / "a place with spaces é"
    if way == "sub-directory":
        found = collect(repo.path / "pkg")
    elif way == "url":
        found = collect(repo, max_changes=0)
        source = GitSource(cache=tmp_path / "cache")
        url = f"file://{repo.path}"
        assert source.find(url).repository.url == "local:repo"
        repo.commit(ADA, "add two", {"pkg/b.py": FUNCTION.format(name="two")})
        again = source.find(url)
        assert again.repository.commits == 3
        return
    else:
        arguments = {"bare": ["clone", "-q", "--bare"], "shallow": ["clone", "-q", "--depth", "1"]}.get(way)
        if arguments:
            subprocess.run(["git", *arguments, f"file://{repo.path}", str(target)], check=True)
        else:
            repo.git("worktree", "add", "-q", str(target), "-b", "other")
        found = collect(target)
    assert names(found) == ["one"]
    assert str(tmp_path) not in found.model_dump_json()


def test_licences_decide(tmp_path: Path) -> None:
    unknown = Repo(tmp_path / "u", licence=None)
    unknown.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    with pytest.raises(LicenceUnknown):
        collect(unknown)
    unknown.commit(ADA, "add two", {"b.py": "# SPDX-License-Identifier: MIT\n" + FUNCTION.format(name="two")})
    found = collect(unknown)
    assert names(found) == ["two"]
    assert "licence_unknown" in {r.reason for r in found.refusals}
    other = Repo(tmp_path / "o")
    other.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    with pytest.raises(LicenceNotAllowed) as error:
        collect(other, licences=["ISC"])
    assert "--allow-licence MIT" in error.value.hint


def test_a_file_with_a_secret_is_dropped_and_the_secret_is_nowhere(repo: Repo) -> None:
    secret = "ghp_" + "a1B2" * 9
    repo.commit(
        ADA,
        "add two files",
        {"a.py": f'K = "{secret}"\n\n\n' + FUNCTION.format(name="one"), "b.py": FUNCTION.format(name="two")},
    )
    found = collect(repo)
    assert names(found) == ["two"]
    assert [(r.path, r.reason) for r in found.refusals] == [("a.py", "secret")]
    assert secret not in found.model_dump_json()


def test_what_is_no_repository(tmp_path: Path) -> None:
    source = GitSource(cache=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    for target in (str(tmp_path / "empty"), str(tmp_path / "missing"), "not a url"):
        with pytest.raises(NotARepository):
            source.find(target)
    with pytest.raises(InputError):
        source.find("--upload-pack=touch /tmp/x")
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "init", "-q", str(fresh)], check=True)
    with pytest.raises(NotARepository, match="no commit"):
        source.find(str(fresh))


def test_credentials_never_leave_a_url() -> None:
    assert clean_url("https://user:secret@host.example/a/b.git?token=x#y") == "https://host.example/a/b.git"


def test_a_hostile_repository_runs_nothing_and_breaks_nothing(repo: Repo, tmp_path: Path) -> None:
    repo.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one"), ".gitattributes": "*.py diff=evil filter=evil\n"})
    marker = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    evil.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "diff.evil.textconv", "diff.evil.command", "filter.evil.smudge",
                "filter.evil.clean", "uploadpack.packObjectsHook", "core.editor", "credential.helper", "gpg.program", "core.askPass"):  # fmt: skip
        repo.git("config", key, str(evil))
    repo.git("config", "log.showSignature", "true")
    repo.git("config", "blame.ignoreRevsFile", "missing-file")
    for hook in ("post-checkout", "pre-commit", "reference-transaction", "post-index-change"):
        path = repo.path / ".git/hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
    (repo.path / "link.py").symlink_to("/etc/passwd")
    for name in ("-rf.py", "with\nnewline.py", 'quo"te.py', "ünï.py"):
        (repo.path / name).write_text(FUNCTION.format(name="odd"))
    (repo.path / os.fsdecode(b"lat\xe9in.py")).write_text(FUNCTION.format(name="latin"))
    (repo.path / "big.py").write_text("x = 1\n" * 200_000)
    (repo.path / "binary.py").write_bytes(bytes(range(256)) * 9)
    repo.git("-c", "diff.external=", "-c", "core.fsmonitor=false", "-c", "filter.evil.clean=cat", "add", "-A")
    repo.git("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "commit", "-q", "-m", "add odd files")
    for hook in (repo.path / ".git/hooks").iterdir():
        hook.chmod(0o755)
    marker.unlink(missing_ok=True)
    found = collect(repo)
    assert not marker.exists()
    assert sorted(set(names(found))) == ["odd", "one"]
    reasons = {r.path: r.reason for r in found.refusals}
    assert reasons["big.py"].startswith("too_large")
    assert reasons["binary.py"] == "not_utf8"
    assert "link.py" not in {s.path for s in found.spans}


def test_a_list_of_shallow_commits_that_is_a_link_is_refused(repo: Repo, tmp_path: Path) -> None:
    repo.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    secret = tmp_path / "secret"
    secret.write_text("something of this machine\n")
    (repo.path / ".git/shallow").symlink_to(secret)
    with pytest.raises(DnaError):
        GitSource(cache=tmp_path / "cache").find(str(repo.path))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and b"of this machine" in p.read_bytes()]


def test_a_damaged_repository_is_an_error_with_a_code(repo: Repo) -> None:
    repo.commit(ADA, "add one", {"a.py": FUNCTION.format(name="one")})
    blob = repo.git("rev-parse", "HEAD:a.py").strip()
    path = repo.path / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(0o600)
    path.write_bytes(b"rubbish")
    with pytest.raises(DnaError) as error:
        collect(repo)
    assert error.value.hint
