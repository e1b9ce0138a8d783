"""Attacks on a sandbox, judged from outside: `python -m bench.attacks [--naive] [NAME ...]` prints one JSON line.

Every attack is a program that runs inside; what it says is not believed. A judge looks from the host: at the baits, at the victim, at
the doors that were knocked at, at the workspace, and at what the kernel says of the attack's processes while they hold what they got
(user, capabilities, namespaces, mounts, open files, tracer, bounds). ``--naive`` takes bubblewrap without our hardening, to see that the
judges can find an escape. Whoever owns the baits outside is the user that the attack runs as, or ourselves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from bench.common import say
from clonedna.core.errors import DnaError
from clonedna.core.sandbox import Ran, RunLimits
from clonedna.sandbox import bubblewrap
from clonedna.sandbox.bubblewrap import BubblewrapSandbox, Setup, find_setup

AT_ONCE = 4
PRELUDE, *_PROGRAMS = (Path(__file__).parent / "attack_programs.txt").read_text("utf-8").split("\n### ")[1:]
PROGRAMS = {name: program for name, _, program in (one.partition("\n") for one in _PROGRAMS)}
SMALL = RunLimits(  # so many seconds that a machine that stands still for a while does not end an attack before its own bound does
    seconds=30, memory=96 << 20, processes=16, disk=4 << 20, files=300, output=100_000, file=2 << 20, scratch=2 << 20
)
ALLOWED_FILES = (
    "/dev/null", "/dev/tty", "/dev/pts/", "/dev/ptmx", "/dev/urandom", "/dev/shm", "/proc", "/usr/", "/python", "/workspace", "/tmp",
    "pipe:", "user:[", "mnt:[", "net:[", "pid:[",
)  # fmt: skip


@dataclass(slots=True)
class World:
    """What stands outside while an attack runs."""

    secret: str
    place: Path
    victim: subprocess.Popen[bytes]
    doors: dict[str, socket.socket]
    word: str
    before: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.place / "secret"

    @property
    def folder(self) -> Path:
        return self.place / "folder"

    def told(self) -> dict[str, Any]:
        """What the attacker is told: everything."""
        ports = {name: door.getsockname()[1] for name, door in self.doors.items() if name in ("tcp", "udp", "tcp6")}
        return {
            "file": str(self.file), "folder": str(self.folder), "victim": self.victim.pid, "word": self.word, "home": str(Path.home()),
            "abstract": self.word, "path": str(self.place / "door"), "supervisor": os.getpid(), **ports,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """What a judge sees of one attack."""

    world: World
    sandbox: BubblewrapSandbox
    ran: Ran
    standing: list[dict[str, str]]
    limits: RunLimits


def host() -> dict[str, str]:
    """What no attack may change on this machine."""
    places = (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/modprobe",
    )
    found = {place: Path(place).read_text() for place in places if os.access(place, os.R_OK)}
    return found | {
        "mounts": _mounts(),
        "usr": str(Path("/usr/bin").stat().st_mtime_ns),
        "etc": str(Path("/etc").stat().st_mtime_ns),
    }


def _mounts() -> str:
    return "\n".join(sorted(Path("/proc/self/mounts").read_text().splitlines()))


def outside_is_untouched(case: Case) -> list[str]:
    """Judged after every attack, whatever it was."""
    world, found = case.world, []
    if world.secret in case.ran.stdout + case.ran.stderr:
        found.append("it read the secret")
    if "root:" in case.ran.stdout:
        found.append("it read a file of users")
    if not world.file.is_file() or world.file.read_text() != world.secret:
        found.append("it changed the bait")
    if not world.folder.is_dir() or list(world.folder.iterdir()):
        found.append("it made a file outside")
    if world.victim.poll() is not None:
        found.append("it ended the victim")
    elif "TracerPid:\t0\n" not in Path(f"/proc/{world.victim.pid}/status").read_text():
        found.append("it traces the victim")
    found += [f"it knocked at {name}" for name, door in world.doors.items() if _called(door)]
    found += [f"it changed {name}" for name, value in host().items() if world.before[name] != value]
    if living(world.word):
        found.append("a process of it is still alive")
    return found


def stands_as_it_should(case: Case) -> list[str]:
    """The kernel's word on its processes, while they held what they got."""
    if not case.standing:
        return ["" if case.ran.status not in (None, 0) else "it was not looked at"][: int(case.ran.status in (None, 0))]
    first, uid = case.standing[0], str(case.sandbox.setup.uid or os.getuid())
    found: list[str] = []
    for one in case.standing:
        wanted = {
            "Uid": uid, "CapPrm": "0" * 16, "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "TracerPid": "0",
            "personality": "00000000", "policy": "0", "namespaces": "user pid net ipc uts mnt", "spaces": first["spaces"],
            "mounts": first["mounts"], "root": "/", "bounds": first["bounds"],
        }  # fmt: skip
        found += [f"{name} is {one[name][:60]!r}" for name, value in wanted.items() if one[name] != value]
        if int(one["nice"]) < 0:
            found.append("it raised its priority")
        if one is not first and one["Seccomp"] != "2":
            found.append("its system calls are not filtered")
        for name in one["files"].split("\n") if one is not first else ():  # bubblewrap's own process has an eventfd
            if not name.startswith(ALLOWED_FILES) or name.startswith(("/memfd:", "/proc/k", "/proc/sys")):
                found.append(f"it holds {name[:60]}")
    return found


def left_behind(workspace: Path, deepest: int = 60) -> list[Path]:
    """Everything in the workspace, so far down as a judge needs to look."""
    found, waiting = list[Path](), [(workspace, 0)]
    while waiting:
        at, depth = waiting.pop()
        with contextlib.suppress(PermissionError):
            inside = list(at.iterdir())
            found += inside
            waiting += [(one, depth + 1) for one in inside if depth < deepest and one.is_dir() and not one.is_symlink()]
    return found


def no_strange_files(case: Case) -> list[str]:
    """The workspace holds nothing that is no file, folder or link, and nothing that runs as somebody."""
    found: list[str] = []
    for place in left_behind(case.sandbox.workspace):
        mode = place.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            found.append(f"it made a {stat.filemode(mode)[0]} {place.name}")
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(f"{place.name} runs as its owner")
    return found


def file_tools_hold(case: Case) -> list[str]:
    """Reading and writing what the attack left behind a link leads nowhere."""
    found: list[str] = []
    for name in ("link", "folder/secret", "folder/made", "pipe", "deep/../link"):
        with contextlib.suppress(DnaError):
            if case.world.secret.encode() in case.sandbox.read_file(name):
                found.append(f"{name} was read through")
        with contextlib.suppress(DnaError):
            case.sandbox.write_file(name, b"overwritten")
    return found


def is_stopped(*why: str) -> Callable[[Case], list[str]]:
    """Ended by one of these bounds."""

    def judge(case: Case) -> list[str]:
        return [] if case.ran.stopped in why else [f"it was stopped by {case.ran.stopped}, status {case.ran.status}"]

    return judge


def is_killed_by_a_filter(case: Case) -> list[str]:
    return [] if case.ran.status == 128 + 31 else [f"it ended with status {case.ran.status}"]


def stays_small(case: Case) -> list[str]:
    """Disk and files stayed near their bounds: what a watchdog misses between two looks."""
    size = files = 0
    for place in left_behind(case.sandbox.workspace):
        size, files = size + place.lstat().st_blocks * 512, files + 1
    found = [f"{size} bytes on disk"] if size > 8 * case.limits.disk else []
    return found + ([f"{files} files"] if files > 100 * case.limits.files else [])


@dataclass(frozen=True, slots=True)
class Attack:
    """``look``: it holds what it got until it was looked at. ``judges`` come on top of those that judge every attack."""

    name: str
    kind: str
    look: bool
    judges: tuple[Callable[[Case], list[str]], ...] = ()
    limits: RunLimits = SMALL
    machine: str = ""


_FAST, _WHOLE = SMALL.model_copy(update={"seconds": 0.6}), SMALL.model_copy(update={"seconds": 4})
_JUDGES: dict[str, tuple[tuple[Callable[[Case], list[str]], ...], RunLimits]] = {
    "write.setuid_file": ((no_strange_files,), SMALL), "syscall.mknod": ((no_strange_files,), SMALL),
    "read.link_in_workspace": ((file_tools_hold,), SMALL), "read.folder_link_in_workspace": ((file_tools_hold,), SMALL),
    "write.link_in_workspace": ((file_tools_hold,), SMALL), "write.folder_link_in_workspace": ((file_tools_hold,), SMALL),
    "syscall.compat": ((is_killed_by_a_filter,), SMALL),
    "process.unreadable": ((is_stopped("unwatched", "memory", "time"),), _WHOLE),
    "resource.memory": ((is_stopped("memory"),), SMALL), "resource.memory_of_many": ((is_stopped("memory"),), SMALL),
    "resource.disk": ((is_stopped("disk"), stays_small), SMALL), "resource.disk_unlinked": ((is_stopped("disk"), stays_small), SMALL),
    "resource.inodes": ((is_stopped("files"), stays_small), SMALL),
    "resource.inodes_in_memory": ((is_stopped("files"),), SMALL),
    "resource.deep": ((is_stopped("files", "unwatched"), stays_small), SMALL),
    "resource.hidden_folder": ((is_stopped("unwatched", "disk"), stays_small), SMALL),
    "resource.output": ((is_stopped("output"),), SMALL), "resource.errors": ((is_stopped("output"),), SMALL),
    "resource.cpu": ((is_stopped("time"),), _FAST), "resource.sleep": ((is_stopped("time"),), _FAST),
    "process.fork_bomb": ((is_stopped("time", "processes", "memory"),), _FAST), "resource.one_file": ((stays_small,), SMALL),
    "process.stopped": ((is_stopped("time"),), _FAST),
}  # fmt: skip
ATTACKS = tuple(
    Attack(
        name, name.partition(".")[0], "hold()" in program, *_JUDGES.get(name, ((), SMALL)), machine="x86_64" if "int80" in program else ""
    )
    for name, program in PROGRAMS.items()
)  # fmt: skip


@contextlib.contextmanager
def world(uid: int | None) -> Generator[World]:
    """Baits, a victim and doors, all of them the attacker's own outside."""
    word, secret = f"clonedna{secrets.token_hex(8)}", secrets.token_hex(16)
    os.environ[f"BAIT_{word}"] = secret
    owner = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="clonedna-bait-") as name, contextlib.ExitStack() as doors:
        place = Path(name)
        (place / "secret").write_text(secret)
        (place / "folder").mkdir()
        kinds = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)), "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{word}"), "path": (socket.AF_UNIX, socket.SOCK_STREAM, f"{name}/door"),
        }  # fmt: skip
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text():
            kinds["tcp6"] = (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        opened: dict[str, socket.socket] = {}
        for kind, (family, how, address) in kinds.items():
            opened[kind] = doors.enter_context(socket.socket(family, how))
            opened[kind].bind(address)
            opened[kind].setblocking(False)
            if how == socket.SOCK_STREAM:
                opened[kind].listen(4)
        for one in (place, place / "secret", place / "folder", place / "door"):
            one.chmod(0o777 if one.is_dir() else 0o666)
            if uid is not None:
                os.chown(one, uid, uid)
        victim = subprocess.Popen(["sleep", "600"], **owner, cwd="/")  # type: ignore[arg-type]
        try:
            yield World(secret, place, victim, opened, word)
        finally:
            victim.kill()
            victim.wait()
            del os.environ[f"BAIT_{word}"]


async def attacked(attack: Attack, setup: Setup) -> list[str]:
    """What got out; nothing, where the sandbox held."""
    sandbox = BubblewrapSandbox(setup)
    try:
        with world(setup.uid) as outside:
            outside.before = host()
            program = PRELUDE.partition("\n")[2] + PROGRAMS[attack.name]
            command = ["python3", "-I", "-S", "-c", program, repr(outside.told())]
            ran, seen = await sandbox.observed(command, limits=attack.limits, look=attack.look)
            say(f"{attack.name}: {ran.seconds:.2f} s, status {ran.status}, stopped {ran.stopped}")
            if "SyntaxError" in ran.stderr or "NameError" in ran.stderr:
                return [f"the attack is broken: {ran.stderr[-300:]}"]
            case = Case(outside, sandbox, ran, seen["standing"], attack.limits)
            judges = (*attack.judges, outside_is_untouched, *((stands_as_it_should,) if attack.look else ()))
            return [said for judge in judges for said in judge(case)]
    finally:
        sandbox.close()


async def attack_all(setup: Setup, names: Sequence[str] = ()) -> dict[str, list[str]]:
    """Every attack that this machine knows, a few at a time, and what got out of each."""
    machine = os.uname().machine
    chosen = [a for a in ATTACKS if (not names or a.name in names) and a.machine in ("", machine)]
    found: dict[str, list[str]] = {}
    turns = anyio.CapacityLimiter(AT_ONCE)

    async def take(attack: Attack) -> None:
        async with turns:
            try:
                found[attack.name] = await attacked(attack, setup)
            except (DnaError, OSError) as error:  # whatever cannot be judged has not held
                found[attack.name] = [f"not judged: {error}"]

    async with anyio.create_task_group() as group:
        for attack in chosen:
            group.start_soon(take, attack)
    return {attack.name: found[attack.name] for attack in chosen}


def naive(bwrap: str, command: Sequence[str], *, workspace: Path, **_: object) -> list[str]:
    """Bubblewrap as one first writes it: everything of the host to see, the workspace to write to, processes of its own."""
    return [
        bwrap, "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--chdir", str(workspace), "--json-status-fd", "12",
        "--block-fd", "13", "--", *command,
    ]  # fmt: skip


def plain_user() -> tuple[int, list[str], dict[str, str]] | str:
    """As root: a uid that nobody has, a Python that it can run, and the environment to find our packages; or why there is none."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    uid = next(uid for uid in range(64300, 64364) if uid not in taken)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = [str(Path(anyio.__file__).parents[1]), str(Path(bubblewrap.__file__).parents[2])]
    for python in (Path(sys.executable).resolve(), Path("/usr/bin", version)):
        needed = (python, *map(Path, packages))
        if python.exists() and all(place.stat().st_mode & 0o005 for one in needed for place in (one, *one.parents)):
            environment = {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": "/tmp",
                "PYTHONPATH": ":".join(packages),
                "LC_ALL": "C.UTF-8",
            }
            return uid, [str(python), "-B"], environment
    return "no Python that another user can run sees these packages"


def as_plain_user(words: Sequence[str]) -> subprocess.CompletedProcess[str] | str:
    """``python WORDS`` as a user without rights, started by root; or why not."""
    found = plain_user()
    if isinstance(found, str):
        return found
    uid, python, environment = found
    return subprocess.run(
        [*python, *words], user=uid, group=uid, extra_groups=[], env=environment, cwd="/", capture_output=True, text=True, check=False
    )  # fmt: skip


def living(word: str) -> bool:
    """Whether any process of this machine, but us, has ``word`` on its command line."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if int(place.parent.name) != os.getpid() and word.encode() in place.read_bytes():
                return True
    return False


def _called(door: socket.socket) -> bool:
    try:
        if door.type == socket.SOCK_DGRAM:
            door.recv(100)
        else:
            door.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack the sandbox and judge from outside.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--naive", action="store_true", help="bubblewrap without our hardening")
    parser.add_argument("--no-cgroups", action="store_true", help="as on a machine that lends none")
    given = parser.parse_args()
    setup = find_setup()
    setup = Setup(setup.bwrap, setup.uid, setup.python, setup.staged, cgroups=not given.no_cgroups)
    if given.naive:
        bubblewrap.arguments = naive  # type: ignore[assignment]
    began = time.monotonic()
    found = anyio.run(attack_all, setup, given.names)
    print(json.dumps({"uid": os.geteuid(), "seconds": round(time.monotonic() - began, 1), "escaped": found}))


if __name__ == "__main__":
    main()
