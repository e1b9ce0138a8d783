"""A person proves that an account is theirs: they sign what this machine made up, once, for nothing else and not for long.

What is signed is the RFC 8785 JSON of a ``Challenge``. It binds the account's number, this machine's key and a nonce, and carries this
machine's seal (its own signature over the other fields), so nothing has to be kept of those that nobody answers. Its namespace is not
that of consent: a signature under a challenge gives no consent and takes none back. That a nonce is used once, its reader sees to.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, Envelope, SignatureEntry
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import DnaError, InputError
from clonedna.core.people import Account
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.trust.evidence import Accounts, Checked, Signers, verify_ssh
from clonedna.trust.statements import CLOCK_SKEW, LOGIN, MAX_BYTES, Fault, invalid, moment, stamp

NAMESPACE = "developer@clone.dna"
SEAL_TYPE = "application/vnd.clonedna.challenge+json"
VALID_FOR = timedelta(minutes=10)
_AGAIN = "ask for a new one: dna developer challenge HANDLE"


class Challenge(Value):
    """What the person signs. ``seal``: this machine's signature over all other fields, base64."""

    format: Literal["dna-developer/1"] = "dna-developer/1"
    action: Literal["prove"] = "prove"
    host: str = Field(pattern=r"^[a-z0-9.:\[\]-]{1,100}$")
    account_id: int = Field(ge=1, lt=2**53)
    login: str = Field(pattern=LOGIN)
    server: str = Field(pattern=DIGEST_PATTERN)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    issued: str
    expires: str
    text_sha256: str = Field(pattern=DIGEST_PATTERN)
    seal: str = Field(max_length=200)

    @property
    def principal(self) -> str:
        """Who signs, as an allowed-signers file names them."""
        return f"{self.account_id}@{self.host}"

    def data(self) -> bytes:
        """The exact bytes: RFC 8785, no newline at the end."""
        return canonical(self)


class Proof(Value):
    """An account whose owner answered a challenge, and what was checked."""

    account: Account
    nonce: str
    checked: Checked
    at: str


def words(challenge: Challenge) -> str:
    """The challenge in words, made of its other fields."""
    return (
        f"I am {challenge.login} (account {challenge.account_id} at {challenge.host}).\n"
        f"I show this to the server with key\n  {challenge.server}\n"
        "so that it tells me what it made of my work, and takes it back if I ask. This gives no consent.\n"
        f"It holds once, until {challenge.expires}.\n"
    )


class Challenges:
    """Makes challenges and checks the answers. ``tool``: see ``evidence.verify_ssh``."""

    def __init__(
        self, signer: Signer, accounts: Accounts, now: Callable[[], datetime], *, tool: str | None = ""
    ) -> None:
        self._signer, self._accounts, self._now, self._tool = signer, accounts, now, tool

    def make(self, handle: str) -> Challenge:
        """One for the account that has this login now. Raises ``InputError`` when nobody has, ``ConsentInvalid``, ``Unavailable``."""
        account = self._accounts.by_login(handle)
        if account is None:
            raise InputError(f"no account {handle[:60]!r} at {self._accounts.host}", "check the spelling of the handle")
        now = self._now()
        draft = Challenge(
            host=account.host, account_id=account.id, login=account.login, server=self._signer.key_id, nonce=secrets.token_hex(16),
            issued=stamp(now), expires=stamp(now + VALID_FOR), text_sha256="0" * 64, seal="",
        )  # fmt: skip
        draft = draft.model_copy(update={"text_sha256": sha256(words(draft))})
        return draft.model_copy(update={"seal": self._signer.sign(draft.data(), SEAL_TYPE).signatures[0].sig})

    def proved(self, data: bytes, signature: bytes) -> Proof:
        """Whose account the signer's is: one whose keys, as they are published now, made this signature under a challenge of this machine.

        Raises ``ConsentInvalid`` with the fault, ``InputError``, ``Unavailable``, ``TimedOut``.
        """
        challenge = self._sealed(data)
        self._check_times(challenge)
        account = self._accounts.by_login(challenge.login)
        if account is None or account.id != challenge.account_id:
            fault: Fault = "account_gone" if account is None else "reused_login"
            raise invalid(fault, f"{challenge.login} is not account {challenge.account_id} any more", _AGAIN)
        signers = Signers(principal=challenge.principal, keys=self._accounts.keys(account.login))
        checked = verify_ssh(challenge, signature, signers, tool=self._tool, namespace=NAMESPACE)
        return Proof(account=account, nonce=challenge.nonce, checked=checked, at=stamp(self._now()))

    def _sealed(self, data: bytes) -> Challenge:
        """The challenge, if this machine made it."""
        challenge = parsed(data)
        if challenge.server != self._signer.key_id:
            raise invalid("other_minter", "this challenge is of another server", _AGAIN)
        if challenge.host != self._accounts.host:
            raise invalid(
                "other_host", f"it is about {challenge.host}, and {self._accounts.host} is asked here", _AGAIN
            )
        draft = challenge.model_copy(update={"seal": ""}).data()
        envelope = Envelope(
            payload=base64.b64encode(draft).decode(), payloadType=SEAL_TYPE,
            signatures=(SignatureEntry(keyid=challenge.server, sig=challenge.seal),),
        )  # fmt: skip
        try:
            self._signer.verify(envelope, SEAL_TYPE)
        except DnaError:
            raise invalid("not_requested", "this server did not make this challenge", _AGAIN) from None
        return challenge

    def _check_times(self, challenge: Challenge) -> None:
        issued, expires, now = moment(challenge.issued), moment(challenge.expires), self._now()
        if issued is None or expires is None:
            raise invalid("bad_times", "its times are no times", _AGAIN)
        if now < issued - CLOCK_SKEW:
            raise invalid("not_yet", f"it was made at {challenge.issued}, which is not now", _AGAIN)
        if now >= expires:
            raise invalid("expired", f"the challenge ended at {challenge.expires}", _AGAIN)


def parsed(data: bytes) -> Challenge:
    """The challenge whose exact bytes these are; a newline at the end may have been added. Raises ``ConsentInvalid``."""
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        challenge = Challenge.model_validate(strict_json(data.decode("utf-8")))
    except (ValueError, RecursionError):
        raise invalid("malformed", "this is no challenge", _AGAIN) from None
    if challenge.data() != data:
        raise invalid(
            "not_canonical", "the challenge was written again: its bytes are not those that were made", _AGAIN
        )
    if challenge.text_sha256 != sha256(words(challenge)):
        raise invalid("edited_text", "its fields say something else than the words that were shown", _AGAIN)
    return challenge
