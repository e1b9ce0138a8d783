"""The house is in order: make's targets, pinned packages, one version, and no file that names the machine it was written on."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clonedna

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {
    "help",
    "demo",
    "setup",
    "setup-system",
    "test",
    "test-long",
    "check",
    "fmt",
    "bench",
    "sizes",
    "constraints",
    "clean",
    "vllm-env",
    "test-vllm",
    "bench-report",
    "bench-env",
    "test-postgres",
    "reference",
}
MOST_BYTES = 20_000_000
# Written so that this file does not hold what it looks for.
INDEX_HOSTS = re.compile(
    "|".join(
        r"\.".join(host)
        for host in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "(?:org|com)"), ("download", "pytorch", "org"))
    )
)
PLACES = re.compile(
    r"(?<![\w.~$}/-])/(?:" + "|".join(("home/", "Users/", "root/", "work/", "mnt/", "opt/")) + r")[\w.-]+"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@cache
def tracked() -> tuple[Path, ...]:
    """Files under version control that are there. A copy of the sources without its history cannot tell: nothing is checked then."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return tuple(path for name in git("ls-files", "-z").split("\0") if name and (path := ROOT / name).is_file())


@cache
def texts() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8")
    return found


@cache
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line is NAME==VERSION"
    return {canonicalize_name(name): version for name, version in pairs}


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Installed versions of everything that these requirements bring here, by name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            found[name] = distribution.version.partition("+")[0]
            for text in distribution.requires or []:
                below = Requirement(text)
                if below.marker is None or below.marker.evaluate({"extra": extra}):
                    wanted.append(below)
    return found


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    if program is None:
        pytest.skip("no make here")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+) +\S", make().stdout, re.MULTILINE)
    assert set(listed) == TARGETS
    assert set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)) == TARGETS


def test_every_target_can_be_planned() -> None:
    for target in sorted(TARGETS):
        done = make("-n", target)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What make reads, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def interpreter(folder: Path, version: tuple[int, int, int]) -> Path:
    """A stand-in for Python of this version: its environments note what they are asked to do in ``calls``, and do nothing."""
    program = folder / "a python"
    program.write_text(
        "#!/bin/sh\n"
        f"""if [ "$1" = -c ]; then exec "{sys.executable}" -c "import sys; sys.version_info = {version}; $2"; fi\n"""
        'echo "$@" >> calls\n'
        """[ "$2" != venv ] || { mkdir -p .venv/bin; printf '#!/bin/sh\\necho "$@" >> calls\\n' > .venv/bin/python; """
        "chmod +x .venv/bin/python; }\n"
    )
    program.chmod(0o755)
    return program


def setup(clone: Path, python: Path) -> list[str]:
    """What was called for by ``make setup``."""
    (clone / "calls").write_text("")
    done = make("setup", f"PYTHON={python}", folder=clone)
    assert done.returncode == 0, done.stderr
    return (clone / "calls").read_text().splitlines()


def test_an_old_python_is_refused_with_the_next_step(clone: Path, tmp_path: Path) -> None:
    done = make("setup", f"PYTHON={interpreter(tmp_path, (3, 10, 9))}", folder=clone)
    assert done.returncode != 0
    assert "3.11 or newer is needed, this is 3.10" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_second_run_installs_nothing_until_the_pins_change(clone: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path, (3, 11, 0))
    assert setup(clone, python) == ["-m venv .venv", "-m pip install -q -e .[dev]"]
    os.utime(clone / "constraints.txt")
    assert setup(clone, python) == []
    with (clone / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert setup(clone, python) == ["-m pip install -q -e .[dev]"]


def test_an_install_that_was_cut_short_is_done_again(clone: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path, (3, 11, 0))
    setup(clone, python)
    with (clone / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    (clone / ".venv/bin/python").write_text("#!/bin/sh\nexit 3\n")
    assert make("setup", f"PYTHON={python}", folder=clone).returncode != 0
    shutil.copy(ROOT / "constraints.txt", clone)
    (clone / ".venv/bin/python").write_text('#!/bin/sh\necho "$@" >> calls\n')
    assert setup(clone, python) == ["-m pip install -q -e .[dev]"], "the pins of before are no longer installed"


def test_a_moved_clone_gets_a_new_environment(clone: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path, (3, 11, 0))
    setup(clone, python)
    moved = clone.rename(tmp_path / "elsewhere")
    assert setup(moved, python) == ["-m venv --clear .venv", "-m pip install -q -e .[dev]"]


def test_every_dependency_is_pinned_to_a_version_that_fits() -> None:
    named = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, [*named, *PROJECT["build-system"]["requires"]]):
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pin, prereleases=True), requirement


def test_everything_they_bring_is_pinned() -> None:
    named = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    brought = closure([Requirement(text) for text in named])
    assert len(brought) > 60
    assert not sorted(set(brought) - set(pins()))


def test_there_is_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", clonedna.__version__)
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "clonedna/__init__.py"
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8") or clonedna.__version__ in released
    assert all(Version(version) <= Version(clonedna.__version__) for version in released)


def test_every_room_of_the_package_is_on_a_storey() -> None:
    (storeys,) = [c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "storeys"]
    layers = {room.strip() for layer in storeys["layers"] for room in layer.split("|")} | set(
        storeys["exhaustive_ignores"]
    )
    rooms = {path.parent.name for path in (ROOT / "clonedna").glob("*/__init__.py")}
    assert rooms == layers
    (cycles,) = [c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "cycles"]
    assert {name.removeprefix("clonedna.") for name in cycles["ancestors"]} == rooms - set(
        storeys["exhaustive_ignores"]
    )


def test_the_licence_is_apache_2_0_to_the_letter() -> None:
    from askalono import identify

    match = identify((ROOT / "LICENSE").read_text("utf-8"))
    assert match is not None
    assert (match.name, PROJECT["project"]["license"]) == ("Apache-2.0", "Apache-2.0")
    assert match.score == pytest.approx(1.0)


def test_the_build_machine_s_script_runs_the_readme_s_command() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text("utf-8")
    assert "set -euo pipefail" in text
    assert text.splitlines()[-1] == "exec make test </dev/null"
    assert "\nmake test " in (ROOT / "README.md").read_text("utf-8")


def test_no_tracked_file_is_big() -> None:
    assert not [path for path in tracked() if path.stat().st_size > MOST_BYTES]


def test_no_tracked_file_names_a_package_index() -> None:
    assert not {name for name, text in texts().items() if INDEX_HOSTS.search(text)}


def test_no_tracked_file_names_a_place_on_a_machine() -> None:
    assert not {f"{name}: {found[0]}" for name, text in texts().items() if (found := PLACES.search(text))}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see |home/ada/x", True),
        ("open('|work/x')", True),
        ("`|Users/ada`", True),
        ("src|home/ada", False),
        ("~|work/x", False),
        ("$HOME|work/x", False),
    ],
)
def test_places_are_recognised(text: str, named: bool) -> None:
    assert bool(PLACES.search(text.replace("|", "/"))) == named


def test_tracked_text_is_clean() -> None:
    """UTF-8 (or ``texts`` fails), a newline at the end, no carriage returns, no spaces at the ends of lines.

    The bundled base is left out: its files are as the libraries that read them write them.
    """
    for name, text in texts().items():
        if name.startswith("clonedna/bases/"):
            continue
        assert not text or text.endswith("\n"), name
        assert "\r\n" not in text, name
        if not name.endswith((".md", ".json", ".jsonl")):
            assert not re.search(r"[ \t]\n", text), name
