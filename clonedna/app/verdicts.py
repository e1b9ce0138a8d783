"""What was checked of a block, line by line, and what each check rests on.

A block whose files are not what was signed has no verdict: verifying it raises, with the file or field that is wrong. The verdict of one
that passed also says what it may be used for on this machine, and why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from clonedna.app.admission import admit
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord, Manifest, Use
from clonedna.core.errors import BlockRejected, DnaError
from clonedna.core.value import Value

USES: tuple[Use, ...] = ("serve", "share")


class CheckLine(Value):
    """One thing that was checked. ``how``: what it rests on, or why it does not hold. ``code``: the error's, where it does not."""

    name: str
    holds: bool
    how: str
    code: str = ""


class Verdict(Value):
    """A block that was verified just now. ``bytes``: of all files that the manifest lists."""

    verified: Literal[True] = True
    id: str
    name: str
    version: str
    files: int
    bytes: int
    signed_by: str
    checks: tuple[CheckLine, ...]


def verdict(parts: Parts, manifest: Manifest, path: Path) -> Verdict:
    """The verdict on a block that ``verify_block`` let pass just now. Raises ``BlockRevoked``, also for what it was made from."""
    parts.store.refuse_revoked(manifest)
    consent = consent_of(path)
    return Verdict(
        id=manifest.id, name=manifest.name, version=manifest.version, files=len(manifest.files),
        bytes=sum(entry.size for entry in manifest.files.values()), signed_by=manifest.created_by,
        checks=(*_integrity(manifest), *(_use(parts, manifest, consent, use) for use in USES)),
    )  # fmt: skip


def unshareable(parts: Parts, manifest: Manifest, consent: ConsentRecord) -> DnaError | None:
    """Why this verified block may not be given to others, or ``None``: its gate, licence or consent does not allow it."""
    return _refusal(parts, manifest, consent, "share")


def _integrity(manifest: Manifest) -> Iterator[CheckLine]:
    held = (
        ("files", "the files on the disk are those of a block, no more and no fewer, each within its size"),
        ("signature", f"signature.json is over the exact bytes of manifest.json, by key {manifest.created_by}, which is trusted here"),
        ("id", "the id is the SHA-256 of the file table"),
        ("digests", f"size and SHA-256 of {len(manifest.files)} files are those that were signed"),
        ("adapter", "the adapter's header is sound safetensors, its configuration a JSON object"),
        ("revocation", "no tombstone names it or what it was made from"),
    )  # fmt: skip
    for name, how in held:
        yield CheckLine(name=name, holds=True, how=how)
    accepted = manifest.gate.status == "accepted"
    reasons = "; ".join(manifest.gate.reasons)
    yield CheckLine(
        name="gate", holds=accepted, how="the gate accepted it" if accepted else f"the gate rejected it: {reasons}",
        code="" if accepted else "block_rejected",
    )  # fmt: skip


def _use(parts: Parts, manifest: Manifest, consent: ConsentRecord, use: Use) -> CheckLine:
    error = _refusal(parts, manifest, consent, use)
    if error is not None:
        return CheckLine(name=use, holds=False, how=error.message, code=error.code)
    return CheckLine(name=use, holds=True, how=f"licence {manifest.license}; consent {consent.mode}: {consent.how}")


def _refusal(parts: Parts, manifest: Manifest, consent: ConsentRecord, use: Use) -> DnaError | None:
    if manifest.gate.status == "rejected":
        return BlockRejected(f"{manifest.name}@{manifest.version} was rejected by the gate", "mint it again")
    try:
        admit(parts, manifest, consent, use, base=None)
    except DnaError as error:
        return error
    return None
