"""What a repository or a URL may not make us do. The attack is shown to work on plain git first, so that the test can fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clonedna.core.errors import DnaError, GitFailed, NotARepository, TimedOut
from clonedna.sources.git import GitSource
from clonedna.sources.process import Git, Objects, environment
from clonedna.sources.views import clean_url
from tests.repos import ADA, MIT, RepoBuilder


@pytest.fixture
def repo(tmp_path: Path) -> RepoBuilder:
    made = RepoBuilder(tmp_path / "repo")
    made.commit(ADA, "add the licence", {"LICENSE": MIT, "a.py": "x = 1\n"})
    return made


def test_a_missing_object_does_not_fetch_from_where_the_repository_says(repo: RepoBuilder, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    settings = {
        "core.repositoryformatversion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": str(repo.path), "remote.origin.uploadpack": f"touch {marker};false",
    }  # fmt: skip
    for key, value in settings.items():
        repo.git("config", key, value)
    commit = repo.head()
    (repo.path / ".git/objects" / commit[:2] / commit[2:]).unlink()
    subprocess.run(["git", "-C", str(repo.path), "cat-file", "-p", commit], capture_output=True, check=False)
    assert marker.exists(), "plain git is no longer fooled: this test shows nothing"
    marker.unlink()
    with pytest.raises(DnaError):
        GitSource(cache=tmp_path / "cache").find(str(repo.path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    ["", "--upload-pack=touch x", "-", "ext::sh -c true", "fd::17", "http://host.example/x", "ssh://-oProxyCommand=x/y", "me@-oProxyCommand:x",
     "https://", "ftp://host.example/x", "nowhere", "a\nb", "a\0b", "x" * 5000],
)  # fmt: skip
def test_what_is_no_target_is_refused_before_git_sees_it(target: str, tmp_path: Path) -> None:
    with pytest.raises(NotARepository) as error:
        GitSource(cache=tmp_path / "cache").find(target)
    assert error.value.hint
    assert not list(tmp_path.glob("cache/clone-*"))


@pytest.mark.parametrize(
    ("url", "clean"),
    [("https://user:secret@host.example/a/b.git?token=x#y", "https://host.example/a/b.git"), ("ssh://git@host.example:22/a/b", "ssh://host.example:22/a/b"),
     ("git@host.example:a/b.git", "ssh://host.example/a/b.git"), ("https://host.example/a/", "https://host.example/a"),
     ("https://a:b@[::1", "[::1")],
)  # fmt: skip
def test_urls_are_cleaned(url: str, clean: str) -> None:
    assert clean_url(url) == clean


def test_the_origin_is_told_without_credentials(repo: RepoBuilder, tmp_path: Path) -> None:
    source = GitSource(cache=tmp_path / "cache")
    assert source.find(str(repo.path)).repository.url == "local:repo"
    repo.git("remote", "add", "origin", "https://ada:secret@host.example/ada/abacus.git?x=1")
    found = source.find(str(repo.path)).repository
    assert (found.name, found.url) == ("abacus", "https://host.example/ada/abacus.git")
    repo.git("remote", "set-url", "origin", "/somewhere/on/this/machine")
    assert source.find(str(repo.path)).repository.url == "local:repo"


def test_a_transfer_over_its_bound_stops_and_leaves_nothing(repo: RepoBuilder, tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match="over 1000 bytes"):
        GitSource(cache=tmp_path / "cache", max_clone_bytes=1000).find(f"file://{repo.path}")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_failed_transfer_names_the_url_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(GitFailed) as error:
        GitSource(cache=tmp_path / "cache").find("https://ada:hunter2@127.0.0.1:1/x.git")
    assert "hunter2" not in error.value.message
    assert "127.0.0.1:1/x.git" in error.value.message


def test_an_empty_remote_has_no_commit(tmp_path: Path) -> None:
    RepoBuilder(tmp_path / "empty")
    with pytest.raises(NotARepository, match="no commit"):
        GitSource(cache=tmp_path / "cache").find(f"file://{tmp_path / 'empty'}")


def test_a_clone_has_no_work_tree_and_no_hooks(repo: RepoBuilder, tmp_path: Path) -> None:
    found = GitSource(cache=tmp_path / "cache").find(f"file://{repo.path}")
    view = Path(found.location)
    assert not (view / "a.py").exists()
    assert not (view / "hooks").exists()
    assert str(repo.path) not in (view / "config").read_text()


def test_a_damaged_view_is_an_error_with_a_next_step(repo: RepoBuilder, tmp_path: Path) -> None:
    source = GitSource(cache=tmp_path / "cache")
    found = source.find(str(repo.path))
    (Path(found.location) / "objects/info/alternates").unlink()
    with pytest.raises(GitFailed) as error:
        source.collect(
            found, [found.repository.authors[0].identity], licences=["MIT"], owned_share=0.8, max_files=9, max_changes=9, emit=print
        )  # fmt: skip
    assert error.value.hint
    assert source.find(str(repo.path)) == found, "finding it again repairs it"


def test_git_sees_nothing_of_this_machines_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "elsewhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "evil")
    seen = environment()
    assert not {"GIT_DIR", "GIT_CONFIG_COUNT", "GIT_EXTERNAL_DIFF"} & set(seen)
    assert seen["GIT_ALLOW_PROTOCOL"] == "none"
    assert environment(["https"])["GIT_ALLOW_PROTOCOL"] == "https"


def test_a_call_over_its_time_is_stopped(repo: RepoBuilder) -> None:
    git = Git(repo.path, timeout=60, settings=["alias.wait=!exec sleep 60"])
    with pytest.raises(TimedOut):
        git.run("wait", timeout=0.2)
    assert not git._running


def test_objects_are_read_whole_or_not_at_all(repo: RepoBuilder) -> None:
    blob = repo.git("rev-parse", "HEAD:a.py")
    with Objects(Git(repo.path, timeout=60)) as objects:
        assert objects.get(blob, 6) == b"x = 1\n"
        assert objects.get(blob, 5) is None
        assert objects.get("0" * 40, 99) is None
        assert objects.get(blob, 99) == b"x = 1\n", "what was passed over does not shift what comes next"
