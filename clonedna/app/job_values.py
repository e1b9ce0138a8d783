"""What a job is in values: its order (one union, told apart by ``kind``), how it ended, and how faces see it.

An order that was stored without a ``kind`` is a mint: there was no other job then.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from clonedna.app.bench_values import BenchOrder, Reference
from clonedna.app.comparing import CompareOrder
from clonedna.app.genome_values import ApplyOrder
from clonedna.core.block import BlockRef, GivenFile, MintOrder
from clonedna.core.events import Event, JobFailed
from clonedna.core.merge import MergeOrder
from clonedna.core.value import Value

MOST_BLOCKS = 64
Kind = Literal["mint", "evaluate", "identity", "compare", "merge", "genome", "bench"]
Status = Literal["queued", "running", "interrupted", "finished", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("finished", "failed", "cancelled")


class EvaluateOrder(Value):
    """A block to be measured again: on its own hold-out (``full``: also what takes long), or on ``pairs``; files lie with the job.

    ``tasks``: programming tasks of a full one, with ``samples`` answers each; ``on``: where the base is; ``unsafe``: also a rejected block.
    """

    kind: Literal["evaluate"] = "evaluate"
    block: Reference
    full: bool = False
    pairs: GivenFile | None = None
    tasks: GivenFile | None = None
    samples: int = Field(default=1, ge=1, le=100)
    on: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    unsafe: bool = False


class IdentityOrder(Value):
    """Several blocks whose style is to be told apart, with ``controls`` trained on the others' code."""

    kind: Literal["identity"] = "identity"
    blocks: tuple[Reference, ...] = Field(min_length=1, max_length=MOST_BLOCKS)
    controls: bool = True
    unsafe: bool = False


def _kind(order: Any) -> str:
    return str(order.get("kind", "mint")) if isinstance(order, dict) else str(getattr(order, "kind", ""))


Order: TypeAlias = Annotated[
    Annotated[MintOrder, Tag("mint")]
    | Annotated[EvaluateOrder, Tag("evaluate")]
    | Annotated[IdentityOrder, Tag("identity")]
    | Annotated[CompareOrder, Tag("compare")]
    | Annotated[MergeOrder, Tag("merge")]
    | Annotated[BenchOrder, Tag("bench")]
    | Annotated[ApplyOrder, Tag("genome")],
    Discriminator(_kind),
]


class JobOrdered(Value):
    """A job's order with the moment it was given: of a mint, the only time that reaches a block."""

    order: Order
    created_at: str


class Queued(Value):
    """Kept with a job that a server or a worker is to carry out. ``base``: whose engine it needs; ``blocks``: ids that it reads.

    ``outside``: whoever ordered it may not name places of the machine's own disk and network.
    """

    base: str
    blocks: tuple[str, ...] = ()
    outside: bool = False


class Result(Value):
    """How a job ended. ``block`` where it made one; ``value``: the SHA-256 of what stands in its ``value.json``; ``error`` otherwise."""

    block: BlockRef | None = None
    value: str | None = None
    error: JobFailed | None = None

    @property
    def well(self) -> bool:
        return self.block is not None or self.value is not None


class JobView(Value):
    """A job as faces show it; ``done`` and ``doing`` are stages, ``percent`` is of the stage that is being done."""

    id: str
    kind: Kind
    status: Status
    target: str
    authors: tuple[str, ...]
    created_at: str
    done: tuple[str, ...]
    doing: str | None
    percent: float | None
    block: str | None
    error: JobFailed | None


class JobPage(Value):
    """Jobs, newest first; ``next`` is what to give as ``after`` for those behind them, ``None`` at the end."""

    jobs: tuple[JobView, ...]
    next: str | None = None


class JobEvent(Value):
    """One line of a job's log; offsets begin at 0 and grow."""

    offset: int
    at: str
    event: Event


class EventPage(Value):
    """Lines of a job's log, oldest first. ``ended``: none will follow by themselves, once all were read."""

    events: tuple[JobEvent, ...]
    status: Status
    ended: bool


class JobResult(Value):
    """What a job that ended well gives: a block, or a value as its kind has it, or both."""

    job: str
    kind: Kind
    block: BlockRef | None
    value: dict[str, Any] | None


def target_of(order: Order) -> str:
    """In words, what the job works on."""
    match order:
        case MintOrder():
            return order.target
        case EvaluateOrder():
            return order.block
        case IdentityOrder() | BenchOrder():
            return ", ".join(order.blocks)
        case CompareOrder():
            return f"{order.a}, {order.b}"
        case MergeOrder():
            return ", ".join(f"{part.reference}:{part.weight:g}" for part in order.parts)
        case ApplyOrder():
            return (
                f"{order.name}: {order.ask.request}" if order.ask else f"{order.name}: plan {(order.plan or '')[:12]}"
            )
