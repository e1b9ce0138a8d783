"""What is said about genomes: what is wanted, which blocks could bring it, the plan, and the signed stack of layers that comes of it.

A *layer* is a block's place in a genome, with a weight; a *module* is a matrix of the base. Everything here can be written to canonical
JSON and read back, and nothing here is computed but a genome's id.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from rfc8785 import CanonicalizationError

from clonedna.core.block import DIGEST_PATTERN, NAME_PATTERN, VERSION_PATTERN, Envelope, Measure
from clonedna.core.canonical import canonical, digest, lasting
from clonedna.core.errors import InputError
from clonedna.core.merge import MAX_PARENTS, MergeMethod
from clonedna.core.model import Layer, Mixture
from clonedna.core.value import Value

GENOME_FORMAT = "dna-genome/1"
GENOME_PAYLOAD = "application/vnd.clone-dna.genome+json"
MOST_REQUEST, MOST_SKILLS, MOST_LAYERS = 2000, 6, 8
MOST_ASKED = 1000
"""Characters of each text that is read for a skill."""
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=MOST_ASKED)], ...], Field(max_length=4)]
"""Texts that are read together, all counting alike."""
Share = Annotated[float, Field(ge=0, le=1)]

Origin = Literal["given", "source", "teacher", "library", "none"]
"""Where the exemplars of a skill come from: the user's, a repository of the settings, written by a teacher, held out by the near blocks."""

Route = Literal["use-as-is", "refine", "fork", "scratch", "base-suffices", "abstain"]
"""What is done for one skill. ``abstain``: nothing, because it is not known what would be right."""


class Skill(Value):
    """One thing that is wanted. ``node``: its id in the taxonomy, empty for free text; ``text``: its name, one of its own in a request.

    ``asked``: what an encoder reads for it, all counting alike: the request (twice, where it has clauses), the clause that it stands in,
    its name. None: ``text`` alone.
    ``weight``: its share of the request (they add up to 1); ``strength``: how well the words matched the node (1 = an alias in full).
    """

    text: str = Field(min_length=1, max_length=200)
    node: str = Field(default="", max_length=120)
    weight: Share
    strength: Share = 1.0
    asked: Words = ()

    @property
    def words(self) -> tuple[str, ...]:
        """``asked``, or the name where nothing else is known."""
        return self.asked or (self.text,)


class DesiredGenome(Value):
    """A request as skills, the weightiest first. ``taxonomy`` and ``encoder`` name what it was read with."""

    request: str = Field(min_length=1, max_length=MOST_REQUEST)
    skills: tuple[Skill, ...] = Field(min_length=1, max_length=MOST_SKILLS)
    taxonomy: str
    encoder: str


class Similarity(Value):
    """Calibrated similarity s*: the share of the wanted improvement that a layer already brings, from 0 to 1, with a 90 % interval.

    ``predicted`` from what the texts say (``how`` names the calibration), ``measured`` on ``n`` exemplars. Not available: ``value`` None.
    """

    value: Share | None
    low: Share | None = None
    high: Share | None = None
    status: Literal["predicted", "measured", "not_available"]
    n: int | None = None
    how: str


class Features(Value):
    """What s* is predicted from, for one skill and one block (genomes.md): all are as they came from the index, none is clipped."""

    text_cosine: float
    centroid_cosine: float | None = None
    overlap: float = 0.0
    margin: float = 0.0
    z: float = 0.0
    hubness: float = 0.0
    distance: float | None = None
    meaning_cosine: float | None = None


class LayerScore(Value):
    """The ranking's terms, each from 0 to 1, and their weighted sum over 0.75: ``0.55 sim - 0.25 div + 0.15 trust + 0.05 size``."""

    similarity: float
    diversity: float
    trust: float
    size: float
    score: float


class Match(Value):
    """A block that could bring a skill. ``duplicate_of``: an id that its weights repeat, which therefore adds no coverage."""

    id: Digest
    name: str
    version: str
    features: Features
    predicted: Similarity
    measured: Similarity
    score: LayerScore
    duplicate_of: str | None = None


class SkillPlan(Value):
    """What is done for one skill, why, and with which block (``layer``: an id; for ``scratch`` the one that it would start from, if any).

    ``trains``: whether applying the plan trains for it, within the budget; ``seconds``: what that takes. ``evidence``: where the
    ``exemplars`` that it was measured on come from.
    """

    skill: Skill
    route: Route
    layer: str | None = None
    similarity: Similarity
    matches: tuple[Match, ...] = ()
    exemplars: int = 0
    evidence: Origin = "none"
    reason: str
    verified: bool
    trains: bool = False
    seconds: Measure


class Conflict(Value):
    """Two members that may harm each other: expected harm of ``source`` on ``target`` (phi, and the light that it gives)."""

    source: str
    target: str
    phi: Measure
    light: Literal["green", "amber", "red", "unknown"]
    why: str


class Composition(Value):
    """How layers become one model: ``stack`` (their weighted sum), ``merge`` (one adapter), ``route`` (one layer a request)."""

    kind: Literal["stack", "merge", "route"]
    method: MergeMethod | Literal["single", "legacy_peft_linear", "gate", "arrow", "mixture"]
    rank: int | None = Field(default=None, ge=1, le=1024)
    density: float | None = Field(default=None, gt=0, le=1)
    ridge: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=1, le=MAX_PARENTS)
    seed: int | None = Field(default=None, ge=0, lt=2**53)


class Through(Value):
    """What one request goes through: ``layers`` (their weighted sum; none = the base), or a ``mixture``."""

    layers: tuple[Layer, ...] = ()
    mixture: Mixture | None = None


class LogisticGate(Value):
    """Shares of layers for a request: softmax of ``weights @ v + bias``, with v the request's vector (of length 1) under ``encoder``.

    ``weights`` ``[layers, dimension]``, ``bias`` ``[layers]``, in the layers' order.
    """

    encoder: str
    weights: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=MAX_PARENTS)
    bias: tuple[float, ...] = Field(min_length=1, max_length=MAX_PARENTS)


class Refused(Value):
    """A block that may not be a layer, and the code of the error that says so."""

    id: str
    name: str
    code: str
    why: str


class GenomePlan(Value):
    """What assembling would do. ``id``: SHA-256 over the canonical JSON of everything that decides it (``decided_by``), not of times.

    ``snapshot``: of the index that was searched. ``covered``: the weighted similarity that the chosen layers have together, before
    anything is trained. ``refused``: blocks that were near enough but may not be used, and why.
    """

    id: Digest
    desired: DesiredGenome
    base_model: str
    base_fingerprint: str
    skills: tuple[SkillPlan, ...]
    composition: Composition
    covered: Measure
    conflicts: tuple[Conflict, ...] = ()
    refused: tuple[Refused, ...] = ()
    license: str | None
    seconds: Measure
    disk: Measure
    memory: Measure
    decided_by: dict[str, str]
    warnings: tuple[str, ...] = ()


class GenomeLayer(Value):
    """A block in a genome, by its id, and its weight on the sum of B·A. ``skills``: what it is there for (nodes or free text)."""

    id: Digest
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    weight: float = Field(default=1.0, ge=-100, le=100, allow_inf_nan=False)
    skills: tuple[str, ...] = ()
    license: str
    consent_mode: Literal["self", "granted", "local-only"]
    rank: int
    alpha: float
    target_modules: tuple[str, ...]


class Gate(Value):
    """What sends a request to a layer: the centroids (rows of length 1) of each layer's exemplars under one encoder.

    Below ``floor`` (cosine) no layer answers but the base; within a session another layer must be better by ``hysteresis`` to take over.
    """

    encoder: str
    dimension: int
    centroids: tuple[tuple[tuple[float, ...], ...], ...]
    floor: float
    hysteresis: float


class GenomeEvaluation(Value):
    """Of the composition, on exemplars that no layer was trained on. ``similarity``: by skill; ``retention``: by layer id, the share of
    its own gain that each keeps; ``interference``: the members' part and the guard's part."""

    similarity: dict[str, Similarity]
    retention: dict[str, Measure]
    interference: Measure
    guard: Measure
    latency_ms: Measure
    bytes: int


class CompatibilityNote(Value):
    """What two blocks were seen to do to each other, composed: used before any prediction."""

    first: Digest
    second: Digest
    base_fingerprint: str
    composition: Composition
    weights: tuple[float, float]
    retention: tuple[Measure, Measure]


class GenomeManifest(Value):
    """A signed genome. ``id``: SHA-256 over ``genome_bytes`` without itself. ``parent``: the id of the version before it.

    ``composite_embedding``: the centroid of the members' vectors under ``encoder``; a cache, never what is compared with another
    encoder's. ``artifact``: the id of the merged block, where the composition is one; ``gate`` of one that routes; ``shares`` of a mixture.
    """

    format: Literal["dna-genome/1"] = GENOME_FORMAT
    id: Digest
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    parent: Digest | None = None
    created_at: str
    created_by: str
    base_model: str
    base_fingerprint: str
    base_weights_digest: str | None = None
    desired: DesiredGenome
    layers: tuple[GenomeLayer, ...] = Field(min_length=1, max_length=MOST_LAYERS)
    composition: Composition
    gate: Gate | None = None
    shares: LogisticGate | None = None
    artifact: Digest | None = None
    module_map: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    encoder: str
    composite_embedding: tuple[float, ...]
    plan: str
    snapshot: str
    calibration: str
    evaluation: GenomeEvaluation
    compatibility_notes: tuple[CompatibilityNote, ...] = ()
    license: str


class SignedGenome(Value):
    """A manifest and the DSSE envelope over its ``genome_bytes``."""

    manifest: GenomeManifest
    envelope: Envelope


def genome_bytes(manifest: GenomeManifest) -> bytes:
    """What is kept and signed."""
    return canonical(lasting(manifest))


def genome_id(manifest: GenomeManifest) -> str:
    """SHA-256 over what is kept of the manifest but its id. Raises ``InputError`` for numbers that JSON does not keep exactly."""
    fields = lasting(manifest)
    del fields["id"]
    try:
        return digest(fields)
    except CanonicalizationError:
        raise InputError(
            "a number of the manifest is none that JSON keeps exactly", "give the manifest as it was written"
        ) from None
