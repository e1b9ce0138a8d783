"""What every ``Registry`` must do. ``GAPS`` says which promise which part does not keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clonedna.core.block import Manifest
from clonedna.core.errors import BadReference, BlockNotFound, BlockRejected, BlockRevoked
from clonedna.core.fakes import FakeRegistry, FakeSigner
from clonedna.core.seams import Registry, Store
from clonedna.store.database import Database
from clonedna.store.registry import SqlRegistry
from clonedna.store.store import DirectoryStore
from tests.databases import new_url
from tests.unit.store.making import rejected, write_block

PARTS: dict[str, Callable[[Path, DirectoryStore], Registry]] = {
    "sqlite": lambda home, store: SqlRegistry(Database(new_url("sqlite", home)), store),
    "postgres": lambda home, store: SqlRegistry(Database(new_url("postgres", home)), store),
    "fake": lambda home, store: FakeRegistry(),
}
GAPS: dict[str, dict[str, str]] = {
    "fake": {
        "test_a_version_belongs_to_one_block": "gives the newer one",
        "test_the_newest_version_is_by_number": "the one published last",
        "test_a_rejected_block_hides_no_accepted_one": "the one published last",
        "test_a_rejected_block_is_not_used_by_name": "believes unsafe for names too",
        "test_what_cannot_be_a_reference_is_refused": "says not found",
        "test_a_revoked_block_says_so": "forgets it",
    },
}


class Shop:
    """A registry, and a store that it may look into."""

    def __init__(self, home: Path, make: Callable[[Path, DirectoryStore], Registry]) -> None:
        self.home, self.count = home, 0
        self.store: Store = (store := DirectoryStore(home / "store", FakeSigner()))
        self.registry = make(home, store)

    def put(self, **changes: object) -> Manifest:
        self.count += 1
        directory = self.home / f"made-{self.count}"
        made = write_block(
            directory, FakeSigner(), note=str(self.count), created_at=f"2026-01-02T03:{self.count:02d}:00Z", **changes
        )
        self.store.put(directory)
        return made

    def publish(self, **changes: object) -> Manifest:
        made = self.put(**changes)
        self.registry.publish(made)
        return made


@pytest.fixture(params=list(PARTS))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    gap = GAPS.get(request.param, {}).get(request.node.originalname)
    if gap:
        request.applymarker(pytest.mark.xfail(reason=gap, strict=True))
    return Shop(tmp_path, PARTS[request.param])


def test_a_published_block_is_found_by_name_version_and_digits(shop: Shop) -> None:
    made = shop.put()
    reference = shop.registry.publish(made)
    assert (str(reference), reference.id, reference.status) == ("ada@1.0.0", made.id, "registered")
    for text in ("ada", "ada@1.0.0", made.id, made.id[:8]):
        assert shop.registry.resolve(text) == made


def test_the_same_manifest_twice_changes_nothing(shop: Shop) -> None:
    made = shop.put()
    assert shop.registry.publish(made) == shop.registry.publish(made)
    assert shop.registry.manifests() == (made,)


def test_a_version_belongs_to_one_block(shop: Shop) -> None:
    made = shop.publish()
    with pytest.raises(BadReference) as caught:
        shop.registry.publish(shop.put())
    assert caught.value.hint
    assert shop.registry.resolve("ada@1.0.0") == made


def test_a_name_is_its_newest_version(shop: Shop) -> None:
    first, second = shop.publish(), shop.publish(version="1.1.0")
    assert shop.registry.resolve("ada") == second
    assert shop.registry.resolve("ada@1.0.0") == first


def test_the_newest_version_is_by_number(shop: Shop) -> None:
    second = shop.publish(version="1.10.0")
    shop.publish(version="1.9.0")
    assert shop.registry.resolve("ada") == second


def test_versions_go_up_by_a_minor(shop: Shop) -> None:
    assert shop.registry.next_version("ada") == ("1.0.0", None)
    shop.publish()
    assert shop.registry.next_version("ada") == ("1.1.0", "1.0.0")
    shop.publish(version="1.1.0")
    assert shop.registry.next_version("ada") == ("1.2.0", "1.1.0")
    assert shop.registry.next_version("bob") == ("1.0.0", None)


def test_all_are_listed_newest_first_rejected_ones_too(shop: Shop) -> None:
    made = [shop.publish(name="b"), shop.publish(name="a", gate=rejected()), shop.publish(name="c")]
    assert shop.registry.manifests() == tuple(reversed(made))


def test_those_of_one_name_are_listed_alone(shop: Shop) -> None:
    first, second = shop.publish(), shop.publish(version="1.1.0")
    shop.publish(name="bob")
    assert [one.id for one in shop.registry.manifests(first.name)] == [second.id, first.id]
    assert shop.registry.manifests("nobody") == ()


def test_a_rejected_block_is_used_only_by_digits_and_knowingly(shop: Shop) -> None:
    made = shop.put(gate=rejected("no gain"))
    assert shop.registry.publish(made).status == "rejected"
    for text in ("ada", "ada@1.0.0", made.id[:8]):
        with pytest.raises(BlockRejected) as caught:
            shop.registry.resolve(text)
        assert caught.value.hint
    assert shop.registry.resolve(made.id[:8], unsafe=True) == made


def test_a_rejected_block_is_not_used_by_name(shop: Shop) -> None:
    shop.publish(gate=rejected())
    with pytest.raises(BlockRejected):
        shop.registry.resolve("ada", unsafe=True)


def test_a_rejected_block_hides_no_accepted_one(shop: Shop) -> None:
    made = shop.publish()
    shop.publish(version="1.1.0", gate=rejected())
    assert shop.registry.resolve("ada") == made


def test_an_unknown_block_is_not_found(shop: Shop) -> None:
    made = shop.publish()
    for text in ("adam", "ada@9.0.0", "0" * 64, made.id[:7]):
        with pytest.raises(BlockNotFound) as caught:
            shop.registry.resolve(text)
        assert caught.value.hint


@pytest.mark.parametrize("text", ["", "Ada!", "ada@", "ada@newest", "../ada"])
def test_what_cannot_be_a_reference_is_refused(shop: Shop, text: str) -> None:
    with pytest.raises(BadReference):
        shop.registry.resolve(text)


def test_a_revoked_block_is_neither_found_nor_listed(shop: Shop) -> None:
    made, other = shop.publish(), shop.publish(name="bob")
    shop.registry.revoke(made.id)
    for text in ("ada", "ada@1.0.0", made.id):
        with pytest.raises((BlockRevoked, BlockNotFound)):
            shop.registry.resolve(text, unsafe=True)
    assert shop.registry.manifests() == (other,)


def test_a_revoked_block_says_so(shop: Shop) -> None:
    made = shop.publish()
    shop.registry.revoke(made.id)
    with pytest.raises(BlockRevoked):
        shop.registry.resolve(made.id)


def test_a_forgotten_block_is_not_found_and_can_be_published_again(shop: Shop) -> None:
    made = shop.publish()
    shop.registry.forget(made.id)
    shop.registry.forget("0" * 64)
    with pytest.raises(BlockNotFound):
        shop.registry.resolve("ada")
    assert shop.registry.manifests() == ()
    shop.registry.publish(made)
    assert shop.registry.resolve("ada") == made
