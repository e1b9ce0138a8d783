"""Composing blocks: who may be a member, and what a request goes through, or which adapter comes of it, under each kind of composition.

Promises: every member is verified, accepted, not revoked, consented and for the same base, and their licences hold together, or nothing
is loaded and nothing written. A composition leaves no trace in the engine: it is an argument of a request, or files of its own.

    stack   cat, single                 the members' weighted sum, exactly: layers of a request
    route   gate                        one member a request, the one with the greatest share
            mixture                     all members at once, in shares that hang on the request's words
            arrow                       in every module, each token through the ``top_k`` that suit it there
    merge   all of ``dna merge``, legacy_peft_linear (PEFT's ``linear``, A and B apart)     one adapter, as files
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import get_args

from clonedna.app.blocks import Blocks
from clonedna.app.merge_papers import Parent, inherit_licence
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.core.block import Manifest
from clonedna.core.errors import InputError, WrongBase
from clonedna.core.genome import Composition, Through
from clonedna.core.merge import MergeMethod, MergePart, MergeReport, MergeSpec, Weighted
from clonedna.core.model import Layer, Mixture
from clonedna.core.seams import Engine

TOP_K = 2


def members(parts: Parts, wanted: Sequence[Weighted]) -> list[Parent]:
    """The blocks that are named, verified and consented, in this order; on one base, each once.

    Raises ``BlockNotFound``, ``BlockRejected``, ``BlockRevoked``, ``BlockCorrupt`` and the like, ``ConsentMissing``, ``WrongBase``,
    ``InputError`` for one that is named twice.
    """
    blocks, found = Blocks(parts), list[Parent]()
    for part in wanted:
        manifest, path = blocks.verified(part.reference)
        consent = consent_of(path)
        for use in ("mint", "serve"):
            parts.consents.check(consent, use)
        found.append(Parent(manifest, path, consent, part.weight))
    for one, other in combinations(found, 2):
        mine, theirs = ((p.manifest.base_fingerprint, p.manifest.base_weights_digest) for p in (one, other))
        if mine[0] != theirs[0] or (None not in (mine[1], theirs[1]) and mine[1] != theirs[1]):
            raise WrongBase(
                f"{other.reference} is for {_base(other.manifest)}, {one.reference} for {_base(one.manifest)}",
                "merge blocks of one base",
            )
        if one.manifest.id == other.manifest.id:
            raise InputError(f"{other.reference} is named twice", "name it once, with the sum of its weights")
    return found


def _base(manifest: Manifest) -> str:
    """A base in words: its name, the beginnings of its fingerprint and, where it is known, of its weights' digest."""
    weights = f", weights {manifest.base_weights_digest[:12]}" if manifest.base_weights_digest else ""
    return f"{manifest.base_model} ({manifest.base_fingerprint[:12]}{weights})"


class Composing:
    """Members of one composition on the engine that has their base."""

    def __init__(self, parts: Parts, wanted: Sequence[Weighted]) -> None:
        """Raises as ``members``, ``LicenceUnknown`` and ``LicenceNotAllowed`` for licences that cannot be kept together."""
        self.parts = parts
        self.members = members(parts, wanted)
        if not self.members:
            raise InputError("nothing to compose", "name at least one block")
        self.licence = inherit_licence(self.members)
        self._adapters: dict[str, str] = {}

    def weighing(self, weights: Sequence[float]) -> Composing:
        """The same members with other weights, in their order."""
        other = copy(self)
        other.members = [replace(one, weight=weight) for one, weight in zip(self.members, weights, strict=True)]
        return other

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The members as layers, with their weights; ``load`` first."""
        return tuple(map(self._layer, self.members))

    async def load(self, base: str | None = None) -> Engine:
        """The engine, with all members loaded. Raises ``UnknownBase``, ``WrongBase``, ``AdapterInvalid``, ``NoMemory``, ``Overloaded``."""
        engine = self.parts.engine(base or self.members[0].manifest.base_model)
        for member in self.members:
            if unlike := member.manifest.unlike(engine.base):
                raise WrongBase(f"{member.reference} {unlike}", "give the base that they were trained on with --on")
        for member in self.members:
            self._adapters[member.manifest.id] = (await engine.load(member.path)).id
        return engine

    def through(self, composition: Composition, shares: Sequence[float] | None = None) -> Through:
        """What a request goes through; ``load`` first. ``shares``: of the members for this request, which ``gate`` and ``mixture`` need.

        Raises ``InputError`` for a merge, which is an adapter of its own, and where shares are missing or do not fit.
        """
        if composition.kind == "merge":
            raise InputError(
                f"{composition.method} makes one adapter of its members",
                "merge them first: dna merge, dna genome apply",
            )
        if composition.method == "arrow":
            return Through(mixture=Mixture(layers=self.layers, top_k=composition.top_k or TOP_K))
        if composition.method in ("gate", "mixture"):
            if shares is None or len(shares) != len(self.members):
                raise InputError(
                    f"{composition.method} needs the share of each member", "ask the gate for this request"
                )
            best = max(range(len(shares)), key=lambda i: (shares[i], -i))
            picked = {best: 1.0} if composition.method == "gate" else dict(enumerate(shares))
            return Through(layers=tuple(self._layer(self.members[i], share) for i, share in picked.items()))
        if composition.method == "single" and len(self.members) != 1:
            raise InputError(f"single is one layer, these are {len(self.members)}", "compose them with cat")
        if composition.method in ("single", "cat"):
            return Through(layers=self.layers)
        raise InputError(f"{composition.method} is no way of {composition.kind}", "use cat, or kind merge")

    def merge(self, composition: Composition, out: Path, covariances: Mapping[str, Path] | None = None) -> MergeReport:
        """Write the merged adapter into ``out``. ``covariances``: of each member by its id, the folder of what its modules read
        (``Engine.observe``); ``regmean`` needs them. Raises as ``engine.merging.merge_adapters``.
        """
        manifest, folders = self.members[0].manifest, covariances or {}
        given = [MergePart(one.path, one.weight, folders.get(one.manifest.id)) for one in self.members]
        return factory("merge", "peft")(
            given, out, spec_of(composition), base=manifest.base_model, fingerprint=manifest.base_fingerprint
        )

    def _layer(self, member: Parent, share: float = 1.0) -> Layer:
        adapter = self._adapters.get(member.manifest.id)
        if adapter is None:
            raise InputError(f"{member.reference} is not loaded", "load the members first")
        return Layer(adapter=adapter, weight=member.weight * share)


def spec_of(composition: Composition) -> MergeSpec:
    """A merge's options. Raises ``InputError`` for a method that makes no adapter."""
    method = "linear" if composition.method == "legacy_peft_linear" else composition.method
    if method not in get_args(MergeMethod):
        raise InputError(f"{method} makes no adapter of its own", f"use one of: {', '.join(get_args(MergeMethod))}")
    return MergeSpec.model_validate(
        {"method": method, "rank": composition.rank, "density": composition.density, "seed": composition.seed, "ridge": composition.ridge}
    )  # fmt: skip
