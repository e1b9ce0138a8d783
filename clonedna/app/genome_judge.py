"""Who reads a request and says how similar a block is to a skill: all that is calibrated or measured about genomes, behind one seam.

``HomeJudge`` is the one of a home. Tests give their own, so that a plan can be made without a model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import anyio.to_thread

from clonedna.app.blocks import Blocks
from clonedna.app.calibrating import Calibrating, domain_of
from clonedna.app.evaluations import Evaluations
from clonedna.app.interference_kept import InterferenceKept
from clonedna.app.lineage import ancestors_of
from clonedna.app.merge_papers import Parent
from clonedna.app.needs import reader_of
from clonedna.app.papers import evaluation_of, pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import now
from clonedna.core.errors import AdapterInvalid, BadConfig, Corrupt, DnaError, InputError
from clonedna.core.genome import Conflict, DesiredGenome, Features, Match, Similarity, Skill
from clonedna.core.interference import Pairwise, WeightSketch
from clonedna.core.model import BaseInfo, Example, Score
from clonedna.core.seams import Engine
from clonedna.core.vectors import Near
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of, file_of
from clonedna.genomes import probing
from clonedna.genomes.calibration import Card
from clonedna.genomes.conflicts import judge as light
from clonedna.genomes.conflicts import noted
from clonedna.genomes.features import features_of
from clonedna.genomes.fitting import Outcome
from clonedna.genomes.kin import kin_sets, kinships
from clonedna.genomes.needs import Reader
from clonedna.genomes.routes import Routed, Thresholds, route_of, thresholds_for
from clonedna.mint.overlap import overlaps

Nll = Callable[[Sequence[Example]], Awaitable[Sequence[Score]]]
WEIGHTS = "adapter_model.safetensors"
MOST_SPECIALISTS = 200
MOST_SKETCHES = 2048
"""Kept in memory, 16 KiB each."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was measured for one skill: whether the base does it by itself (``None``: not known), s* by block, and why if nothing was."""

    base_passes: bool | None
    similarity: dict[str, Similarity]
    why: str = ""


class Judge(Protocol):
    """What a plan needs to know."""

    @property
    def calibration(self) -> str:
        """The id of what predictions come from."""
        ...

    @property
    def gated(self) -> bool:
        """Whether a gate can tell which layer answers a request."""
        ...

    def desired(self, request: str) -> DesiredGenome:
        """The request as skills. Raises ``InputError``."""
        ...

    def snapshot(self) -> str:
        """The id of what is searched."""
        ...

    def near(
        self, skills: Sequence[Skill], most: int, *, among: Collection[str] | None = None
    ) -> tuple[tuple[Near, ...], ...]:
        """For each skill the nearest blocks."""
        ...

    def features(self, desired: DesiredGenome, near: Sequence[Sequence[Near]]) -> tuple[dict[str, Features], ...]:
        """For each skill, of each block of its row by id, what s* is predicted from."""
        ...

    def predicted(self, skill: Skill, features: Features) -> Similarity:
        """s* as calibrated."""
        ...

    def unmeasured(self, base: BaseInfo) -> str:
        """Why nothing can be measured on this base; empty where it can."""
        ...

    async def probed(self, engine: Engine, skill: Skill, held: Sequence[Pair], blocks: Mapping[str, Path]) -> Probed:
        """s* as measured on held-out pairs, with the base interleaved."""
        ...

    async def through(self, engine: Engine, held: Sequence[Pair], nll: Nll) -> Similarity:
        """s* of whatever ``nll`` measures through, on held-out pairs."""
        ...

    def route(self, skill: Skill, similarity: Similarity, base_passes: bool | None, *, trainable: bool) -> Routed:
        """What is done for the best layer's similarity; ``trainable``: there are pairs enough to train from."""
        ...

    def kin(self, blocks: Mapping[str, Path]) -> dict[str, frozenset[str]]:
        """Of each block the others that it repeats, or comes from."""
        ...

    def conflicts(self, blocks: Mapping[str, Path]) -> tuple[Conflict, ...]:
        """Every ordered pair with its light."""
        ...

    def remember(self, desired: DesiredGenome, matches: Sequence[Sequence[Match]], engine: Engine) -> None:
        """Keep what was measured, to calibrate from."""
        ...

    def attested(self, one: Parent) -> tuple[float, float]:
        """How many evaluations of a block were made again with the same result, and with another."""
        ...


class HomeJudge:
    """The judge of one home. Its methods read the disk and may load the encoder."""

    def __init__(self, parts: Parts, *, thresholds: Mapping[str, Thresholds] | None = None) -> None:
        self.parts = parts
        self._calibrating = Calibrating(parts)
        self._thresholds = dict(parts.settings.route_thresholds if thresholds is None else thresholds)
        self._blocks = Blocks(parts)
        self._bars: dict[str, probing.Bar] = {}
        self._no_card = ""

    @cached_property
    def _card(self) -> Card | None:
        """The card for this encoder; without one nothing is predicted, and what was measured decides. Raises what a damaged one raises."""
        try:
            return self._calibrating.card().card
        except BadConfig as error:
            self._no_card = error.message
            return None

    @property
    def calibration(self) -> str:
        return self._card.id if self._card is not None else "none"

    @property
    def gated(self) -> bool:
        return True

    def desired(self, request: str) -> DesiredGenome:
        return self._reader.read(request)

    @cached_property
    def _reader(self) -> Reader:
        return reader_of(self.parts)

    def snapshot(self) -> str:
        return self.parts.meanings.snapshot()

    def near(
        self, skills: Sequence[Skill], most: int, *, among: Collection[str] | None = None
    ) -> tuple[tuple[Near, ...], ...]:
        return self.parts.meanings.nearest([one.words for one in skills], most, among=among)

    def features(self, desired: DesiredGenome, near: Sequence[Sequence[Near]]) -> tuple[dict[str, Features], ...]:
        rarity = self.parts.rarity
        return tuple(features_of(skill.words, row, rarity) for skill, row in zip(desired.skills, near, strict=True))

    def predicted(self, skill: Skill, features: Features) -> Similarity:
        if self._card is None:
            return Similarity(value=None, status="not_available", how=self._no_card)
        return self._calibrating.predicted(self._card, skill, features)

    def unmeasured(self, base: BaseInfo) -> str:
        bar = self._bar(base)
        return "" if bar.gain is not None else f"what a pass is, is not known: {bar.how}"

    async def probed(self, engine: Engine, skill: Skill, held: Sequence[Pair], blocks: Mapping[str, Path]) -> Probed:
        if why := await anyio.to_thread.run_sync(self.unmeasured, engine.base):
            return Probed(None, {}, why)
        bar = self._bar(engine.base)
        trained = await anyio.to_thread.run_sync(_trained, blocks)
        wanted = [probing.Probed(id=name, directory=path, trained=trained[name]) for name, path in blocks.items()]
        try:
            found = await probing.probe(engine, wanted, held, bar, overlaps=overlaps)
        except InputError as error:  # too few, or what cannot be measured: told, and nothing is verified
            return Probed(None, {}, error.message)
        return Probed(found.base_passes, dict(found.similarities))

    async def through(self, engine: Engine, held: Sequence[Pair], nll: Nll) -> Similarity:
        if len(held) < probing.LEAST:
            return Similarity(
                value=None,
                status="not_available",
                n=len(held),
                how=f"{len(held)} exemplars; {probing.LEAST} are needed",
            )
        bar = await anyio.to_thread.run_sync(self._bar, engine.base)
        examples = [example_of(pair) for pair in held]
        base, through, files = await engine.nll(examples), await nll(examples), [file_of(pair) for pair in held]
        bar, _ = probing.bar_here(bar, base, [(base, through, files)])
        return probing.similarity_of(base, through, bar, clusters=files)

    def _bar(self, base: BaseInfo) -> probing.Bar:
        """What a pass is, by the blocks of this base that are here. A card's lab is of other work: it sets no mark for these."""
        if base.fingerprint not in self._bars:
            self._bars[base.fingerprint] = probing.bar_of(self._specialists(base))
        return self._bars[base.fingerprint]

    def _specialists(self, base: BaseInfo) -> list[probing.Specialist]:
        found: list[probing.Specialist] = []
        for line in sorted(self.parts.lines.accepted(), key=lambda one: one.id):
            if len(found) == MOST_SPECIALISTS:
                break
            if not line.fits(base):
                continue
            with contextlib.suppress(DnaError):  # one that is not sound says nothing
                _, path = self._blocks.known(line.id)
                if (one := probing.specialist_of(evaluation_of(path))) is not None:
                    found.append(one)
        return found

    def route(self, skill: Skill, similarity: Similarity, base_passes: bool | None, *, trainable: bool) -> Routed:
        return route_of(
            similarity, thresholds_for(skill.node, self._thresholds), base_passes=base_passes, trainable=trainable
        )

    def kin(self, blocks: Mapping[str, Path]) -> dict[str, frozenset[str]]:
        ids = sorted(blocks)
        manifests = {name: self._blocks.known(name)[0] for name in ids}
        sketches = {name: sketch_at(name, blocks[name], one.base_fingerprint) for name, one in manifests.items()}
        sound = {name: one for name, one in sketches.items() if one is not None}
        ancestors = {name: ancestors_of(self.parts, one) for name, one in manifests.items()}
        digests = {name: one.files[WEIGHTS].sha256 for name, one in manifests.items() if WEIGHTS in one.files}
        return kin_sets(kinships(sound, ancestors, digests)) if sound else {}

    def conflicts(self, blocks: Mapping[str, Path]) -> tuple[Conflict, ...]:
        ids = sorted(blocks)
        if len(ids) < 2:
            return ()
        manifest, kept = self._blocks.known(ids[0])[0], InterferenceKept(self.parts.settings.home)
        pairs = self._pairs([(blocks[name], kept.inputs(name)) for name in ids], manifest.base_fingerprint)
        card, found = kept.card(manifest.base_fingerprint), list[Conflict]()
        notes = [one.note for one in kept.notes(ids)]
        for i, source in enumerate(ids):
            for j, target in enumerate(ids):
                if i != j:
                    seen = noted(notes, source, target, base_fingerprint=manifest.base_fingerprint)
                    found.append(light(source, target, pairs.get((i, j)), card, note=seen).conflict())
        return tuple(found)

    def _pairs(self, files: Sequence[tuple[Path, Path | None]], fingerprint: str) -> Mapping[tuple[int, int], Pairwise]:
        """Each ordered pair by its files: without covariances where one's are damaged; none where adapters cannot be laid side by side."""
        for some in (files, [(path, None) for path, _ in files]):
            with contextlib.suppress(Corrupt):
                return factory("sketch", "pairs")(some, fingerprint=fingerprint)
        return {}

    def remember(self, desired: DesiredGenome, matches: Sequence[Sequence[Match]], engine: Engine) -> None:
        encoder = self.parts.encoder
        found = [
            Outcome(
                skill=skill.text, asked=skill.asked, node=skill.node, domain=domain_of(skill.node), block=one.id, features=one.features,
                encoder=encoder.name, dimension=encoder.dimension, base_fingerprint=engine.base.fingerprint,
                value=one.measured.value, low=one.measured.low or 0.0,
                high=one.measured.high if one.measured.high is not None else 1.0, n=one.measured.n, at=now(),
            )
            for skill, row in zip(desired.skills, matches, strict=True)
            for one in row
            if one.measured.status == "measured" and one.measured.value is not None and one.measured.n
        ]  # fmt: skip
        self._calibrating.remember(found)

    def attested(self, one: Parent) -> tuple[float, float]:
        made = [again.reproduced for again in Evaluations(self.parts.settings.home).of(one.manifest.id)]
        return float(made.count(True)), float(made.count(False))


@lru_cache(maxsize=MOST_SKETCHES)
def sketch_at(block_id: str, path: Path, fingerprint: str) -> WeightSketch | None:
    """The weight sketch of a verified block, made once a process: its id is the digest of its files.

    ``None``: there is nothing to lay beside others, which composing it says.
    """
    try:
        return factory("sketch", "weights")(path, fingerprint=fingerprint)
    except AdapterInvalid:
        return None


def _trained(blocks: Mapping[str, Path]) -> dict[str, tuple[Pair, ...]]:
    return {name: tuple(pair for pair in pairs_of(path) if pair.split != "holdout") for name, path in blocks.items()}
