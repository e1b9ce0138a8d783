"""The `resume` source: a person's PDF, DOCX or text file, for their profile and to find their account. Never training data.

The kind is told by the file's first bytes, not by its name. It is parsed in a process of its own (``clonedna.sources.reading``).
"""

from __future__ import annotations

from pathlib import Path

import anyio

from clonedna.core.errors import InputError, TooLarge
from clonedna.core.profile import Item, Profile, Reading
from clonedna.sources.reading import Kind, Limits, parse
from clonedna.sources.reading_words import (
    Sheet,
    handles_in,
    label_of,
    location_of,
    opening,
    ranked,
    skills_of,
    usable,
)

HEADER = 8
_OLE = b"\xd0\xcf\x11\xe0"


async def read_resume(path: Path, *, limits: Limits | None = None) -> Reading:
    """What the file says of its person.

    Raises ``InputError`` (no such file), ``TooLarge``, ``DocumentEncrypted``, ``DocumentBroken``, ``TimedOut``.
    """
    bounds = limits or Limits()
    try:
        data = await anyio.to_thread.run_sync(_bytes, path, bounds.bytes)
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", "give a PDF, DOCX or text file") from None
    if len(data) > bounds.bytes:
        raise TooLarge(f"{path.name} has more than {bounds.bytes} bytes", "give a smaller file")
    found = await parse(kind_of(data), data, bounds, what=path.name)
    return reading_of(path.name, found["text"], found["hidden"])


def kind_of(data: bytes) -> Kind:
    """``pdf``, ``docx`` (a ZIP archive, or what an encrypted one is kept in) or ``text``, by its first bytes."""
    if b"%PDF-" in data[:1024]:
        return "pdf"
    return "docx" if data.startswith((b"PK", _OLE)) else "text"


def reading_of(name: str, text: str, hidden: int = 0) -> Reading:
    """A reading from a resume's text."""
    kept, left = usable(text)
    sheet = Sheet("resume", name, kept)
    skills, soft, languages = skills_of(sheet)
    person, row = _name(sheet)
    profile = Profile(
        name=person, bio=_headline(sheet, row), location=location_of(sheet, header=HEADER), skills=skills, soft_skills=soft,
        description=_summary(sheet), languages=languages,
    )  # fmt: skip
    handle, handles = ranked(handles_in(sheet))
    return Reading(
        source="resume", url=name, text=kept, profile=profile, handle=handle, handles=handles,
        left_out=left | ({"hidden": hidden} if hidden else {}),
    )  # fmt: skip


def _bytes(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)


def _name(sheet: Sheet) -> tuple[Item | None, int]:
    """The first line that looks like one: two to four words with capitals, nothing else; and which line that is."""
    for number, line in enumerate(sheet.lines[:HEADER]):
        words = line.split()
        plain = all(
            word[0].isupper() and word.replace("-", "").replace("'", "").replace("’", "").rstrip(".").isalpha()
            for word in words
        )
        titles = line.casefold() in ("curriculum vitae", "resume", "résumé", "cv")
        if 2 <= len(words) <= 4 and plain and not titles and not label_of(line):
            return sheet.item(line, number, line), number
    return None, -1


def _headline(sheet: Sheet, row: int) -> Item | None:
    """The line under the name, when it is words only: no contact, no place, no section."""
    if row < 0:
        return None
    for number, line in enumerate(sheet.lines[row + 1 : row + 3], row + 1):
        if not line:
            continue
        contact = "[e-mail]" in line or "[phone]" in line or "/" in line or (", " in line and len(line.split()) <= 4)
        return None if contact or label_of(line) or len(line) > 160 else sheet.item(line, number, line)
    return None


def _summary(sheet: Sheet) -> Item | None:
    """The first paragraph under a label such as Summary or About."""
    lines = sheet.lines
    for number, line in enumerate(lines):
        label = label_of(line)
        if not label or label[0] != "summary":
            continue
        if label[1]:
            return sheet.item(opening(label[1]), number, opening(label[1]))
        taken: list[str] = []
        for below in lines[number + 1 :]:
            if label_of(below) or (not below and taken):
                break
            taken += [below] if below else []
        text = opening(" ".join(taken)) if taken else ""
        return sheet.item(text, number + 1, text) if text else None
    return None
