"""Tier 1: hardened bubblewrap. A workspace, commands that run in it, and its files.

Promises: a command sees an empty environment, a read-only ``/usr`` and its workspace, has no network, no capability, is never uid 0
outside, and is gone with all its processes when ``exec`` returns, is cancelled, or its asker dies. What holds is tried before the first
run (``clonedna.sandbox.trial``), not assumed.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream

from clonedna.core.errors import Internal, NotFound, SandboxUnavailable
from clonedna.core.sandbox import MOST_FILE, Ran, RunLimits
from clonedna.sandbox.arguments import arguments
from clonedna.sandbox.files import read_beneath, remove_tree, write_beneath
from clonedna.sandbox.syscalls import filters

TIER = "bubblewrap"
USERS = range(64200, 64264)
"""As root, what runs inside is the first of these uids that nobody has."""
NEXT_STEP = "make setup-system (as root) installs what is needed; docs/sandbox.md says what else can be in the way"
_ROOT = Path(__file__).resolve().parents[2]
_BOOT = f"import sys; sys.path.append({str(_ROOT)!r}); from clonedna.sandbox.supervisor import main; main()"


@dataclass(frozen=True, slots=True)
class Setup:
    """What this machine has: bubblewrap; as root whom to become; a Python outside ``/usr`` to show, and whether it must be staged.

    ``cgroups``: whether runs may have cgroups (tests look at what holds without them).
    """

    bwrap: str
    uid: int | None
    python: Path | None
    staged: bool
    cgroups: bool = True


def find_setup() -> Setup:
    """Raises ``SandboxUnavailable`` where there is no bubblewrap, or nobody to become."""
    if sys.platform != "linux":
        raise SandboxUnavailable(
            "a sandbox needs Linux", "run this on Linux, or in a Linux container that allows user namespaces"
        )
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxUnavailable("bubblewrap is not installed", NEXT_STEP)
    uid = _nobody_s() if os.geteuid() == 0 else None
    python = _python()
    return Setup(bwrap, uid, python, staged=uid is not None and python is not None and not _open_to_all(python))


class BubblewrapSandbox:
    """One workspace. ``close`` removes it."""

    tier = TIER

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-"))
        self.directory.chmod(0o711)
        self.workspace, self.stage = self.directory / "workspace", self.directory / "python"
        self.workspace.mkdir(mode=0o700)
        self.stage.mkdir()
        if setup.uid is not None:
            os.chown(self.workspace, setup.uid, setup.uid)

    async def exec(self, command: Sequence[str], *, stdin: bytes = b"", limits: RunLimits | None = None) -> Ran:
        """Run ``command`` in the workspace; see ``Sandbox.exec``."""
        ran, _ = await self.observed(command, stdin=stdin, limits=limits or RunLimits())
        return ran

    async def observed(
        self, command: Sequence[str], *, stdin: bytes = b"", limits: RunLimits, look: bool = False
    ) -> tuple[Ran, dict[str, Any]]:
        """A run, and what the supervisor saw from outside. ``look``: the input stays open until the first output, then the kernel's word
        on every process is taken down (``standing``).
        """
        self._refuse_closed()
        found = await _supervised(self._order(command, stdin, limits, look), limits.seconds + 30)
        if found["failed"]:
            raise SandboxUnavailable(f"the sandbox did not start: {found['failed'][:300]}", NEXT_STEP)
        text = {name: base64.b64decode(found[name]).decode("utf-8", "replace") for name in ("stdout", "stderr")}
        ran = Ran(status=found["status"], stopped=found["stopped"], seconds=round(found["seconds"], 4), **text)
        return ran, found

    def read_file(self, path: str, *, most: int = MOST_FILE) -> bytes:
        self._refuse_closed()
        return read_beneath(self.workspace, path, most)

    def write_file(self, path: str, data: bytes, *, most: int = MOST_FILE) -> None:
        self._refuse_closed()
        write_beneath(self.workspace, path, data, most, self.setup.uid)

    def close(self) -> None:
        if self.directory.exists():
            remove_tree(self.directory)

    def _refuse_closed(self) -> None:
        if not self.directory.exists():
            raise NotFound("this sandbox is closed", "open another")

    def _order(self, command: Sequence[str], stdin: bytes, limits: RunLimits, look: bool) -> dict[str, Any]:
        setup = self.setup
        shown = self.stage if setup.staged else setup.python
        # Else another Python's library of the same name, in /usr, would be found first.
        shared = setup.python is not None and any(setup.python.glob("lib/libpython*.so*"))
        line = arguments(
            setup.bwrap, command, workspace=self.workspace, python=shown, scratch=limits.scratch, shared=shared
        )
        return {
            **limits.model_dump(), "command": line, "stdin": base64.b64encode(stdin).decode(), "look": look, "uid": setup.uid,
            "stage": (str(setup.python), str(self.stage)) if setup.staged else None, "workspace": str(self.workspace),
            "filters": [base64.b64encode(program).decode() for program in filters()], "cgroups": setup.cgroups,
        }  # fmt: skip


def sweep() -> None:
    """Remove the workspaces of processes that were killed before they could: of this user, in this process namespace."""
    mine = _prefix()
    for place in Path(tempfile.gettempdir()).glob(f"{mine}*"):
        maker = place.name.removeprefix(mine).partition("-")[0]
        if maker.isdigit() and not Path("/proc", maker).exists() and place.lstat().st_uid == os.geteuid():
            with suppress(OSError):  # another process sweeps too
                remove_tree(place)


def _prefix() -> str:
    """Process numbers are of one namespace: containers may share a temporary folder."""
    return f"clonedna-sandbox-{os.stat('/proc/self/ns/pid').st_ino}-"


async def _supervised(order: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The supervisor's word on one order. However this ends, the supervisor and all below it have ended too."""
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _BOOT]
    process = await anyio.open_process(command, stderr=subprocess.PIPE, env={"LC_ALL": "C.UTF-8"}, cwd="/")
    said: dict[str, bytes] = {}
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with anyio.fail_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(_heard, process.stdout, "stdout", said)
                group.start_soon(_heard, process.stderr, "stderr", said)
                with suppress(
                    anyio.BrokenResourceError, anyio.ClosedResourceError
                ):  # it ended early; its words say why
                    await process.stdin.send(json.dumps(order).encode() + b"\n")
            await process.wait()
    except TimeoutError:
        said.setdefault("stderr", b"it did not answer")
    finally:
        with anyio.CancelScope(shield=True):
            await process.stdin.aclose()  # the end of its input ends the run
            with anyio.move_on_after(12):
                await process.wait()
            if process.returncode is None:
                process.kill()  # bubblewrap dies with it, and the namespace with bubblewrap
            await process.aclose()
    try:
        return json.loads(said["stdout"])
    except (KeyError, ValueError):
        last = said.get("stderr", b"").decode("utf-8", "replace").strip().splitlines()[-1:]
        raise Internal(f"the sandbox's supervisor failed: {''.join(last)[:300]}", "please report this") from None


async def _heard(stream: ByteReceiveStream, name: str, said: dict[str, bytes]) -> None:
    out = bytearray()
    async for piece in stream:
        if len(out) < 4_000_000:
            out += piece
    said[name] = bytes(out)


def _nobody_s() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    for uid in USERS:
        if uid not in taken:
            return uid
    raise SandboxUnavailable(
        f"every uid from {USERS[0]} to {USERS[-1]} is somebody's", "free one of them, or run as a plain user"
    )


def _python() -> Path | None:
    """The installation of the Python that runs, where it is not below ``/usr`` and is a folder of its own; else ``/usr`` must have one."""
    base = Path(sys.base_prefix).resolve()
    home = Path.home().resolve()
    below_usr = base == Path("/usr") or Path("/usr") in base.parents
    if below_usr or base == home or base in home.parents or not (base / "bin/python3").exists():
        return None
    return base


def _open_to_all(directory: Path) -> bool:
    """Whether anybody may go there."""
    return all(place.stat().st_mode & 0o001 for place in (directory, *directory.parents))
