"""The streamed archive is the written one, byte for byte, from any place; and never one of files that changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import BlockCorrupt, BlockNotFound
from clonedna.store.archive import zip_block
from clonedna.store.archive_stream import Opened, plan
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import contents, write_block


def all_of(opened: Opened, start: int = 0, most: int = 1 << 20) -> bytes:
    found = b""
    while piece := opened.read(start + len(found), most):
        assert len(piece) <= most
        found += piece
    return found


def written(block: Path, out: Path) -> bytes:
    zip_block(block, out)
    return out.read_bytes()


@given(
    texts=st.fixed_dictionaries(
        {name: st.binary(max_size=300) for name in ("README.md", "profile.md", "pairs.jsonl", "eval.json")}
    ),
    start=st.integers(0, 20_000), most=st.integers(1, 5000),
)  # fmt: skip
@settings(deadline=None, max_examples=15)
def test_it_is_what_zip_block_writes(ring: KeyRing, texts: dict[str, bytes], start: int, most: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_block(home / "block", ring, {**contents(), **texts})
        wanted, planned = written(home / "block", home / "a.dna"), plan(home / "block")
        assert planned.size == len(wanted)
        with Opened(planned) as opened:
            assert all_of(opened) == wanted
            assert all_of(opened, start, most) == wanted[start:]
            assert opened.read(planned.size, 10) == b""


def test_pictures_are_in_it(block: Path, tmp_path: Path) -> None:
    (block / "plot-style.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with Opened(plan(block)) as opened:
        assert all_of(opened, most=7) == written(block, tmp_path / "a.dna")


def test_equal_tags_are_equal_archives(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    again, other, later = tmp_path / "again", tmp_path / "other", tmp_path / "later"
    write_block(again, ring)
    write_block(other, ring, contents(note="x"))
    write_block(later, ring, created_at="2027-01-01T00:00:00Z")  # the same files, so the same id
    assert plan(again).tag == plan(again).tag
    assert len({plan(one).tag for one in (again, other, later)}) == 3


def test_a_file_that_changed_is_noticed(block: Path) -> None:
    planned = plan(block)
    assert planned.fresh()
    before = (block / "README.md").stat()
    (block / "README.md").write_bytes((block / "README.md").read_bytes()[::-1])
    os.utime(block / "README.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not planned.fresh()
    with pytest.raises(BlockCorrupt, match="changed since"):
        Opened(planned)


def test_a_file_cut_while_it_is_sent_is_an_error_not_an_end(block: Path) -> None:
    planned = plan(block)
    with Opened(planned) as opened:
        os.truncate(block / "sources.json", 0)
        with pytest.raises(BlockCorrupt, match="shorter"):
            all_of(opened)


def test_a_block_removed_while_it_is_sent_is_sent_whole(block: Path, tmp_path: Path) -> None:
    wanted = written(block, tmp_path / "a.dna")
    with Opened(plan(block)) as opened:
        for path in block.iterdir():
            path.unlink()
        assert all_of(opened) == wanted
    with pytest.raises(ValueError, match="closed"):
        opened.read(0, 100) and opened.read(100, 100)


def test_what_is_no_block_has_no_plan(tmp_path: Path, block: Path) -> None:
    with pytest.raises(BlockNotFound):
        plan(tmp_path / "none")
    (block / "notes.txt").write_text("x")
    with pytest.raises(BlockCorrupt):
        plan(block)
