"""A persona: who talks. A name and a role, what stands behind it now, and everything that stood behind it before.

What its owner writes of it (``title``, ``about``, ``instructions``) is a text of theirs that nothing here proves. Whose work it speaks from
is said by the papers of its blocks alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clonedna.core.block import DIGEST_PATTERN, NAME_PATTERN, VERSION_PATTERN, Envelope, FileEntry
from clonedna.core.chat import MOST_NAME, SlotRole
from clonedna.core.errors import BadReference
from clonedna.core.genome import MOST_LAYERS, SignedGenome
from clonedna.core.value import Value

PERSONA_FORMAT, PERSONA_PAYLOAD = "dna-persona/1", "application/vnd.clone-dna.persona+json"
EXPORT_FORMAT, EXPORT_PAYLOAD = "dna-persona-export/1", "application/vnd.clone-dna.persona-export+json"
MOST_VERSIONS, MOST_ABOUT, MOST_INSTRUCTIONS = 1_000, 1_000, 2_000
PERSONA, GENOME = "persona:", "genome:"
"""How a persona and a genome are told from a block, where any of them may be named."""

_NAME = re.compile(NAME_PATTERN)
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _line(text: str) -> str:
    flat = " ".join(text.split())
    if not flat or not flat.isprintable():
        raise ValueError("one line of printable text is wanted")
    return flat


def _clean(text: str) -> str:
    if any(not c.isprintable() and c not in "\n\t" for c in text):
        raise ValueError("a text holds no control characters")
    return text.strip()


Line = Annotated[str, Field(min_length=1, max_length=MOST_NAME), AfterValidator(_line)]
About = Annotated[str, Field(max_length=MOST_ABOUT), AfterValidator(_clean)]
Instructions = Annotated[str, Field(max_length=MOST_INSTRUCTIONS), AfterValidator(_clean)]


def named(name: str) -> str:
    """The name, when it can be a persona's. Raises ``BadReference``."""
    if not _NAME.fullmatch(name):
        raise BadReference(f"{name[:80]!r} names no persona", "use a-z, 0-9, dot, dash, underscore: dna persona ls")
    return name


class PersonaVersion(Value):
    """What stood behind a persona from ``at`` on: a block or a genome by its id. ``by``: who did it, as this home knows them; ``key``: the
    key that signs here. ``of``: the version that a rollback went back to."""

    number: int = Field(ge=1, le=MOST_VERSIONS)
    kind: Literal["block", "genome"]
    id: Digest
    name: Name
    version: str = Field(pattern=VERSION_PATTERN)
    at: str = Field(max_length=40)
    by: str = Field(max_length=200)
    key: str = Field(max_length=200)
    why: Literal["created", "bound", "rolled-back", "imported"]
    of: int | None = Field(default=None, ge=1, le=MOST_VERSIONS)

    @property
    def called(self) -> str:
        """``name@version``, a genome's behind ``genome:``."""
        return f"{GENOME if self.kind == 'genome' else ''}{self.name}@{self.version}"


class Persona(Value):
    """Who talks. ``versions`` in the order in which they came; the last one speaks; none: nothing was bound yet."""

    format: Literal["dna-persona/1"] = PERSONA_FORMAT
    name: Name
    title: Line
    role: SlotRole = "any"
    about: About = ""
    instructions: Instructions = ""
    created_at: str = Field(max_length=40)
    versions: tuple[PersonaVersion, ...] = Field(default=(), max_length=MOST_VERSIONS)

    @property
    def current(self) -> PersonaVersion | None:
        return self.versions[-1] if self.versions else None


class SignedPersona(Value):
    """A persona and the DSSE envelope over its canonical JSON, without what is as it is by default."""

    persona: Persona
    envelope: Envelope


class PersonaExport(Value):
    """What an archive of a persona says of itself: who it is, what speaks (one of ``genome`` and ``block``), and the ``.dna`` file of each
    member by its id. Versions from before and conversations are not in it."""

    format: Literal["dna-persona-export/1"] = EXPORT_FORMAT
    name: Name
    title: Line
    role: SlotRole
    about: About
    instructions: Instructions
    genome: SignedGenome | None = None
    block: Digest | None = None
    members: dict[Digest, FileEntry] = Field(min_length=1, max_length=MOST_LAYERS + 1)
