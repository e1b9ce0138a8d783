"""What every ``Sandbox`` must do, tier 1 and the fake alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from clonedna.core.errors import NotFound, PathRefused, SandboxUnavailable, TooLarge
from clonedna.core.fakes import FakeSandbox
from clonedna.core.sandbox import Ran, RunLimits
from clonedna.core.seams import Sandbox
from clonedna.sandbox.trial import Sandboxes

TIERS = Sandboxes()


async def fake() -> Sandbox:
    return FakeSandbox()


PARTS: dict[str, Callable[[], Awaitable[Sandbox]]] = {"bubblewrap": TIERS.open, "fake": fake}


@pytest.fixture(params=list(PARTS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        opened = anyio.run(PARTS[request.param])
    except SandboxUnavailable as error:
        pytest.skip(error.message)
    yield opened
    opened.close()


def run(sandbox: Sandbox, *command: str, stdin: bytes = b"", **bounds: float) -> Ran:
    return anyio.run(lambda: sandbox.exec(command, stdin=stdin, limits=RunLimits.model_validate(bounds)))


def test_it_says_which_tier_it_is(sandbox: Sandbox) -> None:
    assert sandbox.tier in ("bubblewrap", "fake")


def test_a_command_has_its_status_and_its_output(sandbox: Sandbox) -> None:
    ran = run(sandbox, "echo", "two", "words")
    assert (ran.status, ran.stdout, ran.stopped) == (0, "two words\n", None)
    assert run(sandbox, "true").status == 0
    assert run(sandbox, "false").status == 1


def test_a_program_that_is_not_there_ends_with_127(sandbox: Sandbox) -> None:
    ran = run(sandbox, "no-such-program-here", "x")
    assert ran.status == 127
    assert ran.stderr


def test_what_is_given_is_read(sandbox: Sandbox) -> None:
    assert run(sandbox, "cat", stdin=b"given\n" * 30_000).stdout == "given\n" * 30_000


def test_files_go_in_and_out(sandbox: Sandbox) -> None:
    sandbox.write_file("a folder/deep/file.txt", b"content\n")
    assert run(sandbox, "cat", "a folder/deep/file.txt").stdout == "content\n"
    assert sandbox.read_file("a folder/deep/file.txt") == b"content\n"
    sandbox.write_file("a folder/deep/file.txt", b"other")
    assert sandbox.read_file("a folder/deep/file.txt") == b"other"


@pytest.mark.parametrize("path", ["", "/etc/hostname", "../x", "a/../../x", ".", "a//b", "nul\0nul", "a/."])
def test_no_path_leads_out(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(PathRefused):
        sandbox.read_file(path)
    with pytest.raises(PathRefused):
        sandbox.write_file(path, b"x")


def test_a_missing_file_is_not_found(sandbox: Sandbox) -> None:
    with pytest.raises(NotFound):
        sandbox.read_file("missing")


def test_files_have_a_size_that_they_may_not_pass(sandbox: Sandbox) -> None:
    with pytest.raises(TooLarge):
        sandbox.write_file("big", b"x" * 11, most=10)
    sandbox.write_file("big", b"x" * 11)
    with pytest.raises(TooLarge):
        sandbox.read_file("big", most=10)
    assert sandbox.read_file("big", most=11) == b"x" * 11


def test_what_takes_too_long_is_stopped(sandbox: Sandbox) -> None:
    ran = run(sandbox, "sleep", "60", seconds=0.2)
    assert (ran.status, ran.stopped) == (None, "time")


def test_a_flood_is_cut_and_stopped(sandbox: Sandbox) -> None:
    ran = run(sandbox, "yes", output=5000, seconds=20)
    assert (ran.status, ran.stopped) == (None, "output")
    assert len(ran.stdout) == 5000


def test_a_closed_sandbox_does_nothing_more(sandbox: Sandbox) -> None:
    sandbox.close()
    sandbox.close()
    with pytest.raises(NotFound):
        run(sandbox, "true")
    with pytest.raises(NotFound):
        sandbox.read_file("x")
    with pytest.raises(NotFound):
        sandbox.write_file("x", b"")
