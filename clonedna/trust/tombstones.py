"""Signed notes that a block is revoked: they hold its id and a reason, nothing about a person, and outlive the block.

    tombstones/<id>.json   a DSSE envelope by the key of who revoked it

One from another machine counts when a trusted key signed it; it then wins over every copy of the block, now or later.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, Envelope
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import Corrupt
from clonedna.core.seams import Signer
from clonedna.core.value import Value
from clonedna.trust.files import disk_errors, private_directory, write_private
from clonedna.trust.statements import stamp

PAYLOAD_TYPE = "application/vnd.clonedna.tombstone+json"
MAX_BYTES = 16 * 1024
Reason = Literal["consent-revoked", "holder", "derived"]
_ID = re.compile(DIGEST_PATTERN)


class Tombstone(Value):
    """``reason``: the person took consent back, whoever holds it revoked it, or it was made from ``because``, which is revoked."""

    format: Literal["dna-tombstone/2"] = "dna-tombstone/2"
    id: str = Field(pattern=DIGEST_PATTERN)
    revoked_at: str
    reason: Reason
    because: str | None = Field(default=None, pattern=DIGEST_PATTERN)


class Tombstones:
    def __init__(self, directory: Path, signer: Signer, now: Callable[[], datetime]) -> None:
        self._directory, self._signer, self._now = directory, signer, now

    def make(self, block_id: str, reason: Reason, because: str | None = None) -> Tombstone:
        """Sign and keep one; the first one for a block stays. Raises ``NoSpace``."""
        if (known := self.get(block_id)) is not None:
            return known
        tombstone = Tombstone(id=block_id, revoked_at=stamp(self._now()), reason=reason, because=because)
        self._keep(block_id, canonical(self._signer.sign(canonical(tombstone), PAYLOAD_TYPE)))
        return tombstone

    def accept(self, data: bytes) -> Tombstone:
        """Keep one that another machine signed. Raises ``BlockUntrusted``, ``SignatureInvalid``, ``Corrupt``."""
        tombstone = self._read(data)
        if self.get(tombstone.id) is None:
            self._keep(tombstone.id, data)
        return tombstone

    def get(self, block_id: str) -> Tombstone | None:
        """The one of this block. Raises ``Corrupt`` for one that was changed."""
        path = self._directory / f"{block_id}.json"
        if not _ID.fullmatch(block_id) or not path.exists():
            return None
        with disk_errors(path):
            tombstone = self._read(path.read_bytes())
        if tombstone.id != block_id:
            raise Corrupt(f"the tombstone {path.name} is another block's", "move it away")
        return tombstone

    def data(self, block_id: str) -> bytes:
        """The signed bytes, to give to others. Raises ``Corrupt`` when there is none."""
        if self.get(block_id) is None:
            raise Corrupt(f"there is no tombstone of {block_id[:12]}", "see: dna consent log")
        return (self._directory / f"{block_id}.json").read_bytes()

    def _keep(self, block_id: str, data: bytes) -> None:
        private_directory(self._directory)
        write_private(self._directory / f"{block_id}.json", data)

    def _read(self, data: bytes) -> Tombstone:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("too long")
            envelope = Envelope.model_validate(strict_json(data))
        except (ValueError, RecursionError) as error:
            raise Corrupt("this is no tombstone", "get it again from who revoked the block") from error
        payload = self._signer.verify(envelope, PAYLOAD_TYPE)
        try:
            return Tombstone.model_validate(strict_json(payload))
        except (ValueError, RecursionError) as error:
            raise Corrupt("what was signed is no tombstone", "get it again from who revoked the block") from error
