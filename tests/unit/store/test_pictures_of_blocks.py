"""A block may hold the pictures of its card: listed, signed, PNG; none that is not listed, none missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.core.errors import BlockCorrupt
from clonedna.store.archive import unzip_block, zip_block
from clonedna.store.blocks import PICTURES, pack, sign_block, verify_block
from clonedna.store.store import DirectoryStore
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import contents, write_block

PNG = b"\x89PNG\r\n\x1a\n and the rest"
NAMES = tuple(PICTURES)


@pytest.fixture
def pictured(tmp_path: Path, ring: KeyRing) -> Path:
    write_block(tmp_path / "pictured", ring, {**contents(), NAMES[0]: PNG, NAMES[1]: PNG + b"2"})
    return tmp_path / "pictured"


def test_pictures_are_listed_kept_and_travel(pictured: Path, ring: KeyRing, tmp_path: Path) -> None:
    made = verify_block(pictured, ring)
    assert {NAMES[0], NAMES[1]} <= set(made.files)
    assert NAMES[2] not in made.files
    store = DirectoryStore(tmp_path / "store", ring)
    kept = store.path(store.put(pictured))
    zip_block(kept, tmp_path / "a.dna")
    assert unzip_block(tmp_path / "a.dna", tmp_path / "out", ring) == made
    for place in (kept, tmp_path / "out"):
        assert {path.name: path.read_bytes() for path in place.iterdir()} == {
            path.name: path.read_bytes() for path in pictured.iterdir()
        }


def refused(directory: Path, ring: KeyRing, tmp_path: Path) -> str:
    """The file that is named when verifying; the store does not take it either."""
    with pytest.raises(BlockCorrupt) as caught:
        verify_block(directory, ring)
    with pytest.raises(BlockCorrupt):
        DirectoryStore(tmp_path / "store", ring).put(directory)
    return str(caught.value.facts["file"])


def test_a_picture_that_nobody_signed_is_refused(pictured: Path, ring: KeyRing, tmp_path: Path) -> None:
    (pictured / NAMES[2]).write_bytes(PNG)
    assert refused(pictured, ring, tmp_path) == NAMES[2]


def test_a_missing_a_changed_and_a_linked_picture_are_refused(pictured: Path, ring: KeyRing, tmp_path: Path) -> None:
    (pictured / NAMES[1]).write_bytes(PNG + b"3")
    assert refused(pictured, ring, tmp_path) == NAMES[1]
    (pictured / NAMES[1]).unlink()
    assert refused(pictured, ring, tmp_path) == NAMES[1]
    (pictured / NAMES[1]).symlink_to(pictured / NAMES[0])
    assert refused(pictured, ring, tmp_path) == NAMES[1]


def test_what_is_no_png_is_refused_even_when_it_is_signed(tmp_path: Path, ring: KeyRing) -> None:
    write_block(tmp_path / "page", ring, {**contents(), NAMES[0]: b"<html><script>"})
    assert refused(tmp_path / "page", ring, tmp_path) == NAMES[0]


def test_a_picture_cannot_be_taken_out_of_what_is_packed_again(pictured: Path, ring: KeyRing) -> None:
    made = verify_block(pictured, ring)
    (pictured / NAMES[0]).unlink()
    with pytest.raises(BlockCorrupt):
        pack(pictured, made)
    with pytest.raises(BlockCorrupt):
        sign_block(pictured, ring)
