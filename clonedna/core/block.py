"""The `.dna` block as values: measures, evaluation, consent, manifest.

A block is a directory that is at once a Hugging Face adapter repository and a signed record; ``Manifest.files`` covers every
file but ``signature.json``, and ``id`` is the digest over that table.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clonedna.core.merge import MergeRecord
from clonedna.core.model import BaseInfo, LoraSpec
from clonedna.core.style import StyleReport
from clonedna.core.value import Value
from clonedna.core.work import Identity, Refusal, Repository

FORMAT = "dna/1"
NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
VERSION_PATTERN = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"

Use = Literal["mint", "serve", "share"]


class Measure(Value):
    """A number with its standing. ``not_available`` has no value and says why in ``how``."""

    value: float | None
    status: Literal["measured", "estimated", "not_available"]
    n: int | None = None
    split: str | None = None
    how: str
    ci95: tuple[float, float] | None = None


def not_available(why: str) -> Measure:
    return Measure(value=None, status="not_available", how=why)


class Teaching(Value):
    """What it took to write a mint's instructions. ``prompt``: the version of the question that was put.

    ``calls`` were answered by the model, ``cached`` had been answered in an earlier mint; the tokens are those of all these answers, each
    with what it took when it was asked. ``dropped``: answers that could not be used. ``cost``: US dollars, by the prices in the settings.
    """

    teacher: str
    model: str = ""
    prompt: str = ""
    calls: int = 0
    cached: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Measure = not_available("nothing was asked of a server")

    def settled(self) -> Teaching:
        """The same, whenever it was asked: so a mint that finds all answers in the cache has the recipe of the one that asked."""
        return self.model_copy(update={"calls": self.calls + self.cached, "cached": 0})


GeneralSource = Literal["auto", "alpaca-cleaned", "jsonl", "rehearsal"]


class GeneralPairs(Value):
    """The general pairs beside a person's: ``ratio`` of theirs were wanted, ``n`` were drawn with ``seed``.

    ``how`` says in words what they are; ``digest``: SHA-256 over the canonical JSON of exactly these pairs, in their order.
    """

    source: Literal["none", "alpaca-cleaned", "jsonl", "rehearsal"]
    how: str
    n: int
    ratio: float
    seed: int
    digest: str = Field(pattern=DIGEST_PATTERN)


class EvalSpan(Value):
    """One hold-out pair's likelihood under base and adapter; nats summed over the same tokens."""

    pair: str
    tokens: int
    bytes: int
    base: float
    adapter: float


DomainKind = Literal["language", "folder", "library"]


class DomainGain(Value):
    """A domain of a person's code, and the block's gain in nats a token on its ``n`` hold-out spans. ``name`` is third-party text."""

    kind: DomainKind
    name: str
    n: int
    gain: float
    ci95: tuple[float, float]
    passes: bool


class ModuleDrift(Value):
    """Size of what an adapter adds to one module, ``|s B A|_F``, and that over ``|W|_F`` (``None``: the base's weights are not seen)."""

    module: str
    norm: float
    relative: float | None


class DriftReport(Value):
    """Of every module an adapter has, in their order; ``norm`` and ``relative`` are over all of them together."""

    modules: tuple[ModuleDrift, ...]
    norm: float
    relative: float | None


class Evaluation(Value):
    """Everything that was measured, under stable names; ``spans`` are the raw terms that the intervals come from."""

    measures: dict[str, Measure]
    spans: tuple[EvalSpan, ...] = ()
    losses: tuple[float, ...] = ()
    validation_losses: tuple[float, ...] = ()
    style: StyleReport | None = None
    domains: tuple[DomainGain, ...] = ()
    drift: DriftReport | None = None


class GuardRecipe(Value):
    """Beside which blocks a block was trained (their ids), and how firmly it leaves them be: weights of the loss's further terms, 0 = none.

    ``kl``: divergence of what the base, and each neighbour, says with and without the new layer, on ``examples`` examples at each step: the
    neighbours' training pairs, and the general ones. ``energy``: what it adds on the neighbours' inputs; ``orthogonal``: O-LoRA's term.
    """

    neighbours: tuple[str, ...] = Field(min_length=1, max_length=8)
    kl: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)
    energy: float = Field(default=0.0, ge=0, le=1e6, allow_inf_nan=False)
    orthogonal: float = Field(default=0.0, ge=0, le=1e6, allow_inf_nan=False)
    examples: int = Field(default=4, ge=1, le=64)


def _nothing(value: object) -> bool:
    return value is None


class Recipe(Value):
    """All that decides the weights, given sources and base: same recipe, seed and sources -> same block.

    The defaults were chosen by measuring (docs/recipe.md). A batch has at most ``batch_examples`` examples (0 = as many as fit) of about
    ``batch_tokens`` tokens together.
    ``general`` is the source that was ordered; ``general_pairs`` and ``teaching`` say, in a block, what was used.
    ``replay_ratio``: in a version that continues another, how many of its training pairs are trained on again for each new one.
    ``guard``: what it was trained beside, if anything.
    """

    preset: Literal["style", "seed", "knowledge", "custom"] = "style"
    lora: LoraSpec = LoraSpec()
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    epochs: int = Field(default=2, ge=1, le=100)
    batch_tokens: int = Field(default=2048, ge=64)
    batch_examples: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=512, ge=64)
    max_train_pairs: int = Field(default=384, ge=1)
    max_holdout_pairs: int = Field(default=96, ge=1)
    base_instruct_ratio: float = Field(default=0.5, ge=0, le=4)
    tool_use_pairs: int = Field(default=24, ge=0)
    general: GeneralSource = "rehearsal"
    general_source: str = ""
    general_pairs: GeneralPairs | None = None
    teaching: Teaching | None = None
    holdout_share: float = Field(default=0.2, gt=0, lt=1)
    min_holdout: int = Field(default=8, ge=1)
    min_spans: int = Field(default=24, ge=2)
    replay_ratio: float = Field(default=0.0, ge=0, le=10)
    patience: int = Field(default=1, ge=0)
    seed: int = 0
    libraries: dict[str, str] = Field(default_factory=dict)
    threads: int = 0
    dtype: str = ""
    guard: GuardRecipe | None = Field(default=None, exclude_if=_nothing)  # so recipes without it are written as ever


class ConsentRecord(Value):
    """Under what consent something was minted. Separate from the licence; both are required.

    ``evidence`` says what was checked. E-mail addresses are kept only as sha256 (``identity_digest``).
    """

    mode: Literal["self", "granted", "local-only"]
    status: Literal["none", "requested", "granted", "revoked", "expired"]
    uses: tuple[Use, ...]
    repositories: tuple[str, ...]
    subject: str
    identity_digest: str
    evidence: Literal["ssh", "profile-file", "self-asserted", "none"]
    verified: bool
    how: str
    statement: str = ""
    signature: str = ""
    key_id: str = ""
    issued_at: str | None = None
    expires_at: str | None = None
    revocable: bool = True


class Candidate(Value):
    handle: str
    name: str
    expertise_domains: tuple[str, ...] = ()
    consent_verified: bool


class Capability(Value):
    """The text an index encodes; vectors of different encoders are never compared. No encoder yet -> ``None``.

    ``exemplars``: SHA-256 of the training prompts that stand for the block beside its text; ``None``: it was made before they were listed.
    """

    text: str
    exemplars: tuple[str, ...] | None = Field(default=None, max_length=64)
    encoder: str | None = None
    dimension: int | None = None


class Lineage(Value):
    """Where a block comes from. ``parents`` are ids; ``merge`` is set when, and only when, the relation is ``merged``."""

    parents: tuple[str, ...] = ()
    relation: Literal["minted", "continued", "forked", "merged", "distilled"] = "minted"
    merge: MergeRecord | None = None


class FileEntry(Value):
    sha256: str = Field(pattern=DIGEST_PATTERN)
    size: int = Field(ge=0)


class Share(Value):
    public: bool = False
    peers: tuple[str, ...] = ()
    license: str
    requires_payment: bool = False


class EvalSummary(Value):
    """Copies of ``eval.json`` under the names that the format has always had."""

    final_loss: Measure
    best_loss: Measure
    style_consistency: Measure
    domain_accuracy: Measure
    latency_overhead_ms: Measure
    perplexity_reduction_ratio: Measure
    nll_delta: Measure
    identity_gain: Measure
    forgetting: Measure
    memorisation_rate: Measure
    maturity: Measure = not_available("it was made before maturity was measured")
    teacher_model: str


class Check(Value):
    """Whether a compatibility check ran and what it found. ``None`` = it did not run (``how`` says why)."""

    value: bool | None
    how: str


class GateVerdict(Value):
    """``reasons``: why it was rejected. An accepted mint has none; an accepted merge says there what nobody has examined."""

    status: Literal["accepted", "rejected"]
    reasons: tuple[str, ...] = ()


class MaturityRule(Value):
    """One rule of the maturity score: its points, whether it holds, and the fact that this rests on."""

    name: str
    points: float
    holds: bool
    fact: str


class Maturity(Value):
    """``score`` from 0 to 1 and why. ``validated``: the gate accepted the block and its gain has an interval above zero; only such a block
    is green. ``caps``: why the score ends where it does, when points alone would give more.
    """

    score: float
    colour: Literal["grey", "amber", "cyan", "green"]
    validated: bool
    rules: tuple[MaturityRule, ...]
    caps: tuple[str, ...] = ()


class SourceFile(Value):
    """``repository``: which of several, by its URL; empty where the record is of one."""

    path: str
    blob: str
    language: str
    bytes: int
    ranges: tuple[tuple[int, int], ...]
    repository: str = ""


class GivenFile(Value):
    """A file of pairs (chat JSONL) that somebody gave, named by its content; ``name`` is only what they called it."""

    sha256: str = Field(pattern=DIGEST_PATTERN)
    name: str = Field(max_length=255)
    bytes: int = Field(ge=0)


class GivenPairs(Value):
    """Pairs given as a file instead of collected from a repository, under the licence that the giver stated.

    With ``holdout``, that file's pairs are the hold-out; else a part of ``training`` is.
    """

    training: GivenFile
    holdout: GivenFile | None = None
    licence: str


class SourceRecord(Value):
    """``sources.json``: the files and lines used, and what was refused.

    Either one ``repository`` that the pairs were collected from, or the files that they were ``given`` as.
    """

    repository: Repository | None
    given: GivenPairs | None = None
    author: str
    files: tuple[SourceFile, ...]
    refused: tuple[Refusal, ...]
    refused_counts: dict[str, int]


class MergedSource(Value):
    """The ``sources.json`` of one minted ancestor of a merge, but for the list of what was refused (its counts stay)."""

    block: str = Field(pattern=DIGEST_PATTERN)
    record: SourceRecord


class MergedSources(Value):
    """``sources.json`` of a merged block: it has no sources of its own, only its ancestors' (merges of merges are unfolded)."""

    merged: tuple[MergedSource, ...]


class Manifest(Value):
    format: Literal["dna/1"] = FORMAT
    id: str = Field(pattern=DIGEST_PATTERN)
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    previous_version: str | None = None
    created_at: str
    created_by: str
    candidate: Candidate
    consent_mode: Literal["self", "granted", "local-only"]
    specialization: str
    tags: tuple[str, ...] = ()
    capability: Capability
    base_model: str
    base_fingerprint: str
    base_weights_digest: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    recipe: Recipe | None
    lineage: Lineage
    gate: GateVerdict
    files: dict[str, FileEntry]
    license: str
    share: Share
    eval_summary: EvalSummary
    vllm_compatible: Check
    peft_compatible: Check
    training_pairs: int
    candidate_pairs: int
    base_instruct_pairs: int
    tool_use_pairs: int
    num_epochs: int

    def unlike(self, base: BaseInfo) -> str:
        """Why ``base`` is not the one it was trained on (fingerprint, and weights where both sides know theirs), or ``""``."""
        if self.base_fingerprint != base.fingerprint:
            return f"is for {self.base_model} ({self.base_fingerprint[:12]}), not {base.id} ({base.fingerprint[:12]})"
        mine, theirs = self.base_weights_digest, base.weights_digest
        if mine is not None and theirs is not None and mine != theirs:
            return f"is for {self.base_model} with other weights ({mine[:12]}, not {theirs[:12]})"
        return ""


class SignatureEntry(Value):
    keyid: str
    sig: str


class Envelope(Value):
    """A DSSE envelope (https://github.com/secure-systems-lab/dsse). ``payload`` is base64 of the exact manifest bytes."""

    payload: str
    payloadType: str  # noqa: N815 - the name that DSSE gives it
    signatures: tuple[SignatureEntry, ...]


class BlockRef(Value):
    """A registered block: ``name@version`` and the manifest's ``id``."""

    name: str
    version: str
    id: str
    status: Literal["registered", "rejected", "revoked"]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class MintOrder(Value):
    """Everything a mint needs to know, stored with its result. ``target`` is where to read; it never enters the block.

    With ``given`` nothing is read from a repository: the pairs lie in the job's directory, and ``target`` only names them.
    ``continues``: the id of the block whose next version this is, made of what the person wrote since. ``forks``: the id of the block whose
    weights the training begins with, for another skill under another name. ``focus``: a skill in words; only the pairs that are near to it
    are trained on.
    """

    kind: Literal["mint"] = "mint"
    target: str
    authors: tuple[Identity, ...]
    name: str | None = None
    base: str = "nano"
    consent: Literal["auto", "self", "granted", "local-only"] = "auto"
    teacher: Literal["own-words", "openai", "engine"] = "own-words"
    licences: tuple[str, ...] = ("MIT", "Apache-2.0")
    recipe: Recipe = Recipe()
    owned_share: float = Field(default=0.8, gt=0, le=1)
    max_files: int = Field(default=20_000, ge=1)
    max_changes: int = Field(default=200, ge=0)
    given: GivenPairs | None = None
    continues: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    forks: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    focus: str = Field(default="", max_length=200)
