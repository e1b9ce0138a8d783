"""Answers are private, found again, and forgotten when they are purged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from clonedna.core.canonical import sha256
from clonedna.teachers.cache import FOLDER, AnswerCache, Kept, purge

ONE = Kept(span=sha256("span"), completion=sha256("body"), model="m", prompt="p", instruction="Write it now.")


def test_an_answer_is_found_by_all_of_its_key(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / FOLDER, Kept)
    cache.put(cache.key("s", "1", "m"), ONE)
    assert cache.get(cache.key("s", "1", "m")) == ONE
    for other in (("t", "1", "m"), ("s", "2", "m"), ("s", "1", "n")):
        assert cache.get(cache.key(*other)) is None


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / FOLDER, Kept)
    cache.put("ab" * 32, ONE)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / FOLDER, *(tmp_path / FOLDER).rglob("*"))}
    assert len(modes) == 3
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"span": 1}', b"\xff\xfe"])
def test_a_broken_file_is_no_answer_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    cache = AnswerCache(tmp_path / FOLDER, Kept)
    cache.put("ab" * 32, ONE)
    (path,) = (tmp_path / FOLDER).glob("*/*")
    path.write_bytes(content)
    assert cache.get("ab" * 32) is None
    cache.put("ab" * 32, ONE)
    assert cache.get("ab" * 32) == ONE


@pytest.mark.parametrize("named", [ONE.span, ONE.completion])
def test_purging_forgets_by_span_or_completion_and_nothing_else(tmp_path: Path, named: str) -> None:
    cache = AnswerCache(tmp_path / FOLDER, Kept)
    other = ONE.model_copy(update={"span": sha256("x"), "completion": sha256("y")})
    cache.put("ab" * 32, ONE)
    cache.put("cd" * 32, ONE.model_copy(update={"model": "n"}))
    cache.put("ef" * 32, other)
    assert purge(tmp_path, [named, sha256("nobody")]) == 2
    assert (cache.get("ab" * 32), cache.get("cd" * 32), cache.get("ef" * 32)) == (None, None, other)
    assert purge(tmp_path, [named]) == 0


def test_purging_takes_what_nobody_can_read(tmp_path: Path) -> None:
    AnswerCache(tmp_path / FOLDER, Kept).put("ab" * 32, ONE)
    (tmp_path / FOLDER / "ab" / ".left.1234").write_text("half an ans")
    assert purge(tmp_path, []) == 1
    assert AnswerCache(tmp_path / FOLDER, Kept).get("ab" * 32) == ONE


def test_purging_where_nothing_was_asked(tmp_path: Path) -> None:
    assert purge(tmp_path / "nowhere", [ONE.span]) == 0
