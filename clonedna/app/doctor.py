"""Whether this machine and home are fit to mint and serve: a finding for each thing that has to be right, and what to do about it.

Promises: nothing is made or changed by looking, no key, no database, no home; nothing is asked of the network but the database that the
settings name. A check that fails itself is a finding too. Without ``deep`` it takes a second or two; with it the base is loaded and the
sandbox tried, which takes as long as they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from clonedna.app import doctor_checks as checks
from clonedna.app.doctor_checks import Finding
from clonedna.app.parts import Parts
from clonedna.core.errors import BadConfig, DnaError, KeyLocked, SandboxUnavailable
from clonedna.core.value import Value

Status = Literal["ok", "warning", "fail"]
Check = Callable[[Parts], Finding]
QUICK: tuple[tuple[str, Check], ...] = (
    ("python", checks.python), ("libraries", checks.libraries), ("extras", checks.extras), ("settings", checks.settings),
    ("home", checks.home), ("disk", checks.disk), ("memory", checks.memory), ("open files", checks.open_files), ("clock", checks.clock),
    ("base", checks.base), ("encoder", checks.encoder),
    ("vectors", checks.vectors), ("keys", checks.keys), ("database", checks.database), ("access", checks.access),
    ("git", checks.git), ("ssh-keygen", checks.ssh_keygen), ("sandbox", checks.sandbox),
)  # fmt: skip
SOFT = (SandboxUnavailable, KeyLocked)  # the rest works without
DEEP: tuple[tuple[str, Check], ...] = (("base loads", checks.base_loads), ("sandbox holds", checks.sandbox_holds))


class Diagnosis(Value):
    """All findings, and the worst of them. ``deep``: whether the base was loaded and the sandbox tried."""

    status: Status
    deep: bool
    findings: tuple[Finding, ...]


class Doctor:
    """Looks at one home and machine. Its methods block."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def examine(self, *, deep: bool = False, serving: bool = False) -> Diagnosis:
        """Every check. ``serving``: by the server itself, whose port is taken by nobody else."""
        wanted = [*QUICK, *(() if serving else (("port", checks.port),)), *(DEEP if deep else ())]
        return _diagnosis(tuple(self._found(wanted)), deep=deep)

    def _found(self, wanted: list[tuple[str, Check]]) -> Iterator[Finding]:
        for name, check in wanted:
            try:
                yield check(self.parts)
            except DnaError as error:
                status = "warning" if isinstance(error, SOFT) else "fail"
                yield Finding(name=name, status=status, found=f"{error.message} ({error.code})", fix=error.hint)
            except OSError as error:
                yield Finding(
                    name=name, status="fail", found=f"could not be looked at: {error.strerror or type(error).__name__}",
                    fix="check the permissions of the home and of this user",
                )  # fmt: skip


def unsettled(error: BadConfig) -> Diagnosis:
    """What there is to say where the settings themselves cannot be read."""
    finding = Finding(name="settings", status="fail", found=error.message, fix=error.hint)
    return _diagnosis((finding,), deep=False)


def _diagnosis(findings: tuple[Finding, ...], *, deep: bool) -> Diagnosis:
    statuses = {finding.status for finding in findings}
    worst: Status = "fail" if "fail" in statuses else "warning" if "warning" in statuses else "ok"
    return Diagnosis(status=worst, deep=deep, findings=findings)
