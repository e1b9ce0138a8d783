"""What every ``Source`` must do: spans with their origin, in order, the same each time, and nothing of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clonedna.core.canonical import sha256
from clonedna.core.errors import InputError, NoSuchAuthor
from clonedna.core.events import silent
from clonedna.core.fakes import FakeSource
from clonedna.core.seams import Source
from clonedna.core.work import Collection, Found, Identity
from clonedna.sources.git import GitSource
from clonedna.sources.github_client import GitHub
from clonedna.sources.github_source import GitHubSource
from clonedna.sources.package import PackageSource
from tests.github_fake import serving
from tests.github_world import Account, Repository, World
from tests.packages import install
from tests.people import two_people
from tests.values import ADA, FOUND, collection


def github(home: Path, stack: ExitStack) -> tuple[Source, str]:
    ada = Account(1001, "ada-example", "Ada Example", ("ada@example.org",))
    world = World([ada], [Repository(1, ada, "abacus", two_people(home / "abacus"))])
    fake = stack.enter_context(serving(world, home / "served"))
    return GitHubSource(lambda: GitHub(url=fake.url, cache=home / "github"), cache=home / "cache"), "ada-example"


def package(home: Path) -> tuple[Source, str]:
    install(home / "installed", "abacus")
    return PackageSource(folder=home / "installed"), "package:abacus"


PARTS: dict[str, Callable[[Path, ExitStack], tuple[Source, str]]] = {
    "git": lambda home, stack: (GitSource(cache=home / "cache"), str(two_people(home / "abacus"))),
    "github": github,
    "package": lambda home, stack: package(home),
    "fake": lambda home, stack: (FakeSource(FOUND, collection(30)), "anything"),
}


@pytest.fixture(scope="module", params=list(PARTS))
def part(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Source, str, Path]]:
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        yield (*PARTS[request.param](home, stack), home)


def collected(source: Source, found: Found, who: Identity | None = None) -> Collection:
    return source.collect(
        found,
        [who or found.repository.authors[0].identity],
        licences=["MIT"],
        owned_share=0.8,
        max_files=1000,
        max_changes=100,
        emit=silent,
    )


def test_a_repository_is_found_without_a_word_of_this_machine(part: tuple[Source, str, Path]) -> None:
    source, target, home = part
    found = source.find(target)
    assert len(found.repository.commit) == 40
    assert found.repository.licence.spdx == "MIT"
    assert found.repository.authors[0].identity == (Identity(name="abacus") if found.local_only else ADA)
    assert str(home) not in found.repository.model_dump_json()


def test_spans_carry_their_origin_and_stand_in_order(part: tuple[Source, str, Path]) -> None:
    source, target, _ = part
    spans = collected(source, source.find(target)).spans
    assert len(spans) >= 30
    assert [(s.path, s.start, s.commit) for s in spans] == sorted((s.path, s.start, s.commit) for s in spans)
    for span in spans:
        assert span.sha256 == sha256(span.text)
        assert span.licence == "MIT"
        assert span.owned >= 0.8
        assert span.end - span.start + 1 == len(span.text.rstrip("\n").split("\n"))


def test_the_same_question_has_the_same_answer(part: tuple[Source, str, Path]) -> None:
    source, target, _ = part
    found = source.find(target)
    assert source.find(target) == found
    assert collected(source, found) == collected(source, found)


def test_since_now_there_is_nothing(part: tuple[Source, str, Path]) -> None:
    source, target, _ = part
    found = source.find(target)
    now = collected(source, found).repository

    def since() -> Collection:
        return source.collect(
            found, [ADA], licences=["MIT"], owned_share=0.8, max_files=1000, max_changes=100, emit=silent, since=now
        )

    if isinstance(source, PackageSource):  # it has no history that could tell
        with pytest.raises(InputError):
            since()
        return
    nothing = since()
    assert nothing.spans == ()
    assert nothing.repository == now


def test_nobody_is_an_error_with_the_closest_names(part: tuple[Source, str, Path]) -> None:
    source, target, _ = part
    with pytest.raises(NoSuchAuthor) as error:
        collected(source, source.find(target), Identity(name="Ada Exemple", email="someone@example.org"))
    assert error.value.hint
