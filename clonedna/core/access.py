"""Who may do what on a server: scopes, tokens, and who a request comes from. What is secret about a token is not in these values."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field

from clonedna.core.errors import InputError
from clonedna.core.value import Value

Scope = Literal["read", "chat", "mint", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL: frozenset[Scope] = frozenset(SCOPES)
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Who(Value):
    """Who a request comes from: this machine where no key is wanted, the settings' keys, a token, or nobody that is known."""

    kind: Literal["local", "key", "admin_key", "token", "nobody"]
    scopes: frozenset[Scope] = frozenset()
    name: str = ""
    id: str = ""

    @property
    def label(self) -> str:
        """In words for the audit log: ``token ada (1f2e3d4c5b6a)``."""
        return f"token {self.name} ({self.id})" if self.kind == "token" else self.kind.replace("_", " ")


class KeptToken(Value):
    """What is kept of a token: the digest of its secret, or of a pairing code that nobody claimed yet. Times as ``2026-11-21T18:00:00Z``.

    ``lifetime``: days from its making, ``None``: it does not expire. ``code_until``: when its pairing code ends; it has no secret then.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    lifetime: int | None
    created_at: str
    expires_at: str | None
    used_at: str | None = None
    digest: str | None = Field(default=None, repr=False)
    code_digest: str | None = Field(default=None, repr=False)
    code_until: str | None = None


def token_name(name: str) -> str:
    """``name`` as it was given, if it can be a token's. Raises ``InputError``."""
    if not re.fullmatch(NAME[1:-1], name):
        raise InputError(
            f"{name[:80]!r} is no name of a token", "use small letters, digits, '.', '_' and '-'", param="name"
        )
    return name
