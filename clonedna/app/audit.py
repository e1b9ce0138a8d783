"""The audit log as faces use it: what changed, by whom, and whether the log is whole. It is the same log as that of consent.

An entry says who (a token's name and id, a key, this machine), what (a route or a command), which object and how it ended. Never what was
written or answered, never a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from clonedna.app.parts import Parts
from clonedna.core.value import Value
from clonedna.trust.audit import AuditReport, Entry

if TYPE_CHECKING:
    from clonedna.trust.keys import KeyRing

MOST_ENTRIES = 200
MOST_WORDS = 200
_PLAIN = re.compile(r"[^\w@.:,/{}() +*-]", re.ASCII)


class AuditPage(Value):
    """Entries, newest first; ``before`` asks for the page behind this one, ``None``: there is none."""

    entries: tuple[Entry, ...]
    before: int | None


class Audit:
    """Use cases over one home's log."""

    def __init__(self, parts: Parts) -> None:
        self._log, self._signer = parts.audit, cast("KeyRing", parts.signer)

    @property
    def signable(self) -> bool:
        """Whether this machine has a key to sign entries with. The first entry makes one; some changes should not."""
        return self._signer.has_key

    def ready(self) -> None:
        """Nothing, when a change could be recorded now. Raises ``Corrupt``, ``KeyLocked``, ``NoSpace``, ``Unavailable``."""
        self._log.ready()

    def changed(self, who: str, what: str, about: str, result: str) -> None:
        """Record a change; it is on the disk when this returns. Raises as ``ready``."""
        words = {"who": who, "what": what, "result": result}
        self._log.append("changed", _words(about), **{name: _words(text) for name, text in words.items()})

    def page(self, *, before: int | None = None, limit: int = 50) -> AuditPage:
        """A page of the log; those older than entry ``before``. Raises ``Corrupt`` when an entry cannot be believed."""
        entries = self._log.page(before=before, limit=min(limit, MOST_ENTRIES))
        older = entries[-1].seq if entries and entries[-1].seq > 1 else None
        return AuditPage(entries=entries, before=older)

    def verify(self) -> AuditReport:
        """Whether the whole log is sound; never raises for one that is not. Takes about a second for a thousand entries."""
        return self._log.verify()


def _words(text: str) -> str:
    """Words from outside, short and plain: an entry is read on terminals."""
    return _PLAIN.sub("?", text)[:MOST_WORDS]
