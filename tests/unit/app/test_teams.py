"""Teams: slots, candidates from a search, a handle, a page and a resume, personas, and what may not be bound."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from clonedna.app.teams import (
    MOST_RESUME,
    Binding,
    Choice,
    HuntDone,
    HuntFound,
    HuntOpened,
    HuntPassed,
    TeamOrder,
    Teams,
    _file_name,
)
from clonedna.app.threads import Threads
from clonedna.core.chat import Team
from clonedna.core.errors import (
    AddressRefused,
    BadReference,
    BlockNotFound,
    BlockRejected,
    ConsentMissing,
    DnaError,
    GenomeNotFound,
    InputError,
    NotFound,
)
from tests.github_fake import FakeGitHub, Fault, serving
from tests.serving import ServerParts, add_block
from tests.unit.sources.github_people import world
from tests.unit.store.making import rejected
from tests.values import ADA

RESUME = b"Ada Example\nSUMMARY\nI design storage engines.\nSKILLS\nRust\ngithub.com/ada-example\n"


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Generator[FakeGitHub]:
    folder = tmp_path_factory.mktemp("github")
    with serving(world(folder / "work"), folder / "served") as fake:
        yield fake


@pytest.fixture
def parts(tmp_path: Path, github: FakeGitHub) -> ServerParts:
    github.faults.clear()
    return ServerParts(tmp_path, github_url=github.url, min_free_bytes=0, github_max_wait=1)


@pytest.fixture
def teams(parts: ServerParts) -> Teams:
    return Teams(parts, Threads(parts))


@pytest.fixture
def team(teams: Teams) -> Team:
    return teams.create(TeamOrder(name=" The  abacus ", roles=("any", "pm")))


def refused(kind: type[DnaError], work: Any) -> DnaError:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.hint
    return caught.value


def test_a_team_is_made_with_its_slots_in_order(teams: Teams, team: Team) -> None:
    assert team.name == "The abacus"
    assert [slot.role for slot in team.slots] == ["any", "pm"]
    assert teams.list().teams == (team,)
    with pytest.raises(ValidationError):
        TeamOrder(name="a\x1b[31mb")
    with pytest.raises(ValidationError):
        TeamOrder(name="x", roles=("swe",) * 33)


def test_a_search_keeps_nothing_and_a_hunt_makes_candidates_one_by_one(teams: Teams, team: Team) -> None:
    slot = team.slots[0].id
    found = teams.search(team.id, slot, "example")
    assert [one.account.login for one in found.people] == ["ada-example"]
    assert teams.slot(team.id, slot).candidates == ()
    events = list(teams.hunt(team.id, slot, "e"))
    assert isinstance(events[0], HuntOpened)
    assert [e.candidate.handle for e in events if isinstance(e, HuntFound)] == ["ada-example", "bob-sample"]
    assert isinstance(events[-1], HuntDone)
    ada, bob = teams.slot(team.id, slot).candidates
    assert (ada.account and ada.account.id, ada.origin, ada.found and ada.found.stars) == (1001, "headhunt", 16)
    assert events[-1].reply.candidates == (ada, bob)
    assert "@" not in ada.model_dump_json().replace("[e-mail]", "")


def test_the_role_of_a_slot_is_searched_for(teams: Teams, team: Team) -> None:
    found = teams.search(team.id, team.slots[1].id, "")
    assert [one.account.login for one in found.people] == ["bob-sample"]
    assert found.role == "pm"
    refused(InputError, lambda: teams.search(team.id, team.slots[0].id, ""))


def test_a_hunt_that_is_left_stops_and_keeps_who_was_found(teams: Teams, team: Team, github: FakeGitHub) -> None:
    slot = team.slots[0].id

    async def work() -> None:
        events = teams.hunting(team.id, slot, "e")
        assert isinstance(await anext(events), HuntOpened)
        assert isinstance(await anext(events), HuntFound)
        await events.aclose()

    before = len(github.asked)
    anyio.run(work)
    assert [one.handle for one in teams.slot(team.id, slot).candidates] == ["ada-example"]
    assert not [one for one in github.asked[before:] if "bob-sample" in one.path]


def test_a_hunt_says_who_could_not_be_read(teams: Teams, team: Team, github: FakeGitHub) -> None:
    github.faults.append(Fault("users/bob-sample$", "status", status=404))
    events = list(teams.hunt(team.id, team.slots[0].id, "e"))
    assert [(e.login, e.reason) for e in events if isinstance(e, HuntPassed)] == [("bob-sample", "not_found")]


def test_a_candidate_or_a_handle_takes_the_slot(teams: Teams, team: Team) -> None:
    slot = team.slots[0].id
    by_handle = teams.select(team.id, slot, Choice(handle="@Ada-Example")).selected
    assert by_handle
    assert (by_handle.account and by_handle.account.id, by_handle.origin) == (1001, "handle")
    again = teams.select(team.id, slot, Choice(handle="ada-example"))
    assert (again.selected, len(again.candidates)) == (by_handle, 1)
    assert teams.select(team.id, slot, Choice(candidate=by_handle.id)).selected == by_handle
    refused(NotFound, lambda: teams.select(team.id, slot, Choice(handle="no-such-person")))
    for wrong in (Choice(), Choice(candidate="candidate-x", handle="ada")):
        refused(InputError, lambda wrong=wrong: teams.select(team.id, slot, wrong))
    assert teams.clear(team.id, slot).selected is None


def test_a_resume_gives_facts_with_evidence_and_is_not_kept(teams: Teams, team: Team, parts: ServerParts) -> None:
    slot = team.slots[0].id
    made = anyio.run(teams.extract_resume, team.id, slot, "../../etc/ada cv.txt", RESUME)
    assert made.report.profile.name
    assert made.report.profile.name.text == made.candidate.name == "Ada Example"
    assert all(item.evidence for item in made.report.profile.skills)
    assert made.report.profile.skills
    assert (made.candidate.origin, made.candidate.source, made.candidate.handle) == (
        "resume",
        "ada cv.txt",
        "ada-example",
    )
    assert teams.slot(team.id, slot).candidates == (made.candidate,)
    kept = b"".join(one.read_bytes() for one in parts.settings.home.glob("registry.sqlite*"))
    assert b"storage engines" not in kept, "a slot keeps a name and a handle, not what was read"


@pytest.mark.parametrize("data", [b"", b"x" * (MOST_RESUME + 1)])
def test_a_resume_is_bounded(teams: Teams, team: Team, data: bytes) -> None:
    refused(InputError, lambda: anyio.run(teams.extract_resume, team.id, team.slots[0].id, "cv.txt", data))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cv.pdf", "cv.pdf"), ("../../etc/passwd", "passwd"), ("..\\..\\boot.ini", "boot.ini"), ("", "resume"), ("...", "resume"),
        ("/", "resume"), ("a\0b\nc.txt", "a_b_c.txt"), ("x" * 300 + ".pdf", "x" * 76 + ".pdf"),
    ],
)  # fmt: skip
def test_the_name_of_a_file_is_a_plain_one(given: str, name: str) -> None:
    assert _file_name(given) == name


def test_a_page_inside_a_network_is_not_asked(teams: Teams, team: Team) -> None:
    for url in ("http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd"):
        refused(AddressRefused, lambda url=url: anyio.run(teams.extract_website, team.id, team.slots[0].id, url))
    assert teams.slot(team.id, team.slots[0].id).candidates == ()


def test_a_persona_is_a_block_that_may_be_served(teams: Teams, team: Team, parts: ServerParts) -> None:
    slot = team.slots[0].id
    ada = add_block(parts, "ada")
    bound = teams.bind(team.id, slot, Binding(block="ada")).persona
    assert bound
    assert (bound.name, bound.block, bound.block_id) == ("Ada Example", "ada@1.0.0", ada.id)
    newer = add_block(parts, "ada", version="1.1.0")
    assert teams.slot(team.id, slot).persona == bound, "a slot keeps the version that was bound"
    assert teams.bind(team.id, slot, Binding(block="ada", name="The writer")).persona
    again = teams.slot(team.id, slot).persona
    assert again
    assert (again.name, again.block_id) == ("The writer", newer.id)
    assert teams.unbind(team.id, slot).persona is None


def test_what_may_not_be_bound(teams: Teams, team: Team, parts: ServerParts) -> None:
    slot = team.slots[0].id
    bad = add_block(parts, "bad", gate=rejected())
    consent = parts.consents.grant_self(ADA, [ADA], "local:abacus")
    add_block(parts, "mute", consent=consent.model_copy(update={"mode": "local-only", "uses": ("mint",)}))
    for block in ("ada+bob", "ada:0.7"):
        assert (
            "genome:" in refused(InputError, lambda block=block: teams.bind(team.id, slot, Binding(block=block))).hint
        )
    refused(GenomeNotFound, lambda: teams.bind(team.id, slot, Binding(block="genome:ada")))
    refused(NotFound, lambda: teams.bind(team.id, slot, Binding(block="persona:ada")))
    refused(BadReference, lambda: teams.bind(team.id, slot, Binding(block="persona:../ada")))
    refused(BlockNotFound, lambda: teams.bind(team.id, slot, Binding(block="nobody")))
    refused(BlockRejected, lambda: teams.bind(team.id, slot, Binding(block=bad.id)))
    refused(ConsentMissing, lambda: teams.bind(team.id, slot, Binding(block="mute")))
    assert teams.slot(team.id, slot).persona is None


def test_what_is_not_there_is_not_found_whatever_is_done(teams: Teams, team: Team) -> None:
    other = teams.create(TeamOrder(name="Other", roles=("swe",)))
    wrong = [("team-" + "0" * 24, team.slots[0].id), (other.id, team.slots[0].id), (team.id, "slot-" + "0" * 24)]
    for (one, slot), work in itertools.product(
        wrong,
        (
            lambda t, s: teams.slot(t, s), lambda t, s: teams.clear(t, s), lambda t, s: teams.search(t, s, "x"),
            lambda t, s: list(teams.hunt(t, s, "x")), lambda t, s: teams.select(t, s, Choice(handle="ada-example")),
            lambda t, s: teams.bind(t, s, Binding(block="ada")), lambda t, s: teams.unbind(t, s), lambda t, s: teams.drop_slot(t, s),
            lambda t, s: anyio.run(teams.extract_resume, t, s, "cv", RESUME),
        ),
    ):  # fmt: skip
        refused(NotFound, lambda one=one, slot=slot, work=work: work(one, slot))
