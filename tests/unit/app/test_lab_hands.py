"""Processes that make a lab's layers: they tell, fail and end as promised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from clonedna.app.lab_hands import Hands, Make
from clonedna.app.lab_values import LabLayer
from clonedna.core.errors import Internal, Interrupted, NoSpace, Unavailable
from clonedna.core.events import Emit, Note, silent

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Makers:
    """Layers that are only what they are asked for; some names have another end. ``folder``: where each process notes itself."""

    folder: Path

    def __call__(self) -> Make:
        (self.folder / str(os.getpid())).touch()
        return self.make

    @staticmethod
    def make(package: str, emit: Emit) -> LabLayer:
        emit(Note(text=f"making {package}"))
        if package == "full":
            raise NoSpace("the disk is full", "free some", path="/x")
        if package == "broken":
            raise KeyError("vector")
        if package == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if package == "slow":
            time.sleep(300)
        return LabLayer(package=package, version=str(os.getpid()))


@pytest.fixture
def makers(tmp_path: Path) -> Makers:
    return Makers(tmp_path)


def processes(folder: Path) -> list[int]:
    return [int(one.name) for one in folder.iterdir() if one.name.isdigit()]


def gone(pids: list[int]) -> bool:
    """Whether all have ended, within half a minute."""
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() and _state(pid) != "Z" for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_process_makes_one_after_another_and_tells(makers: Makers, tmp_path: Path) -> None:
    told: list[object] = []
    with Hands(makers) as hands:
        first, second = hands.make("abacus", told.append), hands.make("bead", told.append)
        assert [first.package, second.package] == ["abacus", "bead"]
        assert first.version == second.version != str(os.getpid())
        assert told == [Note(text="making abacus"), Note(text="making bead")]
        with pytest.raises(NoSpace) as full:
            hands.make("full", silent)
        assert (full.value.message, full.value.facts["path"]) == ("the disk is full", "/x")
    assert gone(processes(tmp_path))
    with pytest.raises(Interrupted):
        hands.make("abacus", silent)


def test_a_fault_of_ours_is_told_as_one(makers: Makers) -> None:
    with Hands(makers) as hands, pytest.raises(Internal, match="KeyError: 'vector'"):
        hands.make("broken", silent)


def test_a_process_that_is_killed_is_said_and_takes_no_other_with_it(makers: Makers) -> None:
    with Hands(makers) as hands, ThreadPoolExecutor(2) as threads:
        killed, made = threads.submit(hands.make, "killed", silent), threads.submit(hands.make, "bead", silent)
        assert made.result(60).package == "bead"
        with pytest.raises(Unavailable, match=r"killed was ended \(status -9\)") as error:
            killed.result(60)
        assert "goes on" in error.value.hint
        assert hands.make("bead", silent).version == made.result().version


def test_leaving_ends_what_is_being_made(makers: Makers, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        with Hands(makers) as hands:
            slow = threads.submit(hands.make, "slow", silent)
            assert any(processes(tmp_path) for _ in waiting())
        with pytest.raises(Unavailable):
            slow.result(60)
    assert gone(processes(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_with_the_process_that_started_them(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from clonedna.app.lab_hands import Hands; from clonedna.core.events import silent\n"
        "from tests.unit.app.test_lab_hands import Makers\n"
        "with Hands(Makers(Path(sys.argv[1]))) as hands: hands.make('slow', silent)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    try:
        assert any(processes(tmp_path) for _ in waiting())
    finally:
        parent.send_signal(number)
        parent.wait(30)
    assert gone(processes(tmp_path))


def waiting() -> Iterator[None]:
    """For a minute, ten times a second."""
    for _ in range(600):
        yield
        time.sleep(0.1)
