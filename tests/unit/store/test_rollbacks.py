"""Going back to an earlier version: kept in files, passed over exactly what it says, and undone by what comes later."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.core.block import Manifest
from clonedna.core.errors import BadReference, BlockNotFound, BlockRevoked, Corrupt
from clonedna.core.fakes import FakeSigner
from clonedna.store.database import Database
from clonedna.store.registry import SqlRegistry
from clonedna.store.rollbacks import Rollback, Rollbacks, number
from clonedna.store.store import DirectoryStore
from tests.unit.store.making import rejected, write_block


class Home:
    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.store = DirectoryStore(folder / "store", FakeSigner())
        self.rollbacks = Rollbacks(folder / "store")

    @property
    def registry(self) -> SqlRegistry:
        return SqlRegistry(Database(f"sqlite:///{self.folder / 'registry.sqlite'}"), self.store)

    def publish(self, version: str, **changes: object) -> Manifest:
        self.count += 1
        made = write_block(
            self.folder / f"made-{self.count}", FakeSigner(), note=str(self.count), version=version,
            created_at=f"2026-01-02T03:{self.count:02d}:00Z", **changes,
        )  # fmt: skip
        self.store.put(self.folder / f"made-{self.count}")
        self.registry.publish(made)
        return made

    def back(self, to: str) -> None:
        newer = [m.id for m in self.registry.manifests() if number(m.version) > number(to)]
        self.rollbacks.put(Rollback(name="ada", to=to, over=tuple(newer)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        made.publish(version)
    return made


def means(home: Home) -> str:
    return home.registry.resolve("ada").version


def test_a_name_means_what_it_was_rolled_back_to(home: Home) -> None:
    home.back("1.9.0")
    assert means(home) == "1.9.0"
    home.back("1.0.0")
    assert means(home) == "1.0.0"
    assert home.registry.resolve("ada@1.10.0").version == "1.10.0"
    assert home.registry.next_version("ada") == ("1.11.0", "1.10.0")
    home.rollbacks.remove("ada")
    home.rollbacks.remove("ada")
    assert means(home) == "1.10.0"


def test_a_later_version_counts_again_and_a_rejected_one_does_not(home: Home) -> None:
    home.back("1.0.0")
    home.publish("1.11.0", gate=rejected())
    assert means(home) == "1.0.0"
    home.publish("1.11.0")
    assert means(home) == "1.11.0"


def test_a_number_that_is_free_again_is_another_version(home: Home) -> None:
    home.back("1.9.0")
    home.registry.forget(home.registry.resolve("ada@1.10.0").id)
    assert home.registry.next_version("ada") == ("1.10.0", "1.9.0")
    made = home.publish("1.10.0")
    assert home.registry.resolve("ada") == made


def test_it_is_the_same_when_the_database_is_gone(home: Home) -> None:
    home.back("1.9.0")
    for file in home.folder.glob("registry.sqlite*"):
        file.unlink()
    assert home.registry.reindex() == ()
    assert means(home) == "1.9.0"


def test_when_what_was_gone_back_to_goes_too_it_is_not_the_one_that_was_left(home: Home) -> None:
    home.back("1.9.0")
    home.registry.revoke(home.registry.resolve("ada@1.9.0").id)
    assert means(home) == "1.0.0"
    home.registry.forget(home.registry.resolve("ada@1.0.0").id)
    with pytest.raises(BlockRevoked):
        home.registry.resolve("ada")


def test_when_nothing_is_left_to_go_back_to_it_is_not_found(home: Home) -> None:
    home.back("1.0.0")
    home.registry.forget(home.registry.resolve("ada@1.0.0").id)
    with pytest.raises(BlockNotFound, match="ada") as found:
        home.registry.resolve("ada")
    assert "1.10.0" in found.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"format":"dna-rollback/1","name":"bob","to":"1.0.0","over":["%s"]}' % (b"0" * 64), b"\xff"],
)
def test_a_damaged_record_is_an_error_and_never_passed_over(home: Home, data: bytes) -> None:
    home.back("1.0.0")
    (home.folder / "store/rollbacks/ada.json").write_bytes(data)
    with pytest.raises(Corrupt):
        home.registry.resolve("ada")


@pytest.mark.parametrize("name", ["../ada", "Ada", "", "a/b", "ada."])
def test_what_is_no_name_is_no_file(home: Home, name: str) -> None:
    with pytest.raises(BadReference):
        home.rollbacks.get(name)


def test_versions_are_compared_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.0", "1.9.12"], key=number) == ["1.9.0", "1.9.12", "1.10.0"]
