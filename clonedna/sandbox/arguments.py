"""The command line of bubblewrap: what is inside, and nothing else.

Promises: every namespace of its own, no capability, no way to make another namespace, an empty environment; everything that is not the
workspace, ``/tmp`` or ``/dev/shm`` is read-only; the workspace is mounted last and nothing is mounted below it (a link that was left
there would make bubblewrap < 0.12 create files outside).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonedna.sandbox import descriptors

WORKSPACE = "/workspace"
PYTHON = "/python"
HARDENING = (
    "--die-with-parent", "--new-session", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
    "--unshare-cgroup-try", "--cap-drop", "ALL", "--disable-userns", "--clearenv",
)  # fmt: skip
LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = ("ld.so.cache", "alternatives")
INSIDE_UID = 1000
"""Who it is inside, whoever it is outside."""


def arguments(
    bwrap: str,
    command: Sequence[str],
    *,
    workspace: Path,
    python: Path | None,
    scratch: int,
    shared: bool = False,
    root: Path = Path("/"),
) -> list[str]:
    """The whole command line. ``python``: where bubblewrap finds a Python installation that is shown at ``/python`` (``shared``: with a
    library of its own); ``None``: the one in ``/usr``. ``root``: where ``/usr`` is.
    """
    made = [bwrap, *HARDENING, "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--hostname", "sandbox"]
    for name, value in environment(python is not None, shared).items():
        made += ["--setenv", name, value]
    made += ["--ro-bind", str(root / "usr"), "/usr", *_links(root)]
    for name in ETC:
        made += ["--ro-bind-try", str(root / "etc" / name), f"/etc/{name}"]
    if python is not None:
        made += ["--ro-bind", str(python), PYTHON]
    made += ["--proc", "/proc", "--dev", "/dev"]
    for place in ("/dev/shm", "/tmp"):  # noqa: S108 - places inside
        made += ["--size", str(scratch), "--tmpfs", place]
    made += ["--remount-ro", "/dev", "--bind", str(workspace), WORKSPACE, "--remount-ro", "/", "--chdir", WORKSPACE]
    for fd in descriptors.FILTERS:
        made += ["--add-seccomp-fd", str(fd)]
    return [*made, "--json-status-fd", str(descriptors.STATUS), "--block-fd", str(descriptors.BLOCK), "--", *command]


def environment(own_python: bool, shared: bool) -> dict[str, str]:
    """All of it."""
    found = {
        "PATH": f"{PYTHON}/bin:/usr/bin:/bin" if own_python else "/usr/local/bin:/usr/bin:/bin",
        "HOME": WORKSPACE, "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",  # noqa: S108
    }  # fmt: skip
    return found | ({"LD_LIBRARY_PATH": f"{PYTHON}/lib"} if shared else {})


def _links(root: Path) -> list[str]:
    made: list[str] = []
    for name in LINKS:
        place = root / name
        if place.is_symlink():
            made += ["--symlink", str(place.readlink()), f"/{name}"]
        elif place.is_dir():
            made += ["--ro-bind", str(place), f"/{name}"]
    return made
