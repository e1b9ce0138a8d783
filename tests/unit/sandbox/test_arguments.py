"""The command line of bubblewrap: every hardening there, and no mount that a link in the workspace could lead elsewhere."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from clonedna.sandbox.arguments import HARDENING, WORKSPACE, arguments
from clonedna.sandbox.descriptors import FILTERS

DEMANDED = (
    "--die-with-parent", "--new-session", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
    "--unshare-cgroup-try", "--cap-drop", "--disable-userns", "--clearenv",
)  # fmt: skip
# How many words each mounting option takes, and which of them is the destination.
MOUNTS = {
    "--ro-bind": 2,
    "--ro-bind-try": 2,
    "--bind": 2,
    "--tmpfs": 1,
    "--proc": 1,
    "--dev": 1,
    "--symlink": 2,
    "--dir": 1,
    "--bind-try": 2,
}


@pytest.fixture(params=[None, Path("/somewhere/python")], ids=["system python", "own python"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    (tmp_path / "usr").mkdir()
    for name in ("bin", "lib"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    (tmp_path / "lib64").mkdir()
    made = arguments(
        "bwrap", ["id", "-u"], workspace=Path("/host/workspace"), python=request.param, scratch=4096, root=tmp_path
    )
    return made  # noqa: RET504


def mounts(line: list[str]) -> list[tuple[str, str, str]]:
    """``(option, source, destination)`` in their order, before the command."""
    found: list[tuple[str, str, str]] = []
    words = line[: line.index("--")]
    for at, word in enumerate(words):
        if word in MOUNTS:
            given = words[at + 1 : at + 1 + MOUNTS[word]]
            found.append((word, given[0], given[-1]))
    return found


def test_every_hardening_is_there(line: list[str]) -> None:
    before = line[: line.index("--")]
    assert set(DEMANDED) <= set(before)
    assert set(DEMANDED) | {"ALL"} == set(HARDENING)
    assert before[before.index("--cap-drop") + 1] == "ALL"
    assert not [word for word in before if word.startswith(("--share", "--cap-add", "--dev-bind"))]


def test_one_place_of_the_host_is_writable_and_nothing_is_mounted_below_it(line: list[str]) -> None:
    made = mounts(line)
    writable = [mount for mount in made if mount[0] in ("--bind", "--bind-try")]
    assert writable == [("--bind", "/host/workspace", WORKSPACE)]
    assert made[-1] == writable[0], "the workspace is mounted last"
    inside = [to for _, _, to in made if PurePosixPath(WORKSPACE) in PurePosixPath(to).parents]
    assert inside == []


def test_what_is_left_is_read_only_or_small(line: list[str]) -> None:
    before = line[: line.index("--")]
    read_only = [before[at + 1] for at, word in enumerate(before) if word == "--remount-ro"]
    assert read_only == ["/dev", "/"]
    sized = [before[at + 3] for at, word in enumerate(before) if word == "--size"]
    assert sized == ["/dev/shm", "/tmp"] == [to for option, _, to in mounts(line) if option == "--tmpfs"]


def test_links_of_the_system_stay_links(line: list[str], tmp_path: Path) -> None:
    made = mounts(line)
    assert ("--symlink", "usr/bin", "/bin") in made
    assert ("--ro-bind", str(tmp_path / "lib64"), "/lib64") in made


def test_both_filters_are_loaded_and_the_command_comes_last(line: list[str]) -> None:
    before = line[: line.index("--")]
    assert [before[at + 1] for at, word in enumerate(before) if word == "--add-seccomp-fd"] == [
        str(fd) for fd in FILTERS
    ]
    assert line[line.index("--") :] == ["--", "id", "-u"]


def test_the_environment_is_what_is_set_and_holds_no_place_of_the_host(line: list[str]) -> None:
    found = {line[at + 1]: line[at + 2] for at, word in enumerate(line) if word == "--setenv"}
    assert set(found) == {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONDONTWRITEBYTECODE"}
    assert "/host" not in str(found)
    assert "/somewhere" not in str(found)


def test_a_shared_library_of_python_is_found_beside_it() -> None:
    made = arguments("bwrap", ["x"], workspace=Path("/w"), python=Path("/p"), scratch=1, shared=True)
    assert made[made.index("LD_LIBRARY_PATH") + 1] == "/python/lib"
