"""What technical names mean, in everyday words: libraries, acronyms, formats, algorithms, as they stand in what a layer says of itself.

A layer says ``raft``; who needs it asks for "several copies that agree on one order of events". An encoder of meanings knows few such
names. So what they mean stands beside the layer's text when layers are looked for (docs/genomes.md, "What names mean"). The bundled file
is ``data/glossary.jsonl``; a second one, in the same form, may add a firm's own names. Reading is bounded, and a line that does not fit
is refused with its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from clonedna.core.canonical import digest
from clonedna.core.errors import BadConfig
from clonedna.core.value import Value
from clonedna.genomes.extension import read_extension

MOST_BYTES, MOST_ENTRIES = 4_000_000, 20_000
MOST_WORDS = 3
"""Of a name."""
MOST_MEANINGS = 8
"""Of one text. A text that is stuffed with names says no more than one that has as many as a real layer's."""
MOST_LETTERS = 20_000  # of a text that is read
NAME = r"^[a-z0-9+#]+( [a-z0-9+#]+){0,2}$"
_WORD = re.compile(r"[A-Za-z0-9+#]+")
# Where the mint's texts name what code is from and what it uses (mint/capability.py): to the end of that sentence.
_NAMED = re.compile(r"\b(?:uses|from) ((?:[^.]|\.(?=\w))*)")

Name = Annotated[str, Field(pattern=NAME, max_length=60)]


class Entry(Value):
    """Some spellings of one name, in lower case, and what they mean. ``everyday``: those that are ordinary words, too, and count only where
    a text says ``uses`` or ``from`` before them, or writes them with a capital inside a sentence."""

    names: tuple[Name, ...] = Field(min_length=1, max_length=20)
    everyday: tuple[Name, ...] = Field(default=(), max_length=20)
    means: str = Field(min_length=1, max_length=300)

    @model_validator(mode="after")
    def _of_these(self) -> Entry:
        if not set(self.everyday) <= set(self.names):
            raise ValueError("everyday has a name that names has not")
        return self


class Glossary:
    """Entries by their names. A name may be in two, whose meanings both count. ``revision``: a digest of all."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.revision = digest([one.model_dump(mode="json") for one in entries])[:12]
        self._means: dict[str, list[str]] = {}
        self._everyday: set[str] = set()
        for one in entries:
            self._everyday |= set(one.everyday)
            for name in one.names:
                self._means.setdefault(name, []).append(one.means)

    def meanings(self, text: str) -> tuple[str, ...]:
        """What the names in ``text`` mean, each once, at most ``MOST_MEANINGS``: first those that it says it uses or is from, then as they
        stand. Of names inside each other the longest counts."""
        text = text[:MOST_LETTERS]
        spans = [found.span(1) for found in _NAMED.finditer(text)]
        words = [(found.group().lower(), found.start()) for found in _WORD.finditer(text)]
        first, rest, at = list[str](), list[str](), 0
        while at < len(words):
            name, taken = self._longest([word for word, _ in words[at : at + MOST_WORDS]])
            place = words[at][1]
            named = any(start <= place < end for start, end in spans)
            if name and (named or taken > 1 or name not in self._everyday or _as_a_name(text, place)):
                (first if named else rest).extend(self._means[name])
            at += taken
        return tuple(dict.fromkeys((*first, *rest)))[:MOST_MEANINGS]

    def explained(self, text: str) -> str:
        """``text``, and what its names mean."""
        return " ".join((text, *self.meanings(text)))

    def _longest(self, words: Sequence[str]) -> tuple[str, int]:
        """The longest name that ``words`` begin with, and how many words it has; none, and 1."""
        for count in range(len(words), 0, -1):
            name = " ".join(words[:count])
            if name in self._means:
                return name, count
        return "", 1


def _as_a_name(text: str, at: int) -> bool:
    """Whether the word at ``at`` has a capital and is not a sentence's first."""
    before = text[:at].rstrip()[-1:]
    return text[at].isupper() and before not in ("", ".", "!", "?", ":")


def load_glossary(extension: Path | None = None) -> Glossary:
    """The bundled entries, and those of a file that adds to them; a name that it has means what it says there alone.

    Raises ``BadConfig`` for a file that cannot be read, is too large, or does not fit.
    """
    if extension is None:
        return _alone()
    more = _read(read_extension(extension, MOST_BYTES, "glossary_extension"), str(extension))
    theirs = {name for one in more for name in one.names}
    kept = (_without(one, theirs) for one in bundled())
    return Glossary((*(one for one in kept if one.names), *more))


def _without(one: Entry, names: set[str]) -> Entry:
    kept = {"names": one.names, "everyday": one.everyday}
    return one.model_copy(update={key: tuple(name for name in some if name not in names) for key, some in kept.items()})


@cache
def bundled() -> tuple[Entry, ...]:
    """The entries that come with the program."""
    return _read(files("clonedna.genomes").joinpath("data", "glossary.jsonl").read_bytes(), "glossary.jsonl")


@cache
def _alone() -> Glossary:
    return Glossary(bundled())


def _read(data: bytes, name: str) -> tuple[Entry, ...]:
    if len(data) > MOST_BYTES:
        raise BadConfig(f"{name} has more than {MOST_BYTES} bytes", "a glossary has a line for a name: make it shorter")
    found: list[Entry] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(found) == MOST_ENTRIES:
            raise BadConfig(f"{name} has more than {MOST_ENTRIES} entries", "make it shorter")
        try:
            found.append(Entry.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:200]
            told = f"{name}, line {number}: {where or 'the line'}: {first['msg'][:200]}"
            raise BadConfig(told, 'a line is {"names": ["raft"], "means": "..."}: docs/genomes.md') from None
        except (ValueError, RecursionError) as error:
            raise BadConfig(
                f"{name}, line {number} is not JSON: {str(error)[:200]}", "a line is one JSON object: docs/genomes.md"
            ) from None
    return tuple(found)
