"""What faces and jobs say about genomes beside the values of ``core.genome``: what is asked for, and what came of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from clonedna.core.block import NAME_PATTERN, BlockRef, GivenFile, Measure
from clonedna.core.events import Event
from clonedna.core.genome import MOST_LAYERS, MOST_REQUEST, GenomeLayer, GenomeManifest, GenomePlan, Refused, Skill
from clonedna.core.value import Value

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Request = Annotated[str, Field(min_length=1, max_length=MOST_REQUEST)]
Compose = Literal["auto", "stack", "merge", "route", "mixture", "arrow"]
MOST_SECONDS = 30 * 86_400.0


class _Need(Value):
    """A need, in words. ``licence``: of the pairs that go with it; ``probe``: measure, or predict only.

    ``trainings`` and ``seconds`` bound what applying the plan may train. ``target``: the coverage at which no further layer is added.
    ``top_k``: with ``arrow``, so many layers for each token (2 where it is not said). ``teacher``: who writes examples to measure on of a
    skill that has none of the user's or of a source; it is told the skill's words, and a server may cost money.
    """

    request: Request
    target: float = Field(default=0.95, gt=0, le=1)
    layers: int = Field(default=MOST_LAYERS, ge=1, le=MOST_LAYERS)
    compose: Compose = "auto"
    top_k: int | None = Field(default=None, ge=1, le=MOST_LAYERS)
    probe: bool = True
    trainings: int = Field(default=MOST_LAYERS, ge=0, le=MOST_LAYERS)
    seconds: float = Field(default=3600.0, ge=0, le=MOST_SECONDS, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**31)
    licence: str = Field(default="", max_length=256)
    teacher: Literal["none", "openai", "engine"] = "none"

    @field_validator("top_k")
    @classmethod
    def _of_arrow(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("compose") != "arrow":
            raise ValueError("it goes with compose arrow alone")
        return value


class PlanAsk(_Need):
    """A need; ``pairs``: a file of examples to train and to measure on."""

    pairs: GivenFile | None = None


class KeptPlan(Value):
    """A plan with what was asked for it: what ``apply`` carries out."""

    ask: PlanAsk
    plan: GenomePlan


class PlanSaid(Value):
    """What a plan that is being made says meanwhile."""

    name: ClassVar[str] = "event"
    event: Event


class PlanMade(Value):
    """It is made, and kept."""

    name: ClassVar[str] = "end"
    reply: KeptPlan


PlanEvent = PlanSaid | PlanMade


class NeedAsk(_Need):
    """The same as a client of a server says it: ``pairs`` is the id of an uploaded file."""

    pairs: Annotated[str, Field(pattern=r"^file-[0-9a-f]{24}$")] | None = None

    def asked(self, pairs: GivenFile | None) -> PlanAsk:
        """With the file itself."""
        return PlanAsk.model_validate({**self.model_dump(exclude={"pairs"}), "pairs": pairs})


class ApplyOrder(Value):
    """A plan to be carried out, by its id, or a need that is planned first. ``on``: where the base is, if not under the name it gives."""

    kind: Literal["genome"] = "genome"
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    ask: PlanAsk | None = None
    name: Name
    on: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ApplyOrder:
        if (self.plan is None) == (self.ask is None):
            raise ValueError("either a plan or a need")
        return self


class TrainedLayer(Value):
    """One training of an assembly. ``block`` where one was made, registered or rejected; ``why`` it is not used, else empty."""

    skill: str
    route: str
    block: BlockRef | None = None
    seconds: float
    why: str = ""


class Assembled(Value):
    """What applying a plan made. ``latency`` is wall time, so it stands here, and not in the manifest, which is the same at any time."""

    genome: GenomeManifest
    trained: tuple[TrainedLayer, ...]
    uncovered: tuple[str, ...]
    latency: Measure
    warnings: tuple[str, ...] = ()


class GenomeChecked(Value):
    """A genome whose signature holds, and what is wrong with its members now; ``usable`` when nothing is."""

    genome: GenomeManifest
    usable: bool
    faults: tuple[Refused, ...]


class GenomeLine(Value):
    """A genome in a list. ``fault``: the code of what keeps it from being used, empty where nothing does."""

    name: str
    version: str
    id: str
    created_at: str
    base_model: str
    layers: tuple[GenomeLayer, ...]
    request: str
    composition: str
    fault: str = ""


class GenomeList(Value):
    """All genomes, newest first, and what lies there and is none."""

    genomes: tuple[GenomeLine, ...]
    faults: tuple[Refused, ...] = ()


class FoundLayer(Value):
    """A block that was found for one skill, or for the whole request. ``cosine``: the greatest of text, exemplars and meanings;
    ``predicted``: s* as calibrated from it; ``score``: of a skill as a plan ranks, of the whole request its likeness."""

    id: str
    name: str
    version: str
    cosine: float
    predicted: float | None
    score: float
    duplicate_of: str | None = None


class SkillLayers(Value):
    skill: Skill
    layers: tuple[FoundLayer, ...]


class FoundLayers(Value):
    """The blocks that may be used, the best first, for the ``whole`` request and for each skill; and those near enough that may not be."""

    request: str
    encoder: str
    whole: tuple[FoundLayer, ...]
    skills: tuple[SkillLayers, ...]
    refused: tuple[Refused, ...]
