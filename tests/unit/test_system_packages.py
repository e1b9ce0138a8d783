"""`make setup-system` and the build machine: what is missing is installed, once, and what cannot be done is said. apt-get is a stand-in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [line for line in (ROOT / "system-packages.txt").read_text("utf-8").split("\n") if line and line[0] != "#"]
pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="no sh here")


class Machine:
    """A folder of programs: real tools, and stand-ins for apt-get, dpkg-query and id that note what they were asked."""

    def __init__(self, place: Path) -> None:
        self.bin, self.clone = place / "bin", place / "a clone"
        self.bin.mkdir()
        (self.clone / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "system-packages.txt", self.clone)
        shutil.copy(ROOT / "tools/setup_system.sh", self.clone / "tools")
        for tool in ("sh", "sed", "grep", "dirname", "mktemp", "rm", "cat", "echo"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        (place / "installed").write_text("git\n")
        self.program("id", "echo 0")
        self.program(
            "dpkg-query",
            f'for last; do :; done; grep -qx "$last" "{place}/installed" && echo install ok installed || exit 1',
        )
        self.program(
            "apt-get",
            f'echo "$@" >> "{place}/calls"\n'
            f'for word; do case $word in -*|update|install) ;; *) echo $word >> "{place}/installed";; esac; done',
        )
        self.place = place

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def calls(self) -> list[str]:
        calls = self.place / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shutil.which("sh")), str(self.clone / "tools/setup_system.sh"), *words],
            env={"PATH": str(self.bin)}, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_the_sandbox_needs_is_listed() -> None:
    assert {"bubblewrap", "libseccomp2", "git"} <= set(PACKAGES)
    assert sorted(PACKAGES) == PACKAGES


@pytest.mark.parametrize("words", [(), ("--try",)])
def test_what_is_missing_is_installed_once(machine: Machine, words: tuple[str, ...]) -> None:
    done = machine.run(*words)
    assert done.returncode == 0, done.stderr
    missing = " ".join(name for name in PACKAGES if name != "git")
    assert machine.calls() == ["-qq update", f"-qq -y --no-install-recommends install {missing}"]
    assert f"installed: {missing}" in done.stderr
    again = machine.run(*words)
    assert again.returncode == 0
    assert len(machine.calls()) == 2
    assert ("all there" in again.stdout) == (not words)


def test_without_root_the_command_is_named(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    done = machine.run()
    assert done.returncode == 1
    assert "sudo apt-get install bubblewrap" in done.stderr
    assert not machine.calls()


def test_without_apt_the_names_are_given(machine: Machine) -> None:
    for name in ("apt-get", "dpkg-query"):
        (machine.bin / name).unlink()
    done = machine.run()
    assert done.returncode == 1
    assert "no apt-get" in done.stderr
    assert all(name in done.stderr for name in PACKAGES)


def test_a_package_index_that_cannot_be_reached_fails_no_build(machine: Machine) -> None:
    machine.program("apt-get", "echo no route to the index >&2; exit 100")
    done = machine.run("--try")
    assert done.returncode == 0
    assert "could not install" in done.stderr
    assert "no route" not in done.stderr
    strict = machine.run()
    assert strict.returncode == 1
    assert "no route" in strict.stderr


def test_the_build_machine_tries_first() -> None:
    lines = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    tried = [at for at, line in enumerate(lines) if "tools/setup_system.sh --try" in line]
    assert len(tried) == 1
    assert tried[0] < lines.index("exec make test </dev/null")
