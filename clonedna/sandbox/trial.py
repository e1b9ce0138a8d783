"""The self-test: before anything of a stranger's runs, we attack the sandbox ourselves and look from outside whether it held.

No probe is believed: what counts is the kernel's word on its processes (read from outside), the baits it was led to, and whether it was
stopped. One failed probe and this machine has no sandbox.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from clonedna.core.errors import DnaError, SandboxUnavailable
from clonedna.core.sandbox import Ran, RunLimits
from clonedna.sandbox.arguments import environment
from clonedna.sandbox.bubblewrap import NEXT_STEP, TIER, BubblewrapSandbox, Setup, find_setup, sweep

_LOOK = """
import socket, sys
word, secret, folder, port, name = sys.argv[1:]
def attempt(work):
    try: print(work())
    except OSError as error: print(type(error).__name__)
def call(family, address):
    with socket.socket(family) as one:
        one.settimeout(1)
        one.connect(address)
attempt(lambda: open(secret).read())
attempt(lambda: open("/etc/shadow").read())
attempt(lambda: open(secret, "a").write("x"))
attempt(lambda: open(folder + "/made", "w").close())
attempt(lambda: call(socket.AF_INET, ("127.0.0.1", int(port))))
attempt(lambda: call(socket.AF_UNIX, "\\0" + name))
print("tried", word, flush=True)
sys.stdin.read()
"""
_SURVIVE = """
import os, sys, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(60)
        os._exit(0)
while True: os.write(1, b"flood " * 10000)
"""
_SWALLOW = "import time\nheld = []\nwhile True: held.append(bytearray(b'x' * (8 << 20))); time.sleep(0.005)"
_FILL = "import time\nfor i in range(40): open(f'file{i}', 'wb').write(b'x' * 100000)\ntime.sleep(60)"
_WAIT = "import time\ntime.sleep(60)"

PATIENCE = 90.0
"""Seconds that a probe may take before it counts as not held: a machine that is busy is no reason to have no sandbox."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a self-test found: the ``tier`` that was tried, and its probes by whether they held."""

    tier: str
    held: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Baits:
    secret: str
    file: Path
    folder: Path
    tcp: socket.socket
    abstract: socket.socket
    name: str

    def touched(self) -> bool:
        return self.file.read_text() != self.secret or any(self.folder.iterdir())


class Sandboxes:
    """Opens sandboxes, after the one self-test of this process. ``trial``: what it found, ``None`` before it."""

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self._setup: Setup | None = None

    async def open(self) -> BubblewrapSandbox:
        """A sandbox with an empty workspace, to be closed. Raises ``SandboxUnavailable`` with what is missing or did not hold."""
        if self._setup is None:
            setup = find_setup()
            sweep()
            self.trial = await try_setup(setup)
            self._setup = setup
        return BubblewrapSandbox(self._setup)


async def try_setup(setup: Setup) -> Trial:
    """Every probe on this set-up. Raises ``SandboxUnavailable`` when one of them does not hold or cannot be run."""
    found: dict[str, bool] = {}
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        for probe in (_looks, _survives, _swallows, _fills, _waits):
            group.start_soon(_tried, probe, setup, found, errors)
    if errors:
        raise SandboxUnavailable(f"the sandbox's self-test could not run: {errors[0]}", NEXT_STEP)
    held, failed = (tuple(sorted(n for n, ok in found.items() if ok == wanted)) for wanted in (True, False))
    if failed:
        raise SandboxUnavailable(
            f"the sandbox's self-test failed: {', '.join(failed)}", NEXT_STEP, held=list(held), failed=list(failed)
        )
    return Trial(TIER, held, failed)


async def _tried(probe: Any, setup: Setup, found: dict[str, bool], errors: list[Exception]) -> None:
    """One probe in a sandbox of its own. What it raises is kept: a task group would wrap it."""
    try:
        sandbox = BubblewrapSandbox(setup)
        try:
            found |= await probe(sandbox)
        finally:
            sandbox.close()
    except (DnaError, OSError) as error:
        errors.append(error)


async def _looks(sandbox: BubblewrapSandbox) -> dict[str, bool]:
    word, setup = secrets.token_hex(8), sandbox.setup
    with _baits(setup.uid) as baits:
        command = _python(_LOOK, word, baits.file, baits.folder, baits.tcp.getsockname()[1], baits.name)
        ran, seen = await sandbox.observed(command, limits=RunLimits(seconds=PATIENCE), look=True)
        standing: list[dict[str, str]] = seen["standing"]
        # Bubblewrap's own first process and the command: both must stand as the command does.
        told = {name: {one[name] for one in standing} for name in (standing[0] if standing else {})}
        shared = setup.python is not None and any(setup.python.glob("lib/libpython*.so*"))
        names = {*environment(setup.python is not None, shared), "PWD"}
        return {
            "python runs": ran.status == 0 and f"tried {word}" in ran.stdout,
            "a user without rights": told.get("Uid") == {str(setup.uid or os.getuid())} and setup.uid != 0,
            "no capabilities": all(told.get(name) == {"0" * 16} for name in ("CapPrm", "CapEff", "CapBnd")),
            "no new privileges": told.get("NoNewPrivs") == {"1"},
            "system calls filtered": told.get("Seccomp") == {"2"},
            "namespaces of its own": told.get("namespaces") == {"user pid net ipc uts mnt"},
            "an empty environment": bool(standing) and set(standing[-1]["environment"].split()) <= names,
            "reads nothing outside": baits.secret not in ran.stdout and "root:" not in ran.stdout,
            "writes nothing outside": not baits.touched(),
            "no network": not _called(baits.tcp),
            "no abstract sockets": not _called(baits.abstract),
        }


async def _survives(sandbox: BubblewrapSandbox) -> dict[str, bool]:
    word = secrets.token_hex(8)
    ran = await sandbox.exec(_python(_SURVIVE, word), limits=RunLimits(seconds=PATIENCE, output=100_000))
    return {"output is bounded": _stopped(ran, "output"), "nothing survives": not _living(word)}


async def _swallows(sandbox: BubblewrapSandbox) -> dict[str, bool]:
    ran = await sandbox.exec(_python(_SWALLOW), limits=RunLimits(seconds=PATIENCE, memory=64 << 20))
    return {"memory is bounded": _stopped(ran, "memory")}


async def _fills(sandbox: BubblewrapSandbox) -> dict[str, bool]:
    ran = await sandbox.exec(_python(_FILL), limits=RunLimits(seconds=PATIENCE, disk=1 << 20))
    return {"disk is bounded": _stopped(ran, "disk")}


async def _waits(sandbox: BubblewrapSandbox) -> dict[str, bool]:
    ran = await sandbox.exec(_python(_WAIT), limits=RunLimits(seconds=0.3))
    return {"time is bounded": _stopped(ran, "time")}


def _stopped(ran: Ran, why: str) -> bool:
    return ran.stopped == why


def _python(program: str, *words: object) -> list[str]:
    return ["python3", "-I", "-S", "-c", program, *map(str, words)]


@contextmanager
def _baits(uid: int | None) -> Generator[_Baits]:
    """A secret that all may read, a folder that whoever is inside owns, and two doors that anybody may knock at."""
    name = f"clonedna-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory(prefix="clonedna-bait-") as place,
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        file, folder, secret = Path(place, "secret"), Path(place, "folder"), secrets.token_hex(16)
        file.write_text(secret)
        folder.mkdir()
        for one, mode in ((Path(place), 0o755), (file, 0o644), (folder, 0o755)):
            one.chmod(mode)
            if uid is not None:
                os.chown(one, uid, uid)
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{name}")
        for door in (tcp, abstract):
            door.listen(1)
            door.setblocking(False)
        yield _Baits(secret, file, folder, tcp, abstract, name)


def _called(door: socket.socket) -> bool:
    try:
        door.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _living(word: str) -> bool:
    """Whether any process of this machine has ``word`` on its command line."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in place.read_bytes():
                return True
        except OSError:
            continue
    return False
