"""A handle as a source: allowed repositories by stars, only the account's own lines, and a reason for each repository left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedna.core.errors import (
    BadReference,
    LicenceNotAllowed,
    LicenceUnknown,
    NoSuchAuthor,
    NotFound,
    TooFewSpans,
)
from clonedna.core.events import silent
from clonedna.core.fakes import FakeSource
from clonedna.core.work import Collection, Found, Identity
from clonedna.sources.github_source import GitHubSource, clones_of, forget
from clonedna.sources.targets import Targets, is_handle
from tests.github_fake import FakeGitHub, Fault, serving
from tests.github_world import Repository
from tests.repos import ADA, BOB, MIT, RepoBuilder
from tests.unit.sources.github_people import NOREPLY, TOKEN, client, function, world
from tests.values import FOUND, collection


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests keep clones, so that most only fetch."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[FakeGitHub]:
    with serving(world(home / "work"), home / "served") as made:
        yield made


@pytest.fixture
def fake(server: FakeGitHub, home: Path) -> FakeGitHub:
    """The server as it was at first."""
    server.world, server.faults, server.asked = world(home / "work"), [], []
    server.world.noreply = "users.noreply.127.0.0.1"
    return server


def source(fake: FakeGitHub, home: Path, **changes: object) -> GitHubSource:
    return GitHubSource(lambda: client(fake, home, token=TOKEN), cache=home / "clones", **changes)  # type: ignore[arg-type]


def collected(made: GitHubSource, found: Found, *who: Identity, licences: tuple[str, ...] = ("MIT",)) -> Collection:
    authors = who or tuple(share.identity for share in found.repository.authors)
    return made.collect(
        found, authors, licences=licences, owned_share=0.8, max_files=100, max_changes=10, emit=silent
    )  # fmt: skip


def add(fake: FakeGitHub, repo: RepoBuilder, name: str, **changes: object) -> Repository:
    number = 10 + len(fake.world.repositories)
    made = Repository(number, fake.world.accounts[0], name, repo.path, **{"stars": 3, **changes})  # type: ignore[arg-type]
    fake.world.repositories.append(made)
    return made


def cloned(fake: FakeGitHub) -> set[str]:
    return {one.path.split(".git/")[0].lstrip("/") for one in fake.asked if ".git/" in one.path}


def test_an_account_is_found_without_cloning(fake: FakeGitHub, home: Path) -> None:
    found = source(fake, home).find("@ada-example")
    assert found.account is not None
    assert (found.account.id, found.account.login) == (1001, "ada-example")
    assert [part.name for part in found.repository.parts] == ["beads", "abacus"]
    assert all(len(part.commit) == 40 for part in found.repository.parts)
    assert found.repository.licence.spdx == "MIT"
    emails = {share.identity.email: share.commits for share in found.repository.authors}
    assert emails == {
        "ada@example.org": 2,
        "1001+ada-example@users.noreply.127.0.0.1": 1,
        "ada-example@users.noreply.127.0.0.1": 0,
    }
    assert cloned(fake) == set()


def test_only_the_accounts_lines_with_their_repository(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    assert {(span.repository, span.name) for span in result.spans} == {
        ("abacus", "sums"),
        ("abacus", "carry"),
        ("beads", "beads"),
    }
    assert {span.url for span in result.spans} == {f"{fake.web}/ada-example/abacus", f"{fake.web}/ada-example/beads"}
    assert all(span.licence == "MIT" and span.owned == 1.0 for span in result.spans)
    assert [part.name for part in result.repository.parts] == ["beads", "abacus"]
    assert collected(made, made.find("ada-example")) == result
    assert TOKEN not in result.model_dump_json()


def test_lines_are_from_the_commit_that_was_found(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "moving")
    repo.commit(ADA, "add one", {"LICENSE": MIT, "one.py": function("one", 2)})
    add(fake, repo, "moving", stars=50)
    made = source(fake, home, most=1)
    found = made.find("ada-example")
    repo.commit(ADA, "add two", {"two.py": function("two", 5)})
    assert {span.name for span in collected(made, found).spans} == {"one"}
    assert {span.name for span in collected(made, made.find("ada-example")).spans} == {"one", "two"}


def test_a_mailmap_cannot_give_other_peoples_lines_to_the_account(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "claimed")
    repo.commit(BOB, "add bobs", {"LICENSE": MIT, "bobs.py": function("bobs", 7)})
    repo.commit(
        ADA, "claim it", {".mailmap": "Ada Example <ada@example.org> <bob@example.org>\n", "own.py": function("own", 9)}
    )
    add(fake, repo, "claimed", stars=50)
    made = source(fake, home, most=1)
    assert {span.name for span in collected(made, made.find("ada-example")).spans} == {"own"}


def test_nobody_else_can_be_asked_for_under_an_account(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    found = made.find("ada-example")
    with pytest.raises(NoSuchAuthor) as error:
        collected(made, found, Identity.parse(BOB))
    assert "bob@example.org" not in f"{error.value.message}{error.value.hint}"
    spans = collected(made, found, Identity.parse(BOB), Identity.parse(NOREPLY)).spans
    assert {span.name for span in spans} == {"carry"}


def test_what_the_api_does_not_allow_is_not_cloned(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "copyleft")
    repo.commit(ADA, "add it", {"it.py": function("it", 1)})
    add(fake, repo, "copyleft", spdx="GPL-3.0")
    add(fake, repo, "silent", spdx=None)
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    assert {(one.path, one.reason, one.detail) for one in result.refusals} == {
        ("ada-example/copyleft", "licence_not_allowed", "GPL-3.0"), ("ada-example/silent", "licence_unknown", ""),
    }  # fmt: skip
    assert cloned(fake) == {"ada-example/abacus", "ada-example/beads"}
    assert {part.name for part in result.repository.parts} == {"abacus", "beads"}


def test_a_licence_can_be_allowed_beside_the_settings(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "isc")
    repo.commit(ADA, "add it", {"it.py": function("it", 1)})
    add(fake, repo, "isc", spdx="ISC")
    made = source(fake, home)
    spans = collected(made, made.find("ada-example"), licences=("MIT", "ISC")).spans
    assert {span.licence for span in spans if span.repository == "isc"} == {"ISC"}


def test_what_a_repository_says_of_itself_is_the_apis_word_or_its_files(
    fake: FakeGitHub, home: Path, tmp_path: Path
) -> None:
    told, silent_one = RepoBuilder(tmp_path / "told"), RepoBuilder(tmp_path / "silent")
    for repo, number in ((told, 1), (silent_one, 3)):
        readme = f"# It\n\nSorts shells by {repo.path.name} colours.\n"
        repo.commit(ADA, "add it", {"LICENSE": MIT, "it.py": function("it", number), "README.md": readme})
    add(fake, told, "told", description="Counts <b>beads</b> | https://x.org")
    add(fake, silent_one, "silent")
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    said = {part.name: part.description for part in result.repository.parts}
    assert (said["told"], said["silent"]) == ("Counts beads", "Sorts shells by silent colours.")


def test_files_decide_where_the_api_does_not_know(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    known = RepoBuilder(tmp_path / "known")
    known.commit(ADA, "add it", {"LICENSE": MIT, "it.py": function("it", 1)})
    rider = RepoBuilder(tmp_path / "rider")
    rider.commit(ADA, "add that", {"LICENSE": "Commons Clause\n\n" + MIT, "that.py": function("that", 3)})
    add(fake, known, "known", spdx="NOASSERTION")
    add(fake, rider, "rider", spdx="MIT")
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    assert {span.repository for span in result.spans} == {"known", "abacus", "beads"}
    assert [one.reason for one in result.refusals if one.path == "ada-example/rider"] == ["licence_unknown"]


def test_without_a_repository_that_may_be_used_it_ends(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    with pytest.raises(LicenceNotAllowed):
        collected(made, made.find("ada-example"), licences=("ISC",))
    for one in fake.world.repositories:
        one.spdx = None
    with pytest.raises(LicenceUnknown):
        collected(made, made.find("ada-example"))


def test_deleted_and_blocked_between_finding_and_reading(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    found = made.find("ada-example")
    fake.world.repositories.pop(0)
    result = collected(made, found)
    assert {span.repository for span in result.spans} == {"beads"}
    assert [(one.path, one.reason) for one in result.refusals] == [("ada-example/abacus", "git_failed")]


def test_a_history_that_was_rewritten_since_is_refused(fake: FakeGitHub, home: Path, tmp_path: Path) -> None:
    made = source(fake, home, most=1)
    repo = RepoBuilder(tmp_path / "rewritten")
    repo.commit(ADA, "add it", {"LICENSE": MIT, "it.py": function("it", 1)})
    add(fake, repo, "rewritten", stars=50)
    found = made.find("ada-example")
    repo.git("commit", "-q", "--amend", "-m", "add it again")
    with pytest.raises(NoSuchAuthor, match="git_failed"):
        collected(made, found)


def test_a_renamed_repository_is_read_under_the_name_that_was_found(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    found = made.find("ada-example")
    fake.world.rename("ada-example/abacus", "counting-frame")
    assert {span.repository for span in collected(made, found).spans} == {"abacus", "beads"}


def test_a_truncated_tree_changes_nothing_since_trees_come_from_the_clone(fake: FakeGitHub, home: Path) -> None:
    for one in fake.world.repositories:
        one.truncate = True
    with client(fake, home) as github:
        assert github.get("repos/ada-example/abacus/git/trees/main", recursive=1)["truncated"] is True
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    assert {span.name for span in result.spans} == {"sums", "carry", "beads"}
    assert sum("/git/trees/" in one.path for one in fake.asked) == 1


def test_repositories_are_refused_with_their_reason_and_the_rest_is_read(fake: FakeGitHub, home: Path) -> None:
    fake.faults.append(Fault("repos/ada-example/beads", "status", status=451))
    made = source(fake, home)
    result = collected(made, made.find("ada-example"))
    assert ("ada-example/beads", "blocked") in {(one.path, one.reason) for one in result.refusals}
    assert {span.repository for span in result.spans} == {"abacus"}


def test_files_and_changes_are_bounded_over_all(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    found = made.find("ada-example")
    authors = [share.identity for share in found.repository.authors]
    result = made.collect(found, authors, licences=["MIT"], owned_share=0.8, max_files=1, max_changes=0, emit=silent)
    assert result.files_used == 1


def test_an_account_without_work_of_its_own(fake: FakeGitHub, home: Path) -> None:
    with pytest.raises(TooFewSpans):
        source(fake, home).find("bob-sample")
    with pytest.raises(NotFound):
        source(fake, home).find("nobody-here")
    with pytest.raises(BadReference):
        source(fake, home).find("@not/a/login")


def test_what_was_cloned_of_an_account_can_be_forgotten(fake: FakeGitHub, home: Path) -> None:
    made = source(fake, home)
    found = made.find("ada-example")
    collected(made, found)
    assert found.account is not None
    kept = clones_of(home / "clones", found.account)
    assert len(list(kept.glob("clone-*.lock"))) >= 2
    forget(home / "clones", found.account.model_copy(update={"login": "ada-renamed"}))
    assert not kept.exists()
    assert collected(made, found).spans


# Which source a target gets.


def test_a_bare_handle_is_told_from_paths_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abacus").mkdir()
    assert [one for one in ("ada-example", "@abacus", "github:ada-example") if not is_handle(one)] == []
    assert [
        one for one in ("abacus", "./ada-example", "/tmp/x", "https://git.example/a", "git@git.example:a", "a.git", "", str(tmp_path)) if is_handle(one)
    ] == []  # fmt: skip


def test_each_target_goes_to_its_source_and_the_client_is_made_late(fake: FakeGitHub, home: Path) -> None:
    asked: list[str] = []

    def github() -> GitHubSource:
        asked.append("github")
        return source(fake, home)

    targets = Targets(FakeSource(FOUND, collection(3)), github, FakeSource(FOUND, collection(2)))
    assert targets.find("./somewhere") == FOUND
    ada = FOUND.repository.authors[0].identity
    bounds = {"licences": ["MIT"], "owned_share": 0.8, "max_files": 10, "max_changes": 1, "emit": silent}
    assert len(targets.collect(FOUND, [ada], **bounds).spans) == 3  # type: ignore[arg-type]
    assert asked == []
    found = targets.find("ada-example")
    assert {span.repository for span in targets.collect(found, [ada], **bounds).spans} == {"abacus", "beads"}  # type: ignore[arg-type]
