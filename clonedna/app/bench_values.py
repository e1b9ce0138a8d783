"""What a bench of compositions is asked, and what it says: which ways of composing some blocks keep how much of what each brings alone."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from clonedna.core.block import Measure
from clonedna.core.genome import Composition
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value

Way = Literal[
    "gate", "average", "sum", "tuned", "svd", "regmean", "ties", "dare", "knots_ties", "legacy_peft_linear", "arrow", "mixture"
]  # fmt: skip
WAYS: tuple[Way, ...] = get_args(Way)
MOST_MEMBERS = 16
MOST_REFERENCE = 200  # characters of a block's reference
Reference = Annotated[str, Field(min_length=1, max_length=MOST_REFERENCE)]


class BenchOrder(Value):
    """Blocks of one base, to be composed in each of the ``ways`` and measured on their own held-out ``pairs`` (at most so many each).

    ``exemplars``: of each block's training pairs, that covariances and gate see; ``top_k`` of ``arrow``.
    """

    kind: Literal["bench"] = "bench"
    blocks: tuple[Reference, ...] = Field(min_length=2, max_length=MOST_MEMBERS)
    ways: tuple[Way, ...] = Field(default=WAYS, min_length=1, max_length=len(WAYS))
    pairs: int = Field(default=48, ge=4, le=1000)
    exemplars: int = Field(default=32, ge=4, le=256)
    top_k: int = Field(default=2, ge=1, le=MOST_MEMBERS)
    seed: int = Field(default=0, ge=0, lt=2**53)


class Benched(Value):
    """A member: its held-out pairs and files that were measured, how many were ``left_out`` because some member may have seen them, its
    gain alone (nats a token) and its adapter's size."""

    block: str
    id: str
    pairs: int
    files: int
    left_out: int
    gain: Measure
    rank: int
    bytes: int


class WayBenched(Value):
    """One way of composing. ``retention`` and ``gain``: of each member, in their order; ``weights`` as they were used.

    ``norm``: Frobenius norm of what is added, by the mean of the members' own; ``relative_error``: distance from the weighted sum; both
    ``None`` for what no one matrix says (gates, arrow), or where adapters have no factors to compute them from;
    ``seconds`` to make it, ``scoring_seconds`` to measure it; ``bytes`` of adapters that serve it. ``why``: why it could not be made.
    """

    way: Way
    composition: Composition
    weights: tuple[float, ...] | None = None
    retention: tuple[Measure, ...] = ()
    gain: tuple[Measure, ...] = ()
    mean: Measure
    worst: Measure
    norm: float | None = None
    relative_error: float | None = None
    seconds: float = 0.0
    scoring_seconds: float = 0.0
    bytes: int | None = None
    note: str = ""
    why: str = ""


class GenomeBench(Value):
    """``routed``: the upper line, each pair through the member it belongs to; 1 by definition where a member gains at all."""

    base: BaseInfo
    order: BenchOrder
    members: tuple[Benched, ...]
    routed: Measure
    ways: tuple[WayBenched, ...]
    seconds: float
