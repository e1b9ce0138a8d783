"""A cgroup of its own for each run, where this machine lends one: memory and number of processes, version 1 or 2, or none.

Standard library only: this is imported by the supervisor. Nothing here raises for a machine without cgroups; it gives ``None``.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

PREFIX = "clonedna-"


@dataclass(frozen=True, slots=True)
class Group:
    """The directories of one run's cgroup: one (version 2), or one each for memory and processes (version 1)."""

    directories: tuple[Path, ...]
    version: int

    def join(self) -> None:
        """Put the calling process into it."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def processes(self) -> set[int]:
        """Who is in it now, as this machine numbers them."""
        found: set[int] = set()
        for directory in self.directories:
            try:
                found |= {int(line) for line in (directory / "cgroup.procs").read_text().split()}
            except OSError:
                continue
        return found

    def out_of_memory(self) -> bool:
        """Whether the kernel ended somebody in it for want of memory."""
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                try:
                    words = (directory / name).read_text().split()
                except OSError:
                    continue
                if "oom_kill" in words and words[words.index("oom_kill") + 1] != "0":
                    return True
        return False

    def remove(self) -> None:
        """Remove it; who still dies in it is given a second."""
        until = time.monotonic() + 1
        for directory in self.directories:
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() < until:
                        time.sleep(0.005)
                        continue
                break


def make(memory: int, processes: int, *, root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> Group | None:
    """A new cgroup with these bounds below (version 1) or beside (version 2) the one we are in; ``None`` where none can be made.

    ``own``: the text of ``/proc/self/cgroup``.
    """
    try:
        lines = (Path("/proc/self/cgroup").read_text() if own is None else own).splitlines()
    except OSError:
        return None
    mine = {names: path.lstrip("/") for _, names, path in (line.split(":", 2) for line in lines)}
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    if (root / "cgroup.controllers").is_file() and "" in mine:
        beside = (root / mine[""]).parent if mine[""] else root
        return _second(beside, name, memory, processes)
    controllers = {part: path for names, path in mine.items() for part in names.split(",")}
    places = [(root / part / controllers[part], part) for part in ("memory", "pids") if part in controllers]
    return _first(places, name, memory, processes) if len(places) == 2 else None


def _first(places: list[tuple[Path, str]], name: str, memory: int, processes: int) -> Group | None:
    bounds = {
        "memory": (("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)),
        "pids": (("pids.max", processes),),
    }
    made: list[Path] = []
    try:
        for place, part in places:
            _sweep(place)
            (place / name).mkdir()
            made.append(place / name)
            for file, value in bounds[part]:
                if file.startswith("memory.memsw") and not (place / name / file).exists():
                    continue  # swap is not counted here; there may be none
                (place / name / file).write_text(str(value))
    except OSError:
        Group(tuple(made), 1).remove()
        return None
    return Group(tuple(made), 1)


def _second(place: Path, name: str, memory: int, processes: int) -> Group | None:
    group = Group((place / name,), 2)
    try:
        if not {"memory", "pids"} <= set((place / "cgroup.subtree_control").read_text().split()):
            return None
        _sweep(place)
        group.directories[0].mkdir()
        for file, value in (("memory.max", memory), ("pids.max", processes), ("memory.oom.group", 1)):
            (group.directories[0] / file).write_text(str(value))
        swap = group.directories[0] / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
    except OSError:
        group.remove()
        return None
    return group


def _sweep(place: Path) -> None:
    """Remove what supervisors that were killed left behind."""
    for left in place.glob(f"{PREFIX}*"):
        maker = left.name.removeprefix(PREFIX).partition("-")[0]
        if maker.isdigit() and not Path(f"/proc/{maker}").exists():
            try:
                left.rmdir()
            except OSError:
                continue
