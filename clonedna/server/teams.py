"""``/api/v1/teams``: teams, their slots, candidates and personas. Thin over ``app.teams``. Slots are ``/roles/{slot}`` in paths."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from clonedna.app.service import Service
from clonedna.app.teams import Binding, Choice, Extracted, Line, TeamOrder
from clonedna.core.chat import Gone, Slot, SlotRole, Team, TeamPage, ThreadPage
from clonedna.core.people import Headhunt
from clonedna.core.value import Value
from clonedna.server.access import CHAT, MINT, READ, owner
from clonedna.server.errors import OURS
from clonedna.server.following import Following, streamed
from clonedna.server.reading import Routes

TeamId = Annotated[str, Path(pattern=r"^team-[0-9a-f]{24}$")]
SlotId = Annotated[str, Path(pattern=r"^slot-[0-9a-f]{24}$")]
After = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200)]
Words = Annotated[
    str, Query(max_length=200, description="What GitHub's user search takes; the slot's role adds to it.")
]
Most = Annotated[int, Query(ge=1, le=30)]
HUNTED = "The slot with its candidates. With `stream`, events: `start`, `candidate` or `refused` for each person, `end` with the slot."


class NewName(Value):
    name: Line


class NewSlot(Value):
    role: SlotRole


class Hunt(Value):
    """Whom to look for. ``stream``: as server-sent events."""

    q: str = Field(default="", max_length=200)
    limit: int = Field(default=10, ge=1, le=30)
    stream: bool = True


class Page(Value):
    """A person's own page."""

    url: str = Field(min_length=1, max_length=2000)


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/teams``."""
    made = Routes(prefix="/api/v1/teams", responses=OURS, tags=["teams"])
    _add_teams(made, service)
    _add_candidates(made, service)
    _add_extracts(made, service)
    _add_personas(made, service)
    return made


def _add_teams(made: APIRouter, service: Service) -> None:
    teams = service.teams

    @made.post("", dependencies=[MINT], status_code=201)
    def create_team(order: TeamOrder) -> Team:
        """Make a team with an empty slot for each role."""
        return teams.create(order)

    @made.get("", dependencies=[READ])
    def list_teams(limit: Limit = 50, after: After = None) -> TeamPage:
        """Teams, last changed first."""
        return teams.list(limit=limit, after=after)

    @made.get("/{team}", dependencies=[READ])
    def show_team(team: TeamId) -> Team:
        """One team with its slots, candidates and personas."""
        return teams.get(team)

    @made.patch("/{team}", dependencies=[MINT])
    def rename_team(team: TeamId, name: NewName) -> Team:
        """Give a team another name."""
        return teams.rename(team, name.name)

    @made.delete("/{team}", dependencies=[MINT])
    def delete_team(team: TeamId) -> Gone:
        """Delete a team with its slots, candidates and threads. Blocks stay."""
        return teams.delete(team)

    @made.get("/{team}/threads", dependencies=[CHAT])
    def list_team_threads(request: Request, team: TeamId, limit: Limit = 50, after: After = None) -> ThreadPage:
        """The conversations with this team's personas, last used first."""
        return teams.threads(team, limit=limit, after=after, owner=owner(request))

    @made.post("/{team}/roles", dependencies=[MINT], status_code=201)
    def add_slot(team: TeamId, slot: NewSlot) -> Team:
        """A further slot, at the end."""
        return teams.add_slot(team, slot.role)

    @made.delete("/{team}/roles/{slot}", dependencies=[MINT])
    def drop_slot(team: TeamId, slot: SlotId) -> Team:
        """Take a slot out of a team."""
        return teams.drop_slot(team, slot)


def _add_candidates(made: APIRouter, service: Service) -> None:
    teams = service.teams

    @made.get("/{team}/roles/{slot}/search", dependencies=[MINT])
    def search_people(team: TeamId, slot: SlotId, q: Words = "", limit: Most = 10) -> Headhunt:
        """People on GitHub for this slot's role, in GitHub's own order. Nothing is kept."""
        return teams.search(team, slot, q, limit)

    @made.post("/{team}/roles/{slot}/headhunt", dependencies=[MINT], responses=streamed(Slot, HUNTED))
    async def headhunt(team: TeamId, slot: SlotId, hunt: Hunt) -> Response:
        """The same, person by person; each becomes a candidate of the slot."""
        return Following(teams.hunting(team, slot, hunt.q, hunt.limit), stream=hunt.stream)

    @made.post("/{team}/roles/{slot}/select", dependencies=[MINT])
    def select_candidate(team: TeamId, slot: SlotId, choice: Choice) -> Slot:
        """A candidate, or the account of a handle, takes the slot. It is no consent to anything."""
        return teams.select(team, slot, choice)

    @made.post("/{team}/roles/{slot}/clear", dependencies=[MINT])
    def clear_slot(team: TeamId, slot: SlotId) -> Slot:
        """Forget the slot's candidates and who was selected; its persona stays."""
        return teams.clear(team, slot)


def _add_extracts(made: APIRouter, service: Service) -> None:
    @made.post("/{team}/roles/{slot}/extract-website", dependencies=[MINT])
    async def extract_website(team: TeamId, slot: SlotId, page: Page) -> Extracted:
        """What a person's page states, each item with the words that prove it. Addresses inside networks are refused."""
        return await service.teams.extract_website(team, slot, page.url)

    @made.post("/{team}/roles/{slot}/extract-resume", dependencies=[MINT])
    async def extract_resume(
        team: TeamId, slot: SlotId, data: Annotated[bytes, Body(media_type="application/octet-stream")],
        name: Annotated[str, Query(max_length=255, description="What the file is called.")] = "resume",
    ) -> Extracted:  # fmt: skip
        """What a resume states (the bytes of a PDF, DOCX or text file), each item with the words that prove it. The file is not kept."""
        return await service.teams.extract_resume(team, slot, name, data)


def _add_personas(made: APIRouter, service: Service) -> None:
    teams = service.teams

    @made.put("/{team}/roles/{slot}/persona", dependencies=[MINT])
    def bind_persona(team: TeamId, slot: SlotId, binding: Binding) -> Slot:
        """Let a block talk in this slot: give the slot's id as `persona` of a message."""
        return teams.bind(team, slot, binding)

    @made.delete("/{team}/roles/{slot}/persona", dependencies=[MINT])
    def unbind_persona(team: TeamId, slot: SlotId) -> Slot:
        """Nobody talks in this slot any more."""
        return teams.unbind(team, slot)
