"""The teams of a server: what ``app.teams.Teams`` does for those of this machine."""

from __future__ import annotations

from collections.abc import Generator

from clonedna.app.teams import (
    Binding,
    Choice,
    Extracted,
    HuntDone,
    HuntEvent,
    HuntFound,
    HuntOpened,
    HuntPassed,
    TeamOrder,
)
from clonedna.client.blocks import segment
from clonedna.client.chat import told
from clonedna.client.wire import Wire
from clonedna.core.chat import Gone, Slot, SlotRole, Team, TeamPage, ThreadPage
from clonedna.core.people import Headhunt
from clonedna.core.value import Value

TEAMS = "/api/v1/teams"


class _Hunt(Value):
    q: str
    limit: int


class RemoteTeams:
    """Use cases over a server's teams."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, order: TeamOrder) -> Team:
        return self._wire.post(TEAMS, Team, order)

    def list(self, *, limit: int = 50, after: str | None = None) -> TeamPage:
        return self._wire.get(TEAMS, TeamPage, query={"limit": limit, "after": after})

    def get(self, team: str) -> Team:
        return self._wire.get(_team(team), Team)

    def rename(self, team: str, name: str) -> Team:
        return self._wire.ask("PATCH", _team(team), Team, body={"name": name})

    def delete(self, team: str) -> Gone:
        return self._wire.delete(_team(team), Gone)

    def threads(self, team: str, *, limit: int = 50, after: str | None = None) -> ThreadPage:
        return self._wire.get(f"{_team(team)}/threads", ThreadPage, query={"limit": limit, "after": after})

    def add_slot(self, team: str, role: SlotRole) -> Team:
        return self._wire.post(f"{_team(team)}/roles", Team, {"role": role})

    def drop_slot(self, team: str, slot: str) -> Team:
        return self._wire.delete(_slot(team, slot), Team)

    def search(self, team: str, slot: str, query: str, most: int = 10) -> Headhunt:
        return self._wire.get(f"{_slot(team, slot)}/search", Headhunt, query={"q": query, "limit": most})

    def hunt(self, team: str, slot: str, query: str, most: int = 10) -> Generator[HuntEvent]:
        """As ``Teams.hunt``; closing it stops the search on the server."""
        kinds: dict[str, type[HuntEvent]] = {
            "start": HuntOpened, "candidate": HuntFound, "refused": HuntPassed, "end": HuntDone,
        }  # fmt: skip
        return told(self._wire, f"{_slot(team, slot)}/headhunt", _Hunt(q=query, limit=most), kinds.get)

    def select(self, team: str, slot: str, choice: Choice) -> Slot:
        return self._wire.post(f"{_slot(team, slot)}/select", Slot, choice)

    def clear(self, team: str, slot: str) -> Slot:
        return self._wire.post(f"{_slot(team, slot)}/clear", Slot)

    def extract_website(self, team: str, slot: str, url: str) -> Extracted:
        return self._wire.post(f"{_slot(team, slot)}/extract-website", Extracted, {"url": url})

    def extract_resume(self, team: str, slot: str, name: str, data: bytes) -> Extracted:
        return self._wire.ask(
            "POST", f"{_slot(team, slot)}/extract-resume", Extracted, body=data, query={"name": name[:255]},
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip

    def bind(self, team: str, slot: str, binding: Binding) -> Slot:
        return self._wire.ask("PUT", f"{_slot(team, slot)}/persona", Slot, body=binding)

    def unbind(self, team: str, slot: str) -> Slot:
        return self._wire.delete(f"{_slot(team, slot)}/persona", Slot)


def _team(team: str) -> str:
    return f"{TEAMS}/{segment(team)}"


def _slot(team: str, slot: str) -> str:
    return f"{_team(team)}/roles/{segment(slot)}"
