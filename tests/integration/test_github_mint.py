"""`dna mint HANDLE` against the fake GitHub: real API client, clones, blame, filters and papers; the engine is the fake one.

Beside it the commands that ask GitHub, as a person runs them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.jobs import Jobs
from clonedna.app.people import People
from clonedna.app.settings import Settings
from clonedna.core.block import SourceRecord
from clonedna.core.errors import ConsentMissing, NotFound
from clonedna.core.events import silent
from tests.forked import popen
from tests.github_fake import FakeGitHub, serving
from tests.github_world import Account, Repository, World
from tests.parts import FakeEngineParts, order
from tests.repos import ADA, BOB, MIT, RepoBuilder
from tests.values import span

NAMES = ("abacus", "beads", "counter")


class GitHubParts(FakeEngineParts):
    def __init__(self, home: Path, url: str) -> None:
        super().__init__(Settings(home=home, encoder="hashed", min_free_bytes=0, github_url=url))


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGitHub]:
    """Ada's three repositories of 20 functions each; in each of them Bob wrote two."""
    folder = tmp_path_factory.mktemp("github")
    ada = Account(1001, "ada-example", "Ada Example", ("ada@example.org",), bio="ada@example.org counts")
    world = World([ada, Account(1002, "bob-sample", "Bob Sample", ("bob@example.org",))])
    for number, name in enumerate(NAMES):
        repo = RepoBuilder(folder / name)
        files = {
            f"{name}/part_{i}.py": "\n\n".join(span(100 * number + 4 * i + j).text for j in range(4)) for i in range(5)
        }
        repo.commit(ADA, "add all the parts", {"LICENSE": MIT, **files})
        repo.commit(
            BOB, "add mine as well", {f"{name}/bobs.py": "\n\n".join(span(900 + 2 * number + j).text for j in range(2))}
        )
        world.repositories.append(Repository(number + 1, ada, name, repo.path, stars=number))
    with serving(world, folder / "served") as made:
        yield made


def dna(fake: FakeGitHub, home: Path, *arguments: str) -> tuple[int, Any]:
    """Exit status and the JSON that was printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")}
    environment |= {"DNA_HOME": str(home), "DNA_GITHUB_URL": fake.url, "XDG_CONFIG_HOME": str(home / "config")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = popen("clonedna.cli.main", *arguments, "--json", env=environment, cwd=home, **streams)
    out, _ = process.communicate(timeout=120)
    return process.returncode, json.loads(out.splitlines()[-1])


def test_a_handle_becomes_a_block_that_names_each_repository(fake: FakeGitHub, tmp_path: Path) -> None:
    parts = GitHubParts(tmp_path, fake.url)
    identities = tuple(share.identity for share in parts.source.find("ada-example").repository.authors)
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order(target="ada-example", authors=identities, consent="local-only"))
    reference = jobs.run(workspace, silent)
    assert reference.name == "ada-example"
    assert parts.registry.resolve(reference.id).candidate.handle == "ada-example"
    block = parts.store.path(reference.id)
    record = SourceRecord.model_validate_json((block / "sources.json").read_bytes())
    assert record.repository is not None
    assert [part.name for part in record.repository.parts] == ["counter", "beads", "abacus"]
    assert {file.repository for file in record.files} == {f"{fake.web}/ada-example/{name}" for name in NAMES}
    heads = {f"{fake.web}/{one.full_name}": one.resolve("HEAD") for one in fake.world.repositories}
    pairs = [json.loads(line) for line in (block / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) >= 40
    for pair in pairs:
        origin = pair["provenance"]
        assert origin["commit"] == heads[origin["url"]]
        repository = fake.world.repository(f"ada-example/{origin['repository']}")
        assert repository is not None
        lines = repository.run("show", f"{origin['commit']}:{origin['path']}").decode().split("\n")
        assert "\n".join(lines[origin["start"] - 1 : origin["end"]]).strip() == pair["completion"].strip()
        assert "bobs" not in origin["path"]
    held = {pair["provenance"]["url"] for pair in pairs if pair["split"] == "holdout"}
    trained = {pair["provenance"]["url"] for pair in pairs if pair["split"] == "train"}
    assert len(held) == 1
    assert not held & trained
    everything = b"".join(path.read_bytes() for path in block.iterdir() if path.is_file())
    assert b"@example.org" not in everything
    assert b"users.noreply" not in everything


def test_without_consent_a_handle_is_refused_before_anything_is_cloned(fake: FakeGitHub, tmp_path: Path) -> None:
    parts = GitHubParts(tmp_path, fake.url)
    identities = tuple(share.identity for share in parts.source.find("ada-example").repository.authors)
    fake.asked.clear()
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order(target="ada-example", authors=identities))
    with pytest.raises(ConsentMissing) as error:
        jobs.run(workspace, silent)
    assert error.value.hint
    assert not any(".git/" in one.path for one in fake.asked)


def test_the_command_takes_the_accounts_own_identities(fake: FakeGitHub, tmp_path: Path) -> None:
    status, said = dna(fake, tmp_path, "mint", "ada-example")
    assert (status, said["error"]["code"]) == (4, "consent_missing")
    status, said = dna(fake, tmp_path, "mint", "nobody-here")
    assert (status, said["error"]["code"]) == (3, "not_found")


def test_headhunt_and_its_side_list(fake: FakeGitHub, tmp_path: Path) -> None:
    status, found = dna(fake, tmp_path, "headhunt", "example")
    assert status == 0
    assert [one["account"]["login"] for one in found["people"]] == ["ada-example"]
    status, kept = dna(fake, tmp_path, "headhunt", "--keep", "ada-example")
    assert [one["id"] for one in kept["accounts"]] == [1001]
    status, said = dna(fake, tmp_path, "headhunt")
    assert (status, said["error"]["code"]) == (2, "bad_input")


def test_an_account_that_was_renamed_is_kept_once(fake: FakeGitHub, tmp_path: Path) -> None:
    people = People(GitHubParts(tmp_path, fake.url))
    people.keep_handle("ada-example")
    people.keep_handle("bob-sample")
    fake.world.accounts[0].login = "ada-renamed"
    try:
        kept = people.keep_handle("ada-renamed")
    finally:
        fake.world.accounts[0].login = "ada-example"
    assert [one.login for one in kept.accounts] == ["bob-sample", "ada-renamed"]
    assert [one.login for one in people.drop("@BOB-sample").accounts] == ["ada-renamed"]
    with pytest.raises(NotFound):
        people.drop("bob-sample")


def test_an_account_is_forgotten_with_its_clones_and_answers(fake: FakeGitHub, tmp_path: Path) -> None:
    parts = GitHubParts(tmp_path, fake.url)
    found = parts.source.find("ada-example")
    authors = [share.identity for share in found.repository.authors]
    bounds = {"licences": ["MIT"], "owned_share": 0.8, "max_files": 10, "max_changes": 1, "emit": silent}
    assert parts.source.collect(found, authors, **bounds).spans  # type: ignore[arg-type]
    places = [tmp_path / "clones", tmp_path / "github"]
    assert all(any(place.rglob("*.sqlite")) or any(place.rglob("*.pack")) for place in places)
    parts.forget_account(found.account)
    assert not any(path.suffix in (".sqlite", ".pack", ".idx") for place in places for path in place.rglob("*"))


def test_the_profile_is_asked_through_the_settings(fake: FakeGitHub, tmp_path: Path) -> None:
    found = People(GitHubParts(tmp_path, fake.url)).github_profile("ada-example")
    assert [one.name for one in found.repositories] == ["counter", "beads", "abacus"]
    assert "@example.org" not in found.model_dump_json()
