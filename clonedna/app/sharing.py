"""Blocks between machines: which may leave this one, as the bytes of a `.dna` archive, and what is taken from another.

Out: a registered block whose files, signature, licence and consent to share hold at that moment; a tombstone stops it even in the middle.
In: everything is verified beside the store, the consent that came along by this machine itself, and only then is the block visible. What
comes twice changes nothing.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from clonedna.app.admission import admit, admit_papers
from clonedna.app.archives import Archives, refuse_local_only
from clonedna.app.holding import Holding
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.core.block import BlockRef, ConsentRecord, Manifest
from clonedna.core.errors import BadReference, BlockNotFound, BlockRejected, ConsentMissing, DnaError
from clonedna.core.value import Value

if TYPE_CHECKING:
    from clonedna.store.archive_stream import Opened, Plan
    from clonedna.trust.keys import KeyRing

MOST_PLANS = 256
_PLACE = re.compile(r"https?://\S{1,500}")


@dataclass(frozen=True, slots=True)
class Offer:
    """A block that may leave: ``size`` bytes of its archive; ``etag``: equal for equal bytes only, as HTTP writes it."""

    manifest: Manifest
    plan: Plan

    @property
    def size(self) -> int:
        return self.plan.size

    @property
    def etag(self) -> str:
        return f'"{self.manifest.id[:32]}-{self.plan.tag[:32]}"'

    @property
    def filename(self) -> str:
        return f"{self.manifest.name}-{self.manifest.version}.dna"

    def open(self) -> Opened:
        """Its bytes. Raises ``BlockCorrupt`` when a file changed meanwhile, ``Unavailable``."""
        return factory("archive", "open")(self.plan)


class Taken(Value):
    """A block that came; ``new`` is false when it was here already."""

    block: BlockRef
    new: bool


class Sharing:
    """Use cases over one process's parts. From any thread."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.holding = parts, Holding(parts)
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._planning = threading.Lock()

    def offer(self, reference: str) -> Offer:
        """The block as it may be given to others now. Files that were read and found sound are not read again while nobody wrote to them.

        Raises what resolving and verifying it raise (``BlockRejected``, ``BlockRevoked``, ``BlockCorrupt``, ``BlockUntrusted``),
        ``ConsentMissing`` and its subclasses (local-only; no consent to share), ``LicenceUnknown``.
        """
        manifest = self._registered(reference)
        path = self.parts.store.path(manifest.id)
        manifest = factory("block", "authenticate")(path, self.parts.signer, expect_id=manifest.id)
        refuse_local_only(manifest, path)
        admit(self.parts, manifest, consent_of(path), "share", base=None)
        return Offer(manifest, self._planned(manifest.id, path))

    def signer_of(self, offer: Offer) -> str:
        """The identity whose key signed the block, as whoever takes it has to trust it."""
        ring, key = cast("KeyRing", self.parts.signer), offer.manifest.created_by
        return next((one.identity for one in ring.known() if one.key_id == key), key)

    def still(self, offer: Offer) -> None:
        """Raises ``BlockRevoked`` or ``BlockNotFound`` when the block may not be sent on: it was revoked or removed meanwhile."""
        self.parts.store.path(offer.manifest.id)

    def take(self, archive: Path, *, expected: str | None = None) -> Taken:
        """Verify the block in ``archive`` completely, then store and name it. ``expected``: the reference it was asked for under.

        Raises what ``Archives.load`` raises, ``BlockRejected``, ``ConsentMissing`` and its subclasses, ``Unavailable`` when a consent
        cannot be looked up, ``BadReference`` when it is another block than ``expected``.
        """
        return self._taken(lambda check: Archives(self.parts).load(archive, check=check), expected)

    def take_folder(self, block: Path) -> Taken:
        """As ``take``, of a block's files in a folder of one's own."""
        return self._taken(lambda check: Archives(self.parts).load_folder(block, check=check), None)

    def _taken(self, load: Callable[[Callable[[Manifest, Path], None]], BlockRef], expected: str | None) -> Taken:
        known: list[bool] = []

        def check(manifest: Manifest, block: Path) -> None:
            self.refuse(manifest, block, expected)
            known.append(self._has(manifest.id))

        block = load(check)
        return Taken(block=block, new=not known[0])

    def refuse(self, manifest: Manifest, block: Path, expected: str | None = None) -> None:
        """Raises what speaks against a block that was verified and is not here yet."""
        if expected is not None and not _fits(manifest, expected):
            raise BadReference(
                f"asked for {expected[:80]!r}, and {manifest.name}@{manifest.version} came", "ask by its id, or tell its server's owner"
            )  # fmt: skip
        if manifest.gate.status == "rejected":
            raise BlockRejected(
                f"{manifest.name}@{manifest.version} was rejected by the gate where it was minted: it is not taken",
                "push one that was accepted", id=manifest.id,
            )  # fmt: skip
        self.parts.store.refuse_revoked(manifest)
        record = consent_of(block)
        self._look_up(record)
        admit_papers(self.parts, manifest, record, "share")

    def _registered(self, reference: str) -> Manifest:
        """By name as ever; by its id, a rejected one is refused with the reason that matters here."""
        try:
            return self.parts.registry.resolve(reference)
        except BlockRejected as error:
            raise BlockRejected(error.message, "a rejected block is not given to others", **error.facts) from None

    def _planned(self, block_id: str, path: Path) -> Plan:
        held = self._plans.get(block_id)
        if held is not None and held.fresh():
            return held
        with self._planning:  # one at a time: a hundred askers of a new block read it once
            held = self._plans.get(block_id)
            if held is None or not held.fresh():
                factory("block", "verify")(path, self.parts.signer, expect_id=block_id)
                held = self._plans[block_id] = factory("archive", "plan")(path)
                while len(self._plans) > MOST_PLANS:
                    self._plans.popitem(last=False)
        return held

    def _has(self, block_id: str) -> bool:
        try:
            self.parts.registry.resolve(block_id, unsafe=True)
        except BlockNotFound:
            return False
        return True

    def _look_up(self, record: ConsentRecord) -> None:
        """A consent that another machine was given is verified here as it was there: by its own evidence, at the host that publishes it."""
        if record.mode != "granted":
            return
        try:
            self.parts.consents.check(record, "share")
        except ConsentMissing as error:
            if type(error) is not ConsentMissing:  # what is known of it here says no
                raise
        else:
            return
        places = _PLACE.findall(record.how)
        where = places[-1] if record.evidence == "profile-file" and places else ""
        signature = record.signature.encode("utf-8", "replace") if record.evidence == "ssh" else None
        try:
            self.parts.granted_consents.grant(
                record.statement.encode("utf-8", "surrogatepass"), signature=signature, where=where
            )
        except DnaError as error:
            error.facts.setdefault("file", "consent.json")
            raise


def digest_of(offer: Offer) -> str:
    """SHA-256 of an offer's bytes, hex; reads them all."""
    import hashlib

    found, place = hashlib.sha256(), 0
    with offer.open() as opened:
        while piece := opened.read(place, 1 << 20):
            found.update(piece)
            place += len(piece)
    return found.hexdigest()


def _fits(manifest: Manifest, reference: str) -> bool:
    name, _, version = reference.partition("@")
    return manifest.id.startswith(reference) or (manifest.name == name and version in ("", manifest.version))
