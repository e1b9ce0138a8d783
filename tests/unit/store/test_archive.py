"""`.dna` archives: the same bytes for the same block, back to the same block, and nothing else comes out of one."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import BadReference, BlockCorrupt, BlockUntrusted, DnaError
from clonedna.store.archive import EPOCH, unzip_block, zip_block
from clonedna.store.blocks import LIMITS
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import contents, write_block

Entry = tuple[zipfile.ZipInfo, bytes]


def entries(block: Path) -> list[Entry]:
    return [(zipfile.ZipInfo(name, EPOCH), (block / name).read_bytes()) for name in sorted(LIMITS)]


def write(path: Path, made: list[Entry], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for info, data in made:
            info.compress_type = compression
            archive.writestr(info, data)
    return path


def refused(archive: Path, ring: KeyRing) -> DnaError:
    """What unpacking raises; nothing may be left of it."""
    out = archive.parent / "out"
    before = set(archive.parent.iterdir())
    with pytest.raises(BlockCorrupt) as caught:
        unzip_block(archive, out, ring)
    assert set(archive.parent.iterdir()) == before
    return caught.value


def test_a_block_goes_in_and_comes_out_the_same(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "a.dna")
    found = unzip_block(tmp_path / "a.dna", tmp_path / "out", ring)
    assert found.name == "ada"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in block.iterdir()
    }


@given(
    data=st.binary(max_size=400).map(lambda data: data + b"\0" * (-len(data) % 4)),
    texts=st.fixed_dictionaries(
        {name: st.binary(max_size=300) for name in ("README.md", "profile.md", "pairs.jsonl", "eval.json")}
    ),
)
@settings(deadline=None, max_examples=12)
def test_pack_zip_unzip_is_the_identity(ring: KeyRing, data: bytes, texts: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        files = {**contents(data), **texts}
        made = write_block(home / "block", ring, files)
        zip_block(home / "block", home / "a.dna")
        assert unzip_block(home / "a.dna", home / "out", ring, expect_id=made.id) == made
        assert {name: (home / "out" / name).read_bytes() for name in files} == files
        zip_block(home / "out", home / "b.dna")
        assert (home / "a.dna").read_bytes() == (home / "b.dna").read_bytes()


def test_times_modes_and_order_on_disk_do_not_show(block: Path, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "a.dna")
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(block.iterdir(), reverse=True):
        shutil.copy(path, again)
        os.utime(again / path.name, (1, 1))
        (again / path.name).chmod(0o600)
    zip_block(again, tmp_path / "b.dna")
    assert (tmp_path / "a.dna").read_bytes() == (tmp_path / "b.dna").read_bytes()


def test_a_block_zipped_again_with_deflate_still_opens(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    unzip_block(write(tmp_path / "a.dna", entries(block), zipfile.ZIP_DEFLATED), tmp_path / "out", ring)


def test_what_is_there_is_never_overwritten(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "a.dna")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for out in ("out", "link"):
        with pytest.raises(BadReference):
            unzip_block(tmp_path / "a.dna", tmp_path / out, ring)


def test_a_block_by_a_stranger_leaves_nothing_behind(block: Path, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "a.dna")
    with pytest.raises(BlockUntrusted):
        unzip_block(tmp_path / "a.dna", tmp_path / "out", KeyRing(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dna", "block"]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../evil", "a/../../evil", "..\\evil", "C:\\evil", "sub/README.md", "README.md/", "readme.md", "README.MD", "notes.txt",
     "./README.md", "", "adapter_model.bin"],
)  # fmt: skip
def test_an_entry_that_is_not_a_file_of_a_block_is_refused_and_named(
    block: Path, ring: KeyRing, tmp_path: Path, name: str
) -> None:
    for made in (
        [*entries(block)[1:], (zipfile.ZipInfo(name, EPOCH), b"x")],
        [(zipfile.ZipInfo(name, EPOCH), b"x"), *entries(block)[1:]],
    ):
        assert refused(write(tmp_path / "a.dna", made), ring).facts["file"] == ascii(name)[1:-1]


def test_a_name_cut_short_by_a_zero_byte_is_refused(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    made = entries(block)
    zero = zipfile.ZipInfo("profile.mdX", EPOCH)
    path = write(tmp_path / "a.dna", [*(entry for entry in made if entry[0].filename != "profile.md"), (zero, b"x")])
    path.write_bytes(path.read_bytes().replace(b"profile.mdX", b"profile.md\0"))
    assert refused(path, ring).facts["file"] == "profile.md\\x00"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused_and_named(block: Path, ring: KeyRing, tmp_path: Path, kind: int) -> None:
    made = entries(block)
    made[0][0].external_attr = (kind | 0o777) << 16
    assert refused(write(tmp_path / "a.dna", made), ring).facts["file"] == made[0][0].filename


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_twice_is_refused_and_named(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    made = [*entries(block)[:-1], (zipfile.ZipInfo("README.md", EPOCH), b"x")]
    assert refused(write(tmp_path / "a.dna", made), ring).facts["file"] == "README.md"


def test_a_missing_file_is_refused_and_named(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    assert refused(write(tmp_path / "a.dna", entries(block)[1:]), ring).facts["file"] == entries(block)[0][0].filename


def test_too_many_entries_are_refused_before_they_are_read(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    made = [*entries(block), *((zipfile.ZipInfo(f"{n}", EPOCH), b"") for n in range(5000))]
    assert "entries" in refused(write(tmp_path / "a.dna", made), ring).message


def test_compression_that_blocks_do_not_use_is_refused(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compressed" in refused(write(tmp_path / "a.dna", entries(block), method), ring).message


def patch(path: Path, change: Callable[[bytearray, int, int], None]) -> Path:
    """Change the first entry's local header and central record, given where they stand."""
    data = bytearray(path.read_bytes())
    change(data, data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02"))
    path.write_bytes(data)
    return path


def test_an_encrypted_entry_is_refused(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    def encrypt(data: bytearray, local: int, central: int) -> None:
        data[local + 6] |= 1
        data[central + 8] |= 1

    error = refused(patch(write(tmp_path / "a.dna", entries(block)), encrypt), ring)
    assert (error.facts["file"], error.facts["reason"]) == (entries(block)[0][0].filename, "encrypted")


def test_a_bomb_is_refused_by_its_claim_or_stopped_while_it_unpacks(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    bomb = (zipfile.ZipInfo("README.md", EPOCH), bytes(LIMITS["README.md"] + 1))
    made = [entry for entry in entries(block) if entry[0].filename != "README.md"]
    path = write(tmp_path / "a.dna", [*made, bomb], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    spoilt = path.read_bytes().replace(
        b"PK\x03\x04", b"PK\x03\x05", 1
    )  # the first entry cannot be unpacked: nothing is, before
    path.write_bytes(spoilt)
    error = refused(path, ring)
    assert (error.facts["file"], "allowed" in error.message) == ("README.md", True)

    def claim_little(data: bytearray, local: int, central: int) -> None:
        data[local + 22 : local + 26] = data[central + 24 : central + 28] = (100).to_bytes(4, "little")
        data[local + 14 : local + 18] = data[central + 16 : central + 20] = zlib.crc32(bytes(100)).to_bytes(4, "little")

    path = write(tmp_path / "a.dna", [bomb, *made], zipfile.ZIP_DEFLATED)
    unpacked = refused(patch(path, claim_little), ring)  # zipfile cuts at the claim: 100 bytes, not the signed ones
    assert unpacked.facts["file"] == "README.md"


def test_bytes_around_an_archive_are_refused(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "good.dna")
    good = (tmp_path / "good.dna").read_bytes()
    commented = io.BytesIO(good)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"hello"
    path = tmp_path / "a.dna"
    for data in (
        b"#!/bin/sh\n" + good,
        good + b"\0",
        good + good,
        commented.getvalue(),
        good[:-1],
        good[1:],
        b"",
        b"PK",
        bytes(100),
    ):
        path.write_bytes(data)
        assert refused(path, ring).facts["file"] == "a.dna"


@given(place=st.integers(0, 1_000_000), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=40)
def test_a_flipped_bit_in_an_archive_is_refused_or_changes_nothing(
    original: Path, ring: KeyRing, place: int, bit: int
) -> None:
    """The archive's own bookkeeping (times, modes) is not signed; the block in it is."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        zip_block(original, home / "a.dna")
        data = bytearray((home / "a.dna").read_bytes())
        data[place % len(data)] ^= 1 << bit
        (home / "a.dna").write_bytes(data)
        try:
            unzip_block(home / "a.dna", home / "out", ring)
        except BlockCorrupt:
            assert not (home / "out").exists()
        else:
            assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == {
                path.name: path.read_bytes() for path in original.iterdir()
            }


def test_a_link_as_the_archive_and_no_archive_are_refused(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    zip_block(block, tmp_path / "a.dna")
    (tmp_path / "b.dna").symlink_to(tmp_path / "a.dna")
    for name in ("b.dna", "none.dna"):
        assert refused(tmp_path / name, ring).facts["file"] == name


def test_what_is_not_the_files_of_a_block_is_not_zipped(block: Path, tmp_path: Path) -> None:
    (block / "notes.txt").write_text("x")
    with pytest.raises(BlockCorrupt):
        zip_block(block, tmp_path / "a.dna")
    assert not (tmp_path / "a.dna").exists()
