"""What this machine knows about one account's consent: requests, accepted statements, logins and published keys, with their times.

    consents/accounts/<host>-<id>.json   one account: a DSSE envelope by this machine's key over the canonical JSON of ``AccountState``
            /identities.json             digests of e-mail addresses whose owners took everything back

A file that was changed is an error, not an empty state. The one with the highest serial counts; at equal serials a revocation does.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from clonedna.core.block import Envelope
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import Corrupt, DnaError
from clonedna.core.people import Account
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.trust.files import disk_errors, private_directory, write_private
from clonedna.trust.statements import Statement, stamp, untimely

STATE_TYPE = "application/vnd.clonedna.consent-state+json"
IDENTITIES_TYPE = "application/vnd.clonedna.revoked-identities+json"
KEPT_REQUESTS = 50
V = TypeVar("V", bound=Value)
Status = Literal["none", "requested", "granted", "revoked", "expired"]


class Login(Value):
    """A login that the account had when it was looked up."""

    login: str
    at: str


class Snapshot(Value):
    """The keys published for the account at one time."""

    at: str
    keys: tuple[str, ...]


class Given(Value):
    """An accepted statement: what was checked (``kind``, ``how``, ``key``), when, and what it was checked with."""

    statement: Statement
    kind: Literal["ssh", "profile-file", "minter"]
    how: str
    at: str
    key: str = ""
    signature: str = ""
    where: str = ""


class AccountState(Value):
    host: str
    account_id: int = Field(ge=1)
    logins: tuple[Login, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    requests: tuple[Statement, ...] = ()
    given: tuple[Given, ...] = ()

    @property
    def current(self) -> Given | None:
        """The statement that counts: highest serial, a revocation before a grant of the same."""
        return max(self.given, key=lambda one: (one.statement.serial, one.statement.action == "revoke"), default=None)

    @property
    def known_keys(self) -> tuple[str, ...]:
        """Every key that was ever seen published for the account."""
        return tuple(sorted({key for one in self.snapshots for key in one.keys}))

    def next_serial(self) -> int:
        return max((one.serial for one in (*self.requests, *(given.statement for given in self.given))), default=0) + 1

    def status(self, now: datetime) -> Status:
        if self.current is None:
            return "requested" if any(untimely(one, now) is None for one in self.requests) else "none"
        if self.current.statement.action == "revoke":
            return "revoked"
        return "granted" if untimely(self.current.statement, now) is None else "expired"

    def seen(self, account: Account, at: datetime, keys: tuple[str, ...] | None = None) -> AccountState:
        """With the login, and the keys if they were asked for, as they were found."""
        logins = self.logins
        if not logins or logins[-1].login != account.login:
            logins = (*logins, Login(login=account.login, at=stamp(at)))
        snapshots = self.snapshots
        if keys is not None and (not snapshots or snapshots[-1].keys != keys):
            snapshots = (*snapshots, Snapshot(at=stamp(at), keys=keys))
        return self.model_copy(update={"logins": logins, "snapshots": snapshots})

    def asked(self, statement: Statement) -> AccountState:
        return self.model_copy(update={"requests": (*self.requests, statement)[-KEPT_REQUESTS:]})

    def with_given(self, one: Given) -> AccountState:
        left = tuple(request for request in self.requests if request.nonce != one.statement.nonce)
        return self.model_copy(update={"given": (*self.given, one), "requests": left})


class _Identities(Value):
    digests: tuple[str, ...]


class States:
    """Reads and writes the files. A writer holds ``locked(directory)`` around reading and writing."""

    def __init__(self, directory: Path, signer: Signer) -> None:
        self.directory, self._signer = directory, signer

    def read(self, host: str, account_id: int) -> AccountState:
        """The state; an empty one for an account that was never met. Raises ``Corrupt``, ``Unavailable``."""
        path = self._path(host, account_id)
        state = self._read(path, AccountState, STATE_TYPE)
        if state is None:
            return AccountState(host=host, account_id=account_id)
        if (state.host, state.account_id) != (host, account_id):
            raise Corrupt(f"{path.name} holds another account's consent", "move it away")
        return state

    def write(self, state: AccountState) -> None:
        self._write(self._path(state.host, state.account_id), state, STATE_TYPE)

    def all(self) -> tuple[AccountState, ...]:
        """Of every account that was met, sorted. Raises ``Corrupt``."""
        with disk_errors(self.directory):
            paths = sorted(self.directory.glob("*-*.json")) if self.directory.is_dir() else []
        return tuple(state for path in paths if (state := self._read(path, AccountState, STATE_TYPE)) is not None)

    def identities(self) -> frozenset[str]:
        """Digests of the identities that took back everything."""
        held = self._read(self.directory / "identities.json", _Identities, IDENTITIES_TYPE)
        return frozenset(held.digests) if held else frozenset()

    def add_identities(self, digests: frozenset[str]) -> None:
        wanted = _Identities(digests=tuple(sorted(self.identities() | digests)))
        self._write(self.directory / "identities.json", wanted, IDENTITIES_TYPE)

    def _path(self, host: str, account_id: int) -> Path:
        return self.directory / f"{host.replace(':', '_').replace('[', '').replace(']', '')}-{account_id}.json"

    def _read(self, path: Path, kind: type[V], payload_type: str) -> V | None:
        if not path.exists():
            return None
        with disk_errors(path):
            data = path.read_bytes()
        try:
            payload = self._signer.verify(Envelope.model_validate(strict_json(data)), payload_type)
            return kind.model_validate(strict_json(payload))
        except (DnaError, ValueError, RecursionError) as error:
            raise Corrupt(
                f"{path} was damaged or changed", "restore it from a backup; nothing is allowed without it"
            ) from error

    def _write(self, path: Path, value: Value, payload_type: str) -> None:
        private_directory(path.parent)
        write_private(path, canonical(self._signer.sign(canonical(value), payload_type)))
