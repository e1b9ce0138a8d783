"""What git may read for somebody who does not administer the machine: https, at public addresses, where the name was looked up once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clonedna.core.errors import AddressRefused, GitFailed
from clonedna.sources import outside
from clonedna.sources.git import GitSource
from clonedna.sources.outside import pinned
from clonedna.sources.process import Git
from tests.repos import ADA, MIT, RepoBuilder


def at(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


def test_a_public_name_is_pinned_to_its_addresses() -> None:
    assert pinned("https://code.example/ada/abacus.git", at("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")) == (
        "http.followRedirects=false", "http.curloptResolve=code.example:443:93.184.215.14,2606:2800:21f:cb07:6820:80da:af6b:8b2c",
    )  # fmt: skip
    assert pinned("https://code.example:8443/x", at("93.184.215.14"))[1].startswith(
        "http.curloptResolve=code.example:8443:"
    )


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00::1", "100.64.0.1", "::ffff:10.0.0.1", "0.0.0.0"]
)  # fmt: skip
def test_a_name_of_the_own_network_is_found_out(address: str) -> None:
    for addresses in ((address,), ("93.184.215.14", address)):
        with pytest.raises(AddressRefused):
            pinned("https://harmless.example/x", at(*addresses))


@pytest.mark.parametrize(
    "url", ["http://code.example/x", "git://code.example/x", "ssh://git@code.example/x", "git@code.example:x", "file:///etc",
            "https:///x", "https://[::1", "https://ünï.example/x", "https://code.example:99999/x"],
)  # fmt: skip
def test_only_https_is_read(url: str) -> None:
    with pytest.raises(AddressRefused):
        pinned(url, at("93.184.215.14"))


def test_an_unknown_name_is_said() -> None:
    def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError

    with pytest.raises(GitFailed, match="no host"):
        pinned("https://nobody.example/x", nobody)


def test_git_itself_goes_to_the_pinned_address(tmp_path: Path) -> None:
    """A name that nothing resolves is reached at the address given, and only with the setting: that is what the pin rests on."""
    git = Git(tmp_path, timeout=20, protocols=["http"], settings=["http.curloptResolve=pinned.invalid:9:127.0.0.1"])
    with pytest.raises(GitFailed) as caught:
        git.run("ls-remote", "http://pinned.invalid:9/x")
    assert "resolve host" not in caught.value.message
    with pytest.raises(GitFailed, match="resolve host"):
        Git(tmp_path, timeout=20, protocols=["http"]).run("ls-remote", "http://pinned.invalid:9/x")


def test_neither_disk_nor_network_of_the_machine_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "resolve", at("127.0.0.1"))
    repo = RepoBuilder(tmp_path / "own")
    repo.commit(ADA, "add", {"LICENSE": MIT, "a.py": "x = 1\n"})
    source = GitSource(cache=tmp_path / "cache", outside=True)
    for target in (str(repo.path), f"file://{repo.path}", "http://127.0.0.1:9/x", "https://localhost/x"):
        with pytest.raises(AddressRefused):
            source.find(target)
