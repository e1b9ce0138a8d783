"""A judge for tests: skills are the words of a request, a block brings a skill as far as it was told, kin and conflicts as told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from clonedna.app.genome_judge import Nll, Probed
from clonedna.app.merge_papers import Parent
from clonedna.app.parts import Parts
from clonedna.core.block import not_available
from clonedna.core.canonical import digest
from clonedna.core.genome import Conflict, DesiredGenome, Features, Match, Similarity, Skill
from clonedna.core.model import BaseInfo
from clonedna.core.seams import Engine
from clonedna.core.vectors import Near
from clonedna.core.work import Pair
from clonedna.evals.likelihood import example_of
from clonedna.genomes.routes import Routed, Thresholds, route_of


class ToldJudge:
    """``brings``: skill -> block name -> s*; ``predicts``: the same before any probe (else what it brings); ``kin``: names;
    ``unsure``: names of blocks whose probes leave everything open; ``prompts``: how near their own prompts are to any skill, by name."""

    calibration = "told"
    gated = True

    def __init__(
        self, parts: Parts, brings: Mapping[str, Mapping[str, float]], *, predicts: Mapping[str, Mapping[str, float]] | None = None,
        kin: Mapping[str, Collection[str]] | None = None, light: str = "green", base: Collection[str] = (), unsure: Collection[str] = (),
        prompts: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.parts, self.brings, self.predicts = parts, brings, predicts or brings
        self._kin, self._light, self._base, self._unsure, self._prompts = kin or {}, light, base, unsure, prompts or {}
        self.probes: list[tuple[str, tuple[str, ...]]] = []

    def _name(self, block_id: str) -> str:
        return self.parts.registry.resolve(block_id, unsafe=True).name

    def desired(self, request: str) -> DesiredGenome:
        words = list(dict.fromkeys(request.split()))[:6]
        skills = tuple(Skill(text=one, weight=1 / len(words)) for one in words)
        return DesiredGenome(request=request, skills=skills, taxonomy="words@1", encoder=self.parts.encoder.name)

    def unmeasured(self, base: BaseInfo) -> str:
        return ""

    def snapshot(self) -> str:
        return digest(sorted(one.id for one in self.parts.lines.accepted()))

    def near(
        self, skills: Sequence[Skill], most: int, *, among: Collection[str] | None = None
    ) -> tuple[tuple[Near, ...], ...]:
        found: list[tuple[Near, ...]] = []
        for skill in skills:
            known = self.predicts.get(skill.text, {})
            ids = [one.id for one in self.parts.lines.accepted() if among is None or one.id in among]
            row = [Near(one, known[self._name(one)], None) for one in ids if self._name(one) in known]
            found.append(tuple(sorted(row, key=lambda one: (-one.best, one.id))[:most]))
        return tuple(found)

    def features(self, desired: DesiredGenome, near: Sequence[Sequence[Near]]) -> tuple[dict[str, Features], ...]:
        return tuple(
            {
                one.id: Features(text_cosine=one.text_cosine, centroid_cosine=self._prompts.get(self._name(one.id)))
                for one in row
            }
            for row in near
        )

    def predicted(self, skill: Skill, features: Features) -> Similarity:
        return Similarity(value=features.text_cosine, low=0.0, high=1.0, status="predicted", n=50, how="told")

    async def probed(self, engine: Engine, skill: Skill, held: Sequence[Pair], blocks: Mapping[str, Path]) -> Probed:
        known = self.brings.get(skill.text, {})
        names = {one: self._name(one) for one in blocks}
        self.probes.append((skill.text, tuple(names.values())))
        values = {one: known.get(name, 0.0) for one, name in names.items()}
        found = {
            one: Similarity(
                value=v, low=0.0 if names[one] in self._unsure else v, high=1.0 if names[one] in self._unsure else v,
                status="measured", n=len(held), how="told",
            )
            for one, v in values.items()
        }  # fmt: skip
        return Probed(skill.text in self._base, found)

    async def through(self, engine: Engine, held: Sequence[Pair], nll: Nll) -> Similarity:
        if not held:
            return Similarity(value=None, status="not_available", how="no exemplars")
        examples = [example_of(pair) for pair in held]
        base, through = sum(one.nll for one in await engine.nll(examples)), sum(one.nll for one in await nll(examples))
        return Similarity(
            value=max(0.0, min(1.0, 1 - through / base)), status="measured", n=len(held), how="share of the loss"
        )

    def route(self, skill: Skill, similarity: Similarity, base_passes: bool | None, *, trainable: bool) -> Routed:
        return route_of(similarity, Thresholds(), base_passes=base_passes, trainable=trainable)

    def kin(self, blocks: Mapping[str, Path]) -> dict[str, frozenset[str]]:
        ids = {self._name(one): one for one in blocks}
        return {ids[a]: frozenset(ids[b] for b in others if b in ids) for a, others in self._kin.items() if a in ids}

    def conflicts(self, blocks: Mapping[str, Path]) -> tuple[Conflict, ...]:
        return tuple(
            Conflict(source=a, target=b, phi=not_available("told"), light=self._light, why="told")  # type: ignore[arg-type]
            for a in sorted(blocks)
            for b in sorted(blocks)
            if a != b
        )

    def remember(self, desired: DesiredGenome, matches: Sequence[Sequence[Match]], engine: Engine) -> None:
        """Nothing is calibrated from this."""

    def attested(self, one: Parent) -> tuple[float, float]:
        return 0.0, 0.0
