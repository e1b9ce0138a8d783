"""A cgroup of its own for each run, where this machine lends one: memory and number of processes, version 1 or 2, or none.

Standard library only, and little of it: this is imported by the supervisor. Nothing here raises for a machine without cgroups; it gives
``None``.
"""

from __future__ import annotations

import os
import time

PREFIX = "clonedna-"


class Group:
    """The directories of one run's cgroup: one (version 2), or one each for memory and processes (version 1)."""

    def __init__(self, directories: list[str], version: int) -> None:
        self.directories, self.version = directories, version

    def join(self) -> None:
        """Put the calling process into it."""
        for directory in self.directories:
            _write(f"{directory}/cgroup.procs", 0)

    def processes(self) -> set[int]:
        """Who is in it now, as this machine numbers them."""
        return {int(word) for directory in self.directories for word in _read(f"{directory}/cgroup.procs").split()}

    def out_of_memory(self) -> bool:
        """Whether the kernel ended somebody in it for want of memory."""
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                words = _read(f"{directory}/{name}").split()
                if "oom_kill" in words and words[words.index("oom_kill") + 1] != "0":
                    return True
        return False

    def remove(self) -> None:
        """Remove it; who still dies in it is given a second."""
        until = time.monotonic() + 1
        for directory in self.directories:
            while os.path.isdir(directory):
                try:
                    os.rmdir(directory)
                except OSError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.005)


def make(memory: int, processes: int, *, root: str = "/sys/fs/cgroup", own: str | None = None) -> Group | None:
    """A new cgroup with these bounds below (version 1) or beside (version 2) the one we are in; ``None`` where none can be made.

    ``own``: the text of ``/proc/self/cgroup``.
    """
    lines = (_read("/proc/self/cgroup") if own is None else own).splitlines()
    mine = {names: path.strip("/") for _, names, path in (line.split(":", 2) for line in lines)}
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    if os.path.isfile(f"{root}/cgroup.controllers") and "" in mine:
        return _second(os.path.dirname(f"{root}/{mine['']}") if mine[""] else root, name, memory, processes)
    controllers = {part: path for names, path in mine.items() for part in names.split(",")}
    if not {"memory", "pids"} <= controllers.keys():
        return None
    places = {part: f"{root}/{part}/{controllers[part]}" for part in ("memory", "pids")}
    return _first(places, name, memory, processes)


def _first(places: dict[str, str], name: str, memory: int, processes: int) -> Group | None:
    group = Group([], 1)
    try:
        for place in places.values():
            _sweep(place)
            os.mkdir(f"{place}/{name}")
            group.directories.append(f"{place}/{name}")
        mine = f"{places['memory']}/{name}"
        _write(f"{mine}/memory.limit_in_bytes", memory)
        if os.path.exists(f"{mine}/memory.memsw.limit_in_bytes"):  # else swap is not counted here
            _write(f"{mine}/memory.memsw.limit_in_bytes", memory)
        _write(f"{places['pids']}/{name}/pids.max", processes)
    except OSError:
        group.remove()
        return None
    return group


def _second(place: str, name: str, memory: int, processes: int) -> Group | None:
    group = Group([f"{place}/{name}"], 2)
    if not {"memory", "pids"} <= set(_read(f"{place}/cgroup.subtree_control").split()):
        return None
    try:
        _sweep(place)
        os.mkdir(f"{place}/{name}")
        for file, value in (("memory.max", memory), ("pids.max", processes), ("memory.oom.group", 1)):
            _write(f"{place}/{name}/{file}", value)
        if os.path.exists(f"{place}/{name}/memory.swap.max"):
            _write(f"{place}/{name}/memory.swap.max", 0)
    except OSError:
        group.remove()
        return None
    return group


def _sweep(place: str) -> None:
    """Remove what supervisors that were killed left behind."""
    for left in os.listdir(place):
        maker = left.removeprefix(PREFIX).partition("-")[0]
        if left.startswith(PREFIX) and maker.isdigit() and not os.path.exists(f"/proc/{maker}"):
            try:
                os.rmdir(f"{place}/{left}")
            except OSError:
                continue


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:
        file.write(str(value))
