"""Which blocks would harm each other: lights for every ordered pair, who repeats whom, and, where that is asked for, what is measured.

Blocks are verified and admitted before anything of them is read. Without ``observe`` and ``measure`` no base is loaded: what was observed
or measured before is used. Covariances are made only of blocks whose consent covers minting: they come from the person's own pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread
from pydantic import Field

from clonedna.app.admission import admit
from clonedna.app.audit import Audit
from clonedna.app.blocks import Blocks
from clonedna.app.comparing import bases_differ
from clonedna.app.interference_kept import InterferenceKept, Noted
from clonedna.app.lineage import ancestors_of
from clonedna.app.papers import consent_of, pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stages import told
from clonedna.app.workspace import require_space
from clonedna.core.block import BlockRef, ConsentRecord, Manifest, Measure
from clonedna.core.errors import Corrupt, DnaError, InputError, Overloaded, TooLarge, WrongBase
from clonedna.core.events import Emit, silent
from clonedna.core.interference import InterferenceIndex, Kinship, PairConflict, Pairwise
from clonedna.core.model import Example
from clonedna.core.seams import Engine
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.forgetting import general_set
from clonedna.evals.likelihood import example_of, file_of
from clonedna.genomes.conflicts import judge, noted, outcomes_of
from clonedna.genomes.interference import Apart, Member, measure, note_of
from clonedna.genomes.kin import kinships

MOST_BLOCKS, MOST_MEASURED = 32, 8
MOST_OBSERVED, MOST_EXEMPLARS = 64, 48  # examples of a block
ROOM = 600 << 20
AT_ONCE, MOST_QUICK_BYTES = 2, 1 << 30  # of answers that somebody waits for
WEIGHTS = "adapter_model.safetensors"


class Conflicts(Value):
    """Of blocks of one base. ``pairs``: every ordered pair, ``source`` and ``target`` by id; ``kin``: who repeats whom.

    ``card``: what the lights were fitted on, and on how many pairs; ``without_inputs``: blocks without covariances, and why; ``index``: of
    all blocks stacked at weight 1, where it was measured.
    """

    blocks: tuple[BlockRef, ...]
    pairs: tuple[PairConflict, ...]
    kin: tuple[Kinship, ...]
    card: str
    card_pairs: int
    without_inputs: dict[str, str] = Field(default_factory=dict)
    index: InterferenceIndex | None = None
    retention: dict[str, Measure] = Field(default_factory=dict)


class Opened(Value):
    """A verified, admitted block and where it is."""

    manifest: Manifest
    path: Path
    consent: ConsentRecord


class Interfering:
    """The use case behind ``dna genome conflicts``."""

    def __init__(self, parts: Parts, emit: Emit = silent) -> None:
        self.parts, self.emit = parts, emit
        self.kept = InterferenceKept(parts.settings.home)
        self._quick = 0
        self._blocks = Blocks(parts)

    async def known(self, references: Sequence[str]) -> Conflicts:
        """By what is known already, for an answer that somebody waits for. Raises as ``conflicts``, and ``TooLarge``, ``Overloaded``."""
        if self._quick >= AT_ONCE:
            raise Overloaded(f"{self._quick} such questions are under way", "ask again in a moment", retry_after=2)
        self._quick += 1
        try:
            opened = await anyio.to_thread.run_sync(self._opened, tuple(references), False)
            size = sum(one.manifest.files[WEIGHTS].size for one in opened if WEIGHTS in one.manifest.files)
            if size > MOST_QUICK_BYTES:
                raise TooLarge(
                    f"the adapters have {size} bytes", "name fewer blocks, or give the command on that machine"
                )
            return await self.conflicts(references)
        finally:
            self._quick -= 1

    async def conflicts(
        self, references: Sequence[str], *, observe: bool = False, measured: bool = False, on: str | None = None
    ) -> Conflicts:
        """Every pair of these blocks. ``observe``: make missing covariances of what is allowed; ``measured``: stack every two and all
        together, measure what each keeps on its held-out pairs, and note it; both load the base (``on``: where it is).

        Raises ``InputError`` for fewer than 2 blocks, more than 32 (8 to measure) or one named twice; ``WrongBase``; what verifying and
        admitting raise; ``NoMemory``, ``NoSpace``.
        """
        opened = await anyio.to_thread.run_sync(self._opened, tuple(references), measured)
        without: dict[str, str] = {}
        engine = await self._engine(opened, on) if observe or measured else None
        if engine is not None and observe:
            with told(self.emit, "observe") as counts:
                without = await self._observe(engine, opened)
                counts |= {"blocks": len(opened) - len(without)}
        pairs = await anyio.to_thread.run_sync(self._pairs, opened)
        index, retention = None, dict[str, Measure]()
        if engine is not None and measured:
            with told(self.emit, "measure") as counts:
                index, retention = await self._measure(engine, opened, pairs)
                counts |= {"pairs": len(pairs)}
        return await anyio.to_thread.run_sync(self._told, opened, pairs, without, index, retention)

    def _opened(self, references: tuple[str, ...], measured: bool) -> tuple[Opened, ...]:
        most = MOST_MEASURED if measured else MOST_BLOCKS
        if not 2 <= len(references) <= most:
            raise InputError(
                f"{len(references)} named, from 2 to {most} are looked at together", "name that many blocks"
            )
        found: list[Opened] = []
        for reference in references:
            manifest, path = self._blocks.verified(reference)
            consent = consent_of(path)
            admit(self.parts, manifest, consent, "serve", base=None)
            if any(one.manifest.id == manifest.id for one in found):
                raise InputError(f"{manifest.name}@{manifest.version} is named twice", "name it once")
            if found and (unlike := bases_differ(found[0].manifest, manifest)):
                raise WrongBase(unlike, "name blocks of one base")
            found.append(Opened(manifest=manifest, path=path, consent=consent))
        return tuple(found)

    async def _engine(self, opened: Sequence[Opened], on: str | None) -> Engine:
        engine = await anyio.to_thread.run_sync(self.parts.engine, on or opened[0].manifest.base_model)
        for one in opened:
            admit(self.parts, one.manifest, one.consent, "serve", base=engine.base, hint="give their base with --on")
        return engine

    async def _observe(self, engine: Engine, opened: Sequence[Opened]) -> dict[str, str]:
        """Make the covariances that are missing; gives why some cannot be."""
        without: dict[str, str] = {}
        for one in opened:
            name = one.manifest.id
            if await anyio.to_thread.run_sync(self._sound, one):
                continue
            examples = examples_of(one.path, "train", MOST_OBSERVED)
            try:
                self.parts.consents.check(one.consent, "mint")
                if not examples:
                    raise InputError("it has no training pairs of its own", "observe the blocks it was merged from")
            except DnaError as error:
                without[name] = error.message
                continue
            require_space(self.parts.settings.home, ROOM)
            self.kept.observed(name, await engine.observe(examples, (), self.kept.place(name)))
            # Made of a person's pairs: that it was done stays on record, though the command mostly reads.
            Audit(self.parts).changed("local", "dna genome conflicts --observe", name, "ok")
        return without

    def _sound(self, one: Opened) -> bool:
        """Whether there are covariances of the block that can be read."""
        folder = self.kept.inputs(one.manifest.id)
        try:
            return folder is not None and bool(factory("covariance", "read")(folder, one.manifest.base_fingerprint))
        except (Corrupt, WrongBase):
            return False

    def _pairs(self, opened: Sequence[Opened]) -> dict[tuple[str, str], Pairwise]:
        files = [(one.path, self.kept.inputs(one.manifest.id)) for one in opened]
        found: dict[tuple[int, int], Pairwise] = factory("sketch", "pairs")(
            files, fingerprint=opened[0].manifest.base_fingerprint
        )
        ids = [one.manifest.id for one in opened]
        return {(ids[i], ids[j]): pair for (i, j), pair in found.items()}

    async def _measure(
        self, engine: Engine, opened: Sequence[Opened], pairs: Mapping[tuple[str, str], Pairwise]
    ) -> tuple[InterferenceIndex, dict[str, Measure]]:
        members: list[Member] = []
        for one in opened:
            held = spread_of(one.path, "holdout", MOST_EXEMPLARS)
            adapter = await engine.load(one.path)
            examples, files = tuple(map(example_of, held)), tuple(map(file_of, held))
            members.append(Member(one.manifest.id, adapter.id, 1.0, examples, files))
        fingerprint, apart = engine.base.fingerprint, Apart()
        for first, second in itertools.combinations(members, 2):
            found = await measure(engine, (first, second), (), by=apart)
            note = note_of(first.id, second.id, found.retention, (1.0, 1.0), base_fingerprint=fingerprint)
            self.kept.note(Noted(note=note, outcomes=outcomes_of([note], pairs)))
        whole = await measure(engine, members, [example for _, example in general_set()], by=apart)
        return whole.index, whole.retention

    def _told(
        self, opened: Sequence[Opened], pairs: Mapping[tuple[str, str], Pairwise], without: dict[str, str],
        index: InterferenceIndex | None, retention: dict[str, Measure],
    ) -> Conflicts:  # fmt: skip
        fingerprint = opened[0].manifest.base_fingerprint
        ids = [one.manifest.id for one in opened]
        notes = [one.note for one in self.kept.notes(ids)]
        card = self.kept.card(fingerprint)
        judged = tuple(
            judge(
                source,
                target,
                pairs.get((source, target)),
                card,
                note=noted(notes, source, target, base_fingerprint=fingerprint),
            )
            for source, target in itertools.permutations(ids, 2)
        )
        sketches = {one.manifest.id: factory("sketch", "weights")(one.path, fingerprint=fingerprint) for one in opened}
        missing = {
            name: without.get(name, "not observed yet: --observe") for name in ids if self.kept.inputs(name) is None
        }
        return Conflicts(
            blocks=tuple(
                BlockRef(name=one.manifest.name, version=one.manifest.version, id=one.manifest.id, status="registered") for one in opened
            ),
            pairs=judged,
            kin=kinships(
                sketches, {one.manifest.id: ancestors_of(self.parts, one.manifest) for one in opened},
                {one.manifest.id: one.manifest.files[WEIGHTS].sha256 for one in opened if WEIGHTS in one.manifest.files},
            ),
            card=card.fitted_on, card_pairs=card.n, without_inputs=missing, index=index, retention=retention,
        )  # fmt: skip


def spread_of(path: Path, split: str, most: int) -> tuple[Pair, ...]:
    """At most ``most`` of a verified block's pairs of one split, evenly over all of them."""
    found = [pair for pair in pairs_of(path) if pair.split == split]
    return tuple(found[:: max(1, -(-len(found) // most))])


def examples_of(path: Path, split: str, most: int) -> tuple[Example, ...]:
    """The same as an engine reads them."""
    return tuple(map(example_of, spread_of(path, split, most)))
