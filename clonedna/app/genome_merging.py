"""Layers of a genome merged into one block: RegMean on what each layer's modules read, over the pairs that it was trained on.

The merged block is one like any other of `dna merge`: signed, registered, with its parents and how far it is from their weighted sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clonedna.app.merge_papers import Parent
from clonedna.app.merging import Merged, Merging
from clonedna.app.papers import pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.staging import staging
from clonedna.core.errors import BlockRejected, Refused
from clonedna.core.events import Emit, StageProgress
from clonedna.core.merge import MergeOrder, MergePart, MergeReport, MergeSpec, Weighted
from clonedna.core.model import Layer
from clonedna.core.seams import Engine
from clonedna.evals.likelihood import example_of

MOST_SEEN = 64


class GenomeMerging(Merging):
    """``Merging`` that knows, for each parent by its id, the folder with the second moments of what its modules read."""

    def __init__(self, parts: Parts, emit: Emit, covariances: Mapping[str, Path]) -> None:
        super().__init__(parts, emit)
        self._covariances = covariances

    def _combine(self, order: MergeOrder, parents: Sequence[Parent], out: Path) -> MergeReport:
        manifest = parents[0].manifest
        return factory("merge", "peft")(
            [MergePart(one.path, one.weight, self._covariances.get(one.manifest.id)) for one in parents], out, order.spec,
            base=manifest.base_model, fingerprint=manifest.base_fingerprint,
            progress=lambda done, total: self.emit(StageProgress(stage="merge", done=done, total=total, unit="modules")),
        )  # fmt: skip


async def merged(parts: Parts, engine: Engine, parents: Sequence[Parent], name: str, emit: Emit) -> Merged:
    """One block of all ``parents``, each at 1 / K. Raises as ``Merging.merge``, ``BlockRejected`` for one that PEFT does not load, and
    ``Refused`` for a parent without pairs that could be observed, ``ConsentMissing`` for one that may not be."""
    with staging(parts.settings.home) as folder:  # of somebody's own pairs: never outside of the home
        covariances: dict[str, Path] = {}
        for number, one in enumerate(parents):
            seen = [example_of(pair) for pair in pairs_of(one.path) if pair.split == "train"][:MOST_SEEN]
            if not seen:
                raise Refused(
                    f"{one.reference} has no pairs of its own, so what its modules read is not known",
                    "compose them another way: --compose route or stack",
                )
            parts.consents.check(one.consent, "mint")
            adapter = await engine.load(one.path)
            covariances[one.manifest.id] = place = folder / str(number)
            await engine.observe(seen, [Layer(adapter=adapter.id)], place)
        order = MergeOrder(
            parts=tuple(Weighted(reference=one.manifest.id, weight=1 / len(parents)) for one in parents), name=name,
            spec=MergeSpec(method="regmean"), on=None, check=False,
        )  # fmt: skip
        made = await GenomeMerging(parts, emit, covariances).merge(order)
    if made.block.status == "rejected":
        raise BlockRejected(f"{made.block} was rejected", "compose them another way: --compose route or stack")
    return made
