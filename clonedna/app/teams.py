"""Teams: slots with a role, people who may take them, and the personas that talk in them.

A candidate is somebody who was found or named; being one is no consent to anything, and nothing of theirs is minted here. Of a page or a
resume the facts with their evidence are the answer; a slot keeps the name, the handle that is stated and what was read, no more. A persona
is a block under a name: it is bound only when that block could be served now, and asked for its consent again at each message.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
from pydantic import Field

from clonedna.app.admission import admit
from clonedna.app.blocks import Blocks
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.people import People
from clonedna.app.personas import Personas
from clonedna.app.profiles import ProfileOrder, Profiles
from clonedna.app.threads import Threads
from clonedna.core.chat import MOST_NAME, Bound, Candidate, Gone, Slot, SlotRole, Team, TeamPage, ThreadPage
from clonedna.core.errors import InputError
from clonedna.core.people import Headhunt, HuntBegun, HuntRefused, PersonFound, Role
from clonedna.core.persona import GENOME, PERSONA, Instructions, Line
from clonedna.core.profile import ProfileReport
from clonedna.core.value import Value

MOST_SLOTS = 32
MOST_RESUME = 4_000_000
_FILE_NAME = re.compile(r"[^A-Za-z0-9._ -]+")


class TeamOrder(Value):
    """A team to make, with an empty slot for each role, in this order."""

    name: Line
    roles: tuple[SlotRole, ...] = Field(default=(), max_length=MOST_SLOTS)


class Choice(Value):
    """Who takes a slot: one of its candidates by id, or an account by its handle."""

    candidate: str | None = Field(default=None, max_length=80)
    handle: str | None = Field(default=None, max_length=80)


class Binding(Value):
    """Who talks in a slot: a block, ``genome:NAME`` or ``persona:NAME``. ``name``: what it is called there, else the person's or persona's.

    ``instructions``: put before every conversation.
    """

    block: str = Field(min_length=1, max_length=200)
    name: Line | None = None
    instructions: Instructions = ""


class Extracted(Value):
    """What a page or a resume says, each item with its evidence, and the candidate that was made of it."""

    candidate: Candidate
    report: ProfileReport


class HuntOpened(HuntBegun):
    """The search has answered."""

    name: ClassVar[str] = "start"


class HuntFound(Value):
    """Somebody was found, and is a candidate now."""

    name: ClassVar[str] = "candidate"
    candidate: Candidate


class HuntPassed(HuntRefused):
    """Somebody was found who could not be read."""

    name: ClassVar[str] = "refused"


class HuntDone(Value):
    """The last event: the slot as it is now."""

    name: ClassVar[str] = "end"
    reply: Slot


HuntEvent = HuntOpened | HuntFound | HuntPassed | HuntDone


class Teams:
    """The teams of one home. Its methods block, but for the async ones."""

    def __init__(self, parts: Parts, threads: Threads) -> None:
        self._parts, self._threads = parts, threads
        self._rows = factory("teams", "sql")(parts.database)
        self._people, self.personas = People(parts), Personas(parts)

    def create(self, order: TeamOrder) -> Team:
        """Raises ``InputError`` for too many teams."""
        return self._rows.create(order.name, order.roles)

    def list(self, *, limit: int = 50, after: str | None = None) -> TeamPage:
        """Last changed first. Raises ``InputError`` for an ``after`` that no page gave."""
        return self._rows.page(limit=limit, after=after)

    def get(self, team: str) -> Team:
        """Raises ``NotFound``."""
        return self._rows.get(team)

    def rename(self, team: str, name: str) -> Team:
        """Raises ``NotFound``."""
        return self._rows.rename(team, name)

    def delete(self, team: str) -> Gone:
        """The team with its slots, candidates and threads. Blocks stay. Raises ``NotFound``."""
        self._rows.delete(team)
        self._threads.delete_of(team)
        return Gone(id=team)

    def threads(self, team: str, *, limit: int = 50, after: str | None = None, owner: str | None = None) -> ThreadPage:
        """The conversations with a team's personas, last used first; ``owner``: those of one. Raises ``NotFound``, ``InputError``."""
        self._rows.get(team)
        return self._threads.of(owner).list(limit=limit, after=after, team=team)

    def add_slot(self, team: str, role: SlotRole) -> Team:
        """A further slot at the end. Raises ``NotFound``, ``InputError`` for too many."""
        return self._rows.add_slot(team, role)

    def drop_slot(self, team: str, slot: str) -> Team:
        """Raises ``NotFound``."""
        return self._rows.drop_slot(team, slot)

    def slot(self, team: str, slot: str) -> Slot:
        """Raises ``NotFound``."""
        return self._rows.slot(team, slot)

    def speaker(self, slot: str) -> tuple[Team, Slot]:
        """A slot by its id alone, with its team. Raises ``NotFound``."""
        team: Team = self._rows.team_of(slot)
        return team, next(one for one in team.slots if one.id == slot)

    # Candidates.

    def search(self, team: str, slot: str, query: str, most: int = 10) -> Headhunt:
        """People for the slot's role; nothing is kept. Raises ``NotFound``, and as ``People.headhunt``."""
        return self._people.headhunt(query, _role(self.slot(team, slot)), most)

    def hunt(self, team: str, slot: str, query: str, most: int = 10) -> Generator[HuntEvent]:
        """The same as events; each person is a candidate of the slot as soon as they are read. Close it to stop. Raises as ``search``."""
        role = _role(self.slot(team, slot))
        with closing(self._people.hunt(query, role, most)) as steps:
            for step in steps:
                if isinstance(step, PersonFound):
                    one = self._candidate(
                        origin="headhunt", source=step.url, name=step.account.name, handle=step.account.login, account=step.account,
                        found=step,
                    )  # fmt: skip
                    yield HuntFound(candidate=self._rows.add_candidate(team, slot, one))
                elif isinstance(step, HuntBegun):
                    yield HuntOpened(**step.model_dump())
                else:
                    yield HuntPassed(**step.model_dump())
        yield HuntDone(reply=self.slot(team, slot))

    async def hunting(self, team: str, slot: str, query: str, most: int = 10) -> AsyncGenerator[HuntEvent]:
        """``hunt`` for an event loop; leaving it stops the search behind the person who is being read."""
        steps = self.hunt(team, slot, query, most)
        try:
            while (event := await anyio.to_thread.run_sync(next, steps, None)) is not None:
                yield event
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(steps.close)

    def select(self, team: str, slot: str, choice: Choice) -> Slot:
        """Somebody takes the slot. An account that is no candidate yet is looked up at GitHub.

        Raises ``NotFound``, ``InputError`` for not exactly one of the two, and as ``People.account``.
        """
        if (choice.candidate is None) == (choice.handle is None):
            raise InputError("one of candidate and handle is wanted", "see: dna team show TEAM", param="candidate")
        if choice.candidate is not None:
            return self._rows.select(team, slot, choice.candidate)
        wanted = str(choice.handle).removeprefix("@")
        known = [
            one for one in self.slot(team, slot).candidates if one.account and one.account.login.casefold() == wanted.casefold()
        ]  # fmt: skip
        if not known:
            account = self._people.account(wanted)
            one = self._candidate(
                origin="handle", source=account.host, name=account.name, handle=account.login, account=account
            )
            known = [self._rows.add_candidate(team, slot, one)]
        return self._rows.select(team, slot, known[0].id)

    def clear(self, team: str, slot: str) -> Slot:
        """Forget the slot's candidates and who was selected; the persona stays. Raises ``NotFound``."""
        return self._rows.clear(team, slot)

    async def extract_website(self, team: str, slot: str, url: str) -> Extracted:
        """What somebody's page states. Raises ``NotFound``, and as ``Profiles.make``."""
        await anyio.to_thread.run_sync(self.slot, team, slot)
        report = await Profiles(self._parts).make(ProfileOrder(website=url))
        return await anyio.to_thread.run_sync(self._extracted, team, slot, "website", url[:300], report)

    async def extract_resume(self, team: str, slot: str, name: str, data: bytes) -> Extracted:
        """What a resume states. The file is read and deleted. Raises ``NotFound``, ``InputError`` for an empty or too large one, and as
        ``Profiles.make``."""
        await anyio.to_thread.run_sync(self.slot, team, slot)
        if not 0 < len(data) <= MOST_RESUME:
            raise InputError(f"the resume has {len(data)} bytes", f"send 1 to {MOST_RESUME}", param="body")
        called = _file_name(name)
        with tempfile.TemporaryDirectory(prefix="dna-resume-") as folder:  # readable by this user alone
            path = Path(folder) / called
            await anyio.to_thread.run_sync(path.write_bytes, data)
            report = await Profiles(self._parts).make(ProfileOrder(resume=str(path)))
        return await anyio.to_thread.run_sync(self._extracted, team, slot, "resume", called, report)

    # Personas.

    def bind(self, team: str, slot: str, binding: Binding) -> Slot:
        """Let a block, a genome (``genome:NAME``) or a persona (``persona:NAME``) talk in this slot.

        Raises ``NotFound``, ``InputError`` for what is none of them, and why it may not talk.
        """
        self.slot(team, slot)
        given = binding.block
        if given.startswith((PERSONA, GENOME)):
            bound = self._bound(given)
        elif set("+:") & set(given):
            raise InputError(
                f"{given[:80]!r} is no single block",
                "bind a block (name, name@version), genome:NAME or persona:NAME",
                param="block",
            )
        else:
            manifest, path = Blocks(self._parts).verified(given)
            admit(self._parts, manifest, consent_of(path), "serve", base=None)
            bound = Bound(
                name=_name(manifest.candidate.name, manifest.name),
                block=f"{manifest.name}@{manifest.version}",
                block_id=manifest.id,
                bound_at="",
            )
        persona = bound.model_copy(
            update={
                "name": binding.name or bound.name,
                "instructions": binding.instructions,
                "bound_at": factory("teams", "now")(),
            }
        )
        return self._rows.bind(team, slot, persona)

    def _bound(self, given: str) -> Bound:
        if given.startswith(GENOME):
            return self.personas.named(given)
        name = given.removeprefix(PERSONA)
        speaks, _ = self.personas.speaker(name)
        return Bound(name=speaks.name, block=f"{PERSONA}{name}", block_id="", kind="persona", bound_at="")

    def talking(self, bound: Bound) -> Bound:
        """What talks for this slot's occupant now: itself, or what speaks for the persona. Raises why it may not."""
        if bound.kind == "block":  # opening it asks the same
            return bound
        if bound.kind == "genome":
            self.personas.check(bound)
            return bound
        speaks, _ = self.personas.speaker(bound.block.removeprefix(PERSONA))
        told = "\n".join(text for text in (speaks.instructions, bound.instructions) if text)
        return speaks.model_copy(update={"name": bound.name, "instructions": told})

    def unbind(self, team: str, slot: str) -> Slot:
        """Nobody talks in this slot any more. Raises ``NotFound``."""
        return self._rows.bind(team, slot, None)

    def _candidate(self, **known: Any) -> Candidate:
        return Candidate(id=factory("teams", "id")(), created_at=factory("teams", "now")(), **known)

    def _extracted(self, team: str, slot: str, origin: str, source: str, report: ProfileReport) -> Extracted:
        one = self._candidate(
            origin=origin, source=source, name=report.profile.name.text[:MOST_NAME] if report.profile.name else "",
            handle=report.handle.text[:MOST_NAME] if report.handle else "",
        )  # fmt: skip
        return Extracted(candidate=self._rows.add_candidate(team, slot, one), report=report)


def _role(slot: Slot) -> Role | None:
    return None if slot.role == "any" else slot.role


def _name(*candidates: Sequence[str] | str) -> str:
    """The first that is a line of text."""
    for one in candidates:
        flat = " ".join("".join(c if c.isprintable() else " " for c in one).split())[:MOST_NAME]
        if flat:
            return flat
    return "unnamed"


def _file_name(name: str) -> str:
    """A name that is a plain file's, whatever was given."""
    plain = _FILE_NAME.sub("_", name.replace("\\", "/").rpartition("/")[2]).strip(". ")[-80:].strip(". ")
    return plain or "resume"
