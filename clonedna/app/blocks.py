"""What a person does with blocks: list, show, verify, remove, and load one.

A block is verified each time before anything of it is loaded, and every answer says what served it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from clonedna.app.admission import admit
from clonedna.app.evaluations import Evaluated, Evaluations
from clonedna.app.identity_kept import forget
from clonedna.app.interference_kept import InterferenceKept
from clonedna.app.papers import consent_of, evaluation_of, pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stamps import Stamp, stamp, stamp_of_any
from clonedna.core.block import BlockRef, ConsentRecord, Evaluation, Manifest, Maturity
from clonedna.core.errors import BlockRejected
from clonedna.core.model import BaseInfo, Layer
from clonedna.core.seams import Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.maturity import maturity_of


class ServedLayer(Value):
    """A block that took part, and the weight on its B·A."""

    block: str
    block_id: str
    weight: float


class ServedRoute(Value):
    """Which layer of a genome was chosen for this request (``None``: the base answered), and why: how near what was asked is to the nearest
    layer, and how near it must be. Both are ``None`` where there is only one layer."""

    block: str | None
    cosine: float | None
    floor: float | None


class ServedGenome(Value):
    """A genome that answered: all its members with their weights, how they are composed, and which was chosen, where one is."""

    genome: str
    genome_id: str
    composition: str
    members: tuple[ServedLayer, ...]
    route: ServedRoute | None = None


class Served(Value):
    """What answered: base, block and whether its weights were in the computation.

    ``block`` is set when it was one block; ``layers`` names all, in a blend too. ``genome``: the one that was asked. ``retrieval``: ids of
    the pairs that were shown in the prompt. ``remote``: it was computed by another server, behind this one.
    """

    base: str
    base_fingerprint: str
    block: str | None
    block_id: str | None
    weights_loaded: bool
    layers: tuple[ServedLayer, ...] = ()
    retrieval: tuple[str, ...] = ()
    remote: bool = False
    genome: ServedGenome | None = None


def served_layer(manifest: Manifest, weight: float = 1.0) -> ServedLayer:
    return ServedLayer(block=f"{manifest.name}@{manifest.version}", block_id=manifest.id, weight=weight)


def served_by(base: BaseInfo, layers: tuple[ServedLayer, ...], genome: ServedGenome | None = None) -> Served:
    """The record of an answer by ``base`` through ``layers``, whose weights are loaded."""
    (one,) = layers if len(layers) == 1 else (None,)
    return Served(
        base=base.id, base_fingerprint=base.fingerprint, block=one.block if one else None,
        block_id=one.block_id if one else None, weights_loaded=bool(layers), layers=layers, genome=genome,
    )  # fmt: skip


MOST_KNOWN = 512  # verified blocks that are remembered; a manifest has some kilobytes


class BlockDetail(Value):
    manifest: Manifest
    path: str
    consent: ConsentRecord
    evaluation: Evaluation
    maturity: Maturity
    again: tuple[Evaluated, ...] = ()


class Blocks:
    """Use cases over the store and the registry."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[Stamp, Stamp], Manifest]] = {}

    def list(self) -> tuple[Manifest, ...]:
        """All blocks, newest first, rejected ones among them (their ``gate`` says so)."""
        return self.parts.registry.manifests()

    def show(self, reference: str) -> BlockDetail:
        """A verified block's papers. One that the gate rejected is shown by its id."""
        manifest, path = self.known(reference)
        evaluation = evaluation_of(path)
        return BlockDetail(
            manifest=manifest, path=str(path),
            consent=consent_of(path),
            evaluation=evaluation, maturity=maturity_of(manifest, evaluation),
            again=Evaluations(self.parts.settings.home).of(manifest.id),
        )  # fmt: skip

    def pairs(self, reference: str) -> tuple[Pair, ...]:
        _, path = self.verified(reference, any_status=True)
        return pairs_of(path)

    def verified(self, reference: str, *, any_status: bool = False) -> tuple[Manifest, Path]:
        """Resolve, then check size, signature, digests. Raises what is wrong, naming the file."""
        manifest = self.parts.registry.resolve(reference, unsafe=any_status)
        path = self.parts.store.path(manifest.id)
        return factory("block", "verify")(path, self.parts.signer, expect_id=manifest.id), path

    def known(self, reference: str) -> tuple[Manifest, Path]:
        """As ``verified``, to be read: what this process verified is not hashed again while nothing about the block's files, or about who
        is trusted here, changed. One that the gate rejected is known by its id."""
        found = self.parts.registry.resolve(reference, unsafe=True)
        path = self.parts.store.path(found.id)
        now = stamp(path), stamp_of_any(self.parts.settings.home / "keys" / "trusted")
        with self._lock:
            before = self._known.get(found.id)
        if before is not None and before[0] == now:
            return before[1], path
        manifest: Manifest = factory("block", "verify")(path, self.parts.signer, expect_id=found.id)
        with self._lock:
            self._known[found.id] = now, manifest
            while len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
        return manifest, path

    def verify_directory(self, directory: Path) -> Manifest:
        """Check a block that is not in the store (a downloaded or copied directory). Raises ``BlockRevoked`` for one with a tombstone."""
        manifest: Manifest = factory("block", "verify")(directory, self.parts.signer)
        self.parts.store.refuse_revoked(manifest)
        return manifest

    def remove(self, reference: str) -> BlockRef:
        """Forget one block: its name and its files. Other versions stay. Raises ``BlockRejected`` for a rejected one that is not named by
        its id."""
        try:
            manifest = self.parts.registry.resolve(reference, unsafe=True)
        except BlockRejected as error:
            raise BlockRejected(
                error.message, f"remove it by its id: dna rm {str(error.facts['id'])[:12]}", **error.facts
            ) from None  # fmt: skip
        self.parts.registry.forget(manifest.id)
        self.parts.store.delete(manifest.id)
        Evaluations(self.parts.settings.home).forget(manifest.id)
        forget(self.parts.settings.home, manifest.id)
        InterferenceKept(self.parts.settings.home).forget(manifest.id)
        self.parts.queries.forget(manifest.id)
        self.parts.forget_vectors((manifest.id,))
        status = "rejected" if manifest.gate.status == "rejected" else "registered"
        return BlockRef(name=manifest.name, version=manifest.version, id=manifest.id, status=status)

    async def open(self, reference: str, *, base: str | None = None, unsafe: bool = False) -> Opened:
        """Load one block: verified, consented, on the base it was trained on. Raises ``WrongBase`` and all of ``verified``."""
        manifest, path = self.verified(reference, any_status=unsafe)
        consent = consent_of(path)
        engine = self.parts.engine(base or manifest.base_model)
        admit(
            self.parts, manifest, consent, "serve", base=engine.base, hint="give the base it was trained on with --on"
        )
        adapter = await engine.load(path)
        return Opened(engine, Layer(adapter=adapter.id), served_by(engine.base, (served_layer(manifest),)))


@dataclass(frozen=True, slots=True)
class Opened:
    """A block whose weights are loaded."""

    engine: Engine
    layer: Layer
    served: Served
