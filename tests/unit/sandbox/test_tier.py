"""The tier itself: fail closed, never uid 0, cancelled runs end, and what the watchdog counts."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from bench.attacks import living
from clonedna.core.errors import SandboxUnavailable
from clonedna.core.sandbox import RunLimits
from clonedna.sandbox import bubblewrap, supervisor, syscalls, trial, watching
from clonedna.sandbox.bubblewrap import BubblewrapSandbox, Setup, find_setup
from clonedna.sandbox.trial import Sandboxes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a sandbox needs Linux")
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def test_without_bubblewrap_there_is_none_and_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SandboxUnavailable, match="not installed") as caught:
        anyio.run(Sandboxes().open)
    assert "make setup-system" in caught.value.hint


def test_on_another_system_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="Linux"):
        find_setup()


@needs_bwrap
def test_one_failed_probe_and_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(sandbox: object) -> dict[str, bool]:
        return {"the moon is up": True, "memory is bounded": False}

    for name in ("_looks", "_survives", "_swallows", "_fills", "_waits"):
        monkeypatch.setattr(trial, name, fails)
    sandboxes = Sandboxes()
    for _ in range(2):
        with pytest.raises(SandboxUnavailable, match="memory is bounded") as caught:
            anyio.run(sandboxes.open)
    assert caught.value.facts["held"] == ["the moon is up"]
    assert sandboxes.trial is None


@pytest.mark.parametrize("program", ["false", "true", "cat"])
def test_a_bubblewrap_that_does_not_work_is_no_sandbox(program: str) -> None:
    """As where user namespaces are forbidden: it ends before there is anything inside."""
    uid = bubblewrap.USERS[0] if os.geteuid() == 0 else None
    setup = Setup(str(shutil.which(program)), uid, None, staged=False)
    with pytest.raises(SandboxUnavailable, match="could not run: the sandbox did not start") as caught:
        anyio.run(trial.try_setup, setup)
    assert "docs/sandbox.md" in caught.value.hint


@needs_bwrap
def test_a_hardening_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test can fail: without filters and a network of its own, it does."""
    real = bubblewrap.arguments

    def weaker(*given: Any, **more: Any) -> list[str]:
        line = real(*given, **more)
        at = line.index("--add-seccomp-fd")
        return [word for word in line[:at] + line[at + 4 :] if word != "--unshare-net"]

    monkeypatch.setattr(bubblewrap, "arguments", weaker)
    try:
        setup = find_setup()
    except SandboxUnavailable as error:
        pytest.skip(error.message)
    with pytest.raises(SandboxUnavailable) as caught:
        anyio.run(trial.try_setup, setup)
    if "could not run" in caught.value.message:
        pytest.skip(caught.value.message)
    assert {"no network", "no abstract sockets", "system calls filtered", "namespaces of its own"} <= set(
        caught.value.facts["failed"]  # type: ignore[arg-type]
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="not started as root")
def test_root_never_goes_on_as_root() -> None:
    with pytest.raises(PermissionError, match="uid 0"):
        supervisor._drop(None)
    program = (
        "import os\nfrom clonedna.sandbox.supervisor import _drop\n"
        f"_drop({bubblewrap.USERS[0]})\nprint(*sorted({{*os.getresuid(), *os.getresgid()}}), os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{bubblewrap.USERS[0]} []\n"


@pytest.fixture(scope="module")
def sandbox() -> Any:
    try:
        opened = anyio.run(Sandboxes().open)
    except SandboxUnavailable as error:
        pytest.skip(error.message)
    yield opened
    opened.close()


def test_a_cancelled_run_leaves_nobody(sandbox: BubblewrapSandbox) -> None:
    word = secrets.token_hex(8)

    async def work() -> None:
        with anyio.move_on_after(0.5) as scope:
            await sandbox.exec(
                ["sh", "-c", f"setsid sleep 60 {word} & sleep 61; : {word}"], limits=RunLimits(seconds=60)
            )
        assert scope.cancelled_caught

    anyio.run(work)
    assert not living(word)


def test_a_dead_asker_leaves_nobody(sandbox: BubblewrapSandbox) -> None:
    """The supervisor's input ends when whoever asked is killed."""
    word = secrets.token_hex(8)
    program = f"""
import anyio
from clonedna.core.sandbox import RunLimits
from clonedna.sandbox.bubblewrap import BubblewrapSandbox, find_setup
sandbox = BubblewrapSandbox(find_setup())
print(sandbox.directory, flush=True)
anyio.run(lambda: sandbox.exec(["sh", "-c", "sleep 60; : " + {word[:8]!r} + {word[8:]!r}], limits=RunLimits(seconds=60)))
"""
    asker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    left, until = Path(asker.stdout.readline().strip()), time.monotonic() + 60
    try:
        while not living(word) and time.monotonic() < until:
            time.sleep(0.02)
        assert living(word)
    finally:
        asker.kill()
        asker.communicate()
    while living(word) and time.monotonic() < until:
        time.sleep(0.02)
    assert not living(word)
    assert left.is_dir()
    bubblewrap.sweep()
    assert not left.exists(), "the workspace of a killed process is removed by the next"
    assert sandbox.directory.is_dir(), "that of a living one is not"


def test_memory_is_bounded_without_cgroups_too(sandbox: BubblewrapSandbox) -> None:
    found = sandbox.setup
    bare = BubblewrapSandbox(Setup(found.bwrap, found.uid, found.python, found.staged, cgroups=False))
    try:
        program = "import time\nheld = [bytearray(b'x' * (80 << 20))]\ntime.sleep(60)"
        command, limits = ["python3", "-I", "-S", "-c", program], RunLimits(seconds=30, memory=64 << 20)
        ran, seen = anyio.run(lambda: bare.observed(command, limits=limits))
    finally:
        bare.close()
    assert (ran.stopped, seen["cgroup"]) == ("memory", 0)


def test_usage_counts_bytes_and_files_and_ends_at_its_bounds(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"folder{number}/file").write_bytes(b"x" * 8192)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        size, files = watching.usage(directory, 1 << 30, 1000)
        assert files == 12
        assert size >= 6 * 8192
        assert watching.usage(directory, 1 << 30, 3)[1] == 4
        assert watching.usage(directory, 8192, 1000)[0] < size
        deep = tmp_path / "/".join("d" * (watching.DEEPEST + 2))
        deep.mkdir(parents=True)
        with pytest.raises(watching.Unwatched):
            watching.usage(directory, 1 << 30, 1000)
    finally:
        os.close(directory)


def test_descendants_and_open_files_without_a_name_are_found(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * 50_000)
        file.flush()
        assert watching.unlinked([os.getpid()]) < 50_000
        (tmp_path / "file").unlink()
        assert watching.unlinked([os.getpid()]) >= 50_000
    with subprocess.Popen(["sleep", "30"]) as child:
        assert watching.descendants(os.getpid()) >= {os.getpid(), child.pid}
        assert watching.memory([child.pid]) > 0
        child.kill()


def test_the_filters_are_whole_instructions_and_the_second_knows_its_ceiling() -> None:
    try:
        first, second = syscalls.filters()
    except SandboxUnavailable as error:
        pytest.skip(error.message)
    assert len(first) % 8 == len(second) % 8 == 0
    assert len(first) // 8 > len(syscalls.DENIED)
    compared = struct.unpack("=HBBI", second[32:40])
    assert compared[3] == syscalls.NEWEST
