"""Facts of an account: what was read and counted, by whom GitHub says a commit is, and a word for each repository that was left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clonedna.core.errors import BadReference, DnaError, InputError, NotFound, Unavailable
from clonedna.core.people import CommitSubject, GithubProfile
from clonedna.sources.github import handle_of, profile, read_account
from clonedna.sources.github_counts import Seen, rhythm, theme_of, themes
from clonedna.sources.github_headhunt import headhunt, query_of
from tests.github_fake import FakeGitHub, Fault, serving
from tests.github_world import Account, Repository
from tests.repos import BOB, MIT, RepoBuilder
from tests.unit.sources.github_people import TOKEN, client, function, world


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("github") / "work"


@pytest.fixture
def fake(work: Path, tmp_path: Path) -> Iterator[FakeGitHub]:
    with serving(world(work), tmp_path / "served") as made:
        yield made


def ada(fake: FakeGitHub, home: Path, **changes: object) -> GithubProfile:
    with client(fake, home) as github:
        return profile(github, "ada-example", **changes)  # type: ignore[arg-type]


def test_what_is_read_and_counted(fake: FakeGitHub, tmp_path: Path) -> None:
    found = ada(fake, tmp_path)
    assert (found.account.id, found.account.login, found.account.name) == (1001, "ada-example", "Ada Example")
    assert found.websites == ("https://ada.example.org",)
    assert (found.location, found.followers, found.public_repositories) == ("Utrecht", 12, 2)
    assert [(one.name, one.stars, one.licence) for one in found.repositories] == [
        ("beads", 9, "MIT"),
        ("abacus", 7, "MIT"),
    ]
    assert found.languages == {"Python": 1000, "C": 30}
    assert found.topics == {"counting": 2, "maths": 1}
    abacus = found.repositories[1]
    assert [one.subject for one in abacus.subjects] == ["fix: carry the one", "feat: add sums"]
    assert (abacus.commits_seen, abacus.all_commits) == (2, True)
    assert found.rhythm.commits == 3
    assert found.rhythm.commits_per_week == 3.0
    assert {one.theme: one.n for one in found.themes} == {"fixing": 3, "new features": 3, "documentation": 3}


def test_no_address_stands_in_a_fact_but_the_lines_can_be_found(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        found = read_account(github, "ada-example")
    text = found.profile.model_dump_json()
    assert "@example.org" not in text
    assert "noreply" not in text
    assert "Write to [e-mail]" in found.profile.bio
    assert found.profile.repositories[0].subjects[0].subject == "docs: write to [e-mail]"
    assert found.addresses == {"ada@example.org": 2, "1001+ada-example@users.noreply.127.0.0.1": 1}


def test_a_secret_in_a_text_takes_the_whole_text_out(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.world.accounts[0].bio = f"my token is {'ghp_' + 'a1B2' * 9}"
    assert ada(fake, tmp_path).bio == ""


def test_names_of_strangers_are_one_printable_line(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.world.accounts[0].name = "Ada\x1b[31m\n\tExample"
    fake.world.accounts[0].blog = "javascript:alert(1)"
    found = ada(fake, tmp_path)
    assert found.account.name == "Ada [31m Example"
    assert found.websites == ()


def test_whose_a_commit_is_github_says_by_number(fake: FakeGitHub, tmp_path: Path) -> None:
    """Even where the listing's filter lets others through, and where an address is no longer the account's."""
    fake.world.strict_filter = False
    with client(fake, tmp_path) as github:
        assert "bob@example.org" not in read_account(github, "ada-example").addresses
    fake.world.accounts[0].emails = ()
    found = ada(fake, tmp_path)
    assert [one.commits_seen for one in found.repositories] == [0, 1]
    assert found.repositories[0].subjects == ()


def test_each_repository_that_is_left_out_has_a_word(fake: FakeGitHub, tmp_path: Path) -> None:
    owner, git = fake.world.accounts[0], fake.world.repositories[0].git
    fake.world.repositories += [
        Repository(3, owner, "forked", git, fork=True), Repository(4, owner, "hollow", None), Repository(5, owner, "secret-plan", git, private=True),
        Repository(6, owner, "blocked", git, stars=20), Repository(7, owner, "vanished", git, stars=30),
        Repository(8, owner, "heavy", git, kilobytes=5000), Repository(9, owner, "late", git, stars=1), Repository(10, owner, "bare", git, stars=40),
    ]  # fmt: skip
    fake.world.blocked.add("ada-example/blocked")
    fake.faults += [
        Fault("repos/ada-example/vanished", "status", status=404),
        Fault("repos/ada-example/bare/commits", "status", status=409),
    ]
    found = ada(fake, tmp_path, most=5, max_kilobytes=4000)
    assert found.refused == {
        "ada-example/forked": "fork", "ada-example/hollow": "empty", "ada-example/blocked": "blocked", "ada-example/vanished": "gone",
        "ada-example/heavy": "too_large", "ada-example/late": "over_max_repositories", "ada-example/bare": "empty",
    }  # fmt: skip
    assert [one.name for one in found.repositories] == ["beads", "abacus"]


def test_the_most_starred_come_from_all_pages(fake: FakeGitHub, tmp_path: Path) -> None:
    owner, git = fake.world.accounts[0], fake.world.repositories[0].git
    fake.world.repositories += [Repository(100 + i, owner, f"small-{i}", git) for i in range(120)]
    fake.world.repositories.append(Repository(999, owner, "last", git, stars=1000))
    assert [one.name for one in ada(fake, tmp_path, most=2).repositories] == ["last", "beads"]


def test_a_renamed_repository_is_followed(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        before = github.get("repos/ada-example/abacus/languages")
        fake.world.rename("ada-example/abacus", "counting-frame")
        assert github.get("repos/ada-example/abacus/languages") == before
        assert len(list(github.pages("repos/ada-example/abacus/commits", 5))) == 3
    assert fake.paths(301) == ["/repos/ada-example/abacus/languages", "/repos/ada-example/abacus/commits"]
    assert [one.name for one in ada(fake, tmp_path).repositories] == ["beads", "counting-frame"]


def test_at_most_25_subjects_and_merges_are_not_work(fake: FakeGitHub, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "long")
    for number in range(30):
        repo.commit("Ada Example <ada@example.org>", f"add part {number}", {"a.py": f"x = {number}\n", "LICENSE": MIT})
    repo.git("checkout", "-q", "-b", "side", "HEAD~1")
    repo.commit("Ada Example <ada@example.org>", "beside", {"b.py": "y = 1\n"})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "Merge branch side", "side", author="Ada Example <ada@example.org>")
    fake.world.repositories.append(Repository(3, fake.world.accounts[0], "long", repo.path, stars=50))
    found = ada(fake, tmp_path).repositories[0]
    assert len(found.subjects) == 25
    assert found.commits_seen == 31
    assert not any(one.subject.startswith("Merge") for one in found.subjects)


@pytest.mark.parametrize("handle", ["", "-ada", "ada-", "ada example", "ada/abacus", "a" * 40, "../users", "ada--x"])
def test_what_is_no_login_is_not_asked_for(fake: FakeGitHub, tmp_path: Path, handle: str) -> None:
    with client(fake, tmp_path) as github, pytest.raises(BadReference):
        profile(github, handle)
    assert fake.asked == []


def test_a_login_may_be_marked() -> None:
    assert [handle_of(text) for text in ("@ada-example", "github:ada-example", "ada-example")] == ["ada-example"] * 3


def test_nobody_and_organisations(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        with pytest.raises(NotFound):
            profile(github, "nobody-here")
        with pytest.raises(InputError, match="Organization"):
            profile(github, "count-team")


def test_an_answer_of_another_shape_is_an_error_of_ours(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.world.accounts[0].id = -5
    with client(fake, tmp_path) as github, pytest.raises(Unavailable, match="id"):
        profile(github, "ada-example")


def test_with_a_token_the_same_is_found_in_fewer_questions(fake: FakeGitHub, tmp_path: Path) -> None:
    owner, git = fake.world.accounts[0], fake.world.repositories[0].git
    fake.world.repositories += [Repository(3, owner, "forked", git, fork=True), Repository(4, owner, "hollow", None)]
    plain = ada(fake, tmp_path)
    fake.asked.clear()
    with client(fake, tmp_path / "another", token=TOKEN) as github:
        assert profile(github, "ada-example") == plain
    assert "/api/graphql" in fake.paths()
    assert "/users/ada-example/repos" not in fake.paths()


# Counting.


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, hours=hour)


def test_commits_a_week_are_over_the_time_that_is_known_everywhere() -> None:
    whole = Seen((at(0), at(50), at(70)), complete=True)
    cut = Seen((at(56), at(63), at(70)), complete=False)
    found = rhythm([whole, cut])
    assert (found.commits, found.commits_per_week) == (4, 2.0)
    assert (found.since, found.until) == ("2026-02-26T09:00:00Z", "2026-03-12T09:00:00Z")


def test_the_peak_hour_is_utc_and_of_equals_the_earliest() -> None:
    assert rhythm([Seen((at(0, 22), at(1, 22), at(2, 7), at(3, 7), at(4, 8)), complete=True)]).peak_hour_utc == 7


def test_without_commits_there_is_no_rhythm() -> None:
    found = rhythm([Seen((), complete=True)])
    assert (found.commits_per_week, found.peak_hour_utc, found.commits) == (None, None, 0)


@pytest.mark.parametrize(
    ("subject", "theme"),
    [("feat(core): count", "new features"), ("fix!: off by one", "fixing"), ("Add a frame", "new features"), ("addresses", None),
     ("chore: tidy", "build and release"), ("Speed up sums", "performance"), ("abacus: fix a bead", "fixing"), ("Hello", None)],
)  # fmt: skip
def test_a_theme_is_what_the_first_words_name(subject: str, theme: str | None) -> None:
    assert theme_of(subject) == theme


def test_shares_are_of_all_subjects_and_name_their_commits() -> None:
    subjects = [
        CommitSubject(commit=f"{i:040x}", subject=text, authored_at="")
        for i, text in enumerate(["fix a", "fix b", "what", "add c"])
    ]
    first = themes(subjects)[0]
    assert (first.theme, first.count, first.share, first.n, first.commits) == (
        "fixing",
        2,
        0.5,
        4,
        (f"{0:040x}", f"{1:040x}"),
    )
    assert themes([]) == ()


# The headhunt.


def test_people_are_found_by_words_and_role(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        found = headhunt(github, "location:utrecht", None, 10)
        assert [one.account.login for one in found.people] == ["ada-example"]
        (one,) = found.people
        assert (one.stars, one.languages, one.top) == (16, ("Python",), ("ada-example/beads", "ada-example/abacus"))
        assert [one.account.id for one in headhunt(github, "", "pm", 10).people] == [1002]
        assert headhunt(github, "nobody-at-all", "designer", 10).people == ()
    assert "@example.org" not in found.model_dump_json()


def test_the_query_says_what_was_sent() -> None:
    assert query_of("language:python", "swe") == "language:python repos:>=5 type:user"
    assert query_of("", "designer") == "designer in:bio type:user"
    for query in ("", "x" * 201, "type:org", "a\x00b"):
        with pytest.raises(InputError):
            query_of(query, None)


def test_somebody_who_is_gone_meanwhile_does_not_stop_the_search(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.world.accounts.append(Account(1004, "cleo-example", "Cleo"))
    fake.faults.append(Fault("users/ada-example$", "status", status=404))
    with client(fake, tmp_path) as github:
        found = headhunt(github, "example", None, 10)
    assert [one.account.login for one in found.people] == ["cleo-example"]
    assert found.refused == {"ada-example": "not_found"}


def test_a_limit_stops_it_with_its_own_error(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("search/users", "primary", seconds=3000))
    with client(fake, tmp_path, token=TOKEN) as github, pytest.raises(DnaError) as error:
        headhunt(github, "example", None, 10)
    assert error.value.code == "overloaded"


def test_bobs_commits_are_bobs(fake: FakeGitHub, tmp_path: Path) -> None:
    repo = RepoBuilder(tmp_path / "own")
    repo.commit(BOB, "add mine", {"LICENSE": MIT, "mine.py": function("mine", 3)})
    fake.world.repositories.append(Repository(3, fake.world.accounts[1], "own", repo.path))
    with client(fake, tmp_path) as github:
        assert profile(github, "bob-sample").repositories[0].commits_seen == 1
