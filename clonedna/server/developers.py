"""``/api/v1/developer/{handle}``: what was made of one person's work here, proving that one is that person, and taking everything back.

A request without a session gets what is public. The session is a header of its own, ``X-Developer-Session``, beside the server's token.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from clonedna.app.consent import Revocation
from clonedna.app.developer_values import DeveloperSession, DeveloperView, ToSign
from clonedna.app.developers import Developers
from clonedna.app.service import Service
from clonedna.server.access import READ
from clonedna.server.changes import CHANGES
from clonedna.server.consent import CORRUPT, Signature, Text, as_bytes
from clonedna.server.errors import OURS

ROOT, OF_REGISTRY = "/api/v1/developer", "/api/v1/registry/developer"
Handle = Annotated[str, Path(min_length=1, max_length=100, description="a GitHub handle")]
Session = Annotated[
    str,
    Header(
        alias="X-Developer-Session", max_length=100, description="what POST .../prove gave; without it: what is public"
    ),
]


class Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChallengeAsk(Ask):
    """``prove``: to see everything; ``revoke``: a statement that takes everything back."""

    action: Literal["prove", "revoke"] = "prove"


class ProveAsk(Ask):
    """The challenge as it was given, and the armoured SSH signature over it."""

    statement: Text
    signature: Annotated[str, Field(min_length=1, max_length=16 * 1024)]


class TakeBackAsk(Ask):
    """A signed revocation; nothing with a session."""

    statement: str = Field(default="", max_length=64 * 1024)
    signature: Signature = ""


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/developer``, and the one that the registry has for it."""
    made = APIRouter(responses=OURS | CORRUPT, tags=["developer"])
    _add_looking(made, service.developers)
    _add_proving(made, service.developers)
    return made


def _add_looking(made: APIRouter, developers: Developers) -> None:
    def show_developer(response: Response, handle: Handle, session: Session = "") -> DeveloperView:
        """Every block of this person's work with sources, consent and lineage, for the person; what is public for everybody else."""
        if session:
            response.headers["Cache-Control"] = "no-store"
        return developers.show(handle, session=session)

    for path, name in (
        (f"{ROOT}/{{handle}}", "show_developer"),
        (f"{OF_REGISTRY}/{{handle}}", "show_developer_in_registry"),
    ):
        made.add_api_route(path, show_developer, methods=["GET"], dependencies=[READ], operation_id=name)


def _add_proving(made: APIRouter, developers: Developers) -> None:
    @made.post(f"{ROOT}/{{handle}}/challenge", dependencies=[READ])
    def challenge_developer(handle: Handle, ask: ChallengeAsk | None = None) -> ToSign:
        """What the person signs, exactly, and the command for it. A challenge holds ten minutes, and once."""
        return developers.challenge(handle, ask.action if ask else "prove")

    @made.post(f"{ROOT}/{{handle}}/prove", dependencies=[READ, CHANGES])
    def prove_developer(response: Response, handle: Handle, ask: ProveAsk) -> DeveloperSession:
        """A session of half an hour, for a challenge signed with a key that the account publishes now."""
        response.headers["Cache-Control"] = "no-store"
        return developers.prove(handle, as_bytes(ask.statement), as_bytes(ask.signature))

    @made.post(f"{ROOT}/{{handle}}/revoke", dependencies=[READ, CHANGES])
    def revoke_developer(handle: Handle, ask: TakeBackAsk | None = None, session: Session = "") -> Revocation:
        """Take everything back, by the session or by a signed revocation. It cannot be undone."""
        said = ask or TakeBackAsk()
        return developers.revoke(
            handle, session=session, statement=as_bytes(said.statement), signature=as_bytes(said.signature)
        )
