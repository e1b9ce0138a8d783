"""``/api/v1/tokens``, ``/api/v1/pairings`` and ``/api/v1/audit``: who may use this server, and what they changed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from clonedna.app.audit import MOST_ENTRIES, AuditPage, AuditReport
from clonedna.app.service import Service
from clonedna.app.tokens import NewToken, Pairing, PairOrder, Token, TokenOrder
from clonedna.core.access import NAME, Who
from clonedna.core.value import Value
from clonedna.server.access import ADMIN
from clonedna.server.changes import CHANGES
from clonedna.server.errors import OURS
from clonedna.server.reading import Routes

Name = Annotated[str, Path(pattern=NAME, description="The token's name.", examples=["ada-laptop"])]
CODE = "7K3QM-0ZT4X-B9WHC-2N6PD"


class TokenPage(Value):
    """All tokens that were not revoked, oldest first; never a secret or a code."""

    tokens: tuple[Token, ...]


class Claim(Value):
    """A pairing code, as it was typed."""

    code: str = Field(min_length=1, max_length=100, examples=[CODE], repr=False)


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1``."""
    made = Routes(prefix="/api/v1", responses=OURS, tags=["access"])
    _add_tokens(made, service)
    _add_pairings(made, service)
    _add_audit(made, service)
    return made


def _add_tokens(made: APIRouter, service: Service) -> None:
    @made.get("/tokens", dependencies=[ADMIN])
    def list_tokens() -> TokenPage:
        """Every token: its scopes, whether it is live, when it ends and about when it was last used."""
        return TokenPage(tokens=service.tokens.list())

    @made.post("/tokens", dependencies=[ADMIN], status_code=201)
    def new_token(order: TokenOrder, request: Request, response: Response) -> NewToken:
        """Make a token. It is shown this once."""
        request.state.about = order.name
        new = service.tokens.new(order)
        response.headers["Cache-Control"] = "no-store"
        return new

    @made.post("/tokens/{name}/rotate", dependencies=[ADMIN])
    def rotate_token(name: Name) -> NewToken:
        """Another secret for this token, shown this once; the old one is refused from now on."""
        return service.tokens.rotate(name)

    @made.delete("/tokens/{name}", dependencies=[ADMIN])
    def revoke_token(name: Name) -> Token:
        """Refuse a token, or the code that stands for it, from now on."""
        return service.tokens.revoke(name)


def _add_pairings(made: APIRouter, service: Service) -> None:
    @made.post("/pairings", dependencies=[ADMIN], status_code=201)
    def new_pairing(order: PairOrder, request: Request) -> Pairing:
        """A code with which one other machine gets this token, once, within minutes. It is shown this once."""
        request.state.about = order.name
        return service.tokens.pair(order)

    @made.post("/pairings/claim", dependencies=[CHANGES])
    def claim_pairing(claim: Claim, request: Request) -> NewToken:
        """The token that a pairing code stands for. It needs no token, works once, and takes few attempts a minute."""
        new = service.tokens.claim(claim.code)
        about = new.about
        request.state.about = about.name
        request.state.who = Who(kind="token", name=about.name, id=about.id, scopes=frozenset(about.scopes))
        return new


def _add_audit(made: APIRouter, service: Service) -> None:
    @made.get("/audit", dependencies=[ADMIN])
    def list_changes(
        before: Annotated[int | None, Query(ge=1, le=2**53, description="Only entries older than this one.")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 50,
    ) -> AuditPage:
        """What was changed, by whom, newest first. Each entry's signature and its place behind the one before are checked."""
        return service.audit.page(before=before, limit=limit)

    @made.get("/audit/verdict", dependencies=[ADMIN])
    def verify_changes() -> AuditReport:
        """Whether the whole log is sound: every signature, the chain, and its signed end."""
        return service.audit.verify()
