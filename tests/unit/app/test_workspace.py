"""Whole files only, one writer at a time, and a log that survives a killed writer."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from clonedna.app.workspace import Workspace, require_space, write_atomic
from clonedna.core.errors import Cancelled, Internal, JobBusy, NoSpace
from clonedna.core.events import Note, StageProgress, silent
from clonedna.core.work import Identity
from tests.values import ADA


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_values_come_back_and_broken_ones_do_not(workspace: Workspace) -> None:
    workspace.write("stages/a.json", ADA)
    assert workspace.read("stages/a.json", Identity) == ADA
    (workspace.directory / "stages/a.json").write_text("{")
    with pytest.raises(Internal):
        workspace.read("stages/a.json", Identity)


def test_a_full_disk_leaves_the_old_file_and_no_rest(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace.directory / "a"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpace):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in workspace.directory.iterdir()] == ["a"]


def test_space_is_required_before_it_is_needed(tmp_path: Path) -> None:
    require_space(tmp_path / "not/yet/there", 1)
    with pytest.raises(NoSpace, match="MB are needed"):
        require_space(tmp_path, 10**18)


def test_only_one_holds_the_job(workspace: Workspace) -> None:
    with workspace.lock():
        assert workspace.running()
        with pytest.raises(JobBusy), workspace.lock():
            pass
    assert not workspace.running()


def test_the_log_goes_on_after_a_cut_line(workspace: Workspace) -> None:
    workspace.emitter(silent)(Note(text="one"))
    with (workspace.directory / "events.jsonl").open("ab") as log:
        log.write(b'{"offset": 1, "at"')
    workspace.emitter(silent)(Note(text="two"))
    assert [(offset, event.text) for offset, _, event in workspace.events()] == [(0, "one"), (1, "two")]
    assert [event.text for _, _, event in workspace.events(start=1)] == ["two"]
    assert not list(workspace.events(start=2))


def test_progress_is_throttled_but_the_last_is_kept(workspace: Workspace) -> None:
    emit = workspace.emitter(silent)
    for done in range(1, 501):
        emit(StageProgress(stage="train", done=done, total=500, unit="steps"))
    events = [event for _, _, event in workspace.events()]
    assert len(events) < 100
    assert events[-1].done == 500


def test_a_wish_to_cancel_stops_at_the_next_event(workspace: Workspace) -> None:
    emit = workspace.emitter(silent)
    workspace.write("cancel", {"at": "now"})
    with pytest.raises(Cancelled):
        emit(Note(text="late"))


def test_cleaning_keeps_order_log_and_result(workspace: Workspace) -> None:
    for name in ("order.json", "result.json", "stages/find.json"):
        workspace.write(name, ADA)
    workspace.clean()
    assert sorted(p.name for p in workspace.directory.iterdir()) == ["order.json", "result.json"]
