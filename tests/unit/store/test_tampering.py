"""More than a hundred kinds of tampering, twenty seeded variations each: none is accepted, each is refused with the error that is meant.

The block is built once. Every variation is verified as a directory (or unpacked as an archive); the first of each kind is also put into a
store, which stays empty.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clonedna.core.errors import DnaError
from clonedna.store.archive import unzip_block, zip_block
from clonedna.store.blocks import verify_block
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import contents, weights, write_block
from tests.unit.store.tampering import ARCHIVES, FOLDERS, World

VARIATIONS = 20
LEAST_KINDS = 80


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Whole blocks and keys; ``block`` is the one that is copied."""
    home = tmp_path_factory.mktemp("tampering")
    ring, stranger, lost = (KeyRing(home / name) for name in ("keys", "stranger", "lost"))
    write_block(home / "block", ring)
    files = {key: data + b"\n" for key, data in contents().items()} | {"adapter_model.safetensors": weights(b"\1" * 16)}
    write_block(home / "other", ring, files, name="bob")
    ring.trust_log(lost.log.to_bytes())
    shutil.copytree(home / "lost", home / "thief")
    lost.rotate(compromised=True)
    ring.trust_log(lost.log.to_bytes())
    return World(
        block=home / "block", other=home / "other", ring=ring, stranger=stranger, lost=lost, lost_key=KeyRing(home / "thief"),
        trusted=home / "keys/trusted", elsewhere=home, rng=random.Random(0),
    )  # fmt: skip


@contextmanager
def spoilt(world: World, home: Path, seed: str) -> Iterator[World]:
    """A copy to spoil; what a kind slipped into the trust records goes again."""
    here = home / seed.rpartition("/")[2]
    here.mkdir()
    known = set(world.trusted.iterdir())
    try:
        block = Path(shutil.copytree(world.block, here / "block", copy_function=shutil.copyfile))
        yield replace(world, block=block, elsewhere=here, rng=random.Random(seed))
    finally:
        for path in set(world.trusted.iterdir()) - known:
            path.unlink()


def test_there_are_enough_kinds() -> None:
    assert len(FOLDERS) + len(ARCHIVES) >= LEAST_KINDS


def test_what_nobody_touched_is_accepted(world: World, tmp_path: Path) -> None:
    """Else the rest would prove nothing."""
    verify_block(world.block, world.ring)
    verify_block(world.other, world.ring)
    zip_block(world.block, tmp_path / "a.dna")
    unzip_block(tmp_path / "a.dna", tmp_path / "out", world.ring)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_tampered_block_is_refused_as_it_should_be(world: World, tmp_path: Path, kind: str) -> None:
    act, expected = FOLDERS[kind]
    for variation in range(VARIATIONS):
        with spoilt(world, tmp_path, f"{kind}/{variation}") as one:
            act(one)
            with pytest.raises(DnaError) as caught:
                verify_block(one.block, one.ring)
            assert type(caught.value) in expected, f"{variation}: {caught.value!r}"
            assert caught.value.facts["file"]
            assert caught.value.hint
            if variation == 0:
                store = DirectoryStore(tmp_path / "store", one.ring)
                with pytest.raises(DnaError) as again:
                    store.put(one.block)
                assert type(again.value) in expected
                assert store.ids() == ()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_tampered_archive_is_refused_and_leaves_nothing(world: World, tmp_path: Path, kind: str) -> None:
    act, expected = ARCHIVES[kind]
    for variation in range(VARIATIONS):
        with spoilt(world, tmp_path, f"{kind}/{variation}") as one:
            act(one, one.elsewhere / "a.dna")
            with pytest.raises(DnaError) as caught:
                unzip_block(one.elsewhere / "a.dna", one.elsewhere / "out", one.ring)
            assert type(caught.value) in expected, f"{variation}: {caught.value!r}"
            assert sorted(os.listdir(one.elsewhere)) == ["a.dna", "block"]
    assert not (tmp_path.parent / "evil").exists()
