"""``/api/v1/consent``: asking people for consent, taking their answer, looking how it stands, taking it back. Thin over ``app.consent``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from clonedna.app.consent import Consent, Drafted, Given, Revocation, Standing
from clonedna.app.service import Service
from clonedna.core.block import ConsentRecord, Use
from clonedna.core.errors import InputError
from clonedna.server.access import ADMIN, READ
from clonedna.server.errors import OURS, Error
from clonedna.server.reading import Routes

Handle = Annotated[str, Path(min_length=1, max_length=100, description="a GitHub handle")]
Repository = Annotated[str, Field(min_length=1, max_length=150)]
Text = Annotated[str, Field(min_length=1, max_length=64 * 1024)]
Signature = Annotated[str, Field(max_length=16 * 1024)]
CORRUPT = {422: {"model": Error, "description": "What is kept here of the account was damaged or changed."}}


class Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestAsk(Ask):
    """Whom to ask for what. ``repositories``: ``owner/name``, or ``*`` for all public ones. ``revoke``: a statement that takes back."""

    handle: str = Field(min_length=1, max_length=100)
    repositories: tuple[Repository, ...] = Field(default=(), max_length=100)
    uses: tuple[Use, ...] = Field(default=("mint", "serve"), min_length=1, max_length=3)
    days: int = Field(default=365, ge=1, le=365)
    revoke: bool = False


class GrantAsk(Ask):
    """A statement as it was written, and the armoured SSH signature over it, or where the account published it."""

    statement: Text
    signature: Signature = ""
    at: str = Field(default="", max_length=500)


class RevokeAsk(Ask):
    """Either a revocation with its signature, or ``who``: a handle, or a block whose person takes everything back."""

    who: str = Field(default="", max_length=200)
    statement: str = Field(default="", max_length=64 * 1024)
    signature: Signature = ""


class StandingList(BaseModel):
    """Every account that is known here."""

    standings: tuple[Standing, ...]


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/consent``."""
    made = Routes(prefix="/api/v1/consent", responses=OURS | CORRUPT, tags=["consent"])
    consent = service.consent
    _add_asking(made, consent)
    _add_looking(made, consent)
    return made


def _add_asking(made: APIRouter, consent: Consent) -> None:
    @made.post("/request", dependencies=[ADMIN])
    def request_consent(ask: RequestAsk) -> Drafted:
        """The statement that this person has to sign; it is remembered here."""
        return consent.ask(ask.handle, ask.repositories, ask.uses, days=ask.days, revoke=ask.revoke)

    @made.post("/grant", dependencies=[ADMIN])
    def grant_consent(ask: GrantAsk) -> Given:
        """Verify an answer, and keep it. What does not hold is refused with a ``fault``."""
        return consent.give(as_bytes(ask.statement), signature=as_bytes(ask.signature) or None, at=ask.at)

    @made.post("/revoke", dependencies=[ADMIN])
    def revoke_consent(ask: RevokeAsk) -> Revocation:
        """Take consent back: all blocks of that person are gone at once, and what was made from them is refused."""
        if bool(ask.who) == bool(ask.statement):
            raise InputError("whose consent?", "send who, or statement and signature", param="who")
        if ask.who:
            return consent.revoke(ask.who)
        return consent.take_back(as_bytes(ask.statement), as_bytes(ask.signature))


def _add_looking(made: APIRouter, consent: Consent) -> None:
    @made.get("", dependencies=[ADMIN])
    def list_consent() -> StandingList:
        """How every account stands that is known here, from the disk alone."""
        return StandingList(standings=consent.show(None))

    @made.get("/{handle}", dependencies=[READ])
    def show_consent(handle: Handle) -> Standing:
        """How an account stands: none, requested, granted, revoked or expired. The account is looked up now."""
        return consent.show(handle)[0]

    @made.get("/{handle}/check", dependencies=[READ])
    def check_consent(
        handle: Handle,
        repository: Annotated[list[Repository] | None, Query(max_length=100, description="owner/name, or *")] = None,
        use: Use = "mint",
    ) -> ConsentRecord:
        """Whether a use is allowed now. Refused (403) with the next command where it is not."""
        return consent.check(handle, repository or ["*"], use)


def as_bytes(text: str) -> bytes:
    """A text as the bytes that were signed."""
    return text.encode("utf-8", "surrogatepass")
