"""File tools: no link is followed, no pipe is waited for, nothing half-written is seen, and whatever was left can be removed."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from clonedna.core.errors import NotFound, PathRefused
from clonedna.sandbox.files import read_beneath, remove_tree, write_beneath

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="openat2 is Linux's")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.mark.parametrize("target", ["../outside/secret", "{outside}/secret", "real"])
def test_no_link_is_read_through(workspace: Path, target: str) -> None:
    (workspace / "real").write_text("inside")
    (workspace / "link").symlink_to(target.format(outside=workspace.parent / "outside"))
    with pytest.raises(PathRefused):
        read_beneath(workspace, "link", 100)


def test_no_folder_link_is_followed(workspace: Path) -> None:
    (workspace / "folder").symlink_to("../outside")
    with pytest.raises(PathRefused):
        read_beneath(workspace, "folder/secret", 100)
    with pytest.raises(PathRefused):
        write_beneath(workspace, "folder/made", b"x", 100, None)
    assert sorted(path.name for path in (workspace.parent / "outside").iterdir()) == ["secret"]


def test_writing_over_a_link_replaces_the_link(workspace: Path) -> None:
    (workspace / "link").symlink_to("../outside/secret")
    write_beneath(workspace, "link", b"mine", 100, None)
    assert (workspace.parent / "outside/secret").read_text() == "secret"
    assert not (workspace / "link").is_symlink()
    assert read_beneath(workspace, "link", 100) == b"mine"


def test_a_pipe_is_refused_at_once(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    with pytest.raises(PathRefused):
        read_beneath(workspace, "pipe", 100)
    write_beneath(workspace, "pipe", b"now a file", 100, None)
    assert read_beneath(workspace, "pipe", 100) == b"now a file"


def test_folders_are_refused(workspace: Path) -> None:
    (workspace / "folder").mkdir()
    with pytest.raises(PathRefused):
        read_beneath(workspace, "folder", 100)
    with pytest.raises(PathRefused):
        write_beneath(workspace, "folder", b"x", 100, None)
    assert list(workspace.iterdir()) == [workspace / "folder"], "nothing temporary is left"


def test_long_and_deep_paths_are_refused(workspace: Path) -> None:
    for path in ("x" * 2000, "/".join("a" * 40)):
        with pytest.raises(PathRefused):
            write_beneath(workspace, path, b"x", 100, None)


def test_a_race_of_links_leaks_nothing(workspace: Path) -> None:
    """Somebody swaps a folder for a link to the outside, as fast as they can, while we read and write."""
    (workspace / "swapped").mkdir()
    (workspace / "swapped/secret").write_text("inside")
    (workspace / "other").symlink_to("../outside")
    stop, swaps = threading.Event(), [0]
    exchange = ctypes.CDLL(None).renameat2

    def swap() -> None:
        here = os.open(workspace, os.O_RDONLY)
        while not stop.is_set():
            assert exchange(here, b"swapped", here, b"other", 2) == 0  # RENAME_EXCHANGE
            swaps[0] += 1
        os.close(here)

    thread = threading.Thread(target=swap)
    thread.start()
    read = 0
    try:
        for _ in range(2000):
            with suppress(NotFound, PathRefused):
                assert read_beneath(workspace, "swapped/secret", 100) == b"inside"
                read += 1
            with suppress(NotFound, PathRefused):
                write_beneath(workspace, "swapped/made", b"x", 100, None)
    finally:
        stop.set()
        thread.join()
    assert not (workspace.parent / "outside/made").exists()
    assert read
    assert swaps[0]


def test_whatever_was_left_can_be_removed(workspace: Path) -> None:
    place = workspace
    here = os.open(place, os.O_RDONLY)
    for _ in range(200):  # deeper than a path may be long
        os.mkdir("a folder" * 5, dir_fd=here)
        below = os.open("a folder" * 5, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (workspace / "locked").mkdir()
    (workspace / "locked/file").write_text("x")
    (workspace / "locked").chmod(0)
    (workspace / "link").symlink_to("../outside")
    remove_tree(workspace)
    assert not workspace.exists()
    assert (workspace.parent / "outside/secret").read_text() == "secret"
