"""Whose style is it? Several blocks of one base, each asked about everybody's held-out code.

Blocks are verified and admitted before anything of them is loaded. A hold-out pair that stands, exactly or nearly, in what any of the
compared blocks was trained on, or in somebody else's hold-out, is left out and counted: it could not tell anybody apart. The base is
loaded once, and so is each block.

    identity/results/<digest>/blocks.json, result.json
                             /matrix.svg, .png, matrix-dark.svg, .png

The digest is over the blocks' ids and whether controls were wanted. Numbers, names and digests stand there, no code; the results go
when one of the blocks does (`clonedna.app.identity_kept`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from clonedna.app.controls import Block, Control, Controls, admit_block, measured_over, note_of, open_block
from clonedna.app.identity_kept import root
from clonedna.app.identity_report import IdentityReport, compared, files_of, remarks
from clonedna.app.parts import Parts
from clonedna.app.workspace import write_atomic
from clonedna.core.block import Measure, not_available
from clonedna.core.canonical import canonical, digest
from clonedna.core.errors import InputError, WrongBase
from clonedna.core.events import Emit, Note, StageFinished, StageProgress, StageStarted
from clonedna.core.model import Score
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.identity import Held, Identified, Person, identify, score_all
from clonedna.evals.likelihood import file_of
from clonedna.mint.overlap import overlaps

MOST_BLOCKS = 64


class Identifying:
    """The use case over one process's parts."""

    def __init__(self, parts: Parts, emit: Emit) -> None:
        self.parts, self.emit = parts, emit

    async def identify(
        self, references: Sequence[str], *, controls: bool = True, unsafe: bool = False
    ) -> tuple[IdentityReport, Path]:
        """Compare the blocks; gives the report and the folder where it and its pictures are kept.

        ``unsafe``: also a block that the gate rejected, by its id. Raises ``InputError`` for one block alone, the same one twice, one that
        has no hold-out, or blocks of one person only; ``WrongBase`` naming blocks of different bases; what verifying and admitting raise.
        """
        blocks = await anyio.to_thread.run_sync(self._blocks, references, unsafe)
        engine = self.parts.engine(blocks[0].manifest.base_model)
        for block in blocks:
            admit_block(self.parts, block, engine)
        people, held = held_out(blocks)
        adapters = [(await engine.load(block.path)).id for block in blocks]
        pairs = [pair for of_person in held for pair in of_person]
        began = time.monotonic()
        self.emit(StageStarted(stage="score"))
        scores = await score_all(engine, pairs, adapters, emit=self.emit)
        seconds = round(time.monotonic() - began, 3)
        self.emit(StageFinished(stage="score", seconds=seconds, counts={"blocks": len(blocks), "spans": len(pairs)}))
        rows = _rows(held, scores)
        found = identify([str(block) for block in blocks], people, rows)
        if controls:
            gains = await self._controls(engine, blocks, adapters, found, held)
            with_controls = [
                p.model_copy(update={"control": gain}) for p, gain in zip(found.people, gains, strict=True)
            ]
            found = found.model_copy(update={"people": tuple(with_controls)})
        report = IdentityReport(
            base=engine.base, blocks=tuple(map(compared, blocks)), identified=found, controls=controls,
            remarks=tuple(remarks(blocks, found)), seconds=seconds, held=tuple(rows),
        )  # fmt: skip
        return report, await anyio.to_thread.run_sync(self._keep, report)

    def _blocks(self, references: Sequence[str], unsafe: bool) -> list[Block]:
        if not 2 <= len(references) <= MOST_BLOCKS:
            raise InputError(
                f"blocks given: {len(references)}; whose style it is can be asked of 2 to {MOST_BLOCKS}",
                "give several blocks of one base: dna eval --identity ADA BOB CY",
            )
        manifests = [self.parts.registry.resolve(reference, unsafe=unsafe) for reference in references]
        for i, manifest in enumerate(manifests):
            twice = next((r for r, m in zip(references, manifests[:i], strict=False) if m.id == manifest.id), None)
            if twice is not None:
                raise InputError(f"{references[i]} and {twice} are the same block", "name each block once")
        first = manifests[0]
        for manifest in manifests[1:]:
            same = (manifest.base_fingerprint, manifest.base_weights_digest or first.base_weights_digest)
            if same != (first.base_fingerprint, first.base_weights_digest or manifest.base_weights_digest):
                raise WrongBase(
                    f"{first.name}@{first.version} is for {first.base_model} ({first.base_fingerprint[:12]}), "
                    f"{manifest.name}@{manifest.version} for {manifest.base_model} ({manifest.base_fingerprint[:12]})",
                    "compare blocks of one base: dna ls --json shows each one's",
                )
        blocks = [open_block(self.parts, manifest) for manifest in manifests]
        for block in blocks:
            if not block.split("holdout"):
                raise InputError(
                    f"{block} has no held-out pairs of its own (it is {block.manifest.lineage.relation})",
                    "compare the blocks that it was made from",
                )
        if len({block.person for block in blocks}) == 1:
            raise InputError(
                f"all these blocks are of one person ({blocks[0].manifest.candidate.handle})",
                "add a block of somebody else; two of one person: dna compare",
            )
        return blocks

    async def _controls(
        self, engine: Engine, blocks: Sequence[Block], adapters: Sequence[str], found: Identified,
        held: Sequence[Sequence[Pair]],
    ) -> list[Measure]:  # fmt: skip
        """``identity.gain`` of each person's best own block."""
        kept, gains = Controls(self.parts, engine), list[Measure]()
        began = time.monotonic()
        self.emit(StageStarted(stage="controls"))
        for j, (one, pairs) in enumerate(zip(found.people, held, strict=True)):
            row = max(one.person.own, key=lambda i: found.matrix[i][j] or 0.0)
            block, others = blocks[row], [b for i, b in enumerate(blocks) if i not in one.person.own]
            if not pairs:
                gains.append(one.gain)
                continue
            control = await kept.trained(block, others, _Progress(self.emit, j, len(held), str(block)))
            self.emit(note_of(control, block))
            if isinstance(control, Control):
                seed = block.manifest.recipe.seed if block.manifest.recipe else 0
                gains.append(await measured_over(engine, control, pairs, adapters[row], seed=seed))
            else:
                gains.append(not_available(control))
        seconds = round(time.monotonic() - began, 3)
        made = sum(gain.value is not None for gain in gains)
        self.emit(StageFinished(stage="controls", seconds=seconds, counts={"controls": made}))
        return gains

    def _keep(self, report: IdentityReport) -> Path:
        ids = sorted(block.block_id for block in report.blocks)
        folder = root(self.parts.settings.home) / "results" / digest([ids, report.controls])[:32]
        write_atomic(folder / "blocks.json", canonical(ids))
        for name, data in files_of(report).items():
            write_atomic(folder / name, data)
        return folder


class _Progress:
    """Events of one control's stages as progress of all controls: what is left is what this one took, for each that is to come."""

    def __init__(self, emit: Emit, before: int, total: int, block: str) -> None:
        self._emit, self._before, self._total, self._block = emit, before, total, block
        self._began = time.monotonic()

    def __call__(self, event: object) -> None:
        if isinstance(event, StageProgress):
            left, unit = None, f"steps (control {self._before + 1} of {self._total}, {self._block}: {event.stage})"
            if event.stage == "train" and event.eta_seconds is not None:
                whole = time.monotonic() - self._began + event.eta_seconds
                left = round(event.eta_seconds + whole * (self._total - self._before - 1), 1)
            done, total = self._before * event.total + event.done, self._total * event.total
            told = {"stage": "controls", "done": done, "total": total, "unit": unit, "eta_seconds": left}
            self._emit(event.model_copy(update=told))
        elif isinstance(event, Note):
            self._emit(event)


def held_out(blocks: Sequence[Block]) -> tuple[list[Person], list[list[Pair]]]:
    """The columns, by handle in the order of their first block, and what is left of each one's hold-out (of all their blocks, once)."""
    handles = list(dict.fromkeys(block.person for block in blocks))
    trained = [pair for block in blocks for pair in block.split("train", "validation")]
    each: list[list[Pair]] = []
    for handle in handles:
        own = {p.provenance.sha256: p for block in blocks if block.person == handle for p in block.split("holdout")}
        each.append([own[key] for key in sorted(own)])
    people: list[Person] = []
    left: list[list[Pair]] = []
    for j, (handle, own) in enumerate(zip(handles, each, strict=True)):
        elsewhere = [pair for i, pairs in enumerate(each) if i != j for pair in pairs]
        kept = [
            pair
            for pair, seen, shared in zip(own, overlaps(own, trained), overlaps(own, elsewhere), strict=True)
            if not seen and not shared
        ]
        rows = tuple(i for i, block in enumerate(blocks) if block.person == handle)
        name = blocks[rows[0]].manifest.candidate.name
        people.append(Person(name=name, handle=handle, own=rows, left_out=len(own) - len(kept)))
        left.append(kept)
    return people, left


def _rows(held: Sequence[Sequence[Pair]], scores: Sequence[Sequence[Score]]) -> list[Held]:
    base, *blocks = scores
    rows: list[Held] = []
    for person, pairs in enumerate(held):
        for pair in pairs:
            n = len(rows)
            rows.append(
                Held(
                    pair=pair.id, person=person, file=file_of(pair), tokens=base[n].tokens, base=base[n].nll,
                    blocks=tuple(of_block[n].nll for of_block in blocks),
                )
            )  # fmt: skip
    return rows
