"""Threads of messages, and teams with their slots, as they are kept: what was said, by whom, and which block sits where.

Texts are what people and models wrote: data, never markup, never an instruction. Times are RFC 3339, UTC, with milliseconds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clonedna.core.people import Account, PersonFound
from clonedna.core.value import Value

MOST_TEXT = 32_000
MOST_NAME = 120
ID_PATTERN = r"^(thread|message|team|slot|candidate)-[0-9a-f]{24}$"
CURSOR_PATTERN = r"^[0-9TZ:.+-]{20,40}~(thread|team)-[0-9a-f]{24}$"

SlotRole = Literal["pm", "swe", "designer", "any"]
Status = Literal["done", "stopped", "failed"]
Origin = Literal["headhunt", "handle", "website", "resume"]


class Thread(Value):
    """A conversation. ``model``: who answers where a message does not say: a block, a blend, or empty for the base.

    ``persona``: who answers: ``persona:name``, or the slot of a team; ``team``: that slot's team. ``messages``: how many there are.
    """

    id: str
    title: str
    created_at: str
    updated_at: str
    model: str = ""
    persona: str | None = None
    team: str | None = None
    messages: int = 0


class KeptMessage(Value):
    """One message. ``answer``: JSON of how an assistant's was made; the value is the use case's. ``number`` counts from 1 in its thread.

    ``reply_to``: the message that an assistant's answers.
    """

    id: str
    number: int
    role: Literal["user", "assistant"]
    text: str
    created_at: str
    reply_to: str | None = None
    answer: str | None = None


class Candidate(Value):
    """Somebody who may take a slot. ``account``: theirs on GitHub, where it was looked up; ``handle``: the one their page or paper states.

    ``source``: what was read. Being found is no consent to anything. ``found``: what a headhunt counted.
    """

    id: str
    origin: Origin
    created_at: str
    source: str = ""
    name: str = ""
    handle: str = ""
    account: Account | None = None
    found: PersonFound | None = None


class Bound(Value):
    """Who talks in a slot, under a name. ``block``: ``name@version`` of a block when it was bound, ``genome:name@version``, or
    ``persona:name``; ``block_id``: the block or genome that answers, empty for a persona, which says itself what does.
    """

    name: str
    block: str
    block_id: str
    kind: Literal["block", "genome", "persona"] = "block"
    instructions: str = ""
    bound_at: str


class Slot(Value):
    """A place in a team. Several may have one role; they keep their order."""

    id: str
    role: SlotRole
    candidates: tuple[Candidate, ...] = ()
    selected: Candidate | None = None
    persona: Bound | None = None


class Team(Value):
    """People and blocks for one purpose: slots in their order."""

    id: str
    name: str
    created_at: str
    updated_at: str
    slots: tuple[Slot, ...] = ()


class ThreadPage(Value):
    """Threads, last used first. ``next``: give it as ``after`` for the next page; ``None``: that was all."""

    threads: tuple[Thread, ...]
    next: str | None = None


class TeamPage(Value):
    """Teams, last changed first. ``next`` as in ``ThreadPage``."""

    teams: tuple[Team, ...]
    next: str | None = None


class Gone(Value):
    """What was deleted."""

    id: str = Field(max_length=80)
    deleted: Literal[True] = True
