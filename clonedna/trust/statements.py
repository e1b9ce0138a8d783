"""The one statement that gives or takes back consent: its fields, its exact bytes, the words a person reads, and its rules.

What is signed, or put into a profile, is the RFC 8785 JSON of ``Statement`` and nothing else: two readers of it cannot see two
things. ``text_sha256`` is the digest of ``words(statement)``, which anybody makes from the other fields, so nobody can be shown
other words than those that count. A statement binds the account's number, not only its login: logins are renamed and reused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, ValidationError

from clonedna.core.block import DIGEST_PATTERN, Use
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import ConsentInvalid
from clonedna.core.value import Value

NAMESPACE = "consent@clone.dna"
FORMAT = "dna-consent/2"
LOGIN = r"^[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38}[A-Za-z0-9])?$"
REPOSITORY = r"^(?:\*|[A-Za-z0-9][A-Za-z0-9_-]{0,39}/[A-Za-z0-9._-]{1,100})$"
VALID_FOR = timedelta(days=365)
CLOCK_SKEW = timedelta(minutes=5)
MAX_BYTES = 64 * 1024
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Fault = Literal[
    "malformed", "not_canonical", "edited_text", "edited_scope", "bad_times", "not_yet", "expired", "other_host",
    "other_minter", "other_handle", "not_requested", "replayed", "lower_serial", "reused_login", "not_a_person",
    "malformed_signature", "wrong_namespace", "wrong_key", "wrong_principal", "bad_signature", "not_verified", "no_keys",
    "ordinary_repository", "not_the_owner", "not_at_that_commit", "other_content", "no_evidence",
    "out_of_scope", "account_gone", "edited_record",
]  # fmt: skip


class Scope(Value):
    """Which repositories (``owner/name``; ``*``: every public one) for which uses, until when (UTC, as ``stamp`` writes it)."""

    repositories: tuple[str, ...] = Field(min_length=1, max_length=100)
    uses: tuple[Use, ...] = Field(min_length=1, max_length=3)
    until: str

    def covers(self, repository: str) -> bool:
        """Whether ``repository`` (``owner/name``) is in it; GitHub's names do not tell capitals apart."""
        return any(one in ("*", repository) or one.casefold() == repository.casefold() for one in self.repositories)


class Statement(Value):
    """What the person says. A grant has a scope and expires; a revocation has neither."""

    format: Literal["dna-consent/2"] = FORMAT
    action: Literal["grant", "revoke"]
    host: str = Field(pattern=r"^[a-z0-9.:\[\]-]{1,100}$")
    account_id: int = Field(ge=1, lt=2**53)
    login: str = Field(pattern=LOGIN)
    scope: Scope | None
    minter: str = Field(pattern=DIGEST_PATTERN)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    serial: int = Field(ge=1, lt=2**53)
    issued: str
    expires: str | None
    text_sha256: str = Field(pattern=DIGEST_PATTERN)

    @property
    def principal(self) -> str:
        """Who signs, as an allowed-signers file names them (ssh-keygen(1)): the account's number at the host."""
        return f"{self.account_id}@{self.host}"

    def data(self) -> bytes:
        """The exact bytes: RFC 8785, no newline at the end."""
        return canonical(self)


def invalid(
    fault: Fault, message: str, hint: str = "ask for a new statement: dna consent request HANDLE", **facts: Any
) -> ConsentInvalid:
    """The error for ``fault``."""
    return ConsentInvalid(message, hint, fault=fault, **facts)


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_TIME)


def moment(text: str) -> datetime | None:
    """The time that ``stamp`` wrote, or ``None`` for any other text."""
    try:
        at = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if stamp(at) == text else None


def words(statement: Statement) -> str:
    """The statement in words, made of nothing but its other fields."""
    who = f"{statement.login} (account {statement.account_id} at {statement.host})"
    if statement.scope is None:
        return (
            f"I am {who}.\nI take back every consent to build models from my code that I gave to the holder of key\n"
            f"  {statement.minter}\nNothing made from it may be used, kept for use or made again.\nThis does not expire.\n"
        )
    scope = statement.scope
    uses = {
        "mint": "train an adapter on my code", "serve": "answer requests with that adapter",
        "share": "give that adapter to others",
    }  # fmt: skip
    where = "all public repositories" if "*" in scope.repositories else ", ".join(scope.repositories)
    allowed = "\n".join(f"  - {use}: {uses[use]}" for use in scope.uses)
    return (
        f"I am {who}.\nI allow the holder of key\n  {statement.minter}\nto use the code that I wrote in\n  {where}\nfor\n{allowed}\n"
        f"until {scope.until}, and for nothing else. I can take this back at any time: dna consent revoke.\n"
    )


def made(*, text_of: dict[str, Any]) -> Statement:
    """A statement of these fields, with the digest of its words. Raises ``ConsentInvalid`` (malformed) for fields that cannot be."""
    try:
        draft = Statement.model_validate({**text_of, "text_sha256": "0" * 64})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise invalid("malformed", f"{where}: {first['msg']}", "see: dna consent request --help") from None
    return draft.model_copy(update={"text_sha256": sha256(words(draft))})


def parsed(data: bytes) -> Statement:
    """The statement whose exact bytes these are; one newline at the end may have been added by an editor.

    Raises ``ConsentInvalid``: ``malformed`` (no statement), ``not_canonical`` (another spelling of one), ``edited_text`` (its digest is
    not of its words), ``bad_times``.
    """
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(data) > MAX_BYTES:
        raise invalid("malformed", f"a statement has at most {MAX_BYTES} bytes, not {len(data)}")
    try:
        statement = Statement.model_validate(strict_json(data.decode("utf-8")))
    except (ValueError, RecursionError):
        raise invalid(
            "malformed", "this is no statement of consent", "give the file that dna consent request wrote"
        ) from None
    if statement.data() != data:
        raise invalid("not_canonical", "the statement was written again: its bytes are not those that were made")
    _check_form(statement)
    if statement.text_sha256 != sha256(words(statement)):
        raise invalid("edited_text", "the statement's fields say something else than the words that were shown")
    return statement


def _check_form(statement: Statement) -> None:
    scope, issued = statement.scope, moment(statement.issued)
    if (statement.action == "grant") != (scope is not None) or (scope is None) != (statement.expires is None):
        raise invalid("malformed", "a grant has a scope and an end, a revocation has neither")
    if issued is None:
        raise invalid("bad_times", f"issued {statement.issued[:40]!r} is no time")
    if scope is None:
        return
    if list(scope.uses) != sorted(set(scope.uses)) or list(scope.repositories) != sorted(set(scope.repositories)):
        raise invalid("malformed", "the scope is not in order")
    for name in scope.repositories:
        if not re.fullmatch(REPOSITORY, name):
            raise invalid("malformed", f"{name[:80]!r} is no repository", "write owner/name, or * for every public one")
    expires, until = moment(statement.expires or ""), moment(scope.until)
    if expires is None or until is None or not issued < until <= expires <= issued + VALID_FOR:
        raise invalid("bad_times", "a consent ends after it was issued, and at most a year later")


def untimely(statement: Statement, now: datetime) -> Fault | None:
    """``not_yet`` or ``expired``, or ``None`` while it holds. A revocation never expires."""
    issued = moment(statement.issued)
    if issued is None:
        return "bad_times"
    if now < issued - CLOCK_SKEW:
        return "not_yet"
    if statement.scope is None:
        return None
    ends = [moment(statement.expires or ""), moment(statement.scope.until)]
    return None if all(end is not None and now < end for end in ends) else "expired"
