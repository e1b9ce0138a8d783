"""Teams, their slots and candidates in the home's database.

A deleted team takes its slots and candidates along; all of them are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ForeignKey, Text, delete, func, select, tuple_
from sqlalchemy.orm import Mapped, Session, mapped_column

from clonedna.core.canonical import canonical
from clonedna.core.chat import Bound, Candidate, Slot, SlotRole, Team, TeamPage
from clonedna.core.errors import InputError, NotFound
from clonedna.store.database import Base, Database
from clonedna.store.threads import cursor, moment, new_id

MOST_TEAMS = 1_000
MOST_SLOTS = 32
MOST_CANDIDATES = 200


class TeamRow(Base):
    """One team."""

    __tablename__ = "teams"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[str]
    updated_at: Mapped[str] = mapped_column(index=True)


class SlotRow(Base):
    """One slot; ``persona`` is JSON, ``selected`` a candidate's id."""

    __tablename__ = "slots"

    id: Mapped[str] = mapped_column(primary_key=True)
    team: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    role: Mapped[str]
    selected: Mapped[str | None]
    persona: Mapped[str | None] = mapped_column(Text)


class CandidateRow(Base):
    """One candidate of a slot, as JSON; ``key`` says whether two are the same."""

    __tablename__ = "candidates"

    id: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[str] = mapped_column(ForeignKey("slots.id", ondelete="CASCADE"), index=True)
    key: Mapped[str]
    created_at: Mapped[str]
    candidate: Mapped[str] = mapped_column(Text)


class SqlTeams:
    """Processes and threads of a process may share one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, roles: Sequence[SlotRole]) -> Team:
        """A team with an empty slot for each role, in this order. Raises ``InputError`` for too many of either."""
        now = moment()
        team = new_id("team")
        with self._database.session() as session:
            if (session.scalar(select(func.count()).select_from(TeamRow)) or 0) >= MOST_TEAMS:
                raise InputError(f"there are {MOST_TEAMS} teams", "delete some: dna team rm")
            session.add(TeamRow(id=team, name=name, created_at=now, updated_at=now))
            session.flush()
            for role in roles:
                _add_slot(session, team, role)
            return _team(session, _found(session, team))

    def page(self, *, limit: int, after: str | None = None) -> TeamPage:
        """Last changed first, those behind the cursor ``after``. Raises ``InputError``."""
        wanted = select(TeamRow).order_by(TeamRow.updated_at.desc(), TeamRow.id.desc()).limit(limit + 1)
        if after is not None:
            wanted = wanted.where(tuple_(TeamRow.updated_at, TeamRow.id) < tuple_(*cursor(after)))
        with self._database.session() as session:
            rows = list(session.scalars(wanted))
            teams = tuple(_teams(session, rows[:limit]))
        more = len(rows) > limit
        return TeamPage(teams=teams, next=f"{teams[-1].updated_at}~{teams[-1].id}" if more else None)

    def get(self, team: str) -> Team:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            return _team(session, _found(session, team))

    def rename(self, team: str, name: str) -> Team:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            row = _found(session, team)
            row.name, row.updated_at = name, moment()
            return _team(session, row)

    def delete(self, team: str) -> None:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            session.delete(_found(session, team))

    def add_slot(self, team: str, role: SlotRole) -> Team:
        """A further slot, at the end. Raises ``NotFound``, ``InputError``."""
        with self._database.session() as session:
            row = _touched(session, team)
            _add_slot(session, team, role)
            return _team(session, row)

    def drop_slot(self, team: str, slot: str) -> Team:
        """Without this slot. Raises ``NotFound``."""
        with self._database.session() as session:
            row = _touched(session, team)
            session.delete(_slot_row(session, team, slot))
            session.flush()
            return _team(session, row)

    def slot(self, team: str, slot: str) -> Slot:
        """Raises ``NotFound``."""
        with self._database.session() as session:
            return _slot(session, _slot_row(session, team, slot))

    def team_of(self, slot: str) -> Team:
        """The team that has this slot. Raises ``NotFound``."""
        with self._database.session() as session:
            row = session.get(SlotRow, slot)
            if row is None:
                raise NotFound(f"no persona {slot[:80]!r}", "a persona is a slot's: dna team show TEAM")
            return _team(session, _found(session, row.team))

    def slots_of(self, bound: str) -> tuple[str, ...]:
        """The ids of the slots, in all teams, in which this (``Bound.block``) talks."""
        with self._database.session() as session:
            rows = session.scalars(
                select(SlotRow).where(SlotRow.persona.contains(bound, autoescape=True)).order_by(SlotRow.id)
            )
            return tuple(
                row.id for row in rows if row.persona and Bound.model_validate_json(row.persona).block == bound
            )

    def add_candidate(self, team: str, slot: str, candidate: Candidate) -> Candidate:
        """Put somebody among a slot's candidates, or in place of what was known of them. Raises ``NotFound``, ``InputError``."""
        key = _key(candidate)
        with self._database.session() as session:
            _touched(session, team)
            _slot_row(session, team, slot)
            known = session.scalar(select(CandidateRow).where(CandidateRow.slot == slot, CandidateRow.key == key))
            if known is not None:
                candidate = candidate.model_copy(update={"id": known.id, "created_at": known.created_at})
                known.candidate = canonical(candidate).decode()
                return candidate
            if (session.scalar(select(func.count()).where(CandidateRow.slot == slot)) or 0) >= MOST_CANDIDATES:
                raise InputError(f"the slot has {MOST_CANDIDATES} candidates", "clear it: dna team clear")
            session.add(
                CandidateRow(
                    id=candidate.id, slot=slot, key=key, created_at=candidate.created_at, candidate=canonical(candidate).decode()
                )
            )  # fmt: skip
        return candidate

    def select(self, team: str, slot: str, candidate: str) -> Slot:
        """Raises ``NotFound`` for one that is none of the slot's."""
        with self._database.session() as session:
            _touched(session, team)
            row = _slot_row(session, team, slot)
            chosen = session.get(CandidateRow, candidate)
            if chosen is None or chosen.slot != slot:
                raise NotFound(f"no candidate {candidate[:80]!r} in this slot", "see: dna team show TEAM")
            row.selected = candidate
            session.flush()
            return _slot(session, row)

    def clear(self, team: str, slot: str) -> Slot:
        """Forget who was found and who was selected; the persona stays. Raises ``NotFound``."""
        with self._database.session() as session:
            _touched(session, team)
            row = _slot_row(session, team, slot)
            session.execute(delete(CandidateRow).where(CandidateRow.slot == slot))
            row.selected = None
            session.flush()
            return _slot(session, row)

    def bind(self, team: str, slot: str, persona: Bound | None) -> Slot:
        """Who talks in this slot; ``None``: nobody. Raises ``NotFound``."""
        with self._database.session() as session:
            _touched(session, team)
            row = _slot_row(session, team, slot)
            row.persona = None if persona is None else canonical(persona).decode()
            session.flush()
            return _slot(session, row)


def new_candidate_id() -> str:
    return new_id("candidate")


def _key(candidate: Candidate) -> str:
    """An account is one by its number, whatever it is called; who has none is told by where they were found."""
    if candidate.account is not None:
        return f"{candidate.account.host}/{candidate.account.id}"
    return f"{candidate.origin}:{candidate.source}"


def _add_slot(session: Session, team: str, role: SlotRole) -> None:
    count, last = session.execute(select(func.count(), func.max(SlotRow.position)).where(SlotRow.team == team)).one()
    if count >= MOST_SLOTS:
        raise InputError(f"a team has at most {MOST_SLOTS} slots", "make another team")
    session.add(SlotRow(id=new_id("slot"), team=team, position=(last or 0) + 1, role=role, selected=None, persona=None))
    session.flush()


def _found(session: Session, team: str) -> TeamRow:
    row = session.get(TeamRow, team)
    if row is None:
        raise NotFound(f"no team {team[:80]!r}", "see: dna team ls")
    return row


def _touched(session: Session, team: str) -> TeamRow:
    """The team, changed now: written first, so that two changes of one team come one after the other."""
    row = _found(session, team)
    row.updated_at = moment()
    session.flush()
    return row


def _slot_row(session: Session, team: str, slot: str) -> SlotRow:
    row = session.get(SlotRow, slot)
    if row is None or row.team != team:
        raise NotFound(f"no slot {slot[:80]!r} in this team", "see: dna team show TEAM")
    return row


def _slot(session: Session, row: SlotRow) -> Slot:
    return _slots(session, [row])[0]


def _slots(session: Session, rows: Sequence[SlotRow]) -> list[Slot]:
    """Slots with their candidates, all of these read at once."""
    wanted = (
        select(CandidateRow)
        .where(CandidateRow.slot.in_([row.id for row in rows]))
        .order_by(CandidateRow.created_at, CandidateRow.id)
    )
    found: dict[str, list[Candidate]] = {row.id: [] for row in rows}
    for one in session.scalars(wanted):
        found[one.slot].append(Candidate.model_validate_json(one.candidate))
    return [
        Slot.model_validate(
            {
                "id": row.id, "role": row.role, "candidates": tuple(found[row.id]),
                "selected": next((one for one in found[row.id] if one.id == row.selected), None),
                "persona": None if row.persona is None else Bound.model_validate_json(row.persona),
            }
        )
        for row in rows
    ]  # fmt: skip


def _team(session: Session, row: TeamRow) -> Team:
    return _teams(session, [row])[0]


def _teams(session: Session, rows: Sequence[TeamRow]) -> list[Team]:
    wanted = select(SlotRow).where(SlotRow.team.in_([row.id for row in rows])).order_by(SlotRow.position)
    slots = list(session.scalars(wanted))
    made: dict[str, list[Slot]] = {row.id: [] for row in rows}
    for row, slot in zip(slots, _slots(session, slots), strict=True):
        made[row.team].append(slot)
    return [
        Team(id=row.id, name=row.name, created_at=row.created_at, updated_at=row.updated_at, slots=tuple(made[row.id]))
        for row in rows
    ]
