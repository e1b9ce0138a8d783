"""The `website` source: a person's own page, for their profile and to find their account. Never training data.

Fetched as ``clonedna.sources.fetching`` does, parsed in a process of its own, then read by rules. What the page states as JSON-LD or
microdata (schema.org ``Person``) comes before what its text says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clonedna.core.profile import MAX_QUOTE, Evidence, Item, Profile, Reading
from clonedna.sources.fetching import Resolver, Rules, fetch
from clonedna.sources.reading import Kind, Limits, parse
from clonedna.sources.reading_words import (
    PROGRAMMING,
    Claim,
    Sheet,
    handle_in,
    handles_in,
    language,
    location_of,
    merged,
    opening,
    ranked,
    skills_of,
    usable,
)

MAX_OBJECTS = 2000


@dataclass(frozen=True, slots=True)
class Person:
    """A schema.org ``Person``: ``by`` is ``json-ld`` or ``microdata``."""

    by: str
    fields: dict[str, Any]


async def read_website(
    url: str, *, rules: Rules | None = None, limits: Limits | None = None, resolve: Resolver | None = None
) -> Reading:
    """What the page at ``url`` says of its person. Raises as ``fetch`` and ``parse`` do: ``AddressRefused``, ``FetchFailed``,
    ``TooLarge``, ``TimedOut``, ``DocumentBroken``.
    """
    page = await fetch(url, rules or Rules(), resolve=resolve)
    kind: Kind = "text" if page.type == "text/plain" else "html"
    found = await parse(kind, page.body, limits or Limits(), what=page.url, charset=page.charset)
    return reading_of(page.url, found)


def reading_of(url: str, found: dict[str, Any]) -> Reading:
    """A reading from what the parser's process gave."""
    text, left = usable(found["text"])
    sheet = Sheet("website", url, text)
    people = list(persons(found.get("structured", [])))
    page = _Page(url, people[0] if people else None)
    skills, soft, languages = skills_of(sheet)
    known = page.terms("knowsAbout", "skills")
    spoken = tuple(language(item, spoken=True) for item in page.terms("knowsLanguage"))
    programming = tuple(language(item) for item in known if item.text.casefold() in PROGRAMMING)
    main, _ = usable(found.get("main", ""))
    description = opening(" ".join(main.split())) if main else ""
    profile = Profile(
        name=page.field("name") or page.meta("meta:author", found.get("author", ""), most=80),
        bio=page.field("description") or page.meta("meta:description", found.get("description", "")) or page.field("jobTitle"),
        location=page.location() or location_of(sheet),
        skills=merged((*known, *skills)),
        soft_skills=soft,
        description=page.meta("main text", description),
        languages=merged((*programming, *languages, *spoken)),
    )  # fmt: skip
    handle, handles = ranked([*page.accounts(), *_linked(url, found.get("links", [])), *handles_in(sheet)])
    hidden = found.get("hidden", 0)
    return Reading(
        source="website", url=url, text=text, profile=profile, handle=handle, handles=handles,
        left_out=left | ({"hidden": hidden} if hidden else {}),
    )  # fmt: skip


def persons(structured: list[dict[str, Any]]) -> Iterator[Person]:
    """Every schema.org ``Person`` in the structured data, those that a ``ProfilePage`` is about first."""
    found: list[tuple[int, Person]] = []
    for one in structured:
        todo: list[tuple[Any, int]] = [(one["object"], 1)]
        seen = 0
        while todo and seen < MAX_OBJECTS:
            here, rank = todo.pop(0)
            seen += 1
            if isinstance(here, list):
                todo += [(below, rank) for below in here]
            elif isinstance(here, dict):
                kinds = here.get("@type", here.get("type", ""))
                names = {str(kind).rpartition("/")[2] for kind in (kinds if isinstance(kinds, list) else [kinds])}
                fields = here.get("properties", here)
                if "Person" in names and isinstance(fields, dict):
                    found.append((rank, Person(one["by"], fields)))
                    continue  # whom a person knows is somebody else
                main = fields.get("mainEntity") if isinstance(fields, dict) else None
                todo += [(main, 0)] if main else []
                todo += [
                    (below, rank) for below in here.values() if isinstance(below, dict | list) and below is not main
                ]
    return (person for _, person in sorted(found, key=lambda pair: pair[0]))


@dataclass(frozen=True, slots=True)
class _Page:
    url: str
    person: Person | None

    def _values(self, field: str) -> list[Any]:
        value = self.person.fields.get(field) if self.person else None
        return value if isinstance(value, list) else [] if value is None else [value]

    def _texts(self, field: str) -> Iterator[str]:
        for value in self._values(field):
            value = _named(value)
            text = " ".join(usable(value)[0].split()) if isinstance(value, str) else ""
            if text:
                yield text

    def _proof(self, path: str, quote: str) -> Evidence:
        return Evidence(source="website", url=self.url, path=path, quote=quote[:MAX_QUOTE])

    def _stated(self, field: str, text: str) -> Item:
        by = self.person.by if self.person else ""
        return Item(text=text, how="stated", evidence=(self._proof(f"{by}:{field}", text),))

    def field(self, name: str) -> Item | None:
        """The first text of a field of the person."""
        return next((self._stated(name, text[:MAX_QUOTE]) for text in self._texts(name)), None)

    def terms(self, *names: str) -> tuple[Item, ...]:
        """A field's texts as terms: split at commas, short ones only."""
        return merged(
            self._stated(name, term.strip())
            for name in names
            for text in self._texts(name)
            for term in text.split(",")
            if 0 < len(term.strip()) <= 60
        )

    def location(self) -> Item | None:
        """The address or home of the person: locality, region, country."""
        for name in ("address", "homeLocation", "workLocation"):
            for value in self._values(name):
                inner = _properties(value)
                inner = (
                    _properties(inner["address"])
                    if isinstance(inner, dict) and isinstance(inner.get("address"), dict)
                    else inner
                )
                if isinstance(inner, dict):
                    parts = [_named(inner.get(key)) for key in ("addressLocality", "addressRegion", "addressCountry")]
                    text = (
                        ", ".join(part for part in parts if isinstance(part, str) and part.strip())
                        or _named(inner)
                        or ""
                    )
                else:
                    text = inner
                text = " ".join(usable(text)[0].split())[:120] if isinstance(text, str) else ""
                if text:
                    return self._stated(name, text)
        return None

    def meta(self, path: str, text: str, most: int = MAX_QUOTE) -> Item | None:
        """A text of the page itself, when there is any."""
        kept = " ".join(usable(text)[0].split())[:most]
        return Item(text=kept, how="stated", evidence=(self._proof(path, kept),)) if kept else None

    def accounts(self) -> Iterator[Claim]:
        """GitHub accounts that the person's ``sameAs`` or ``url`` names."""
        for field in ("sameAs", "url"):
            for text in self._texts(field):
                found = handle_in(text)
                if found and found[1]:
                    by = self.person.by if self.person else ""
                    yield Claim(0, found[0], self._proof(f"{by}:{field}", text))


def _properties(value: Any) -> Any:
    return value.get("properties", value) if isinstance(value, dict) else value


def _named(value: Any) -> Any:
    """A text, or the name of an object that stands in its place."""
    inner = _properties(value)
    return inner.get("name") if isinstance(inner, dict) else inner


def _linked(url: str, links: list[dict[str, str]]) -> Iterator[Claim]:
    """Accounts that the page links to: ``rel="me"`` says that it is the same person (microformats.org/wiki/rel-me)."""
    for link in links:
        found = handle_in(link["href"])
        if found:
            mine = "me" in link["rel"].casefold().split()
            rank = 0 if mine and found[1] else 1 if found[1] else 3
            proof = Evidence(
                source="website", url=url, path="link rel=me" if mine else "link", quote=link["href"][:MAX_QUOTE]
            )
            yield Claim(rank, found[0], proof)
