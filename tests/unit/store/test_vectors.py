"""The index in files: it outlives its process, is shared by several, and is made again where it was damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clonedna.core.errors import NoSpace
from clonedna.core.vectors import Vectors
from clonedna.store.vectors import MOST_FILES, VectorFiles, forget, forget_all
from clonedna.store.vectors_file import read_segment, write_segment


def vectors(*places: int, encoder: str = "e@1", size: int = 8) -> Vectors:
    return Vectors(encoder, np.eye(size, dtype=np.float32)[list(places)])


@pytest.fixture
def index(tmp_path: Path) -> VectorFiles:
    return VectorFiles(tmp_path / "v", "e@1", 8)


def again(index: VectorFiles) -> VectorFiles:
    return VectorFiles(index._directory, "e@1", 8)


def files(index: VectorFiles) -> list[Path]:
    return sorted(index._directory.glob("*.vec"))


def test_nothing_is_made_before_something_is_added(index: VectorFiles) -> None:
    assert index.search(vectors(0), 1) == ()
    index.remove(["a"])
    assert not index._directory.exists()


def test_it_outlives_its_process_and_others_see_what_is_added_and_removed(index: VectorFiles) -> None:
    other = again(index)
    index.add(["a", "b"], vectors(0, 1))
    assert other.keys() == {"a", "b"}
    other.remove(["a"])
    assert [hit.key for hit in index.search(vectors(0), 5)] == ["b"]
    assert again(index).keys() == {"b"}


def test_many_files_become_one(index: VectorFiles) -> None:
    for n in range(3 * MOST_FILES):
        index.add([f"k{n:02d}"], vectors(n % 8))
    assert len(files(index)) <= MOST_FILES
    assert len(again(index).keys()) == 3 * MOST_FILES


def test_what_was_removed_is_off_the_disk(index: VectorFiles) -> None:
    index.add(["a-secret-key", "b"], vectors(0, 1))
    index.remove(["a-secret-key"])
    assert not any(b"a-secret-key" in path.read_bytes() for path in files(index))
    index.remove(["b"])
    assert files(index) == []


@pytest.mark.parametrize("at", [0, 20, -1, "cut", "longer", "empty"])
def test_a_damaged_file_counts_as_lost(index: VectorFiles, at: int | str, caplog: pytest.LogCaptureFixture) -> None:
    index.add(["a"], vectors(0))
    index.add(["b"], vectors(1))
    (path, _) = files(index)
    data = bytearray(path.read_bytes())
    kept = {"a", "b"} - set(read_segment(path, "e@1", 8).keys)
    if isinstance(at, int):
        data[at] ^= 0xFF
    path.write_bytes({"cut": data[:-4], "longer": data + b"1234", "empty": b""}.get(at, data))  # type: ignore[call-overload]
    opened = again(index)
    assert opened.keys() == kept
    assert not path.exists()
    assert "made again" in caplog.text
    opened.add(["a", "b"], vectors(0, 1))
    assert opened.keys() == {"a", "b"}


def test_a_file_of_another_encoder_counts_as_lost(index: VectorFiles) -> None:
    VectorFiles(index._directory, "other@1", 8).add(["x"], vectors(0, encoder="other@1"))
    assert index.search(vectors(0), 5) == ()
    assert files(index) == []


def test_a_key_that_stands_in_two_files_counts_once(index: VectorFiles) -> None:
    index.add(["a"], vectors(0))
    write_segment(
        index._directory, "e@1", 8, ["a", "b"], vectors(0, 1).rows
    )  # as a process leaves it that is killed between writing and removing
    assert [hit.key for hit in again(index).search(vectors(0), 5)] == ["a", "b"]
    index.add(["c"], vectors(2))
    index.remove(["a"])
    assert again(index).keys() == {"b", "c"}


def test_keys_go_from_every_encoders_index(tmp_path: Path) -> None:
    made = {name: VectorFiles(tmp_path / name, name, 8) for name in ("one", "two")}
    for name, index in made.items():
        index.add(["a", "b"], vectors(0, 1, encoder=name))
    broken = tmp_path / "two" / f"{'0' * 32}.vec"
    broken.write_bytes(b"nothing")
    forget(tmp_path, ["a"])
    assert [index.keys() for index in made.values()] == [{"b"}, {"b"}]
    forget_all(tmp_path)
    assert list(tmp_path.iterdir()) == []
    forget(tmp_path / "nowhere", ["a"])
    forget_all(tmp_path / "nowhere")


def test_a_full_disk_leaves_what_was_there(index: VectorFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(["a"], vectors(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpace):
        index.add(["b"], vectors(1))
    assert again(index).keys() == {"a"}


ADD = """
import sys
from pathlib import Path
import numpy as np
from clonedna.core.vectors import Vectors
from clonedna.store.vectors import VectorFiles
index = VectorFiles(Path(sys.argv[1]), "e@1", 8)
for n in range(20):
    index.add([f"{sys.argv[2]}{n}"], Vectors("e@1", np.eye(8, dtype=np.float32)[[n % 8]]))
    assert f"{sys.argv[2]}{n}" in index.keys()
"""


def test_processes_add_at_once(index: VectorFiles) -> None:
    started = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", ADD, str(index._directory), who]) for who in "xyz"
    ]
    while any(process.poll() is None for process in started):
        held = index.keys()
        assert held <= index.keys()  # nothing that was there is missed while others put files together
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(index.keys()) == 60
