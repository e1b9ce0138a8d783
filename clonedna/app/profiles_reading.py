"""The second pass: a teacher model reads the same texts, and every statement of its is checked before it counts.

The texts go to it as quoted data, without what speaks to a machine. Of its answer a skill is kept when the passage it quotes stands in
the text it names, letter for letter but for white space; a soft skill and the description are nothing but such a passage of the person's
own page or resume. Everything else is dropped and counted. What the model adds of its own is marked as ``read``, never as stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, ValidationError

from clonedna.core.canonical import sha256
from clonedna.core.people import GithubProfile
from clonedna.core.profile import MAX_QUOTE, Evidence, EvidenceKind, Item, Profile, ProfileReport, Reading, SecondPass
from clonedna.core.value import Value
from clonedna.core.work import Span

SYSTEM = (Path(__file__).parent / "templates/profile_reader.txt").read_text("utf-8")
PROMPT = sha256(SYSTEM)[:12]
MAX_TEXT, MAX_MATERIALS, MAX_SAID, MIN_QUOTE = 12_000, 20, 60, 8
_SKILL = re.compile(r"\w[\w +#./()&'-]{0,59}")
_STRING: dict[str, Any] = {"type": "string"}


class SemanticReader(Protocol):
    """A teacher that can be asked a question about texts."""

    name: str

    async def read(self, system: str, data: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        """One JSON object; that it keeps to ``schema`` is checked here."""
        ...

    async def close(self) -> None: ...


class _Passage(Value):
    material: str = Field(max_length=20)
    quote: str = Field(max_length=MAX_QUOTE)


class _Skill(_Passage):
    text: str = Field(max_length=60)


def _listed(kind: type[Value], most: int) -> dict[str, Any]:
    properties = dict.fromkeys(kind.model_fields, _STRING)
    entry = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "items": entry, "maxItems": most}


SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["skills", "soft_skills", "description"],
    "properties": {
        "skills": _listed(_Skill, MAX_SAID), "soft_skills": _listed(_Passage, 20), "description": _listed(_Passage, 1),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Material:
    """One text for the reader, and where a passage of it stands. ``own``: the person speaks of themselves in it."""

    kind: str
    text: str
    source: EvidenceKind
    url: str
    own: bool = False
    commit: str = ""
    path: str = ""
    commits: tuple[str, ...] = ()  # of each line, where lines are commit subjects

    @staticmethod
    def of_reading(reading: Reading) -> Material:
        return Material(reading.source, reading.text, reading.source, reading.url, own=True)

    @staticmethod
    def of_github(github: GithubProfile) -> list[Material]:
        made = [Material("biography", github.bio, "github", github.url, own=True, path="bio")] if github.bio else []
        for one in github.repositories:
            lines = [subject for subject in one.subjects if subject.subject.strip()]
            if lines:
                text = "\n".join(" ".join(line.subject.split()) for line in lines)
                commits = tuple(line.commit for line in lines)
                made.append(Material("commit subjects", text, "github", one.url, commits=commits))
        return made

    @staticmethod
    def of_subjects(url: str, subjects: Sequence[tuple[str, str]]) -> list[Material]:
        if not subjects:
            return []
        text, commits = "\n".join(said for _, said in subjects), tuple(commit for commit, _ in subjects)
        return [Material("commit subjects", text, "git", url, commits=commits)]

    @staticmethod
    def of_span(url: str, span: Span) -> Material:
        return Material(f"{span.language} code", span.text, "git", url, commit=span.commit, path=span.path)

    def evidence(self, quote: str) -> Evidence | None:
        """Where ``quote`` stands in this text, white space aside; ``None`` when it does not."""
        wanted = " ".join(quote.split())
        if wanted not in " ".join(self.text.split()):
            return None
        commit = self.commit
        if self.commits:
            lines = [" ".join(line.split()) for line in self.text.split("\n")]
            row = next((i for i, line in enumerate(lines) if wanted in line), None)
            if row is None:
                return None
            commit = self.commits[row]
        return Evidence(source=self.source, url=self.url, commit=commit, path=self.path, quote=wanted[:MAX_QUOTE])


async def read_more(
    report: ProfileReport, reader: SemanticReader, materials: Sequence[Material],
    *, usable: Callable[[str], tuple[str, dict[str, int]]],
) -> ProfileReport:  # fmt: skip
    """``report`` with what ``reader`` can prove beside it, and counts of what it could not. Raises what the reader raises."""
    given = _prepared(materials, usable)
    if not given:
        return report.model_copy(update={"second": SecondPass(teacher=reader.name, materials=0, kept=0)})
    data = {"materials": [{"id": name, "kind": one.kind, "text": one.text} for name, one in given.items()]}
    answer = await reader.read(SYSTEM, data, SCHEMA)
    check = _Check(given, usable, {})
    skills = [item for said in _entries(answer, "skills") if (item := check.skill(said))]
    soft = [item for said in _entries(answer, "soft_skills") if (item := check.own_words(said))]
    described = [item for said in _entries(answer, "description")[:1] if (item := check.own_words(said))]
    profile = report.profile
    known = {item.text.casefold() for item in (*profile.skills, *profile.soft_skills)}
    new_skills, new_soft = _new(skills, known), _new(soft, known)
    update: dict[str, Any] = {
        "skills": (*profile.skills, *new_skills),
        "soft_skills": (*profile.soft_skills, *new_soft),
        "description": profile.description or next(iter(described), None),
    }
    kept = len(skills) + len(soft) + len(described)
    return report.model_copy(
        update={
            "profile": Profile.model_validate(dict(profile) | update),
            "second": SecondPass(teacher=reader.name, materials=len(given), kept=kept, dropped=dict(sorted(check.dropped.items()))),
        }
    )  # fmt: skip


def _prepared(
    materials: Sequence[Material], usable: Callable[[str], tuple[str, dict[str, int]]]
) -> dict[str, Material]:
    """Name -> text as the reader gets it. Subjects are judged one by one, so that each stays with its commit."""
    given: dict[str, Material] = {}
    for one in materials[:MAX_MATERIALS]:
        if one.commits:
            pairs = [(usable(line)[0], commit) for line, commit in zip(one.text.split("\n"), one.commits, strict=True)]
            kept = [(line, commit) for line, commit in pairs if line and "\n" not in line]
            made = replace(one, text="\n".join(line for line, _ in kept), commits=tuple(commit for _, commit in kept))
        else:
            made = replace(one, text=usable(one.text)[0][:MAX_TEXT])
        if made.text.strip():
            given[f"m{len(given) + 1}"] = made
    return given


def _entries(answer: dict[str, Any], name: str) -> list[Any]:
    said = answer.get(name)
    return said[:MAX_SAID] if isinstance(said, list) else []


def _new(items: Sequence[Item], known: set[str]) -> list[Item]:
    found: dict[str, Item] = {}
    for item in items:
        if item.text.casefold() not in known:
            found.setdefault(item.text.casefold(), item)
    return list(found.values())


@dataclass(slots=True)
class _Check:
    """Judges statements; ``dropped`` counts those that do not hold."""

    given: dict[str, Material]
    usable: Callable[[str], tuple[str, dict[str, int]]]
    dropped: dict[str, int]

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def skill(self, said: Any) -> Item | None:
        """A skill in the reader's words, with the passage that proves it."""
        try:
            claim = _Skill.model_validate(said)
        except ValidationError:
            return self._drop("malformed")
        proof = self._proof(claim)
        if proof is None:
            return None
        text = " ".join(claim.text.split())
        if not _SKILL.fullmatch(text) or self.usable(text) != (text, {}):
            return self._drop("not_a_skill")
        return Item(text=text, how="read", evidence=(proof,))

    def own_words(self, said: Any) -> Item | None:
        """A passage of the person's own page or resume, word for word."""
        try:
            claim = _Passage.model_validate(said)
        except ValidationError:
            return self._drop("malformed")
        proof = self._proof(claim)
        if proof is None:
            return None
        if not self.given[claim.material].own:
            return self._drop("not_self_stated")
        return Item(text=proof.quote, how="stated", evidence=(proof,))

    def _proof(self, claim: _Passage) -> Evidence | None:
        material = self.given.get(claim.material)
        if material is None:
            return self._drop("no_such_material")
        if len(claim.quote.strip()) < MIN_QUOTE:
            return self._drop("quote_too_short")
        proof = material.evidence(claim.quote)
        return proof if proof is not None else self._drop("not_in_the_text")
