"""What a run uses, seen from outside: its processes, their memory, the workspace's disk and files. Standard library only.

Nothing here believes what the run says of itself. What cannot be read (a process or a folder that was made unreadable) raises
``Unwatched``: whoever cannot be watched is stopped.
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEEPEST = 60
LOOKS, LOOK_AGAIN = 5, 0.02  # at a process that cannot be read for a moment; seconds


class Unwatched(Exception):
    """A process or a folder that hides from the watchdog."""


def descendants(pid: int) -> set[int]:
    """``pid`` and all processes below it."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    waiting += [int(word) for word in file.read().split()]
        except OSError:
            continue  # it ended
    return found


def memory(pids: Iterable[int]) -> int:
    """Bytes that these processes hold together (proportional set size, so shared pages count once). Raises ``Unwatched``."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith(("Pss:", "SwapPss:")))
        except PermissionError:
            raise Unwatched(f"process {pid} cannot be read") from None
        except OSError:
            continue  # it ended
    return total


def unlinked(pids: Iterable[int]) -> int:
    """Bytes of files that these processes hold open and that have no name any more, so that no walk finds them. Raises ``Unwatched``."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    seen = os.stat(f"/proc/{pid}/fd/{fd}")
                except OSError:
                    continue
                if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 0:
                    sizes[seen.st_dev, seen.st_ino] = seen.st_blocks * 512
        except PermissionError:
            raise Unwatched(f"process {pid} cannot be read") from None
        except OSError:
            continue
    return sum(sizes.values())


def scratch_files(pid: int) -> int:
    """Files in the sized places in memory of this process' mount namespace: their size is bounded, their number is not."""
    found = 0
    for place in ("tmp", "dev/shm"):
        try:
            if os.stat(f"/proc/{pid}/root/{place}").st_dev == os.stat(f"/{place}").st_dev:
                continue  # bubblewrap is still building: this is our own
            seen = os.statvfs(f"/proc/{pid}/root/{place}")
        except PermissionError:
            raise Unwatched(f"process {pid} cannot be read") from None
        except OSError:
            continue
        found += seen.f_files - seen.f_ffree
    return found


def usage(directory: int, most_bytes: int, most_files: int) -> tuple[int, int]:
    """Bytes and files below ``directory`` (a descriptor); counting ends where a bound is passed. Raises ``Unwatched``."""
    size = files = 0
    stack = [(os.dup(directory), 0)]
    try:
        while stack:
            at, depth = stack.pop()
            try:
                with os.scandir(at) as entries:
                    for entry in entries:
                        try:
                            seen = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        size += seen.st_blocks * 512
                        files += 1
                        if size > most_bytes or files > most_files:
                            return size, files
                        if stat.S_ISDIR(seen.st_mode):
                            stack += _inside(at, entry.name, depth)
            finally:
                os.close(at)
    finally:
        for at, _ in stack:
            os.close(at)
    return size, files


def _inside(at: int, name: str, depth: int) -> list[tuple[int, int]]:
    if depth >= DEEPEST:
        raise Unwatched("folders too deep to be counted")
    try:
        return [(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at), depth + 1)]
    except PermissionError:
        raise Unwatched("a folder that cannot be read") from None
    except OSError:
        return []  # it is gone, or no folder any more


def standings(pids: Iterable[int]) -> list[dict[str, str]]:
    """``standing`` of each that is still there, in the order of their numbers.

    One that just begins another program, or ends, cannot be read for a moment: it is looked at again. Raises ``PermissionError`` when it
    stays so.
    """
    found: list[dict[str, str]] = []
    for pid in sorted(pids):
        for tries in range(LOOKS, 0, -1):
            try:
                found.append(standing(pid))
            except (FileNotFoundError, ProcessLookupError):
                pass
            except PermissionError:
                if tries > 1:
                    time.sleep(LOOK_AGAIN)
                    continue
                raise
            break
    return found


def standing(pid: int) -> dict[str, str]:
    """What the kernel says of a process: user, capabilities, filters, tracer, personality, scheduling, namespaces (and which are not our
    own), mounts, open files, bounds, names of its environment.
    """
    place = f"/proc/{pid}"
    found: dict[str, str] = {}
    for line in _text(f"{place}/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("Uid", "Gid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "TracerPid"):
            found[name] = value.split()[0]
    kinds = ("user", "pid", "net", "ipc", "uts", "mnt")
    spaces = {kind: os.stat(f"{place}/ns/{kind}").st_ino for kind in kinds}
    words = _text(f"{place}/stat").rpartition(")")[2].split()
    fds = sorted(os.readlink(f"{place}/fd/{fd}") for fd in os.listdir(f"{place}/fd"))
    return {
        **found, "namespaces": " ".join(k for k in kinds if spaces[k] != os.stat(f"/proc/self/ns/{k}").st_ino),
        "spaces": str(spaces), "personality": _text(f"{place}/personality").strip(), "nice": words[16], "policy": words[38],
        "mounts": _text(f"{place}/mountinfo"), "root": os.readlink(f"{place}/root"), "files": "\n".join(fds),
        "bounds": _text(f"{place}/limits"),
        "environment": " ".join(e.partition("=")[0] for e in _text(f"{place}/environ").split("\0") if e),
    }  # fmt: skip


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
