"""The trainings of an assembly: for each skill that no layer brings at most one mint, in a folder of its own below the job's.

Each goes its stages as any mint, behind what a killed process finished. What the gate rejects is kept as rejected, and its skill stays
uncovered; so does one whose training could not be carried out. A full disk and the like stop the job, which can go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from clonedna.app import continuing, genome_checks
from clonedna.app.genome_values import KeptPlan, TrainedLayer
from clonedna.app.minting import Minting, Ordered, stages_of
from clonedna.app.parts import Parts
from clonedna.app.workspace import Workspace, write_atomic
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import strict_json
from clonedna.core.errors import DnaError, Internal, Interrupted, Unavailable
from clonedna.core.events import Emit, Note, StageFinished, StageProgress, StageStarted
from clonedna.core.genome import SkillPlan
from clonedna.core.value import Value
from clonedna.mint.papers import slug

FOLDER, ENDED = "training", "ended.json"
REPLAY = 1.0
"""Pairs of the layer that is refined, for each new one."""


class Trainings(Value):
    """What came of all of them, in the order of the skills."""

    layers: tuple[TrainedLayer, ...]


class Trainer:
    """Carries out the trainings of one plan. ``files``: where the plan lies; ``created_at``: the only time that reaches a block."""

    def __init__(
        self, workspace: Workspace, parts: Parts, emit: Emit, stopped: Callable[[], None], *, base: str, name: str,
        created_at: str, files: Path,
    ) -> None:  # fmt: skip
        self.workspace, self.parts, self.emit, self.stopped = workspace, parts, emit, stopped
        self.base, self.name, self.created_at, self.files = base, name, created_at, files

    def all(self, kept: KeptPlan) -> Trainings:
        """Every training of the plan, within its budget. Raises ``Interrupted``, ``Unavailable``, ``Internal``."""
        done: list[TrainedLayer] = []
        for number, skill in enumerate(kept.plan.skills):
            if skill.trains:
                done.append(self._one(number, skill, kept, sum(one.seconds for one in done)))
        return Trainings(layers=tuple(done))

    def _one(self, number: int, skill: SkillPlan, kept: KeptPlan, spent: float) -> TrainedLayer:
        place = Workspace(self.workspace.directory / FOLDER / str(number))
        if place.exists(ENDED):
            return place.read(ENDED, TrainedLayer)
        known = TrainedLayer(skill=skill.skill.text, route=skill.route, seconds=0.0)
        if spent >= kept.ask.seconds:
            ended = known.model_copy(update={"why": f"the budget of {kept.ask.seconds:g} s is spent"})
        else:
            ended = self._tried(place, number, skill, known)
        place.write(ENDED, ended)
        if ended.why:
            self.emit(Note(level="warning", text=f"{ended.skill}: {ended.why}"))
        place.clean()
        return ended

    def _tried(self, place: Workspace, number: int, skill: SkillPlan, known: TrainedLayer) -> TrainedLayer:
        clock = _Clock(self.emit, f"{FOLDER}-{number + 1}")
        try:
            if not place.exists("order.json"):
                order = self._order(number, skill)
                if order.given is not None:
                    digest = order.given.training.sha256
                    write_atomic(place.directory / "given" / digest, (self.files / "given" / digest).read_bytes())
                place.write("order.json", Ordered(order=order, created_at=self.created_at))
            order = place.read("order.json", Ordered).order
            work = Minting(place, self.parts, clock.emit, self.stopped)
            for stage in stages_of(order):
                if not place.exists(f"stages/{stage}.json"):
                    work.run(stage)
            block = place.read("stages/register.json", BlockRef)
        except (Interrupted, Unavailable, Internal):
            raise
        except DnaError as error:
            return known.model_copy(update={"why": f"{error.code}: {error.message}", "seconds": clock.seconds})
        why = ""
        if block.status == "rejected":
            reasons = next((m.gate.reasons for m in self.parts.registry.manifests(block.name) if m.id == block.id), ())
            why = f"the gate rejected {block}: {'; '.join(reasons)}"
        return known.model_copy(update={"block": block, "why": why, "seconds": clock.seconds})

    def _order(self, number: int, skill: SkillPlan) -> MintOrder:
        """The mint of one gap, as the plan kept it, from the layer's weights where the route says so. Raises what is wrong with that."""
        path = self.files / f"order-{number}.json"
        try:
            order = MintOrder.model_validate(strict_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise Internal(
                f"{path.name} of the plan cannot be read: {error}", "plan it again: dna genome plan"
            ) from error
        name = slug(f"{self.name}-{skill.skill.text}")[:60].strip(".-_")
        changes: dict[str, object] = {"base": self.base, "name": name}
        recipe = order.recipe
        if skill.layer is not None:
            parent = genome_checks.member(self.parts, skill.layer)
            if parent.manifest.recipe is not None:  # a merge has no shape that a training goes on with
                continuing.forked(self.parts, skill.layer, self.parts.engine(self.base))
                lora = parent.manifest.recipe.lora.model_copy(update={"seed": recipe.seed})
                replay = REPLAY if skill.route == "refine" else 0.0
                changes |= {
                    "forks": skill.layer,
                    "recipe": recipe.model_copy(update={"lora": lora, "replay_ratio": replay}),
                }
                changes["name"] = slug(f"{parent.manifest.name}-{skill.skill.text}")[:60].strip(".-_")
        return order.model_copy(update=changes)


class _Clock:
    """Tells a training's stages under its own name, and adds up what they took."""

    def __init__(self, emit: Emit, name: str) -> None:
        self._emit, self._name, self.seconds = emit, name, 0.0

    def emit(self, event: object) -> None:
        if isinstance(event, (StageStarted, StageFinished, StageProgress)):
            if isinstance(event, StageFinished):
                self.seconds = round(self.seconds + event.seconds, 3)
            event = event.model_copy(update={"stage": f"{self._name}-{re.sub(r'[^a-z0-9-]', '-', event.stage)}"})
        self._emit(event)  # type: ignore[arg-type]
