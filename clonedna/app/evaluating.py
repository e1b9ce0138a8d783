"""Examine a block again: its own hold-out, or pairs that are given, on this machine.

The block is verified before anything of it is loaded, measured on the base it was trained on, and never changed; what came out is kept in
the home. Pairs that the block was trained on are found and said: a number on training data is no number about what was learnt.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clonedna import __version__
from clonedna.app.admission import admit
from clonedna.app.controls import control_gain
from clonedna.app.evaluations import Evaluated, Evaluations
from clonedna.app.given import read_given
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import now
from clonedna.core.block import EvalSpan, Evaluation, Manifest
from clonedna.core.canonical import sha256, strict_json
from clonedna.core.errors import InputError
from clonedna.core.events import Emit, Note, StageFinished, StageProgress, StageStarted
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.again import readings
from clonedna.evals.examination import QUICK, Subject, examine, joined, with_tasks
from clonedna.evals.likelihood import file_of, likelihood_measures, score_pairs
from clonedna.evals.tasks_files import load_tasks
from clonedna.mint.overlap import overlaps

MOST_PAIRS = 5000
MOST_ID = 64
PART = 64
TRAINING = "training data"


class Evaluating:
    """The use case behind ``dna eval``."""

    def __init__(self, parts: Parts, emit: Emit) -> None:
        self.parts, self.emit = parts, emit
        self.kept = Evaluations(parts.settings.home)

    async def examine(
        self,
        reference: str,
        *,
        full: bool = False,
        tasks: Path | None = None,
        samples: int = 1,
        on: str | None = None,
        seed: int | None = None,
        unsafe: bool = False,
    ) -> Evaluated:
        """Measure again what ``eval.json`` says, on the block's own pairs; ``full`` also measures what takes long.

        ``tasks``: programming tasks for ``full`` (JSONL of HumanEval or MBPP) in place of the bundled ones; ``samples``: answers to each.
        ``on``: where the base is, if not under the name that the block gives; ``unsafe``: also one that the gate rejected, by its id.
        Raises what verifying and admitting raise, ``InputError`` for a block that has no pairs of its own.
        """
        began = time.monotonic()
        instruments = with_tasks(load_tasks(tasks) if tasks is not None else None, samples) if full else QUICK
        manifest, path = self._verified(reference, unsafe)
        pairs = () if manifest.recipe is None else read_pairs((path / "pairs.jsonl").read_bytes(), "pairs.jsonl")
        holdout = [pair for pair in pairs if pair.split == "holdout"]
        if manifest.recipe is None or not holdout:
            raise InputError(
                f"{manifest.name}@{manifest.version} has no held-out pairs of its own (it is {manifest.lineage.relation})",
                "give pairs to measure it on: --pairs FILE.jsonl",
            )
        engine = self._engine(manifest, path, on)
        adapter = await engine.load(path)
        self.emit(StageStarted(stage="evaluate"))
        subject = Subject(
            engine=engine, adapter=adapter.id, directory=path, holdout=holdout,
            trained=[pair for pair in pairs if pair.split == "train"], recipe=manifest.recipe,
            seed=manifest.recipe.seed if seed is None else seed, emit=self.emit,
        )  # fmt: skip
        found = await examine(subject, self.parts.lent(), instruments, emit=self.emit)
        if full:
            gain = await control_gain(self.parts, manifest, engine, adapter=adapter.id, emit=self.emit)
            found = joined(found, Evaluation(measures={"identity.gain": gain}))
        stored = Evaluation.model_validate(strict_json((path / "eval.json").read_bytes()))
        compared = readings(stored, found, same_dtype=manifest.recipe.dtype in ("", engine.base.dtype))
        agree = [one.within for one in compared if one.within is not None]
        return self._keep(
            Evaluated(
                **self._facts(manifest, engine, began), kind="full" if full else "quick", seed=subject.seed,
                evaluation=found, readings=compared, reproduced=all(agree) if agree else None,
            )
        )  # fmt: skip

    async def measure(
        self, reference: str, file: Path, *, on: str | None = None, seed: int | None = None, unsafe: bool = False
    ) -> Evaluated:
        """Likelihood on the pairs in ``file`` (JSONL in the form of a block's ``pairs.jsonl``), with what of them the block was trained on.

        Raises ``InputError`` naming the line that is none, ``TooLarge``, and as ``examine`` does.
        """
        began = time.monotonic()
        data = read_given(
            file, self.parts.settings.max_upload_bytes, "give a file of pairs (JSONL), or raise max_upload_bytes"
        )
        given = read_pairs(data, file.name)
        manifest, path = self._verified(reference, unsafe)
        engine = self._engine(manifest, path, on)
        own = read_pairs((path / "pairs.jsonl").read_bytes(), "pairs.jsonl") if manifest.recipe is not None else ()
        kinds = Counter(kind for kind in overlaps(given, [p for p in own if p.split != "holdout"]) if kind)
        contaminated = kinds.total() / len(given)
        if contaminated:
            self.emit(Note(level="warning", text=f"{kinds.total()} of {len(given)} pairs are {TRAINING} of this block"))
        adapter = await engine.load(path)
        self.emit(StageStarted(stage="evaluate"))
        drawn = manifest.recipe.seed if seed is None and manifest.recipe is not None else seed or 0
        spans = await self._scored(engine, given, adapter.id)
        split = TRAINING if contaminated else "given"
        files = [file_of(pair) for pair in given]
        found = Evaluation(measures=likelihood_measures(spans, files=files, split=split, seed=drawn), spans=spans)
        if not manifest.recipe:
            self.emit(
                Note(level="warning", text="a merged block has no pairs: what its parents were trained on is not seen")
            )
        return self._keep(
            Evaluated(
                **self._facts(manifest, engine, began), kind="pairs", seed=drawn, evaluation=found, pairs=sha256(data),
                contaminated=contaminated if manifest.recipe else None, overlaps=dict(sorted(kinds.items())),
            )
        )  # fmt: skip

    async def _scored(self, engine: Engine, pairs: Sequence[Pair], adapter: str) -> tuple[EvalSpan, ...]:
        """As ``score_pairs``, a part at a time, telling how far it is."""
        spans: list[EvalSpan] = []
        began = time.monotonic()
        for start in range(0, len(pairs), PART):
            spans += await score_pairs(engine, pairs[start : start + PART], adapter)
            rate = len(spans) / max(time.monotonic() - began, 1e-9)
            left = round((len(pairs) - len(spans)) / rate, 1)
            self.emit(
                StageProgress(
                    stage="evaluate", done=len(spans), total=len(pairs), unit="pairs", rate=rate, eta_seconds=left
                )
            )
        return tuple(spans)

    def _verified(self, reference: str, unsafe: bool) -> tuple[Manifest, Path]:
        manifest = self.parts.registry.resolve(reference, unsafe=unsafe)
        path = self.parts.store.path(manifest.id)
        return factory("block", "verify")(path, self.parts.signer, expect_id=manifest.id), path

    def _engine(self, manifest: Manifest, path: Path, on: str | None) -> Engine:
        consent = consent_of(path)
        engine = self.parts.engine(on or manifest.base_model)
        admit(
            self.parts, manifest, consent, "serve", base=engine.base, hint="give the base it was trained on with --on"
        )
        return engine

    def _facts(self, manifest: Manifest, engine: Engine, began: float) -> dict[str, Any]:
        return {
            "block": f"{manifest.name}@{manifest.version}", "block_id": manifest.id, "at": now(), "base": engine.base,
            "version": __version__, "seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip

    def _keep(self, evaluated: Evaluated) -> Evaluated:
        self.kept.keep(evaluated)
        self.emit(StageFinished(stage="evaluate", seconds=evaluated.seconds))
        return evaluated


def read_pairs(data: bytes, name: str) -> Sequence[Pair]:
    """The pairs of a JSONL file, each line checked. Raises ``InputError`` with the line's number, never with what stands there."""
    hint = "each line is one pair as in a block's pairs.jsonl"
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) > MOST_PAIRS:
        raise InputError(f"{name} has {len(lines)} pairs; at most {MOST_PAIRS} are measured at once", "give fewer")
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        try:
            pair = Pair.model_validate(strict_json(line))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"][:1])
            raise InputError(f"{name}, line {number}: not a pair ({where or 'no object'})", hint) from None
        except (ValueError, RecursionError):
            raise InputError(f"{name}, line {number}: not JSON", hint) from None
        if not pair.completion.strip() or len(pair.id) > MOST_ID:
            raise InputError(
                f"{name}, line {number}: a pair has an answer, and an id of at most {MOST_ID} characters", hint
            )
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{name} has no pairs", hint)
    return tuple(pairs)
