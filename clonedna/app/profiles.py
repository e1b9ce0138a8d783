"""The use case `profile`: what a person's code, account, page and resume say of them, in one form, each item with its evidence.

First pass: what can be counted or is stated. Second pass, where a teacher model is asked for: its reading of the same texts
(``clonedna.app.profiles_reading``). A report is kept for 24 hours under a digest of what was asked, readable by its owner only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError

from clonedna.app.parts import Parts, factory
from clonedna.app.people import People
from clonedna.app.profiles_reading import PROMPT, Material, SemanticReader, read_more
from clonedna.app.workspace import write_atomic
from clonedna.core.canonical import canonical, digest, sha256
from clonedna.core.errors import AuthorNeeded, InputError, LicenceNotAllowed, LicenceUnknown
from clonedna.core.events import silent
from clonedna.core.people import GithubProfile
from clonedna.core.profile import CodeFacts, Evidence, Item, LanguageItem, Profile, ProfileReport, Reading
from clonedna.core.value import Value
from clonedna.core.work import Found, Identity

KEPT_SECONDS = 24 * 3600
MAX_SKILLS, CODE_FILES, CODE_SPANS, SUBJECTS = 120, 200, 6, 100
VERSION = 1


class ProfileOrder(Value):
    """What to read. ``target``: a GitHub handle, or a repository (path or URL). ``authors``: whose work in it, where several wrote it.

    ``resume``: a path on this machine. ``teacher``: ``own-words`` reads nothing, so there is no second pass. ``refresh``: do not use what
    was kept.
    """

    target: str | None = None
    authors: tuple[Identity, ...] = ()
    website: str | None = None
    resume: str | None = None
    teacher: str = "own-words"
    refresh: bool = False


class _Sources(Value):
    """What the first pass read."""

    github: GithubProfile | None = None
    code: CodeFacts | None = None
    readings: tuple[Reading, ...] = ()


class Profiles:
    """Makes and keeps profiles. ``reader``: stands in for the teacher that an order names. ``now``: seconds since 1970."""

    def __init__(
        self, parts: Parts, *, reader: SemanticReader | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._parts, self._reader, self._now = parts, reader, now
        self._kept = parts.settings.home / "profiles"

    async def make(self, order: ProfileOrder) -> ProfileReport:
        """The report for ``order``, made now or within the last 24 hours.

        Raises ``InputError`` when nothing was asked for, ``AuthorNeeded``, and what the sources and the teacher raise.
        """
        if not (order.target or order.website or order.resume):
            raise InputError("there is nothing to read", "give a handle or repository, --website URL or --resume FILE")
        found, authors = await anyio.to_thread.run_sync(self._found, order)
        key = await anyio.to_thread.run_sync(self._key, order, found, authors)
        if not order.refresh and (kept := self._recall(key)):
            return kept
        sources = await self._read(order, found, authors)
        report = first_report(sources, self._now())
        reader = self._reader or (self._teacher(order.teacher) if order.teacher != "own-words" else None)
        if reader is not None:
            try:
                report = await self._second(report, reader, sources, found, authors)
            finally:
                if reader is not self._reader:
                    with anyio.CancelScope(shield=True):
                        await reader.close()
        self._keep(key, report)
        return report

    # The first pass.

    def _found(self, order: ProfileOrder) -> tuple[Found | None, tuple[Identity, ...]]:
        """The repository, when the target is one, and whose work counts: as given, else this machine's person, else its only author."""
        if order.target is None or factory("profile", "is_handle")(order.target):
            return None, order.authors
        found = self._parts.source.find(order.target)
        if found.local_only:
            raise InputError("a profile is of a person, and a package is none", "give a repository or a handle")
        if order.authors:
            return found, order.authors
        known = [share.identity for share in found.repository.authors]
        you = found.you
        mine = [one for one in known if you and you.matches(one.name, one.email)]
        if mine or len(known) == 1:
            return found, tuple(mine or known)
        raise AuthorNeeded(
            f"say whose work to read; {len(known)} authors wrote this repository",
            f"give --author, e.g. --author '{known[0].name}'" if known else "the repository has no commits",
        )

    async def _read(self, order: ProfileOrder, found: Found | None, authors: Sequence[Identity]) -> _Sources:
        settings = self._parts.settings
        github: GithubProfile | None = None
        code: CodeFacts | None = None
        readings: list[Reading] = []
        if found is not None:
            code = await anyio.to_thread.run_sync(
                lambda: factory("profile", "code")(found, authors, timeout=settings.git_timeout)
            )
        elif order.target is not None:
            github = await anyio.to_thread.run_sync(People(self._parts).github_profile, order.target)
        if order.website is not None:
            rules = factory("profile", "rules")(
                allow_loopback=settings.web_allow_loopback, ports=settings.web_ports, max_bytes=settings.web_max_bytes,
                seconds=settings.web_timeout,
            )  # fmt: skip
            readings.append(await factory("profile", "website")(order.website, rules=rules))
        if order.resume is not None:
            readings.append(await factory("profile", "resume")(Path(order.resume)))
        return _Sources(github=github, code=code, readings=tuple(readings))

    # The second pass.

    def _teacher(self, name: str) -> SemanticReader:
        teacher: Any = self._parts.teacher(name, base=self._parts.settings.base)
        return teacher

    async def _second(
        self, report: ProfileReport, reader: SemanticReader, sources: _Sources, found: Found | None, authors: Sequence[Identity]
    ) -> ProfileReport:  # fmt: skip
        materials = [Material.of_reading(one) for one in sources.readings]
        left: dict[str, int] = {}
        if sources.github is not None:
            materials += Material.of_github(sources.github)
        if found is not None:
            code, left = await anyio.to_thread.run_sync(self._code, found, authors)
            materials += code
        made = await read_more(report, reader, materials, usable=factory("profile", "usable"))
        return made.model_copy(update={"left_out": _summed(made.left_out, left)})

    def _code(self, found: Found, authors: Sequence[Identity]) -> tuple[list[Material], dict[str, int]]:
        """The person's commit subjects, and their longest pieces of code whose licence allows it."""
        settings = self._parts.settings
        subjects = factory("profile", "subjects")(found, authors, timeout=settings.git_timeout, most=SUBJECTS)
        materials = Material.of_subjects(found.repository.url, subjects)
        try:
            collection = self._parts.source.collect(
                found, authors, licences=settings.licences, owned_share=settings.owned_share, max_files=CODE_FILES, max_changes=0,
                emit=silent,
            )  # fmt: skip
        except (LicenceUnknown, LicenceNotAllowed) as error:
            return materials, {error.code: 1}
        chosen = sorted(collection.spans, key=lambda span: (-len(span.text), span.path, span.start))[:CODE_SPANS]
        return [*materials, *(Material.of_span(found.repository.url, span) for span in chosen)], {}

    # What is kept.

    def _key(self, order: ProfileOrder, found: Found | None, authors: Sequence[Identity]) -> str:
        resume: str | None = None
        if order.resume is not None:
            with suppress(OSError):  # that it cannot be read is said where it is read
                resume = f"{Path(order.resume).name} {sha256(Path(order.resume).read_bytes()[:50_000_000])}"
        reader = self._reader.name if self._reader else order.teacher
        settings = self._parts.settings
        model = f"{settings.teacher_url} {settings.teacher_model}" if reader == "openai" else settings.base
        asked = {
            "version": VERSION, "prompt": PROMPT, "target": order.target if found is None else found.repository.url, "resume": resume,
            "location": found.location if found else settings.github_url, "commit": found.repository.commit if found else "",
            "authors": [str(one) for one in authors], "website": order.website, "reader": reader,
            "model": model if reader != "own-words" else "",
        }  # fmt: skip
        return digest(asked)

    def _recall(self, key: str) -> ProfileReport | None:
        path = self._kept / f"{key}.json"
        try:
            report = ProfileReport.model_validate_json(path.read_bytes())
            age = self._now() - datetime.fromisoformat(report.made_at).timestamp()
        except (OSError, ValidationError, ValueError):
            return None
        return report if 0 <= age < KEPT_SECONDS else None

    def _keep(self, key: str, report: ProfileReport) -> None:
        """Keep it, and remove what is older than a day: nobody's profile stays longer."""
        self._kept.mkdir(parents=True, exist_ok=True)
        os.chmod(self._kept, 0o700)
        for old in self._kept.glob("*.json"):
            with suppress(OSError):
                if self._now() - old.stat().st_mtime > KEPT_SECONDS:
                    old.unlink()
        write_atomic(self._kept / f"{key}.json", canonical(report))


def first_report(sources: _Sources, now: float) -> ProfileReport:
    """One profile of all that was read: single items from the resume, else the page, else GitHub; lists from all, each once."""
    readings = sorted(sources.readings, key=lambda one: one.source != "resume")
    profiles = [one.profile for one in readings]
    if sources.github is not None:
        profiles.append(of_github(sources.github))
    if sources.code is not None:
        profiles.append(of_code(sources.code))

    def first(field: str) -> Any:
        return next((item for one in profiles if (item := getattr(one, field))), None)

    profile = Profile(
        name=first("name"), bio=first("bio"), location=first("location"), description=first("description"),
        skills=joined([item for one in profiles for item in one.skills])[:MAX_SKILLS],
        soft_skills=joined([item for one in profiles for item in one.soft_skills]),
        languages=_languages([item for one in profiles for item in one.languages]),
    )  # fmt: skip
    handles = {one.handle.text.casefold(): one.handle for one in readings if one.handle}
    named = [one.url for one in sources.readings]
    named += [sources.github.url] if sources.github else []
    named += [f"{sources.code.repository}@{sources.code.commit}"] if sources.code else []
    return ProfileReport(
        profile=profile, handle=next(iter(handles.values())) if len(handles) == 1 else None, code=sources.code, github=sources.github,
        sources=tuple(named), left_out=_summed(*(one.left_out for one in sources.readings)),
        made_at=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def of_code(facts: CodeFacts) -> Profile:
    """Skills are the packages that the person's own lines import; languages are counted in bytes."""
    here = Evidence(source="git", url=facts.repository, commit=facts.commit)
    return Profile(
        name=Item(text=facts.author, how="counted", evidence=(here,)),
        skills=tuple(Item(text=one.name, how="counted", evidence=one.evidence) for one in facts.dependencies),
        languages=tuple(
            LanguageItem(text=name, how="counted", evidence=(here,), bytes=size) for name, size in facts.languages.items()
        ),
    )  # fmt: skip


def of_github(github: GithubProfile) -> Profile:
    """What the account states of its person, topics of its own repositories, languages by bytes over them."""
    usable: Callable[[str], tuple[str, dict[str, int]]] = factory("profile", "usable")

    def stated(text: str, path: str) -> Item | None:
        kept = " ".join(usable(text)[0].split())[:600]
        proof = Evidence(source="github", url=github.url, path=path, quote=kept)
        return Item(text=kept, how="stated", evidence=(proof,)) if kept else None

    topics: list[Item] = []
    languages: list[LanguageItem] = []
    for one in github.repositories:
        for topic in one.topics:
            proof = Evidence(source="github", url=one.url, commit=one.head or "", path="topics", quote=topic)
            topics.append(Item(text=topic, how="stated", evidence=(proof,)))
        for language, size in one.languages.items():
            proof = Evidence(source="github", url=one.url, commit=one.head or "", path="languages", quote=language)
            languages.append(LanguageItem(text=language, how="counted", evidence=(proof,), bytes=size))
    return Profile(
        name=stated(github.account.name, "name"), bio=stated(github.bio, "bio"), location=stated(github.location, "location"),
        skills=joined(topics), languages=_languages(languages),
    )  # fmt: skip


def joined(items: Sequence[Item]) -> tuple[Item, ...]:
    """Each text once (case does not count), with up to three pieces of evidence."""
    found: dict[str, Item] = {}
    for item in items:
        key = item.text.casefold()
        before = found.get(key)
        found[key] = (
            item
            if before is None
            else before.model_copy(update={"evidence": tuple(dict.fromkeys((*before.evidence, *item.evidence)))[:3]})
        )
    return tuple(found.values())


def _languages(items: Sequence[LanguageItem]) -> tuple[LanguageItem, ...]:
    """Each language once: bytes added up, counted before stated, most bytes first, then the spoken ones."""
    sizes: dict[str, int] = {}
    for item in items:
        if item.bytes is not None:
            sizes[item.text.casefold()] = sizes.get(item.text.casefold(), 0) + item.bytes
    counted_first = sorted(items, key=lambda item: item.bytes is None)
    made = [
        LanguageItem(
            text=one.text, how=one.how, evidence=one.evidence, bytes=sizes.get(one.text.casefold()), spoken=spoken
        )
        for spoken in (False, True)
        for one in joined([item for item in counted_first if item.spoken == spoken])
    ]
    return tuple(sorted(made, key=lambda one: (one.spoken, -(one.bytes or 0))))


def _summed(*counts: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for reason, n in one.items():
            total[reason] = total.get(reason, 0) + n
    return total
