"""Which models a server has, and how a model's name becomes layers of a request.

A model is the base, a registered block that the gate accepted (``name``, ``name@version``, ``name@digest8``), a genome
(``genome:NAME``), or an adapter that was given a name while the server runs (which is a block of the store, too). Names are resolved at
every request, so a block that was removed or revoked is refused from then on, and its weights leave the engine.

Promises: nothing is loaded that was not verified, has no consent to be served, or was trained on another base. Verifying hashes every
file; so that a request does not, a verified block is remembered under its id together with inode, size, mtime and ctime of its
directory and of each file in it, and is verified again when any of these differs. What this cannot see is a change that keeps a file's
ctime, which needs the rights of the disk's administrator. Blocks that are asked for at the same time are loaded once.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import anyio
import anyio.to_thread

from clonedna.app.admission import admit
from clonedna.app.blocks import Served, ServedLayer, served_by, served_layer
from clonedna.app.genome_models import PREFIX, GenomeModels
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stamps import Stamp, stamp
from clonedna.core.block import DIGEST_PATTERN, NAME_PATTERN, ConsentRecord, Manifest
from clonedna.core.catalogue import BlockLine
from clonedna.core.errors import BlockCorrupt, BlockNotFound, DnaError, InputError, NotFound, Refused
from clonedna.core.genome import GenomeManifest, Through
from clonedna.core.model import Layer, Mixture
from clonedna.core.seams import Engine
from clonedna.core.value import Value

MAX_LAYERS = 16
MAX_WEIGHT = 100.0
_DIGITS = re.compile(r"[0-9a-f]{8,64}")
_NAME = re.compile(NAME_PATTERN)
_ID = re.compile(DIGEST_PATTERN)


class Model(Value):
    """A model as a list shows it. ``parent`` is the base of a block; ``index`` numbers a block for as long as the server runs.

    ``created``: seconds since 1970 as the block's manifest has them; 0 for the base.
    """

    id: str
    root: str
    parent: str | None
    created: int
    block: str | None = None
    block_id: str | None = None
    index: int | None = None
    genome: str | None = None


class Term(Value):
    """One part of a blend: a model's name, or its ``index``, and the weight on its B·A."""

    model: str | int
    weight: float


class Prepared(Value):
    """What a request needs: loaded layers or a mixture of them, the record of what will answer, and a short label for figures."""

    layers: tuple[Layer, ...]
    mixture: Mixture | None = None
    served: Served
    label: str

    @property
    def through(self) -> Through:
        return Through(layers=self.layers, mixture=self.mixture)


@dataclass
class _Loaded:
    """A block in use: what was verified (``stamp``) and what the engine calls it."""

    manifest: Manifest
    consent: ConsentRecord
    stamp: Stamp
    adapter: str | None = None


@dataclass
class _State:
    blocks: dict[str, _Loaded] = field(default_factory=dict[str, _Loaded])
    locks: dict[str, anyio.Lock] = field(default_factory=dict[str, anyio.Lock])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    revoked_at: int = 0
    indexes: dict[str, int] = field(default_factory=dict[str, int])


class Serving:
    """Models over one engine. Use it from one event loop; disk and database are read in worker threads."""

    def __init__(self, parts: Parts, base: str) -> None:
        """Loads the base; takes seconds. Raises ``UnknownBase``, ``NoMemory``."""
        self.parts = parts
        self.engine: Engine = parts.engine(base)
        self._base_names = {base, self.engine.base.id}
        self._state = _State()
        self._numbering = threading.Lock()
        self._genomes = GenomeModels(parts, self.engine.base)

    async def models(self) -> tuple[Model, ...]:
        """The base, then each accepted block that was trained on it under all its names, newest first, then adapters added by name, then
        genomes that can be asked."""
        await self._notice()
        return await anyio.to_thread.run_sync(self._models)

    async def model(self, name: str) -> Model:
        """One model by any of its names. Raises ``NotFound`` and what resolving raises."""
        if name in self._base_names:
            return self._base_model(name)
        if name.startswith(PREFIX):
            return self._genome_model(name, await anyio.to_thread.run_sync(self._genomes.manifest, name))
        manifest = await self._resolved(name)
        return self._block_model(name, manifest)

    async def prepare(self, model: str, blend: Sequence[Term] = (), *, said: Sequence[str] = ()) -> Prepared:
        """Layers for ``model``, or for ``blend`` over the base. ``a:0.7+b:0.3`` as a model's name is the same blend.

        ``said``: the person's turns, oldest first; a genome that routes chooses by them. Raises ``InputError`` (what cannot be blended),
        ``NotFound``, ``BlockRevoked``, ``BlockRejected``, ``ConsentMissing``, ``WrongBase``, ``BlockCorrupt``, ``AdapterInvalid``,
        ``NoMemory``, and for a genome what ``GenomeModels.going`` raises.
        """
        await self._notice()
        if blend and model not in self._base_names:
            raise InputError(
                f"a blend goes over the base, and {model[:80]!r} is not it",
                f"give {self.engine.base.id!r} as the model, and all blocks in the blend",
            )
        if not blend and model.startswith(PREFIX) and model not in self._base_names:
            return await self._composed(model, said)
        terms = tuple(blend) or (() if model in self._base_names else self._terms(model))
        if len(terms) > MAX_LAYERS:
            raise InputError(f"{len(terms)} blocks in one blend", f"give at most {MAX_LAYERS}")
        layers: list[Layer] = []
        served: list[ServedLayer] = []
        for term in terms:
            if not math.isfinite(term.weight) or abs(term.weight) > MAX_WEIGHT:
                raise InputError(f"weight {term.weight} of {term.model!r}", f"give a number within ±{MAX_WEIGHT:g}")
            manifest = await self._resolved(term.model)
            layers.append(Layer(adapter=await self._loaded(manifest), weight=term.weight))
            served.append(served_layer(manifest, term.weight))
        label = "blend" if len(served) > 1 else served[0].block if served else self.engine.base.id
        return Prepared(layers=tuple(layers), served=served_by(self.engine.base, tuple(served)), label=label)

    async def _composed(self, model: str, said: Sequence[str]) -> Prepared:
        try:
            going = await anyio.to_thread.run_sync(self._genomes.going, model, said)
        except DnaError:
            await self._sweep()
            raise
        layers: list[Layer] = []
        served: list[ServedLayer] = []
        for block_id, weight in going.parts:
            manifest = await self._resolved(block_id)
            layers.append(Layer(adapter=await self._loaded(manifest), weight=weight))
            served.append(served_layer(manifest, weight))
        mixture = Mixture(layers=tuple(layers), top_k=going.top_k) if going.top_k is not None else None
        return Prepared(
            layers=() if mixture else tuple(layers), mixture=mixture, label=f"{PREFIX}{going.served.genome}",
            served=served_by(self.engine.base, tuple(served), going.served),
        )  # fmt: skip

    async def add(self, name: str, where: str, *, replace: bool = False) -> Model:
        """Serve the block at ``where`` as ``name`` too, and load it. ``where``: a block reference, or a path inside the store.

        Raises ``Refused`` for any other path, ``InputError`` for a name that cannot be one or is taken, and all of ``prepare``.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name[:80]!r} cannot name an adapter", "use a-z, 0-9, dot, dash, underscore")
        if name in self._base_names or await self._is_registered(name):
            raise InputError(f"{name} is a model already", "choose another name")
        if name in self._state.aliases and not replace:
            raise InputError(f"{name} is loaded already", "unload it first, or give load_inplace")
        if "/" in where or "\\" in where or where.startswith((".", "~")):
            manifest = await anyio.to_thread.run_sync(self._at_path, where)
        else:
            manifest = await self._resolved(where)
        await self._loaded(manifest)
        self._state.aliases[name] = manifest.id
        return self._block_model(name, manifest)

    async def remove(self, name: str) -> None:
        """Take back a name that was added; of a registered block, only its weights leave the engine, until somebody asks for it again.

        Raises ``NotFound``, and ``InputError`` for the base.
        """
        if name in self._base_names:
            raise InputError(f"{name} is the base", "only adapters can be unloaded")
        block_id = self._state.aliases.pop(name, None) or (await self._resolved(name)).id
        if block_id not in self._state.aliases.values():
            await self._unload(block_id)

    def name_of(self, adapter: str) -> str:
        """The block (``name@version``) behind an adapter's id in the engine; the id itself when it is not one of ours."""
        for loaded in self._state.blocks.values():
            if loaded.adapter == adapter:
                return f"{loaded.manifest.name}@{loaded.manifest.version}"
        return adapter

    def _terms(self, model: str) -> tuple[Term, ...]:
        terms: list[Term] = []
        for part in model.split("+"):
            name, colon, weight = part.partition(":")
            try:
                terms.append(Term(model=name, weight=float(weight) if colon else 1.0))
            except ValueError:
                raise InputError(f"{weight[:40]!r} is no weight", "write a blend as a:0.7+b:0.3") from None
        return tuple(terms)

    async def _resolved(self, name: str | int) -> Manifest:
        """The manifest a name stands for now. What has gone leaves the engine."""
        try:
            return await anyio.to_thread.run_sync(self._resolve, name)
        except DnaError:
            await self._sweep()
            raise

    async def _loaded(self, manifest: Manifest) -> str:
        """The engine's id of a block's adapter, verified and loaded if it is not yet."""
        async with self._state.locks.setdefault(manifest.id, anyio.Lock()):
            try:
                known = await anyio.to_thread.run_sync(self._verified, manifest)
            except DnaError:
                await self._unload(manifest.id)
                raise
            if known is not self._state.blocks.get(manifest.id):
                await self._unload(manifest.id)
            if known.adapter is None:
                path = self.parts.store.path(manifest.id)
                info = await self.engine.load(path, owner=manifest.candidate.handle)
                known.adapter = info.id
                self._state.blocks[manifest.id] = known
                if await anyio.to_thread.run_sync(stamp, path) != known.stamp:
                    await self._unload(manifest.id)
                    raise BlockCorrupt(f"block {manifest.id[:12]} changed while it was loaded", "dna verify it")
            return known.adapter

    async def _unload(self, block_id: str) -> None:
        known = self._state.blocks.pop(block_id, None)
        if known is None or known.adapter is None:
            return
        # Two blocks may hold the same adapter files, and then share the engine's adapter.
        if all(other.adapter != known.adapter for other in self._state.blocks.values()):
            await self.engine.unload(known.adapter)

    async def _notice(self) -> None:
        """Whoever revokes a block may be another process: when there is a new tombstone, what it names leaves the engine now."""
        newest = await anyio.to_thread.run_sync(self._newest_tombstone)
        if newest != self._state.revoked_at:
            self._state.revoked_at = newest
            await self._sweep()

    async def _sweep(self) -> None:
        """Unload what is no longer in the store or the registry, or was revoked."""
        for block_id in tuple(self._state.blocks):
            try:
                await anyio.to_thread.run_sync(self._resolve_id, block_id)
            except DnaError:
                await self._unload(block_id)

    # Worker threads run what follows.

    def _newest_tombstone(self) -> int:
        try:
            return (self.parts.settings.home / "store" / "revoked").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _models(self) -> tuple[Model, ...]:
        found = [self._base_model(self.engine.base.id)]
        servable, means = self._servable(), self.parts.lines.meant()
        # What may be digits of an id is looked at by itself.
        means |= {name: self._means(name) or "" for name in means if _DIGITS.fullmatch(name)}
        for line in servable:
            names = [f"{line.name}@{line.version}", f"{line.name}@{line.id[:8]}"]
            if means.get(line.name) == line.id and line.name not in self._base_names:
                names.insert(0, line.name)
            found += [self._block_model(name, line) for name in names]
        for name, block_id in sorted(self._state.aliases.items()):
            with contextlib.suppress(DnaError):
                found.append(self._block_model(name, self._resolve_id(block_id)))
        newest: set[str] = set()
        for genome in self._genomes.listed():
            names = [f"{PREFIX}{genome.name}@{genome.version}"]
            if genome.name not in newest:
                names.insert(0, f"{PREFIX}{genome.name}")
                newest.add(genome.name)
            found += [self._genome_model(name, genome) for name in names]
        return tuple(found)

    def _servable(self) -> list[BlockLine]:
        """Accepted blocks of this base, newest first. Gives each its index, the oldest first."""
        mine = [line for line in self.parts.lines.accepted() if line.fits(self.engine.base)]
        with self._numbering:  # worker threads list models side by side
            for line in reversed(mine):
                self._state.indexes.setdefault(line.id, len(self._state.indexes))
        return mine

    def _resolve(self, name: str | int) -> Manifest:
        if isinstance(name, int):
            self._servable()
            by_index = {index: block_id for block_id, index in tuple(self._state.indexes.items())}
            if name not in by_index:
                raise NotFound(f"no block has index {name}", "GET /v1/models lists them")
            return self._resolve_id(by_index[name])
        if name in self._state.aliases:
            return self._resolve_id(self._state.aliases[name])
        plain, at, digits = name.partition("@")
        if at and _DIGITS.fullmatch(digits):
            manifest = self.parts.registry.resolve(digits)
            if manifest.name != plain:
                raise BlockNotFound(f"no model {name[:80]!r}: {digits[:12]} is {manifest.name}", "GET /v1/models")
            return manifest
        return self.parts.registry.resolve(name)

    def _resolve_id(self, block_id: str) -> Manifest:
        self.parts.store.path(block_id)
        return self.parts.registry.resolve(block_id)

    def _means(self, name: str) -> str | None:
        try:
            return self.parts.registry.resolve(name).id
        except DnaError:
            return None

    async def _is_registered(self, name: str) -> bool:
        return await anyio.to_thread.run_sync(self._means, name) is not None

    def _at_path(self, where: str) -> Manifest:
        """The block whose directory ``where`` is. Only the store's own directories are looked at."""
        blocks = (self.parts.settings.home / "store" / "blocks").resolve()
        path = Path(where).resolve()
        if path.parent != blocks or not _ID.fullmatch(path.name):
            raise Refused(
                "adapters are loaded from the store alone",
                "give a block (name, name@version), or its folder in the store",
            )
        return self._resolve_id(path.name)

    def _verified(self, manifest: Manifest) -> _Loaded:
        """The block's record: as it was verified before while nothing about its files changed, else verified now. Consent each time."""
        path = self.parts.store.path(manifest.id)
        now = stamp(path)
        known = self._state.blocks.get(manifest.id)
        if known is None or known.stamp != now:
            read = factory("block", "verify")(path, self.parts.signer, expect_id=manifest.id)
            consent = consent_of(path)
            known = _Loaded(manifest=read, consent=consent, stamp=now)
        admit(
            self.parts, known.manifest, known.consent, "serve", base=self.engine.base,
            hint="serve the base it was trained on: dna serve --base",
        )  # fmt: skip
        return known

    def _base_model(self, name: str) -> Model:
        return Model(id=name, root=self.engine.base.id, parent=None, created=0)

    def _genome_model(self, name: str, genome: GenomeManifest) -> Model:
        return Model(
            id=name, root=genome.id, parent=self.engine.base.id, created=_seconds(genome.created_at),
            genome=f"{genome.name}@{genome.version}",
        )  # fmt: skip

    def _block_model(self, name: str, manifest: Manifest | BlockLine) -> Model:
        return Model(
            id=name, root=manifest.id, parent=self.engine.base.id, created=_seconds(manifest.created_at),
            block=f"{manifest.name}@{manifest.version}", block_id=manifest.id, index=self._state.indexes.get(manifest.id),
        )  # fmt: skip


def _seconds(time: str) -> int:
    try:
        return int(datetime.fromisoformat(time).timestamp())
    except ValueError:
        return 0
