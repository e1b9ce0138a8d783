"""Statements as files: written for a person to sign, read back with the signature. The same for this machine and for a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clonedna.app.given import read_given
from clonedna.app.workspace import write_atomic
from clonedna.core.errors import InputError
from clonedna.core.value import Value
from clonedna.trust.consents_state import Given
from clonedna.trust.statements import NAMESPACE, Statement, words

MAX_FILE = 64 * 1024


class Drafted(Value):
    """A statement for somebody to sign. ``text``: its exact bytes, which are what is signed; ``words``: what it says."""

    statement: Statement
    text: str
    words: str


class Consents(Protocol):
    """Who is asked about consent: ``app.consent.Consent``, or a server through ``client.consent.RemoteConsent``."""

    def ask(
        self, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int = 365, revoke: bool = False
    ) -> Drafted: ...
    def give(self, statement: bytes, *, signature: bytes | None = None, at: str = "") -> Given: ...


class Asked(Value):
    """A statement that was written to ``path``; ``command`` is what its author types to sign it, ``answer`` what you type then."""

    path: str
    statement: Statement
    words: str
    command: str
    answer: str


def drafted(statement: Statement) -> Drafted:
    return Drafted(statement=statement, text=statement.data().decode(), words=words(statement))


def request(
    consents: Consents, handle: str, repositories: Sequence[str], uses: Sequence[str], *, days: int, revoke: bool, out: Path | None
) -> Asked:  # fmt: skip
    """Write the statement that ``handle`` has to sign. Raises ``InputError`` for a file that is there, and what asking raises."""
    _refuse_existing(out)
    draft = consents.ask(handle, repositories, uses, days=days, revoke=revoke)
    statement = draft.statement
    path = out or Path(f"{statement.action}-{statement.login}-{statement.serial}.json")
    write_statement(path, draft.text)
    answer = f"dna consent revoke --statement {path}" if revoke else f"dna consent grant {path}"
    return Asked(
        path=str(path), statement=statement, words=draft.words, command=sign_command(path, NAMESPACE),
        answer=f"{answer} --signature {path}.sig",
    )  # fmt: skip


def grant(consents: Consents, path: Path, *, signature: Path | None = None, at: str = "") -> Given:
    """Give a signed statement, or one that stands ``at`` a place of the account. Without either, ``FILE.sig`` is looked for.

    Raises ``InputError`` for files that cannot be read, and what giving it raises.
    """
    data = read_signed(path)
    if signature is None and not at and beside(path).exists():
        signature = beside(path)
    return consents.give(data, signature=read_signed(signature) if signature else None, at=at)


def write_statement(path: Path, text: str) -> None:
    """Write what somebody is to sign, exactly. Raises ``InputError`` for a file that is there."""
    _refuse_existing(path)
    write_atomic(path, text.encode())


def beside(path: Path) -> Path:
    """Where ssh-keygen puts the signature of a file."""
    return path.with_name(path.name + ".sig")


def sign_command(path: Path, namespace: str) -> str:
    """What a person types to sign the file at ``path``; ``KEY`` stands for their key."""
    return f"ssh-keygen -Y sign -n {namespace} -f KEY {path}"


def read_signed(path: Path) -> bytes:
    """A small file that was written or signed. Raises ``InputError``."""
    return read_given(path, MAX_FILE, "give the file that was written or signed")


def _refuse_existing(path: Path | None) -> None:
    if path is not None and path.exists():
        raise InputError(f"{path} exists already", "choose another name with --out, or move it away")
