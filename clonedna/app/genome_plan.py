"""A plan for a need: what is asked, which blocks may answer, how much of it each brings, what is done for each skill, what that takes.

Nothing is trained and nothing is changed, but that the plan is kept under its id. The same request over the same home, settings and seed
gives the same bytes: what a training takes comes from the records of this machine, never from a clock that runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio.from_thread
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from clonedna.app import genome_checks
from clonedna.app.blocks import Blocks
from clonedna.app.genome_costs import Costs
from clonedna.app.genome_judge import Judge, Probed
from clonedna.app.genome_pairs import Evidence, Evidences, Handed
from clonedna.app.genome_plan_values import (
    HALF,
    adapter_bytes,
    best_evidence,
    best_known,
    claimed,
    closest,
    composition_of,
    covered_by,
    expected,
    likest,
    members_of,
    nothing,
    stranger,
    trained_on,
    warnings_of,
    with_measured,
    within,
)
from clonedna.app.genome_values import KeptPlan, PlanAsk
from clonedna.app.merge_papers import Parent
from clonedna.app.orders import spdx
from clonedna.app.parts import Parts
from clonedna.app.stages import told
from clonedna.app.workspace import write_atomic
from clonedna.core.block import Measure
from clonedna.core.canonical import canonical, digest
from clonedna.core.catalogue import Filters
from clonedna.core.errors import Corrupt, DnaError, InputError, NotFound, WrongBase
from clonedna.core.events import Emit, silent
from clonedna.core.genome import (
    DesiredGenome,
    Features,
    GenomePlan,
    Match,
    Refused,
    Similarity,
    Skill,
    SkillPlan,
)
from clonedna.core.model import BaseInfo
from clonedna.core.vectors import Near
from clonedna.genomes.planning import Candidate, Choosing, Chosen, chosen, nearest, plan_id, ranked, trust_prior
from clonedna.genomes.probing import LEAST
from clonedna.genomes.ranking import DIGITS, alike
from clonedna.genomes.routes import Routed, figures

FOLDER = "plans"
VERSION = "plan-9"
"""Changes when the same inputs would give another plan."""
WIDE = 200
"""Nearest blocks that a skill's figures are told from; only the nearest of them are candidates."""
SHOWN = 5
MOST_REFUSED = 20
TRAINED = ("refine", "fork", "scratch")
NO_BLOCK = Similarity(value=None, status="not_available", how="no block is near")
NO_TIME = Measure(value=0.0, status="measured", n=0, how="nothing is trained")
HARM = {"green": 0.0, "amber": 0.5, "red": 1.0, "unknown": 0.25}


@dataclass(frozen=True, slots=True)
class Pool:
    """What the search left: for each skill what is known of the near blocks that passed the gate; and those that may not be used."""

    features: tuple[dict[str, Features], ...]
    parents: dict[str, Parent]
    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]
    rows: dict[str, NDArray[np.float32]] = field(default_factory=dict[str, "NDArray[np.float32]"])

    @property
    def digest(self) -> str:
        """Of who may be a layer and how much it is trusted, and who may not and why: all that changes without the index."""
        return digest([[[one.id, one.trust] for one in self.candidates], [[one.id, one.code] for one in self.refused]])

    def cosine(self, a: str, b: str) -> float:
        one, two = self.rows.get(a), self.rows.get(b)
        return 0.0 if one is None or two is None else float(np.clip(one @ two, -1.0, 1.0))


class Planning:
    """Makes plans over one home; ``judge`` reads requests and says how similar a block is to a skill."""

    def __init__(self, parts: Parts, judge: Judge, emit: Emit = silent) -> None:
        self.parts, self.judge, self.emit = parts, judge, emit
        self._blocks = Blocks(parts)

    async def plan(self, ask: PlanAsk, base: str, *, pairs: bytes | None = None) -> KeptPlan:
        """The plan, kept. Raises ``InputError`` for a request that names nothing, ``GenomeEmpty`` when no block fits and nothing can be
        trained, ``LicenceNotAllowed`` when the chosen layers exclude each other; for ``pairs`` as ``Evidences.read``, at once."""
        if (ask.pairs is None) != (pairs is None):
            raise InputError("pairs go with their bytes", "give the file of pairs", param="pairs")
        finder, handed = Evidences(self.parts, base, seed=ask.seed), None
        if ask.pairs is not None and pairs is not None:
            licence = spdx(ask.licence)
            handed = await anyio.to_thread.run_sync(finder.read, pairs, ask.pairs, licence)
            ask = ask.model_copy(update={"licence": licence})
        with told(self.emit, "analyze") as counts:
            desired = await anyio.to_thread.run_sync(self.judge.desired, ask.request)
            counts |= {"skills": len(desired.skills)}
        info = self.parts.engine(base).base
        config = Choosing(target=ask.target, layers=ask.layers)
        decided = await anyio.to_thread.run_sync(self.decided_by, ask, desired, info, config)
        with told(self.emit, "search") as counts:
            pool = await anyio.to_thread.run_sync(self.pool, desired, info, config)
            counts |= {"candidates": len(pool.candidates), "refused": len(pool.refused)}
        decided["pool"] = pool.digest
        matches = await anyio.to_thread.run_sync(self.matches, desired, pool, config)
        with told(self.emit, "evidence") as counts:
            evidence, more = await anyio.to_thread.run_sync(
                self._evidence, desired, matches, pool, ask, base, finder, handed
            )
            counts |= {"exemplars": sum(len(one.held) for one in evidence)}
        with told(self.emit, "probe") as counts:
            probed = await self._probed(desired, matches, evidence, pool, ask, base, config)
            counts |= {"measured": sum(len(one.similarity) for one in probed)}
        matches = tuple(with_measured(one, two) for one, two in zip(matches, probed, strict=True))
        await anyio.to_thread.run_sync(self.judge.remember, desired, matches, self.parts.engine(base))
        plan = await anyio.to_thread.run_sync(
            self._made, ask, base, desired, info, config, decided, pool, matches, evidence, probed, more
        )
        kept = KeptPlan(ask=ask, plan=plan)
        await anyio.to_thread.run_sync(self._keep, kept, evidence)
        return kept

    def find(self, reference: str) -> KeptPlan:
        """A plan of this home; as ``find_plan``."""
        return find_plan(self.parts.settings.home, reference)

    def folder(self, plan: str) -> Path:
        """Where a plan and the files that go with it lie."""
        return self.parts.settings.home / FOLDER / plan

    # What decides, and who may be a layer.

    def decided_by(self, ask: PlanAsk, desired: DesiredGenome, info: BaseInfo, config: Choosing) -> dict[str, str]:
        """Everything that the plan depends on, in words or digests."""
        settings = self.parts.settings
        return {
            "version": VERSION, "request": digest(desired.request), "ask": digest(ask), "taxonomy": desired.taxonomy,
            "encoder": desired.encoder, "calibration": self.judge.calibration, "snapshot": self.judge.snapshot(),
            "config": digest(config), "seed": str(ask.seed), "base": info.fingerprint, "weights": info.weights_digest or "",
            "sources": digest([[one, self._commit(one)] for one in settings.genome_sources]),
            "pairs": ask.pairs.sha256 if ask.pairs else "",
            "thresholds": digest(settings.route_thresholds), "trust": digest(list(self.parts.signer.trusted())),
        }  # fmt: skip

    def _commit(self, target: str) -> str:
        try:
            return self.parts.source.find(target).repository.commit
        except DnaError as error:
            return error.code

    def pool(self, desired: DesiredGenome, info: BaseInfo, config: Choosing) -> Pool:
        """The blocks near to each skill; hard filters first, and the nearest of the others with the code of what they lack."""
        allowed = [one.id for one in self.parts.lines.accepted() if one.base_fingerprint == info.fingerprint]
        rows = self.judge.near(desired.skills, WIDE, among=allowed)
        told_of = self.judge.features(desired, rows)
        near = tuple(_first(row, found, config.pool) for row, found in zip(rows, told_of, strict=True))
        parents: dict[str, Parent] = {}
        refused: dict[str, Refused] = {}
        for block_id in sorted({one.id for row in near for one in row}):
            self._admit(block_id, info, parents, refused)
        for block_id in sorted(
            {one.id for row in self.judge.near(desired.skills, SHOWN) for one in row} - parents.keys() - refused.keys()
        ):
            self._admit(block_id, info, {}, refused)
        for one in self._near_but_out([skill.text for skill in desired.skills]):
            refused.setdefault(one.id, one)
        kin = self.judge.kin({name: one.path for name, one in parents.items()})
        candidates = tuple(
            Candidate(id=name, bytes=adapter_bytes(one), trust=self._trust(one), kin=kin.get(name, frozenset()))
            for name, one in sorted(parents.items())
        )
        features = tuple(
            {one.id: found[one.id] for one in row if one.id in parents}
            for row, found in zip(near, told_of, strict=True)
        )
        out = tuple(refused[one] for one in sorted(refused))[:MOST_REFUSED]
        return Pool(features, parents, candidates, out, self._rows(sorted(parents), parents))

    def _admit(self, block_id: str, info: BaseInfo, parents: dict[str, Parent], refused: dict[str, Refused]) -> None:
        lines = self.parts.lines.chosen([block_id])
        name = f"{lines[block_id].name}@{lines[block_id].version}" if block_id in lines else block_id[:12]
        try:
            one = genome_checks.member(self.parts, block_id, self._blocks)
            if unlike := one.manifest.unlike(info):
                raise WrongBase(f"{name} {unlike}", "assemble on its base with --on")
        except DnaError as error:
            refused[block_id] = Refused(id=block_id, name=name, code=error.code, why=error.message)
        else:
            parents[block_id] = one

    def _near_but_out(self, texts: Sequence[str]) -> tuple[Refused, ...]:
        """Registered for another base, found by the words of the request: told, since they would be asked about."""
        found: dict[str, Refused] = {}
        for text in texts:
            for block_id, _ in self.parts.lines.match(text, (), Filters(status="rejected"), SHOWN):
                line = self.parts.lines.chosen([block_id]).get(block_id)
                if line is not None:
                    found[block_id] = Refused(
                        id=block_id,
                        name=f"{line.name}@{line.version}",
                        code="block_rejected",
                        why="the gate rejected it",
                    )
        return tuple(found.values())

    def _rows(self, ids: Sequence[str], parents: Mapping[str, Parent]) -> dict[str, NDArray[np.float32]]:
        if not ids:
            return {}
        texts = [parents[one].manifest.capability.text for one in ids]
        return dict(zip(ids, self.parts.encoder.encode(texts).rows, strict=True))

    def _trust(self, one: Parent) -> float:
        """Of a Beta posterior: the evaluations of this block that are kept here, made again, and agreed or not with what it says."""
        well, badly = self.judge.attested(one)
        return trust_prior(well, badly)

    # How near, and what is done.

    def matches(self, desired: DesiredGenome, pool: Pool, config: Choosing) -> tuple[tuple[Match, ...], ...]:
        """For each skill the candidates, the best score first, with what is predicted of them."""
        found: list[tuple[Match, ...]] = []
        for skill, told_of in zip(desired.skills, pool.features, strict=True):
            predicted = {name: self.judge.predicted(skill, one) for name, one in told_of.items()}
            mine = [one for one in pool.candidates if one.id in predicted]
            like = {name: max(0.0, alike(one)) for name, one in told_of.items()}
            order = ranked(mine, like, pool.cosine, config, first=nearest(mine, like, config.probed))
            first: list[str] = []
            rows: list[Match] = []
            for name, score in order:
                manifest, kin = pool.parents[name].manifest, next(one.kin for one in mine if one.id == name)
                twin = next((one for one in first if one in kin), None)
                first.append(name)
                rows.append(
                    Match(
                        id=name, name=manifest.name, version=manifest.version, features=told_of[name], predicted=predicted[name],
                        measured=Similarity(value=None, status="not_available", how="not probed"), score=score, duplicate_of=twin,
                    )
                )  # fmt: skip
            found.append(tuple(rows))
        return tuple(found)

    def _evidence(
        self, desired: DesiredGenome, matches: Sequence[Sequence[Match]], pool: Pool, ask: PlanAsk, base: str,
        finder: Evidences, handed: Handed | None,
    ) -> tuple[tuple[Evidence, ...], tuple[Refused, ...]]:  # fmt: skip
        """What each skill is measured on, and would be trained on: given, else of the sources, else written by the teacher that was named,
        else held out by the near blocks."""
        nothing = tuple(Evidence(origin="none", why="no pairs were given") for _ in desired.skills)
        given = nothing if handed is None else finder.given(desired.skills, handed)
        sources = finder.sources(desired.skills) if any(one.order is None for one in given) else nothing
        asked = self._taught(desired.skills, matches, given, sources, ask, base, finder)
        near = [
            [(one.id, pool.parents[one.id].path, claimed(one.features)) for one in row if not one.duplicate_of][:SHOWN]
            for row in matches
        ]
        library = finder.library(desired.skills, near) if ask.probe else nothing
        best = tuple(best_evidence(*four) for four in zip(given, sources, asked, library, strict=True))
        return best, tuple(finder.refused)

    def _taught(
        self, skills: Sequence[Skill], matches: Sequence[Sequence[Match]], given: Sequence[Evidence], sources: Sequence[Evidence],
        ask: PlanAsk, base: str, finder: Evidences,
    ) -> tuple[Evidence, ...]:  # fmt: skip
        """What the teacher that was named writes, of each skill that has too little else, and a layer to be measured."""
        found = [Evidence(origin="none") for _ in skills]
        lacking = [
            number
            for number, row in enumerate(matches)
            if row and max(len(given[number].held), len(sources[number].held)) < LEAST
        ]
        if ask.teacher == "none" or not ask.probe or not lacking or self.judge.unmeasured(self.parts.engine(base).base):
            return tuple(found)
        wanted = [skills[number] for number in lacking]
        made = anyio.from_thread.run(self._asked, finder, wanted, ask.teacher, base)
        for number, one in zip(lacking, made, strict=True):
            found[number] = one
        return tuple(found)

    async def _asked(self, finder: Evidences, skills: Sequence[Skill], name: str, base: str) -> tuple[Evidence, ...]:
        teacher: Any = self.parts.teacher(name, base=base)
        try:
            return await finder.asked(skills, teacher, self.emit)
        finally:
            with anyio.CancelScope(shield=True):
                await teacher.close()

    async def _probed(
        self, desired: DesiredGenome, matches: Sequence[Sequence[Match]], evidence: Sequence[Evidence], pool: Pool,
        ask: PlanAsk, base: str, config: Choosing,
    ) -> tuple[Probed, ...]:  # fmt: skip
        found: list[Probed] = []
        for skill, row, one in zip(desired.skills, matches, evidence, strict=True):
            names = [match.id for match in row if match.duplicate_of is None][: config.probed]
            if not ask.probe or not one.held:
                found.append(Probed(None, {}, one.why if ask.probe else "it was not to be probed"))
                continue
            paths = {name: pool.parents[name].path for name in (*names, *trained_on(names, row, pool.parents))}
            found.append(await self.judge.probed(self.parts.engine(base), skill, one.held, paths))
        return tuple(found)

    def _made(
        self, ask: PlanAsk, base: str, desired: DesiredGenome, info: BaseInfo, config: Choosing, decided: dict[str, str], pool: Pool,
        matches: Sequence[Sequence[Match]], evidence: Sequence[Evidence], probed: Sequence[Probed], more: tuple[Refused, ...],
    ) -> GenomePlan:  # fmt: skip
        told_of = zip(desired.skills, matches, probed, evidence, strict=True)
        rows = [self._usable(skill, row, one, held) for skill, row, one, held in told_of]
        found = self._chosen(desired, rows, pool, config)
        costs = Costs(self.parts, base)
        skills = tuple(
            self._skill(
                desired.skills[number], matches[number], rows[number], evidence[number], probed[number], found, costs
            )
            for number in range(len(desired.skills))
        )
        skills = within(skills, ask)
        ids = members_of(skills)
        trained = [number for number, one in enumerate(skills) if one.trains]
        if not ids and not trained:
            raise nothing(skills, pool.refused)
        parents = [pool.parents[one] for one in ids]
        licence = genome_checks.licence_meet(parents) if parents else None
        conflicts = self.judge.conflicts({one: pool.parents[one].path for one in ids})
        decided = decided | {
            "evidence": digest([[pair.id for pair in one.held] for one in evidence]),
            "conflicts": digest(conflicts),
            "pace": costs.pace_of,
        }
        weigh = costs.of(skills, parents, [adapter_bytes(one) for one in pool.parents.values()])
        composition = composition_of(len(ids) + len(trained), ask, self.judge.gated)
        return GenomePlan(
            id=plan_id(decided), desired=desired, base_model=info.id, base_fingerprint=info.fingerprint, skills=skills,
            composition=composition, covered=covered_by(desired, skills),
            conflicts=conflicts, refused=(*pool.refused, *more), license=licence, seconds=weigh.seconds, disk=weigh.disk,
            memory=weigh.memory, decided_by=decided, warnings=warnings_of(skills, () if composition.method == "gate" else conflicts, found),
        )  # fmt: skip

    def _chosen(
        self, desired: DesiredGenome, rows: Sequence[Mapping[str, float]], pool: Pool, config: Choosing
    ) -> Chosen:
        """The set S. ``rows``: s* by id, for each skill."""
        near = sorted({name for row in rows for name, value in row.items() if value > 0})
        best = sorted(near, key=lambda name: (-max(row.get(name, 0.0) for row in rows), name))[: 2 * SHOWN]
        lights = {
            (one.source, one.target): HARM[one.light]
            for one in self.judge.conflicts({name: pool.parents[name].path for name in best})
        }
        return chosen(
            [skill.weight for skill in desired.skills], rows, [one for one in pool.candidates if one.id in near],
            cosine=pool.cosine, conflict=lambda a, b: lights.get((a, b), 0.0), config=config,
        )  # fmt: skip

    def _routed(
        self, skill: Skill, one: Match, row: Sequence[Match], probed: Probed, evidence: Evidence, *, trainable: bool
    ) -> tuple[Routed, bool]:
        """The route by one layer of ``row``, and whether it is a training's without one: it brings something as it is, which was measured.

        What was measured on the blocks' own pairs tells what a layer does to code like theirs; that this is what is asked for, words must
        say (``stranger``). And where a probe leaves open whether a layer brings anything (its interval begins at 0), only the layer may be
        used whose own training prompts are nearest (``closest``): what a layer says of itself decides nothing.
        """
        similarity = best_known(one)
        routed = self.judge.route(skill, similarity, probed.base_passes, trainable=trainable)
        if trainable or routed.route == "base-suffices":
            return routed, False
        first, sure = one.id == closest(row), (similarity.low or 0.0) > 0
        if similarity.status != "measured":
            if routed.route == "use-as-is" and not first:
                why = f"{figures(similarity)}, by words that others may have written; another was trained on what is nearer"
                return Routed("abstain", why, verified=False), False
            return routed, False
        if evidence.origin == "library" and (why := stranger(one)):
            return Routed("abstain", f"{figures(similarity)}, but {why}", verified=False), False
        if routed.route != "abstain":
            return routed, False
        other = self.judge.route(skill, similarity, probed.base_passes, trainable=True)
        if other.route in ("refine", "fork") and (sure or first):
            return replace(other, verified=sure), True
        if first and (similarity.value or 0.0) >= HALF:
            return Routed(
                "use-as-is", f"{figures(similarity)}: nothing was trained on what is nearer: a trial", verified=False
            ), False
        if first and not sure and similarity.high == 1 and other.start:
            tried = self.judge.route(skill, one.predicted, probed.base_passes, trainable=False)
            if tried.route == "use-as-is":
                return tried, False
        return routed, False

    def _usable(self, skill: Skill, row: Sequence[Match], probed: Probed, evidence: Evidence) -> dict[str, float]:
        """What a choice goes by, of the blocks that would be used for the skill, or trained from."""
        found = expected(row)
        if evidence.order is not None:
            return found
        tried: dict[str, float] = {}
        for one in row:
            if one.id in found:
                routed, _ = self._routed(skill, one, row, probed, evidence, trainable=False)
                trial = routed.route == "use-as-is" and not routed.verified and one.measured.status == "measured"
                if trial:
                    tried[one.id] = one.predicted.value or 0.0
                if trial or routed.route not in ("use-as-is", "refine", "fork"):
                    del found[one.id]
        return found or tried  # words never win over what was measured

    def _skill(
        self, skill: Skill, row: Sequence[Match], usable: Mapping[str, float], evidence: Evidence, probed: Probed, found: Chosen,
        costs: Costs,
    ) -> SkillPlan:  # fmt: skip
        """The route of one skill, by the best layer of S, or where none of S brings it, by the best candidate. ``usable``: what was chosen
        by."""
        picked, mine = [one for one in found.ids if usable.get(one, 0.0) > 0], expected(row) | dict(usable)
        best = min(
            picked or [one for one in mine if mine[one] > 0], key=lambda one: (-round(mine[one], 6), one), default=None
        )
        match = next((one for one in row if one.id == best), None)
        trainable = evidence.order is not None
        if match is None:
            similarity, partly = NO_BLOCK, False
            routed = self.judge.route(skill, similarity, probed.base_passes, trainable=trainable)
        else:
            similarity = best_known(match)
            routed, partly = self._routed(skill, match, row, probed, evidence, trainable=trainable)
        route, why, layer = routed.route, [routed.reason], best
        if not routed.verified and route != "base-suffices":
            why.append("unverified: " + (probed.why or ("its interval begins at 0" if partly else evidence.why)))
        if route in TRAINED:
            why.append(
                f"{evidence.training} pairs to train on" if trainable else f"it is used as it is: {evidence.why}"
            )
        if not picked and not (route in TRAINED and trainable):
            layer = None
            if route in ("use-as-is", "refine", "fork"):
                route = "abstain"
                why.append("it would add too little to the whole")
        if route in ("base-suffices", "abstain") or (route == "scratch" and not routed.start):
            layer = None
        if route == "abstain" and row:
            near = next(one for one in row if one.id == likest(row))
            why.append(f"most alike: {near.name}@{near.version}")
        trains, verified = route in TRAINED and trainable, routed.verified
        return SkillPlan(
            skill=skill, route=route, layer=layer, similarity=similarity, matches=tuple(row[:SHOWN]), exemplars=len(evidence.held),
            evidence=evidence.origin if evidence.held else "none", reason="; ".join(one for one in why if one), verified=verified,
            trains=trains, seconds=costs.training(evidence) if trains else NO_TIME,
        )  # fmt: skip

    def _keep(self, kept: KeptPlan, evidence: Sequence[Evidence]) -> None:
        """Under its id; planning the same again writes the same. What is trained on lies beside it."""
        folder = self.folder(kept.plan.id)
        for number, one in enumerate(evidence):
            for name, data in one.files.items():
                write_atomic(folder / "given" / name, data)
            if one.order is not None:
                write_atomic(folder / f"order-{number}.json", canonical(one.order))
            if one.held:
                lines = b"".join(canonical(pair) + b"\n" for pair in one.held)
                write_atomic(folder / f"held-{number}.jsonl", lines)
        write_atomic(folder / "plan.json", canonical(kept))


def _first(row: Sequence[Near], features: Mapping[str, Features], most: int) -> tuple[Near, ...]:
    """Of the near blocks those that are most like what is asked; in the row's order where nothing tells them apart."""
    return tuple(sorted(row, key=lambda one: -round(alike(features[one.id]), DIGITS)))[:most]


def find_plan(home: Path, reference: str) -> KeptPlan:
    """A plan of a home by its id, or at least 8 digits of it. Raises ``NotFound``, ``Corrupt``, ``InputError``."""
    if not (8 <= len(reference) <= 64 and all(c in "0123456789abcdef" for c in reference)):
        raise InputError(f"{reference[:80]!r} is no plan", "give a plan's id, or the file of a plan", param="plan")
    found = sorted((home / FOLDER).glob(f"{reference}*/plan.json"))
    if len(found) != 1:
        raise NotFound(f"{len(found) or 'no'} plans begin with {reference}", "make one: dna genome plan REQUEST")
    try:
        kept = KeptPlan.model_validate_json(found[0].read_bytes())
    except (OSError, ValueError) as error:
        raise Corrupt(f"plan {reference[:12]} cannot be read", "plan it again: dna genome plan") from error
    if kept.plan.id != found[0].parent.name or plan_id(kept.plan.decided_by) != kept.plan.id:
        raise Corrupt(f"plan {reference[:12]} was changed", "plan it again: dna genome plan")
    return kept
