"""What carrying out a plan takes: time from the pace that this machine recorded, disk and memory from the files of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from clonedna.app.genome_pairs import Evidence
from clonedna.app.merge_papers import Parent
from clonedna.app.pace import recorded_pace
from clonedna.app.parts import Parts
from clonedna.core.block import Measure, Recipe, not_available
from clonedna.core.genome import SkillPlan
from clonedna.mint.mix import ANSWER_TOKENS

BYTES_PER_TOKEN = 3
PAPERS = 200_000
"""Bytes of a block beside its adapter, about."""


@dataclass(frozen=True, slots=True)
class Weighed:
    seconds: Measure
    disk: Measure
    memory: Measure


class Costs:
    """Estimates for one base."""

    def __init__(self, parts: Parts, base: str) -> None:
        rank = Recipe().lora.rank
        self._pace = recorded_pace(parts.settings.jobs_directory, base, rank)
        self._none = not_available(
            f"no training of rank {rank} on {base} is recorded here yet; mint a block, or see the job's events"
        )

    @property
    def pace_of(self) -> str:
        """The job whose pace this is, or nothing."""
        return self._pace.job if self._pace is not None else ""

    def training(self, evidence: Evidence) -> Measure:
        """Seconds of one training on this evidence, at the pace of the latest training on this base that is recorded here."""
        if self._pace is None or evidence.order is None:
            return self._none
        recipe = evidence.order.recipe
        n = min(evidence.training, recipe.max_train_pairs)
        answers = evidence.size / BYTES_PER_TOKEN * n / max(1, evidence.training)
        general = (round(recipe.base_instruct_ratio * n) + recipe.tool_use_pairs) * ANSWER_TOKENS
        return Measure(
            value=round(recipe.epochs * (answers + general) / self._pace.rate, 1), status="estimated", n=n,
            how=f"{self._pace.rate:.0f} completion tokens a second in job {self._pace.job}; without reading and examining",
        )  # fmt: skip

    def of(self, skills: Sequence[SkillPlan], members: Sequence[Parent], sizes: Sequence[int]) -> Weighed:
        """Of the whole plan. ``sizes``: bytes of the adapters of near blocks, whose median stands for one that is yet to be trained."""
        trained = [one for one in skills if one.trains]
        known = [one.seconds.value for one in trained]
        if not trained:
            seconds = Measure(value=0.0, status="measured", n=0, how="nothing is trained")
        elif None in known:
            seconds = self._none
        else:
            total = sum(value for value in known if value is not None)
            seconds = Measure(value=round(total, 1), status="estimated", n=len(trained), how=trained[0].seconds.how)
        held = sum(one.manifest.files["adapter_model.safetensors"].size for one in members)
        if trained and not sizes:
            why = not_available("no block of this base is here to tell the size of one that is trained")
            return Weighed(seconds, why, why)
        new = round(median(sizes)) * len(trained) if trained else 0
        how = f"adapters of {len(members)} layers that are here, and {len(trained)} to train of the near blocks' median size"
        disk = Measure(
            value=new + PAPERS * len(trained), status="estimated", n=len(trained), how=f"bytes that are added; {how}"
        )
        memory = Measure(
            value=held + new, status="estimated", n=len(members) + len(trained), how=f"bytes beside the base's; {how}"
        )
        return Weighed(seconds, disk, memory)
