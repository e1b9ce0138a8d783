"""Personas: who talks, what stands behind them now, and what did before. Here are the use cases over those of one home.

What is bound could be used at that moment, and is looked at again at each message: a persona whose genome or block was revoked since stays,
says so, and does not speak. Going back is a version of its own, so nothing is ever lost by it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clonedna.app import genome_checks
from clonedna.app.blocks import Blocks
from clonedna.app.genomes import GenomeShelf
from clonedna.app.parts import Parts, factory
from clonedna.app.threads import Threads
from clonedna.app.workspace import now
from clonedna.core.chat import Bound, SlotRole, ThreadPage
from clonedna.core.errors import BadReference, BlockNotFound, DnaError, GenomeNotFound, InputError, NotFound
from clonedna.core.genome import Refused
from clonedna.core.persona import (
    GENOME,
    MOST_VERSIONS,
    PERSONA,
    About,
    Instructions,
    Line,
    Name,
    Persona,
    PersonaVersion,
)
from clonedna.core.value import Value

LOCAL = "local"


class PersonaOrder(Value):
    """A persona to make. ``title``: what it is called when it talks, else its name; ``binds``: what speaks, as in ``PersonaBinding``."""

    name: Name
    title: Line | None = None
    role: SlotRole = "any"
    about: About = ""
    instructions: Instructions = ""
    binds: str | None = Field(default=None, min_length=1, max_length=200)


class PersonaBinding(Value):
    """``genome``: ``genome:NAME``, a block's reference, or the name of either where only one has it."""

    genome: Annotated[str, Field(min_length=1, max_length=200)]


class PersonaWork(Value):
    """Whose work a persona speaks from, by the papers of one of its blocks."""

    block: str
    handle: str
    consent_mode: str
    license: str


class PersonaShown(Value):
    """A persona, whether it can speak now, and if not what keeps it from it. ``works``: of the blocks that are here."""

    persona: Persona
    speaks: bool
    faults: tuple[Refused, ...] = ()
    works: tuple[PersonaWork, ...] = ()


class PersonaLine(Value):
    """A persona in a list. ``current``: what speaks, empty for nothing; ``fault``: the code of what keeps it from speaking."""

    name: str
    title: str
    role: SlotRole
    current: str
    versions: int
    fault: str = ""


class PersonaList(Value):
    """By name. ``faults``: what lies there and cannot be read."""

    personas: tuple[PersonaLine, ...]
    faults: tuple[Refused, ...] = ()


class Personas:
    """Use cases over the personas of one home. Its methods block."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.files = parts, parts.personas
        self._blocks, self._genomes = Blocks(parts), GenomeShelf(parts)

    def create(self, order: PersonaOrder, by: str = LOCAL) -> Persona:
        """Raises ``InputError`` for a name that is taken, and as ``bind``."""
        found = () if order.binds is None else (self._version(order.binds, (), by, "created"),)
        made = Persona(
            name=order.name, title=order.title or order.name, role=order.role, about=order.about, instructions=order.instructions,
            created_at=now(), versions=found,
        )  # fmt: skip
        with self.files.changing():
            if made.name in self.files.names():
                raise InputError(f"there is a persona {made.name}", "choose another name, or bind it: dna persona bind")
            self.files.put(made)
        return made

    def list(self) -> PersonaList:
        """All of them, by name."""
        lines, wrong = list[PersonaLine](), list[Refused]()
        for name in self.files.names():
            try:
                one: Persona = self.files.get(name)
            except DnaError as error:
                wrong.append(Refused(id="", name=name, code=error.code, why=error.message))
                continue
            faults = self._faults(one)
            current, fault = one.current.called if one.current else "", faults[0].code if faults else ""
            lines.append(
                PersonaLine(
                    name=name, title=one.title, role=one.role, current=current, versions=len(one.versions), fault=fault
                )
            )
        return PersonaList(personas=tuple(lines), faults=tuple(wrong))

    def show(self, name: str) -> PersonaShown:
        """Raises ``NotFound``, ``Corrupt``."""
        persona: Persona = self.files.get(name)
        faults = self._faults(persona)
        return PersonaShown(
            persona=persona,
            speaks=persona.current is not None and not faults,
            faults=faults,
            works=self._works(persona),
        )

    def bind(self, name: str, reference: str, by: str = LOCAL) -> Persona:
        """Let a genome or a block speak from now on. What spoke already changes nothing.

        Raises ``NotFound``, ``InputError`` (a name that both a genome and a block have), and why it may not be used.
        """
        with self.files.changing():
            persona: Persona = self.files.get(name)
            made = self._version(reference, persona.versions, by, "bound")
            return persona if _same(persona.current, made) else self._with(persona, made)

    def rollback(self, name: str, number: int, by: str = LOCAL) -> Persona:
        """A further version with what version ``number`` had. Raises ``NotFound``, ``InputError`` where that speaks already, and why it may
        not be used."""
        with self.files.changing():
            persona: Persona = self.files.get(name)
            old = next((one for one in persona.versions if one.number == number), None)
            if old is None:
                raise NotFound(f"{name} has no version {number}", f"see: dna persona show {name}")
            if _same(persona.current, old):
                raise InputError(f"version {number} of {name} speaks already", f"see: dna persona show {name}")
            self._check(old)
            return self._with(
                persona, self._stamped(old, len(persona.versions), by, "rolled-back").model_copy(update={"of": number})
            )

    def threads(self, name: str, *, limit: int = 50, after: str | None = None, owner: str | None = None) -> ThreadPage:
        """What was said with it, last used first, in slots of teams, too: its memory. Raises ``NotFound``, ``InputError``."""
        self.files.get(name)
        slots = factory("teams", "sql")(self.parts.database).slots_of(f"{PERSONA}{name}")
        return Threads(self.parts, owner).list(limit=limit, after=after, personas=(f"{PERSONA}{name}", *slots))

    def speaker(self, name: str) -> tuple[Bound, SlotRole]:
        """Who talks for it now. Raises ``NotFound``, ``InputError`` where nothing is bound, and why it may not speak."""
        persona: Persona = self.files.get(name)
        if persona.current is None:
            raise InputError(
                f"nothing speaks for persona {name} yet", f"bind a genome or a block: dna persona bind {name} GENOME"
            )
        try:
            self._check(persona.current)
        except DnaError as error:
            raise _silent(name, error) from None
        one = persona.current
        return Bound(
            name=persona.title, block=one.called, block_id=one.id, kind=one.kind, instructions=persona.instructions, bound_at=one.at,
        ), persona.role  # fmt: skip

    def named(self, reference: str) -> Bound:
        """What may be bound, under its own name: a genome or a block that can be used now. Raises as ``bind``."""
        one = self._version(reference, (), LOCAL, "bound")
        return Bound(name=one.name, block=one.called, block_id=one.id, kind=one.kind, bound_at=one.at)

    def check(self, bound: Bound) -> None:
        """Raises why a genome that was bound may not speak now."""
        self._genomes.verify(bound.block_id)

    def _with(self, persona: Persona, version: PersonaVersion) -> Persona:
        if len(persona.versions) >= MOST_VERSIONS:
            raise InputError(f"{persona.name} has {MOST_VERSIONS} versions", "make another persona: dna persona create")
        made = persona.model_copy(update={"versions": (*persona.versions, version)})
        self.files.put(made)
        return made

    def _version(self, reference: str, before: tuple[PersonaVersion, ...], by: str, why: str) -> PersonaVersion:
        kind, name, version, found = self._resolved(reference)
        made = {"kind": kind, "id": found, "name": name, "version": version}
        return PersonaVersion.model_validate(made | self._stamp(len(before), by, why))

    def _stamped(self, old: PersonaVersion, before: int, by: str, why: str) -> PersonaVersion:
        return PersonaVersion.model_validate(old.model_dump() | self._stamp(before, by, why))

    def _stamp(self, before: int, by: str, why: str) -> dict[str, object]:
        return {
            "number": before + 1,
            "at": now(),
            "by": by[:200],
            "key": self.parts.signer.key_id,
            "why": why,
            "of": None,
        }

    def _resolved(self, reference: str) -> tuple[str, str, str, str]:
        """Kind, name, version and id of what can be used now."""
        plain = reference.removeprefix(GENOME)
        if reference.startswith(PERSONA) or set("+:") & set(plain):
            raise InputError(
                f"{reference[:80]!r} is no genome and no block",
                "give genome:NAME, or a block: name, name@version",
                param="genome",
            )
        genome = reference != plain or self._is_genome(plain)
        if reference == plain and genome and self._is_block(plain):
            raise InputError(
                f"both a genome and a block are called {plain[:80]!r}",
                f"give genome:{plain[:80]}, or the block's id",
                param="genome",
            )
        if genome:
            manifest = self._genomes.verify(plain).genome
            return "genome", manifest.name, manifest.version, manifest.id
        block, _ = self._blocks.verified(plain)
        genome_checks.member(self.parts, block.id, self._blocks)
        return "block", block.name, block.version, block.id

    def _is_genome(self, reference: str) -> bool:
        try:
            self.parts.genomes.get(reference)
        except (GenomeNotFound, BadReference):
            return False
        except DnaError:  # it is one, and verifying it says what is wrong
            return True
        return True

    def _is_block(self, reference: str) -> bool:
        try:
            self.parts.registry.resolve(reference, unsafe=True)
        except (BlockNotFound, BadReference):
            return False
        except DnaError:
            return True
        return True

    def _check(self, one: PersonaVersion) -> None:
        if one.kind == "genome":
            self._genomes.verify(one.id)
        else:
            genome_checks.member(self.parts, one.id, self._blocks)

    def _faults(self, persona: Persona) -> tuple[Refused, ...]:
        one = persona.current
        if one is None:
            return ()
        try:
            if one.kind == "genome":
                return self._genomes.show(one.id).faults
            self._check(one)
        except DnaError as error:
            return (Refused(id=one.id, name=one.called, code=error.code, why=error.message),)
        return ()

    def _works(self, persona: Persona) -> tuple[PersonaWork, ...]:
        """By the papers of blocks, revoked or not; a claim of the persona's own texts is none."""
        one = persona.current
        if one is None:
            return ()
        ids = [one.id]
        if one.kind == "genome":
            try:
                ids = [layer.id for layer in self.parts.genomes.get(one.id).manifest.layers]
            except DnaError:
                return ()
        known = factory("registry", "kin")(self.parts.database, self.parts.store).named(ids)
        found = {relative.manifest.id: relative.manifest for relative in known}
        return tuple(
            PersonaWork(
                block=f"{m.name}@{m.version}", handle=m.candidate.handle, consent_mode=m.consent_mode, license=m.license
            )
            for m in (found[each] for each in ids if each in found)
        )


def _same(one: PersonaVersion | None, other: PersonaVersion) -> bool:
    return one is not None and (one.kind, one.id) == (other.kind, other.id)


def _silent(name: str, error: DnaError) -> DnaError:
    """The same error, said of the persona."""
    hint = f"go back to another version: dna persona rollback {name} VERSION, or bind another: dna persona bind {name}"
    return type(error)(f"persona {name} does not speak: {error.message}", hint, **error.facts)
