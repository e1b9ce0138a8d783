"""Every command that changes this home is in its audit log, as every change through a server is. Here, and nowhere else.

A command counts as a change unless it is listed here. That an entry can be written is seen before the command gets this machine's parts:
what cannot be recorded is not done. What was wrong about the command line changed nothing, and is not recorded. A command that is killed
leaves no entry; a job that it started has its own log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from clonedna.app.audit import Audit
    from clonedna.app.parts import Parts

READING = frozenset(
    {
        "authors", "df", "ls", "search", "show", "verify", "run", "chat", "files", "lineage", "versions", "diff", "compare", "ps",
        "doctor", "worker", "audit", "threads ls", "threads show", "team ls", "team show", "team search",
        "consent check", "consent show", "consent log", "tokens ls", "jobs ls", "jobs show", "jobs logs",
        "jobs follow", "developer show", "keys show", "keys list",
        "keys log", "persona ls", "persona show", "persona lineage", "persona threads",
        "genome bench", "genome ls", "genome show", "genome verify", "genome analyze", "genome search", "genome plan", "genome calibration",
        "genome conflicts", "lab",
    }
)  # fmt: skip
# These write entries of their own, which say more.
OWN_ENTRIES = frozenset({"revoke", "rollback", "consent request", "consent grant", "consent revoke"})
# A machine's key is made by the first entry that it signs, but not by these: the person has yet to say how it shall be.
KEYLESS = frozenset({"keys new", "keys trust", "keys distrust", "keys fetch"})
OBJECTS = frozenset(
    {
        "reference",
        "references",
        "name",
        "version",
        "parts",
        "job",
        "target",
        "key_id",
        "identity",
        "team",
        "slot",
        "thread",
    }
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:+-]{0,99}")


@dataclass(frozen=True)
class Change:
    """A command that may change this home: its words, and what it is about. Paths and free words are left out."""

    command: str
    about: str
    parts: Parts

    def check(self) -> None:
        """Raises what the audit log raises when an entry could not be written."""
        audit = self._audit()
        # A key whose passphrase was lost must not keep anybody from making another one.
        if self.command != "keys new" and (self.command not in KEYLESS or audit.signable):
            audit.ready()

    def record(self, result: str) -> None:
        """Write the entry. Raises as ``check``: the command was carried out then, and is not in the log."""
        audit = self._audit()
        if self.command not in KEYLESS or audit.signable:
            audit.changed("local", f"dna {self.command}", self.about, result)

    def _audit(self) -> Audit:
        from clonedna.app.audit import Audit

        return Audit(self.parts)


def change_of(context: Any, parts: Parts) -> Change | None:
    """What the command that runs in this context of click's may change, or ``None`` for one that only reads."""
    if context is None:
        return None
    command = _words(context)
    if command in READING | OWN_ENTRIES or context.params.get("dry_run"):
        return None
    return Change(command, " ".join(_objects(context.params)) or "-", parts)


@contextmanager
def recorded(change: Callable[[], Change | None]) -> Generator[None]:
    """Record what the command inside did, if it took something to change: ``change`` is asked at its end."""
    from clonedna.core.errors import InputError, NotFound

    try:
        yield
    except (InputError, NotFound):
        raise
    except BaseException as error:
        _end(change(), _result(error))
        raise
    else:
        _end(change(), "done")


def _end(change: Change | None, result: str) -> None:
    if change is not None:
        change.record(result)


def _result(error: BaseException) -> str:
    from clonedna.core.errors import DnaError, Refused

    if isinstance(error, DnaError):
        return f"{'refused' if isinstance(error, Refused) else 'failed'} {error.code}"
    if isinstance(error, typer.Exit):
        return f"failed {error.exit_code}" if error.exit_code else "done"
    return "interrupted" if isinstance(error, (KeyboardInterrupt, typer.Abort)) else "failed"


def _words(context: Any) -> str:
    """The command as it is listed here, whatever the program itself was called as: ``tokens new``."""
    words: list[str] = []
    while context.parent is not None:
        words.insert(0, context.info_name)
        context = context.parent
    return " ".join(words)


def _objects(params: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for name in sorted(OBJECTS & set(params)):
        values = params[name] if isinstance(params[name], list) else [params[name]]
        found += [one for one in values if isinstance(one, str) and _PLAIN.fullmatch(one)]
    return found
