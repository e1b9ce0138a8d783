"""What is said about interference: what modules read (covariances), what one layer does where another one is at work, and the lights.

A pair is ordered: ``source`` is the layer that is put beside, ``target`` the one that it may harm. Nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from clonedna.core.block import DIGEST_PATTERN, Measure
from clonedna.core.genome import Conflict
from clonedna.core.value import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Light = Literal["green", "amber", "red", "unknown"]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
KinKind = Literal["same", "duplicate", "fork", "merge"]


class Observed(Value):
    """Second moments ``C = E[h h^T]`` of what modules read, as they were written: over ``tokens`` tokens of ``examples`` examples.

    ``exact``: modules with the whole matrix; ``sketched``: those with a low-rank part and a diagonal instead. ``error``: the largest, over
    sketched modules, of the bound on ``|C - sketch|`` (spectral norm) by the trace of C; 0 where all are exact.
    """

    base_fingerprint: str
    examples: int
    tokens: int
    exact: int
    sketched: int
    error: float
    bytes: int


class Pairwise(Value):
    """What the files of two layers say of them, by module: ``source`` put beside ``target``.

    ``norms``: ``|s B A|_F`` of source and target; ``inner``: their Frobenius inner product; ``energies``: mean squared length of what
    source and target add on the target's own inputs, ``None`` without its covariances. A module that only one has counts 0 for the other.
    """

    norms: dict[str, tuple[float, float]]
    inner: dict[str, float]
    energies: dict[str, tuple[float, float]] | None = None


class ModuleConflict(Value):
    """One module of a pair: phi there (or the ratio of norms, where the pair has no phi), and the light that it gives."""

    module: str
    value: float | None
    light: Light


class PairConflict(Value):
    """What putting ``source`` beside ``target`` is expected, or was seen, to do to ``target``.

    ``phi``: size of what source adds on target's inputs by the size of what target adds there; ``norm_ratio``: the same with all
    directions alike; ``cosine``: of the two updates (duplicates and lineage; no sign of harm when stacked). ``damage``: the share of its
    own gain that target loses: ``measured`` (a note), or ``estimated`` from ``by``. ``modules``: the worst first.
    """

    source: str
    target: str
    phi: Measure
    norm_ratio: Measure
    cosine: float | None
    damage: Measure
    light: Light
    by: Literal["note", "phi", "norm_ratio", "nothing"]
    why: str
    modules: tuple[ModuleConflict, ...] = ()

    def conflict(self) -> Conflict:
        """As a plan has it."""
        return Conflict(source=self.source, target=self.target, phi=self.phi, light=self.light, why=self.why)


class Kinship(Value):
    """``one`` repeats or descends from ``of``: by weights (``cosine``; of a merge, how well its parents' weighted sum explains it), by
    lineage, or both (``by``). Neither adds coverage beside the other."""

    one: str
    of: tuple[str, ...]
    kind: KinKind
    cosine: float | None
    by: Literal["id", "weights", "lineage", "both"]


class Outcome(Value):
    """A pair whose damage was measured, and what was known of it before."""

    phi: float | None = Field(ge=0)
    norm_ratio: float = Field(ge=0)
    damage: float


class Curve(Value):
    """A monotone step function with straight lines between its knots: damage expected at ``x``; flat beyond its ends."""

    x: tuple[float, ...] = Field(min_length=1, max_length=4096)
    damage: tuple[float, ...] = Field(min_length=1, max_length=4096)


class ConflictCard(Value):
    """How the lights are calibrated: damage expected at a phi, and at a ratio of norms; what it was fitted on, and on how many pairs."""

    format: Literal["dna-conflict-card/1"] = "dna-conflict-card/1"
    phi: Curve | None
    norm_ratio: Curve
    fitted_on: str = Field(max_length=1000)
    n: int = Field(ge=1)
    amber: float = 0.10
    red: float = 0.30


class InterferenceIndex(Value):
    """Of a composition. ``member``: mean share of their own gain that members lose; ``worst``: of the one that loses most; ``guard``:
    relative rise of the loss on what no member is about. ``passes``: both gates hold; ``None`` when a part is not available."""

    member: Measure
    worst: Measure
    guard: Measure
    member_gate: float
    guard_gate: float
    passes: bool | None


class WeightSketch(NamedTuple):
    """What an adapter adds, as one row of fixed length: ``row`` ``[4096]`` fp32 of length 1 (all 0 for one that changes nothing), and
    ``norm``, the Frobenius norm of all it adds. Cosines of rows are those of the updates, but for about 0.02 (one standard deviation).
    """

    row: NDArray[np.float32]
    norm: float
