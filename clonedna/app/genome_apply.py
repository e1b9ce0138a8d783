"""A plan carried out, stage by stage: resolve -> train -> compose -> evaluate -> sign -> store.

Each stage leaves one value, and doing it again gives the same: a job that was killed anywhere ends in the manifest that it would have had.
The only time in a manifest is the one at which the job was ordered; what a clock measured stands in the job's result.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from clonedna.app import genome_checks
from clonedna.app.blocks import Blocks
from clonedna.app.genome_choosing import MOST_HELD, gate_of, shares_of
from clonedna.app.genome_composite import Composed, Composite
from clonedna.app.genome_judge import HomeJudge, Judge
from clonedna.app.genome_merging import merged
from clonedna.app.genome_plan import Planning
from clonedna.app.genome_plan_values import composition_of, members_of
from clonedna.app.genome_training import Trainer, Trainings
from clonedna.app.genome_values import ApplyOrder, Assembled, KeptPlan, PlanAsk
from clonedna.app.genomes import following
from clonedna.app.papers import pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stages import watched
from clonedna.app.workspace import Workspace, naming, require_space
from clonedna.core.block import Measure
from clonedna.core.errors import DnaError, GenomeEmpty, PlanStale, Refused, WrongBase
from clonedna.core.events import Emit, Note, StageFinished, StageStarted
from clonedna.core.genome import (
    Composition,
    GenomeEvaluation,
    GenomeManifest,
    GenomePlan,
    SignedGenome,
    Similarity,
    genome_id,
)
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.forgetting import general_set
from clonedna.evals.likelihood import example_of
from clonedna.genomes import assembly
from clonedna.genomes.interference import guard_rise, index
from clonedna.genomes.planning import Choosing
from clonedna.mint.overlap import overlaps

STAGES = ("resolve", "train", "compose", "evaluate", "sign", "store")
NEED_NOT_HOLD = frozenset({"pool", "conflicts", "evidence", "pace"})
"""What a plan was decided by that is looked at in another way, or does not matter, when it is carried out."""
WEIGHTS = "adapter_model.safetensors"
V = TypeVar("V", bound=Value)
Outcome = tuple[Value, dict[str, int | float | str]]


class Resolved(Value):
    """The plan, still true, and where its base is."""

    kept: KeptPlan
    base: str


class Evaluated(Value):
    evaluation: GenomeEvaluation
    latency: Measure
    uncovered: tuple[str, ...]


class Assembling:
    """Runs single stages of one job. ``stopped`` raises ``Interrupted`` once the job should stop; ``emit`` does so as well."""

    def __init__(
        self, workspace: Workspace, order: ApplyOrder, created_at: str, parts: Parts, emit: Emit, stopped: Callable[[], None], *,
        judge: Judge | None = None,
    ) -> None:  # fmt: skip
        self.workspace, self.order, self.created_at, self.parts = workspace, order, created_at, parts
        self.emit, self.stopped = emit, stopped
        self.planning = Planning(parts, judge or HomeJudge(parts), emit)
        self._blocks = Blocks(parts)

    def run(self, stage: str) -> str:
        """Do ``stage``, keep its value in the workspace, give the value's SHA-256. Errors are ``DnaError``, but those of the disk."""
        began = time.monotonic()
        self.emit(StageStarted(stage=stage))
        if stage == "train":  # its mints have event loops of their own
            value, counts = self._train()
        else:
            work: Callable[[], Awaitable[Outcome]] = getattr(self, f"_{stage}")
            value, counts = anyio.run(watched, work, self.stopped)
        kept = self.workspace.write(f"stages/{stage}.json", value)
        self.emit(StageFinished(stage=stage, seconds=round(time.monotonic() - began, 3), counts=counts))
        return kept

    def _load(self, stage: str, kind: type[V]) -> V:
        return self.workspace.read(f"stages/{stage}.json", kind)

    async def _resolve(self) -> Outcome:
        """The plan as it was kept, when what it was made of is as it was. Raises ``PlanStale`` naming what changed, ``WrongBase``."""
        require_space(self.workspace.directory, self.parts.settings.min_free_bytes)
        if self.order.ask is not None:
            return await self._planned(self.order.ask)
        kept = await anyio.to_thread.run_sync(self.planning.find, str(self.order.plan))
        base = self.order.on or kept.plan.base_model
        if self.parts.engine(base).base.fingerprint != kept.plan.base_fingerprint:
            raise WrongBase(f"the plan is for {kept.plan.base_model}", "say where that base is with --on")
        await anyio.to_thread.run_sync(self._refuse_stale, kept, base)
        return Resolved(kept=kept, base=base), {"skills": len(kept.plan.skills)}

    async def _planned(self, ask: PlanAsk) -> Outcome:
        """A need is planned first. Raises as ``Planning.plan``."""
        base = self.order.on or self.parts.settings.base
        pairs = self.workspace.given(ask.pairs.sha256) if ask.pairs is not None else None
        kept = await self.planning.plan(ask, base, pairs=pairs)
        return Resolved(kept=kept, base=base), {"skills": len(kept.plan.skills), "plan": kept.plan.id[:12]}

    def _refuse_stale(self, kept: KeptPlan, base: str) -> None:
        changed = [f"{name}: {code}" for name, code in self._lost(kept)]
        config = Choosing(target=kept.ask.target, layers=kept.ask.layers)
        desired = self.planning.judge.desired(kept.ask.request)
        now = self.planning.decided_by(kept.ask, desired, self.parts.engine(base).base, config)
        then = kept.plan.decided_by
        changed += [
            one
            for one in sorted(then.keys() | now.keys())
            if one not in NEED_NOT_HOLD and then.get(one) != now.get(one)
        ]
        if changed:
            raise PlanStale(
                f"the plan was made of another home than this one is now: {', '.join(changed)}", "plan it again: dna genome plan",
                changed=changed,
            )  # fmt: skip

    def _lost(self, kept: KeptPlan) -> list[tuple[str, str]]:
        """Layers of the plan that may not be used any more, with the code of why."""
        lost: list[tuple[str, str]] = []
        for skill in kept.plan.skills:
            if skill.layer is not None:
                try:
                    genome_checks.member(self.parts, skill.layer, self._blocks)
                except DnaError as error:
                    name = next(
                        (f"{m.name}@{m.version}" for m in skill.matches if m.id == skill.layer), skill.layer[:12]
                    )
                    lost.append((name, error.code))
        return lost

    def _train(self) -> Outcome:
        resolved = self._load("resolve", Resolved)
        trainer = Trainer(
            self.workspace, self.parts, self.emit, self.stopped, base=resolved.base, name=self.order.name, created_at=self.created_at,
            files=self.planning.folder(resolved.kept.plan.id),
        )  # fmt: skip
        done = trainer.all(resolved.kept)
        return done, {"trained": len(done.layers), "accepted": sum(not one.why for one in done.layers)}

    async def _compose(self) -> Outcome:
        """Members that are still allowed, in the order of the skills, and how they become one model."""
        resolved, trainings = self._load("resolve", Resolved), self._load("train", Trainings)
        composed = await anyio.to_thread.run_sync(self._composed, resolved, trainings)
        if composed.composition.kind == "merge":
            parents = [genome_checks.member(self.parts, one.id, self._blocks) for one in composed.layers]
            engine = self.parts.engine(resolved.base)
            made = await merged(self.parts, engine, parents, f"{self.order.name}-merged"[:64], self.emit)
            composed = composed.model_copy(update={"artifact": made.block.id})
        kind = composed.composition
        return composed, {
            "layers": len(composed.layers),
            "kind": kind.kind,
            "method": kind.method,
            "licence": composed.license,
        }

    def _composed(self, resolved: Resolved, trainings: Trainings) -> Composed:
        plan = resolved.kept.plan
        covered = self._covered(resolved, trainings)
        ids = list(dict.fromkeys(covered.values()))
        if not ids:
            gaps = [f"{one.skill}: {one.why}" for one in trainings.layers if one.why]
            raise GenomeEmpty(
                "no layer is left: what was trained was not accepted, and no block brings it as it is",
                "see why: dna jobs logs; give other or more pairs, then plan it again", gaps=gaps,
            )  # fmt: skip
        parents = [genome_checks.member(self.parts, one, self._blocks) for one in ids]
        for one in parents:
            if one.manifest.base_fingerprint != plan.base_fingerprint:
                raise WrongBase(f"{one.reference} is for {one.manifest.base_model}", "plan it again: dna genome plan")
        composition = composition_of(len(ids), resolved.kept.ask, self.planning.judge.gated)
        gate, shares = None, None
        if composition.method == "mixture":
            shares = shares_of(self.parts, parents)
        elif composition.method == "gate":
            try:
                gate = gate_of(self.parts, parents)
            except Refused as error:
                if resolved.kept.ask.compose != "auto":
                    raise
                self.emit(Note(level="warning", text=f"{error.message}: the layers are averaged"))
                composition = Composition(kind="stack", method="cat")
        skills = [
            (one.manifest, [name for name, block in covered.items() if block == one.manifest.id]) for one in parents
        ]
        rows = self.parts.encoder.encode([one.manifest.capability.text for one in parents]).rows
        return Composed(
            layers=assembly.layers_of(skills, composition), composition=composition, gate=gate, shares=shares, covered=covered,
            license=genome_checks.licence_meet(parents), embedding=assembly.centroid(rows),
        )  # fmt: skip

    def _covered(self, resolved: Resolved, trainings: Trainings) -> dict[str, str]:
        """The layer of each skill: as planned, as trained, or the one that was to be refined where that was not accepted."""
        as_is, trained = set(members_of(resolved.kept.plan.skills)), {one.skill: one for one in trainings.layers}
        covered: dict[str, str] = {}
        for one in resolved.kept.plan.skills:
            made = trained.get(one.skill.text)
            if made is not None and made.block is not None and not made.why:
                covered[one.skill.text] = made.block.id
            elif (
                one.layer is not None
                and one.route != "scratch"
                and (one.layer in as_is or (made and one.route == "refine" and one.verified))
            ):
                covered[one.skill.text] = one.layer
        return covered

    async def _evaluate(self) -> Outcome:
        """What the composition is worth on what no layer of it was trained on."""
        resolved, composed = self._load("resolve", Resolved), self._load("compose", Composed)
        found = await self._measured(resolved, composed)
        evaluation = found.evaluation
        known = [one.value for one in evaluation.retention.values() if one.value is not None]
        counts: dict[str, int | float | str] = {"skills": len(evaluation.similarity), "uncovered": len(found.uncovered)}
        if known:
            counts |= {"retention": round(sum(known) / len(known), 4), "worst": round(min(known), 4)}
        return found, counts

    async def _measured(self, resolved: Resolved, composed: Composed) -> Evaluated:
        plan, engine = resolved.kept.plan, self.parts.engine(resolved.base)
        adapters: dict[str, str] = {}
        for one in composed.layers:
            adapters[one.id] = (await engine.load(self._blocks.known(one.id)[1])).id
        if composed.artifact is not None:
            adapters[composed.artifact] = (await engine.load(self._blocks.known(composed.artifact)[1])).id
        model = Composite(engine, composed, adapters, self.parts.encoder)
        retention, held = dict[str, Measure](), list[Pair]()
        for one in composed.layers:
            own = [
                pair
                for pair in pairs_of(self._blocks.known(one.id)[1])
                if pair.split == "holdout" and not pair.ancestor
            ]
            retention[one.id] = await model.retention(one.id, own[:MOST_HELD], seed=resolved.kept.ask.seed)
            held += own[:2]
        guard = [example for _, example in general_set()]
        rise = guard_rise(await engine.nll(guard), await model.nll(guard))
        judged = index(list(retention.values()), rise, routed=composed.gate is not None)
        similarity = await self._similarity(plan, composed, model)
        served = [one.id for one in composed.layers] if composed.artifact is None else [composed.artifact]
        sizes = [self._blocks.known(one)[0].files[WEIGHTS].size for one in served]
        evaluation = GenomeEvaluation(
            similarity={name: assembly.shared(one) for name, one in similarity.items()},
            retention={name: assembly.rounded(one) for name, one in retention.items()},
            interference=assembly.rounded(judged.member), guard=assembly.rounded(judged.guard), latency_ms=assembly.no_latency(),
            bytes=sum(sizes),
        )  # fmt: skip
        latency = await model.latency([example_of(pair) for pair in held[:4]])
        return Evaluated(
            evaluation=evaluation, latency=latency, uncovered=assembly.uncovered(plan.skills, composed.covered)
        )

    async def _similarity(self, plan: GenomePlan, composed: Composed, model: Composite) -> dict[str, Similarity]:
        """s* of the composition for each skill, on the exemplars that the plan kept, less those that a member was trained on."""
        trained = [
            pair
            for one in composed.layers
            for pair in pairs_of(self._blocks.known(one.id)[1])
            if pair.split != "holdout"
        ]
        found: dict[str, Similarity] = {}
        for number, skill in enumerate(plan.skills):
            name = skill.skill.text
            if name not in composed.covered:
                why = "the base does it by itself" if skill.route == "base-suffices" else "no layer covers it"
                found[name] = Similarity(value=None, status="not_available", how=why)
                continue
            held = self._held(plan.id, number)
            kinds = overlaps(held, trained) if held and trained else [None] * len(held)
            held = tuple(pair for pair, kind in zip(held, kinds, strict=True) if not kind)
            found[name] = await self.planning.judge.through(model.engine, held, model.nll)
        return found

    def _held(self, plan: str, number: int) -> tuple[Pair, ...]:
        path = self.planning.folder(plan) / f"held-{number}.jsonl"
        if not path.is_file():
            return ()
        return tuple(Pair.model_validate_json(line) for line in path.read_bytes().split(b"\n") if line)

    async def _sign(self) -> Outcome:
        signed = await anyio.to_thread.run_sync(self._signed)
        return signed, {"id": signed.manifest.id[:12], "version": signed.manifest.version}

    def _signed(self) -> SignedGenome:
        """The manifest under the next version of its name; the one that is there already where it is the same in everything else."""
        before = self.parts.genomes.manifests(self.order.name)
        version, parent = following(before)
        plan = self._load("resolve", Resolved).kept.plan.id
        known = next((one for one in before if one.plan == plan and one.created_at == self.created_at), None)
        if known is not None:
            version, parent = known.version, known.parent
        manifest = self._manifest(version, parent)
        return factory("genomes", "sign")(manifest, self.parts.signer)

    async def _store(self) -> Outcome:
        """Kept, when its members are still allowed. If another genome took its version meanwhile, it is signed as the next one."""
        assembled = await anyio.to_thread.run_sync(self._stored)
        genome = assembled.genome
        return assembled, {"genome": f"{genome.name}@{genome.version}", "id": genome.id[:12]}

    def _stored(self) -> Assembled:
        signed = self._load("sign", SignedGenome)
        genome_checks.members(self.parts, signed.manifest, self._blocks)
        with naming(self.parts.settings.home):
            taken = next(
                (
                    one
                    for one in self.parts.genomes.manifests(self.order.name)
                    if one.version == signed.manifest.version
                ),
                None,
            )
            if taken is not None and taken.id != signed.manifest.id:
                signed = self._signed()
            self.parts.genomes.put(signed)
        evaluated, trainings = self._load("evaluate", Evaluated), self._load("train", Trainings)
        plan = self._load("resolve", Resolved).kept.plan
        return Assembled(
            genome=signed.manifest, trained=trainings.layers, uncovered=evaluated.uncovered, latency=evaluated.latency,
            warnings=plan.warnings,
        )  # fmt: skip

    def _manifest(self, version: str, parent: str | None) -> GenomeManifest:
        plan, composed = self._load("resolve", Resolved).kept.plan, self._load("compose", Composed)
        weights = plan.decided_by.get("weights") or None
        made = GenomeManifest(
            id="0" * 64, name=self.order.name, version=version, parent=parent, created_at=self.created_at,
            created_by=self.parts.signer.key_id, base_model=plan.base_model, base_fingerprint=plan.base_fingerprint,
            base_weights_digest=weights, desired=plan.desired, layers=composed.layers, composition=composed.composition,
            gate=composed.gate, shares=composed.shares, artifact=composed.artifact,
            module_map=assembly.module_map(composed.layers), encoder=self.parts.encoder.name,
            composite_embedding=composed.embedding, plan=plan.id, snapshot=plan.decided_by["snapshot"],
            calibration=plan.decided_by["calibration"], evaluation=self._load("evaluate", Evaluated).evaluation,
            license=composed.license,
        )  # fmt: skip
        return made.model_copy(update={"id": genome_id(made)})
