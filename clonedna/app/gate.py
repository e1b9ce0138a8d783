"""Whom a running server lets in by token: asked of the database at every request, so that what was revoked or rotated anywhere is refused
at the next one.

When a token was last used is written at most every ``USED_SECONDS``, so a request is a read of one row; and of none while nothing is
committed to the database (``store.remembered``): ``recall`` and ``recall_wanted`` say then the same without waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from clonedna.app.parts import Parts, factory
from clonedna.app.tokens import expired
from clonedna.core.access import KeptToken, Who
from clonedna.core.errors import DnaError
from clonedna.trust.statements import moment, stamp
from clonedna.trust.tokens import id_of, is_token

if TYPE_CHECKING:
    from clonedna.store.tokens import SqlTokens

log = logging.getLogger(__name__)
USED_SECONDS = 600.0
MOST_NOTED = 4096


class Gate:
    """The tokens of one server. Its methods block, and may run in several threads."""

    def __init__(self, parts: Parts) -> None:
        self._kept: SqlTokens = factory("tokens", "sql")(parts.database)
        self._now: Callable[[], datetime] = factory("consents", "now")
        self._noted: dict[str, datetime] = {}  # when, by token: in the database, or tried to be

    def close(self) -> None:
        """Close what looking tokens up keeps open. It can be used again afterwards."""
        self._kept.close()

    def who(self, offered: str) -> Who | None:
        """Whose token this is; ``None`` for what is no token, revoked, replaced or expired. Raises what the database raises."""
        token_id = id_of(offered)
        return None if token_id is None else self._admitted(offered, self._kept.get(token_id))

    def recall(self, offered: str) -> tuple[Who | None] | None:
        """``who`` for the event loop; ``None`` where the database must be asked."""
        token_id = id_of(offered)
        if token_id is None:
            return (None,)
        found = self._kept.recall(token_id)
        return None if found is None else (self._admitted(offered, next(iter(found), None)),)

    def _admitted(self, offered: str, kept: KeptToken | None) -> Who | None:
        now = self._now()
        known = is_token(offered, kept.digest if kept else None)
        if kept is None or not known or expired(kept, now):
            return None
        if (last := moment(kept.used_at) if kept.used_at else None) is not None:
            self._noted[kept.id] = max(last, self._noted.get(kept.id, last))
        return Who(kind="token", name=kept.name, id=kept.id, scopes=frozenset(kept.scopes))

    def wanted(self) -> bool:
        """Whether this home has tokens: then a request without one is refused, even when all of them have expired."""
        return self._kept.any()

    def recall_wanted(self) -> bool | None:
        """``wanted`` for the event loop; ``None`` where the database must be asked."""
        return self._kept.recall_any()

    def live(self) -> bool:
        """Whether there is a token that opens something now."""
        now = self._now()
        return any(one.digest is not None and not expired(one, now) for one in self._kept.all())

    def due(self, token_id: str) -> bool:
        """Whether ``note`` would write now; it does not block."""
        last = self._noted.get(token_id)
        return last is None or abs(self._now() - last) >= timedelta(seconds=USED_SECONDS)

    def note(self, token_id: str) -> None:
        """Remember that a token was used. A database that is full or busy is no error: nobody is kept out by that."""
        if not self.due(token_id):
            return
        if len(self._noted) > MOST_NOTED:
            self._noted.clear()
        now = self._noted[token_id] = self._now()
        try:
            self._kept.used(token_id, stamp(now))
        except DnaError as error:
            log.warning("when the token %s was used could not be noted: %s", token_id, error.code)
