"""What is said to and of a developer: what they sign, their session, their blocks, what is gone."""

from __future__ import annotations

from typing import Literal

from clonedna.app.lineage import KinBlock
from clonedna.core.block import ConsentRecord, SourceFile, SourceRecord
from clonedna.core.developers import Holder
from clonedna.core.value import Value
from clonedna.core.work import Repository
from clonedna.trust.consents_state import Given, Status
from clonedna.trust.tombstones import Reason

Action = Literal["prove", "revoke"]


class ToSign(Value):
    """What to sign, exactly: ``text``. ``words``: what it says; ``command``: how, ``KEY`` being the key and ``FILE`` a file of the text."""

    action: Action
    handle: str
    account_id: int
    host: str
    text: str
    words: str
    namespace: str
    command: str
    expires: str | None


class DeveloperSession(Value):
    """A session: ``token`` opens the audit of ``handle`` until ``expires``, and is shown once."""

    token: str
    handle: str
    account_id: int
    host: str
    key: str
    expires: str


class Holders(Value):
    """Who was given a copy from here. Copies that others gave on are not known, nor what went out before this was recorded."""

    status: Literal["measured", "not_available"]
    how: str
    holders: tuple[Holder, ...] = ()


class SourceSeen(Value):
    """A repository, or given pairs (``url`` empty), that a block was made of. ``refused``: files and spans that were not used, of
    all repositories together."""

    name: str
    url: str
    commit: str
    licence: str
    files: int
    bytes: int
    refused: int


class Audited(Value):
    """What only the person sees of a block. ``pairs``: how many it was trained on; ``made_from_it``: ids of blocks made from it."""

    created_at: str
    gate: Literal["accepted", "rejected"]
    consent: ConsentRecord
    sources: tuple[SourceSeen, ...]
    pairs: int
    holders: Holders
    kin: tuple[KinBlock, ...]


class DeveloperBlock(Value):
    """A block of this person's work. ``consent``: how it stands now; ``until``: its end. ``audited`` is ``None`` in the public view."""

    name: str
    version: str
    id: str
    licence: str
    mode: Literal["self", "granted", "local-only"]
    consent: Literal["granted", "self-asserted", "none", "revoked", "expired"]
    until: str | None
    shareable: bool
    audited: Audited | None = None


class Gone(Value):
    """A revoked block: nothing else is kept of it but who was given it."""

    id: str
    revoked_at: str
    reason: Reason
    because: str | None
    holders: Holders


class DeveloperView(Value):
    """One developer. ``standing``: of the account's consent here. ``given``: the statement that counts, for the person alone.
    ``unreadable``: ids of blocks that name this handle, and whose papers are not there or not what they should be: nobody can use them."""

    handle: str
    account_id: int | None
    host: str
    proven: bool
    standing: Status
    blocks: tuple[DeveloperBlock, ...]
    revoked: tuple[Gone, ...] = ()
    unreadable: tuple[str, ...] = ()
    given: Given | None = None


def sources_of(record: SourceRecord | None) -> tuple[SourceSeen, ...]:
    """What ``sources.json`` names; nothing for a merge."""
    if record is None:
        return ()
    refused = sum(record.refused_counts.values())
    if record.repository is None:
        given = record.given
        name, licence = (given.training.name, given.licence) if given else ("", "")
        size = given.training.bytes if given else 0
        return (SourceSeen(name=name, url="", commit="", licence=licence, files=1, bytes=size, refused=refused),)
    whole = record.repository
    return tuple(
        SourceSeen(
            name=one.name, url=one.url, commit=one.commit, licence=one.licence.spdx or "",
            files=sum(_is_from(file, one, whole) for file in record.files),
            bytes=sum(file.bytes for file in record.files if _is_from(file, one, whole)), refused=refused,
        )
        for one in whole.parts or (whole,)
    )  # fmt: skip


def _is_from(file: SourceFile, one: Repository, whole: Repository) -> bool:
    return one is whole or file.repository == one.url
