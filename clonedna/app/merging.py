"""Merge blocks into one: resolve and verify the parents, what they allow together, one adapter, and a signed, registered block of it.

Promises: every parent is verified, accepted, consented and for the same base, or nothing is written; a block keeps its parents, weights,
method and distance from the weighted sum; equal merges give equal ids. A merge takes seconds and leaves nothing behind when it fails.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
from pydantic import ValidationError

from clonedna.app import merge_papers as inherited
from clonedna.app.blocks import Blocks
from clonedna.app.composing import members
from clonedna.app.merge_papers import Parent
from clonedna.app.parts import Parts, factory
from clonedna.app.stages import told
from clonedna.app.workspace import naming, now, require_space, write_atomic
from clonedna.core.block import NAME_PATTERN, BlockRef, Capability, Check, Lineage, Manifest, Share
from clonedna.core.errors import InputError, UnknownBase, WrongBase
from clonedna.core.events import Emit, Note, StageProgress, silent
from clonedna.core.merge import MergeOrder, MergePart, MergeRecord, MergeReport, MergeSpec, Weighted
from clonedna.core.model import Example, Message
from clonedna.core.value import Value
from clonedna.evals.likelihood import example_of
from clonedna.mint.papers import slug

FACTOR_METHODS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
PROBE = Example(
    messages=(Message(role="user", content="Write a function that adds two numbers."),),
    completion="def add(a, b):\n    return a + b",
)
PROBED_PARENTS = 3


class Merged(Value):
    """A merged block, what the merge measured, whether a fresh process loaded it, and its parents as ``name@version:weight``."""

    block: BlockRef
    report: MergeReport
    peft: Check
    parents: tuple[str, ...]


def weighted(text: str) -> Weighted:
    """``name``, ``name@version`` or the beginning of an id, with ``:weight`` behind it (1 without). Raises ``InputError``."""
    reference, colon, number = text.rpartition(":")
    if not colon:
        reference, number = text, "1"
    try:
        made = Weighted(reference=reference, weight=float(number))
    except ValueError:  # pydantic's is one too
        made = None
    if made is None or made.weight == 0 or not reference:
        raise InputError(
            f"{text[:80]!r} is no block with a weight", "write name:0.7; a weight is a number from -100 to 100, not 0"
        )
    return made


def order_of(
    parts: Sequence[str], *, name: str, method: str, rank: int | None = None, density: float | None = None,
    majority: str | None = None, seed: int | None = None, on: str | None = None, check: bool = True,
) -> MergeOrder:  # fmt: skip
    """A checked order. Raises ``InputError`` naming the field."""
    if not re.match(NAME_PATTERN, name):
        raise InputError(
            f"{name[:80]!r} cannot be a block's name",
            f"use lower-case letters, digits, dots and hyphens, e.g. {slug(name)}",
        )
    options = {"method": method, "rank": rank, "density": density, "majority": majority, "seed": seed}
    try:
        return MergeOrder(
            parts=tuple(weighted(part) for part in parts), name=name, spec=MergeSpec.model_validate(options), on=on, check=check
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{'.'.join(map(str, first['loc']))} = {str(first['input'])[:80]!r}: {first['msg']}",
            "see: dna merge --help",
        ) from None


class Merging:
    """The use case over one process's parts."""

    def __init__(self, parts: Parts, emit: Emit = silent) -> None:
        self.parts, self.emit = parts, emit

    async def merge(self, order: MergeOrder) -> Merged:
        """Merge, check, pack, sign, register. A result that a fresh process cannot load is kept as rejected, as a mint is.

        Raises ``BlockNotFound``, ``BlockRejected``, ``BlockRevoked``, ``BlockCorrupt`` and the like for a parent; ``ConsentMissing``,
        ``LicenceUnknown``, ``LicenceNotAllowed``, ``WrongBase``; ``InputError`` for options that do not fit; ``UnknownBase`` when the
        result is to be checked and the base is not found; ``NoSpace``, ``NoMemory``.
        """
        self._refuse_name(order.name)
        home = self.parts.settings.home
        require_space(home, self.parts.settings.min_free_bytes)
        with told(self.emit, "parents") as counts:
            parents = await anyio.to_thread.run_sync(self._parents, order)
            inherited.inherit_licence(parents)
            counts |= {"blocks": len(parents), "consent": inherited.inherit_consent(parents).mode}
        base = order.on or parents[0].manifest.base_model
        if order.check:
            await anyio.to_thread.run_sync(self._require_base, base, parents)
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="merge-", dir=home) as folder:
            staging = Path(folder) / "block"
            with told(self.emit, "merge") as counts:
                report = await anyio.to_thread.run_sync(self._combine, order, parents, staging)
                counts |= {"modules": len(report.modules), "rank": report.rank, "relative_error": report.relative_error}
            self._warn(report)
            peft = Check(value=None, how="not checked: no base was to be loaded")
            if order.check:
                with told(self.emit, "check") as counts:
                    peft = await self.parts.check_adapter(base, staging, self._probes(parents))
                    counts |= {"peft": str(peft.value)}
            with told(self.emit, "register") as counts:
                block = await anyio.to_thread.run_sync(self._register, order.name, parents, report, peft, staging)
                counts |= {"block": str(block), "status": block.status}
        return Merged(
            block=block,
            report=report,
            peft=peft,
            parents=tuple(f"{parent.reference}:{parent.weight:g}" for parent in parents),
        )

    # Before anything is computed.

    def _refuse_name(self, name: str) -> None:
        """A name that a minted block has stays its own: whoever asks for it expects that person's."""
        if any(m.lineage.relation != "merged" for m in self.parts.registry.manifests(name)):
            raise InputError(f"{name} is the name of a block that was not merged", "choose another --name")

    def _parents(self, order: MergeOrder) -> list[Parent]:
        """All parents, verified and consented, heaviest first; on one base, each once."""
        return sorted(members(self.parts, order.parts), key=lambda parent: (-parent.weight, parent.manifest.id))

    def _require_base(self, base: str, parents: Sequence[Parent]) -> None:
        try:
            engine = self.parts.engine(base)
        except UnknownBase as error:
            raise UnknownBase(
                error.message, "say where the base is with --on, or merge without loading it: --no-check"
            ) from error
        for parent in parents:
            if unlike := parent.manifest.unlike(engine.base):
                raise WrongBase(f"{parent.reference} {unlike}", "give the base that they were trained on with --on")

    # The work.

    def _combine(self, order: MergeOrder, parents: Sequence[Parent], out: Path) -> MergeReport:
        manifest = parents[0].manifest
        return factory("merge", "peft")(
            [MergePart(parent.path, parent.weight) for parent in parents], out, order.spec,
            base=manifest.base_model, fingerprint=manifest.base_fingerprint,
            progress=lambda done, total: self.emit(StageProgress(stage="merge", done=done, total=total, unit="modules")),
        )  # fmt: skip

    def _warn(self, report: MergeReport) -> None:
        if report.spec.method in FACTOR_METHODS:
            self.emit(
                Note(
                    level="warning",
                    text=f"{report.spec.method} combines A and B apart, as PEFT does: the product has cross terms, and is "
                    f"{100 * report.relative_error:.1f} % away from the weighted sum; svd and cat have none",
                )
            )

    def _probes(self, parents: Sequence[Parent]) -> list[Example]:
        """A held-out pair of each of the heaviest parents, and one text that is always the same: to compare logits on, not to measure."""
        blocks = Blocks(self.parts)
        pairs = [blocks.pairs(parent.manifest.id) for parent in parents[:PROBED_PARENTS]]
        held_out = [next((pair for pair in found if pair.split == "holdout"), None) for found in pairs]
        return [PROBE, *(example_of(pair) for pair in held_out if pair is not None)]

    def _register(
        self, name: str, parents: Sequence[Parent], report: MergeReport, peft: Check, staging: Path
    ) -> BlockRef:
        record = MergeRecord(
            parents=tuple(parent.record() for parent in parents), spec=report.spec, relative_error=report.relative_error
        )  # fmt: skip
        for file, data in inherited.papers(name, parents, record, report, inherited.verdict(peft)).items():
            write_atomic(staging / file, data)
        with naming(self.parts.settings.home):
            factory("block", "pack")(staging, self._manifest(name, parents, record, report, peft, staging))
            factory("block", "sign")(staging, self.parts.signer)
            self.parts.store.put(staging)
            return self.parts.registry.publish(factory("block", "verify")(staging, self.parts.signer))

    def _manifest(
        self, name: str, parents: Sequence[Parent], record: MergeRecord, report: MergeReport, peft: Check, staging: Path
    ) -> Manifest:
        """The manifest of these files. Exactly these files under this name already registered: that block's version and time."""
        table = factory("block", "table")(staging)
        block_id = factory("block", "id")(table)
        before = next((m for m in self.parts.registry.manifests(name) if m.id == block_id), None)
        version, previous = (
            (before.version, before.previous_version) if before else self.parts.registry.next_version(name)
        )
        consent, licence, person = (
            inherited.inherit_consent(parents),
            inherited.inherit_licence(parents),
            inherited.candidate(parents),
        )
        specialization = "; ".join(dict.fromkeys(parent.manifest.specialization for parent in parents))
        capability = "; ".join(dict.fromkeys(parent.manifest.capability.text for parent in parents))
        digests = [parent.manifest.base_weights_digest for parent in parents]
        weights = next((digest for digest in digests if digest), None)
        return Manifest(
            id=block_id, name=name, version=version, previous_version=previous,
            created_at=before.created_at if before else now(), created_by=self.parts.signer.key_id, candidate=person,
            consent_mode=consent.mode, specialization=specialization, tags=("lora", "merge", *person.expertise_domains),
            capability=Capability(text=capability), base_model=parents[0].manifest.base_model,
            base_fingerprint=parents[0].manifest.base_fingerprint,
            base_weights_digest=weights, rank=report.rank, alpha=report.alpha,
            target_modules=report.target_modules, recipe=None,
            lineage=Lineage(parents=tuple(p.manifest.id for p in parents), relation="merged", merge=record),
            gate=inherited.verdict(peft), files=table, license=licence, share=Share(license=licence),
            eval_summary=inherited.summary(inherited.evaluation(report)), peft_compatible=peft,
            vllm_compatible=Check(value=None, how="not checked: no vLLM is set up on this machine"),
            training_pairs=0, candidate_pairs=0, base_instruct_pairs=0, tool_use_pairs=0, num_epochs=0,
        )  # fmt: skip
