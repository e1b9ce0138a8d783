"""What is said when two blocks are compared: their weights, their behaviour, their answers.

``a`` is the first that was named, ``b`` the second.
"""

from __future__ import annotations

from typing import Literal

from clonedna.core.block import Measure
from clonedna.core.value import Value
from clonedna.core.work import Language

Which = Literal["a", "b"]
SpanOf = Literal["a", "b", "general"]
PromptOf = Literal["a", "b", "given"]


class Angles(Value):
    """Principal angles between two subspaces of dimensions p and q in a space of dimension d; degrees, ``n`` = min(p, q) of them.

    ``overlap``: mean squared cosine of these angles = ``|Qx^T Qy|_F^2 / min(p, q)``, 0 to 1 (Hu et al. 2021, section 7.2);
    ``by_chance``: what subspaces drawn at random have on average, max(p, q) / d.
    """

    n: int
    mean: float
    largest: float
    overlap: float
    by_chance: float


class ModuleSimilarity(Value):
    """One matrix of the base: the Frobenius norms of both updates and of their difference, their cosine, the angles of their spaces.

    ``only``: the one adapter that has this module; the other counts as zero here. ``cosine`` and angles are ``None`` where either update
    is zero. ``columns``: what is written (spanned by B), ``rows``: what is read (spanned by A^T). ``depth``: the layer, ``None`` where
    the name gives no number.
    """

    module: str
    part: Literal["attention", "mlp"]
    depth: int | None
    only: Which | None = None
    norm_a: float
    norm_b: float
    difference: float
    cosine: float | None
    columns: Angles | None
    rows: Angles | None


class GroupSimilarity(Value):
    """The same over several modules: norms and cosine of all of them as one vector, angles of all of them together."""

    name: str
    modules: int
    norm_a: float
    norm_b: float
    difference: float
    cosine: float | None
    columns: Angles | None
    rows: Angles | None


class WeightSimilarity(Value):
    """Two adapters of one base, as what they add to it. ``undefined`` says why the whole has no cosine, else it is empty."""

    whole: GroupSimilarity
    groups: tuple[GroupSimilarity, ...]
    modules: tuple[ModuleSimilarity, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    undefined: str = ""


class SpanGain(Value):
    """How much better than its base each block explains one span: nats a token, or bits a byte where the bases differ."""

    id: str
    of: SpanOf
    gain_a: float
    gain_b: float


class ProbeCounts(Value):
    """Spans that both blocks were measured on, and why others were not: ``trained`` stand in either one's training data,
    ``repeated`` stand in the set already, ``bounded`` are beyond the bound of one block's hold-out."""

    holdout_a: int
    holdout_b: int
    general: int
    trained: int
    repeated: int
    bounded: int


class Answer(Value):
    """One completion. ``finish`` is ``length`` where it was cut at the bound."""

    text: str
    tokens: int
    finish: str


class SideBySide(Value):
    """Answers to one prompt with one seed. ``of``: whose held-out work it asks for, and ``reference`` that work as the person wrote it.

    ``base_b``: the second block's base, where it is another one.
    """

    prompt: str
    of: PromptOf
    language: Language | None = None
    reference: str = ""
    base: Answer
    a: Answer
    b: Answer
    base_b: Answer | None = None


class Compared(Value):
    """One of the two blocks, as it was compared."""

    name: str
    version: str
    id: str
    person: str
    base: str
    base_fingerprint: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    gate: str


class Comparison(Value):
    """Everything that ``dna compare`` found. ``weights`` is ``None`` where they are not comparable; ``notes`` say why, and what to mind.

    ``unit`` of every gain. ``measures`` have stable names (docs/comparing.md).
    """

    a: Compared
    b: Compared
    same_block: bool
    same_base: bool
    notes: tuple[str, ...] = ()
    unit: Literal["nats a token", "bits a byte"]
    seed: int
    weights: WeightSimilarity | None
    measures: dict[str, Measure]
    probe: ProbeCounts | None = None
    spans: tuple[SpanGain, ...] = ()
    answers: tuple[SideBySide, ...] = ()
