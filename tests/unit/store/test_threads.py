"""Threads, messages and teams as rows: order, pages, numbers given once, bounds, and what goes with what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from clonedna.core.chat import Bound, Candidate
from clonedna.core.errors import InputError, NotFound
from clonedna.core.people import Account
from clonedna.store import teams as teams_module
from clonedna.store import threads as threads_module
from clonedna.store.database import Database
from clonedna.store.teams import SqlTeams, new_candidate_id
from clonedna.store.threads import MessageRow, SqlThreads, moment
from tests.databases import KINDS, new_url

PERSONA = Bound(name="Ada", block="ada@1.0.0", block_id="a" * 64, bound_at="2026-01-01T00:00:00Z")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(new_url(request.param, tmp_path))


@pytest.fixture
def threads(database: Database) -> SqlThreads:
    return SqlThreads(database)


@pytest.fixture
def teams(database: Database) -> SqlTeams:
    return SqlTeams(database)


def candidate(number: int, **changes: object) -> Candidate:
    account = Account(id=number, login=f"person-{number}")
    made = Candidate(
        id=new_candidate_id(), origin="headhunt", created_at=moment(), handle=account.login, account=account
    )
    return made.model_copy(update=changes)


def test_messages_are_numbered_and_read_in_pages(threads: SqlThreads) -> None:
    thread = threads.create("sums", model="ada")
    first = threads.add(thread.id, "user", "one")
    threads.add(thread.id, "assistant", "two", reply_to=first.id, answer="{}")
    threads.add(thread.id, "user", "three")
    assert [(m.number, m.role, m.text, m.reply_to) for m in threads.messages(thread.id, limit=2)] == [
        (1, "user", "one", None), (2, "assistant", "two", first.id)
    ]  # fmt: skip
    assert [m.text for m in threads.messages(thread.id, limit=9, after=2)] == ["three"]
    assert [m.text for m in threads.last(thread.id, 2)] == ["two", "three"]
    assert threads.get(thread.id).messages == 3


def test_threads_are_listed_last_used_first_page_by_page(threads: SqlThreads) -> None:
    made = [threads.create(f"t{n}") for n in range(5)]
    threads.add(made[1].id, "user", "again")
    seen: list[str] = []
    after: str | None = None
    while True:
        page = threads.page(limit=2, after=after)
        seen += [one.title for one in page.threads]
        after = page.next
        if after is None:
            break
    assert seen == ["t1", "t4", "t3", "t2", "t0"]
    assert threads.page(limit=9).threads[0].messages == 1
    assert [one.title for one in threads.page(limit=9, team="team-x").threads] == []


@pytest.mark.parametrize("text", ["", "x", "~", "2026~"])
def test_a_cursor_that_no_page_gave_is_refused(threads: SqlThreads, text: str) -> None:
    with pytest.raises(InputError):
        threads.page(limit=2, after=text)


@pytest.mark.parametrize(
    "work",
    [
        lambda t: t.get("thread-x"), lambda t: t.rename("thread-x", "y"), lambda t: t.delete("thread-x"),
        lambda t: t.add("thread-x", "user", "y"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(threads: SqlThreads, work: Callable[[SqlThreads], object]) -> None:
    with pytest.raises(NotFound) as caught:
        work(threads)
    assert caught.value.hint


def test_a_deleted_thread_takes_its_messages_along(threads: SqlThreads) -> None:
    thread = threads.create("a")
    threads.add(thread.id, "user", "one")
    threads.delete(thread.id)
    with threads._database.session() as session:
        assert session.scalar(select(func.count()).select_from(MessageRow)) == 0


def test_an_owner_sees_and_changes_no_other_s(threads: SqlThreads) -> None:
    ada, bob = (SqlThreads(threads._database, name) for name in ("ada", "bob"))
    thread = ada.create("hers")
    ada.add(thread.id, "user", "one")
    for act in (
        lambda: bob.get(thread.id), lambda: bob.messages(thread.id, limit=5), lambda: bob.last(thread.id, 5),
        lambda: bob.rename(thread.id, "his"), lambda: bob.delete(thread.id), lambda: bob.add(thread.id, "user", "two"),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            act()
    assert (bob.page(limit=5).threads, len(ada.page(limit=5).threads), len(threads.page(limit=5).threads)) == ((), 1, 1)
    assert len(threads.messages(thread.id, limit=5)) == 1


def test_many_writers_get_a_number_each(threads: SqlThreads) -> None:
    thread = threads.create("a")

    def write() -> None:
        for _ in range(5):
            threads.add(thread.id, "user", "x")

    workers = [threading.Thread(target=write) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [m.number for m in threads.messages(thread.id, limit=99)] == list(range(1, 21))


def test_threads_and_messages_are_bounded(threads: SqlThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = threads.create("a")
    monkeypatch.setattr(threads_module, "MOST_MESSAGES", 2)
    monkeypatch.setattr(threads_module, "MOST_THREADS", 1)
    question = threads.add(thread.id, "user", "one")
    threads.add(thread.id, "user", "two")
    with pytest.raises(InputError):
        threads.add(thread.id, "user", "three")
    assert threads.add(thread.id, "assistant", "an answer that was begun is kept", reply_to=question.id).number == 3
    with pytest.raises(InputError):
        threads.create("b")


def test_slots_keep_their_order_and_roles_may_come_twice(teams: SqlTeams) -> None:
    team = teams.create("Abacus", ["pm", "swe", "swe"])
    team = teams.add_slot(team.id, "any")
    assert [one.role for one in team.slots] == ["pm", "swe", "swe", "any"]
    left = teams.drop_slot(team.id, team.slots[1].id)
    assert [one.id for one in left.slots] == [one.id for one in team.slots if one.id != team.slots[1].id]
    assert teams.add_slot(team.id, "designer").slots[-1].role == "designer"


def test_the_same_person_is_one_candidate_of_a_slot(teams: SqlTeams) -> None:
    team = teams.create("Abacus", ["swe", "swe"])
    first, second = (one.id for one in team.slots)
    known = teams.add_candidate(team.id, first, candidate(1))
    again = teams.add_candidate(team.id, first, candidate(1, name="Ada"))
    assert again.id == known.id
    assert [one.name for one in teams.slot(team.id, first).candidates] == ["Ada"]
    teams.add_candidate(team.id, second, candidate(1))
    assert len(teams.slot(team.id, second).candidates) == 1


def test_select_and_clear(teams: SqlTeams) -> None:
    team = teams.create("Abacus", ["swe", "pm"])
    slot, other = (one.id for one in team.slots)
    ada = teams.add_candidate(team.id, slot, candidate(1))
    assert teams.select(team.id, slot, ada.id).selected == ada
    with pytest.raises(NotFound):
        teams.select(team.id, other, ada.id)
    teams.bind(team.id, slot, PERSONA)
    cleared = teams.clear(team.id, slot)
    assert (cleared.candidates, cleared.selected, cleared.persona) == ((), None, PERSONA)
    assert teams.bind(team.id, slot, None).persona is None


def test_a_slot_of_another_team_is_not_found(teams: SqlTeams) -> None:
    mine, theirs = teams.create("A", ["swe"]), teams.create("B", ["swe"])
    with pytest.raises(NotFound):
        teams.slot(mine.id, theirs.slots[0].id)
    with pytest.raises(NotFound):
        teams.add_candidate(mine.id, theirs.slots[0].id, candidate(1))
    assert teams.team_of(theirs.slots[0].id) == theirs


def test_a_deleted_team_takes_everything_of_it_along(teams: SqlTeams) -> None:
    team = teams.create("A", ["swe"])
    slot = team.slots[0].id
    ada = teams.add_candidate(team.id, slot, candidate(1))
    teams.delete(team.id)
    other = teams.create("B", ["swe"])
    for work in (
        lambda: teams.get(team.id), lambda: teams.team_of(slot), lambda: teams.delete(team.id),
        lambda: teams.select(other.id, other.slots[0].id, ada.id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            work()


def test_teams_are_listed_last_changed_first_page_by_page(teams: SqlTeams) -> None:
    made = [teams.create(f"t{n}", []) for n in range(3)]
    teams.rename(made[0].id, "first")
    page = teams.page(limit=2)
    assert [one.name for one in page.teams] == ["first", "t2"]
    assert [one.name for one in teams.page(limit=2, after=page.next).teams] == ["t1"]


def test_teams_slots_and_candidates_are_bounded(teams: SqlTeams, monkeypatch: pytest.MonkeyPatch) -> None:
    team = teams.create("A", ["swe"])
    for name in ("MOST_TEAMS", "MOST_SLOTS", "MOST_CANDIDATES"):
        monkeypatch.setattr(teams_module, name, 1)
    teams.add_candidate(team.id, team.slots[0].id, candidate(1))
    for work in (
        lambda: teams.create("B", []), lambda: teams.add_slot(team.id, "pm"),
        lambda: teams.add_candidate(team.id, team.slots[0].id, candidate(2)),
    ):  # fmt: skip
        with pytest.raises(InputError):
            work()
