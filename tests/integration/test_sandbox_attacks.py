"""Attacks on tier 1, started as root and as a user without rights, judged from outside; and the judges do find an escape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import anyio
import pytest

from bench.attacks import ATTACKS, as_plain_user
from clonedna.core.errors import SandboxUnavailable
from clonedna.sandbox.trial import Sandboxes

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("as root", "as a plain user")
pytestmark = pytest.mark.slow


@cache
def no_sandbox() -> str:
    """Why this machine has no sandbox; empty where it has."""

    async def work() -> None:
        (await Sandboxes().open()).close()

    try:
        anyio.run(work)
    except SandboxUnavailable as error:
        return error.message
    return ""


@cache
def escaped(side: str, *words: str) -> dict[str, list[str]] | str:
    """What got out of each attack on this side, or why it cannot be tried."""
    if no_sandbox():
        return no_sandbox()
    command = ["-m", "bench.attacks", *words]
    if side == "as a plain user" and os.geteuid() == 0:
        done = as_plain_user(command)
        if isinstance(done, str):
            return done
    elif side == "as root" and os.geteuid() != 0:
        return "not started as root"
    else:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert (told["uid"] == 0) == (side == "as root")
    return told["escaped"]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("side", SIDES)
def test_nothing_gets_out(side: str, attack: object) -> None:
    found = escaped(side)
    if isinstance(found, str):
        pytest.skip(found)
    name = attack.name  # type: ignore[attr-defined]
    if name not in found:
        pytest.skip("an attack on another kind of machine")
    assert found[name] == []


def test_there_are_enough_of_every_kind() -> None:
    kinds = [attack.kind for attack in ATTACKS]
    assert len(ATTACKS) >= 40
    assert {kind: kinds.count(kind) >= 8 for kind in set(kinds)} == dict.fromkeys(
        ("read", "write", "network", "process", "syscall", "resource"), True
    )


@pytest.mark.parametrize(
    "name",
    ["read.bait", "write.through_link", "network.abstract", "syscall.unshare", "syscall.io_uring", "write.setuid_file"],
)
def test_the_judges_see_what_gets_out_of_a_naive_sandbox(name: str) -> None:
    found = escaped(
        "as root" if os.geteuid() == 0 else "as a plain user", "--naive", "read.bait", "write.through_link",
        "network.abstract", "syscall.unshare", "syscall.io_uring", "write.setuid_file",
    )  # fmt: skip
    if isinstance(found, str):
        pytest.skip(found)
    assert found[name]
