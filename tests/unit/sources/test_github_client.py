"""The client asks for nothing twice that did not change, keeps its token to itself, and says what a limit or an error means."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedna.core.errors import (
    BadConfig,
    DnaError,
    InputError,
    NotFound,
    Overloaded,
    Refused,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from clonedna.sources import github_client
from clonedna.sources.github_client import GitHub, forget_answers
from tests.github_fake import FakeGitHub, Fault, serving
from tests.github_world import Account, World
from tests.unit.sources.github_people import TOKEN, client

ADA = "users/ada-example"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeGitHub]:
    accounts = [Account(1001, "ada-example", "Ada Example", keys=[f"ssh-ed25519 AAAA{i}" for i in range(250)])]
    with serving(World(accounts), tmp_path / "served") as made:
        yield made


def statuses(fake: FakeGitHub) -> list[int]:
    return [one.status for one in fake.asked]


def test_what_did_not_change_is_answered_from_the_disk_by_a_later_process(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        first = github.get(ADA)
    with client(fake, tmp_path) as github:
        assert github.get(ADA) == first
        fake.world.accounts[0].name = "Ada Changed"
        assert github.get(ADA)["name"] == "Ada Changed"
    assert statuses(fake) == [200, 304, 200]
    assert fake.asked[1].if_none_match


def test_the_token_is_sent_and_neither_kept_nor_logged(
    fake: FakeGitHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.require_token = TOKEN
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        with client(fake, tmp_path, token=TOKEN) as github:
            assert github.get(ADA)["id"] == 1001
            assert TOKEN not in repr(vars(github))
    assert [one.token for one in fake.asked] == [TOKEN, TOKEN]
    assert statuses(fake) == [200, 304]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "github").rglob("*") if path.is_file())
    assert b"ada-example" in kept
    assert TOKEN.encode() not in kept
    assert TOKEN not in caplog.text


def test_a_token_that_is_not_accepted_is_not_shown(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.require_token = "ghp_another"
    with client(fake, tmp_path, token=TOKEN) as github, pytest.raises(Unauthorised) as error:
        github.get(ADA)
    assert TOKEN not in f"{error.value.message}{error.value.hint}{error.value.facts}"


def test_an_answer_that_points_to_another_host_is_not_followed(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "away", times=1))
    with client(fake, tmp_path, token=TOKEN) as github, pytest.raises(Unavailable, match="another host"):
        github.get(ADA)


def test_a_used_up_limit_says_when_to_ask_again(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "primary", seconds=1800))
    with client(fake, tmp_path) as github, pytest.raises(Overloaded, match="primary") as error:
        github.get(ADA)
    assert 1790 <= int(str(error.value.facts["retry_after"])) <= 1800
    assert "DNA_GITHUB_TOKEN" in error.value.hint
    assert len(fake.asked) == 1


@pytest.mark.parametrize("kind", ["primary", "secondary"])
def test_a_limit_that_ends_soon_is_waited_for(fake: FakeGitHub, tmp_path: Path, kind: str) -> None:
    fake.faults.append(Fault("users/", kind, times=2))
    with client(fake, tmp_path) as github:
        assert github.get(ADA)["id"] == 1001
    assert statuses(fake) == [403, 403, 200]


@pytest.mark.parametrize("status", [403, 429])
def test_a_secondary_limit_is_told_from_a_refusal(fake: FakeGitHub, tmp_path: Path, status: int) -> None:
    fake.faults.append(Fault("users/", "secondary", status=status, seconds=90))
    with client(fake, tmp_path) as github, pytest.raises(Overloaded, match="secondary") as error:
        github.get(ADA)
    assert error.value.facts["retry_after"] == 90


def test_waiting_for_a_limit_ends(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "secondary"))
    with client(fake, tmp_path) as github, pytest.raises(Overloaded):
        github.get(ADA)
    assert len(fake.asked) == 1 + github_client.LIMIT_TRIES


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_in_trouble_is_asked_again(fake: FakeGitHub, tmp_path: Path, status: int) -> None:
    fake.faults.append(Fault("users/", "status", status=status, times=2))
    with client(fake, tmp_path) as github:
        assert github.get(ADA)["id"] == 1001
    assert statuses(fake) == [status, status, 200]
    fake.faults[0].times = 100
    with client(fake, tmp_path) as github, pytest.raises(Unavailable, match=str(status)):
        github.get(ADA)


def test_a_connection_that_ends_is_tried_again(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "drop", times=1))
    with client(fake, tmp_path) as github:
        assert github.get(ADA)["id"] == 1001
    assert statuses(fake) == [0, 200]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InputError), (401, Unauthorised), (403, Refused), (404, NotFound), (410, NotFound), (422, InputError), (451, NotFound)]
)  # fmt: skip
def test_each_status_has_its_error_with_a_next_step(
    fake: FakeGitHub, tmp_path: Path, status: int, kind: type[DnaError]
) -> None:
    fake.faults.append(Fault("users/", "status", status=status))
    with client(fake, tmp_path) as github, pytest.raises(kind) as error:
        github.get(ADA)
    assert type(error.value) is kind
    assert error.value.hint
    assert "made-up fault" not in error.value.message
    assert len(fake.asked) == 1


def test_what_is_no_json_is_an_error_of_ours(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "garbage"))
    with client(fake, tmp_path) as github, pytest.raises(Unavailable, match="no JSON"):
        github.get(ADA)


def test_pages_follow_the_link_header_as_far_as_asked(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        assert [one["id"] for one in github.pages(f"{ADA}/keys", 1000)] == list(range(1, 251))
        assert len(fake.asked) == 3
        assert [one["id"] for one in github.pages(f"{ADA}/keys", 101)] == list(range(1, 102))
        assert len(list(github.pages(f"{ADA}/keys", 7))) == 7
        with pytest.raises(Unavailable, match="no list"):
            list(github.pages(ADA, 5))


def test_an_answer_is_bounded(fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github_client, "MAX_ANSWER", 2000)
    with client(fake, tmp_path) as github:
        assert github.get(ADA)
        with pytest.raises(TooLarge):
            list(github.pages(f"{ADA}/keys", 100))


def test_kept_answers_can_be_forgotten(fake: FakeGitHub, tmp_path: Path) -> None:
    with client(fake, tmp_path) as github:
        github.get(ADA)
    forget_answers(tmp_path / "github")
    assert not any(b"ada-example" in path.read_bytes() for path in (tmp_path / "github").iterdir())
    with client(fake, tmp_path) as github:
        github.get(ADA)
    assert statuses(fake) == [200, 200]


def test_a_packed_answer_is_refused(fake: FakeGitHub, tmp_path: Path) -> None:
    fake.faults.append(Fault("users/", "packed"))
    with client(fake, tmp_path) as github, pytest.raises(Unavailable, match="packed"):
        github.get(ADA)


def test_nobody_there(tmp_path: Path) -> None:
    down = "http://127.0.0.1:9/api/v3"
    with GitHub(url=down, cache=tmp_path, pause=0.01) as github, pytest.raises(Unavailable, match="cannot be reached"):
        github.get(ADA)


@pytest.mark.parametrize(
    "url",
    ["http://github.example/api/v3", "ftp://github.example", "github.example", "https://user:word@github.example", "https://", "http://[::1",
     "https://github.example/?token=1"],
)  # fmt: skip
def test_addresses_that_could_be_listened_to_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadConfig) as error:
        GitHub(url=url, cache=tmp_path)
    assert "word" not in error.value.message


@pytest.mark.parametrize(
    ("url", "host", "web"),
    [("https://api.github.com", "github.com", "https://github.com"),
     ("https://git.example/api/v3", "git.example", "https://git.example"),
     ("http://127.0.0.1:81/api/v3/", "127.0.0.1:81", "http://127.0.0.1:81")],
)  # fmt: skip
def test_where_people_see_it(tmp_path: Path, url: str, host: str, web: str) -> None:
    with GitHub(url=url, cache=tmp_path) as github:
        assert (github.host, github.web) == (host, web)


def test_graphql_speaks_with_a_token_only(fake: FakeGitHub, tmp_path: Path) -> None:
    query = "query($login: String!) { user(login: $login) { databaseId } }"
    with client(fake, tmp_path) as github, pytest.raises(Unauthorised):
        github.graphql(query, {"login": "ada-example"})
    assert fake.asked == []
    with client(fake, tmp_path, token=TOKEN) as github:
        assert github.graphql(query, {"login": "ada-example"})["user"]["databaseId"] == 1001
        with pytest.raises(NotFound):
            github.graphql(query, {"login": "nobody-here"})
