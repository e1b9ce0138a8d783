"""Cgroups of both versions, on made trees: bounds are written where they belong, and a machine that lends none gives none."""

from __future__ import annotations

from pathlib import Path

from clonedna.sandbox import cgroups

SECOND = "0::/user.slice/session.scope\n"
FIRST = "9:name=systemd:/\n8:pids:/a\n4:memory:/b\n0::/\n"


def second(root: Path, controllers: str) -> Path:
    place = root / "user.slice"
    place.mkdir()
    (root / "cgroup.controllers").write_text("cpu memory pids")
    (place / "cgroup.subtree_control").write_text(controllers)
    return place


def test_version_2_bounds_memory_swap_and_processes_beside_us(tmp_path: Path) -> None:
    place = second(tmp_path, "cpu memory pids")
    group = cgroups.make(1000, 20, root=str(tmp_path), own=SECOND)
    assert group is not None
    (made,) = [path for path in place.iterdir() if path.is_dir()]
    assert group.version == 2
    written = {path.name: path.read_text() for path in made.iterdir()}
    assert written == {"memory.max": "1000", "pids.max": "20", "memory.oom.group": "1"}
    (made / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert not group.out_of_memory()
    (made / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert group.out_of_memory()
    (made / "cgroup.procs").write_text("11\n12\n")
    assert group.processes() == {11, 12}


def test_version_2_without_the_controllers_gives_none(tmp_path: Path) -> None:
    place = second(tmp_path, "cpu")
    assert cgroups.make(1000, 20, root=str(tmp_path), own=SECOND) is None
    assert [path.name for path in place.iterdir()] == ["cgroup.subtree_control"]


def test_version_1_bounds_both_hierarchies(tmp_path: Path) -> None:
    for place in ("pids/a", "memory/b"):
        (tmp_path / place).mkdir(parents=True)
    group = cgroups.make(1000, 20, root=str(tmp_path), own=FIRST)
    assert group is not None
    (memory,), (pids,) = (tmp_path / "memory/b").iterdir(), (tmp_path / "pids/a").iterdir()
    assert (memory / "memory.limit_in_bytes").read_text() == "1000"
    assert (pids / "pids.max").read_text() == "20"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert group.out_of_memory()


def test_a_machine_without_cgroups_gives_none(tmp_path: Path) -> None:
    assert cgroups.make(1000, 20, root=str(tmp_path), own="") is None
    assert cgroups.make(1000, 20, root=str(tmp_path), own=FIRST) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_supervisor_left_is_removed(tmp_path: Path) -> None:
    place = second(tmp_path, "memory pids")
    (place / f"{cgroups.PREFIX}99999999-1").mkdir()
    (place / "another").mkdir()
    assert cgroups.make(1000, 20, root=str(tmp_path), own=SECOND) is not None
    assert not (place / f"{cgroups.PREFIX}99999999-1").exists()
    assert (place / "another").exists()
