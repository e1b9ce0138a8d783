"""How each kind of job is carried out: a mint and an assembly in their stages, every other kind in one, which begins again when it was cut.

A stage leaves one value in ``stages/<stage>.json``; what the last one left is the job's result. What a single stage does inside is told by
the use case itself, as stages of its own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio

from clonedna.app import genome_apply, minting
from clonedna.app.bench_values import BenchOrder
from clonedna.app.benching import Benching
from clonedna.app.comparing import CompareOrder, Comparing
from clonedna.app.evaluating import Evaluating
from clonedna.app.genome_apply import Assembling
from clonedna.app.genome_values import ApplyOrder
from clonedna.app.identity import Identifying
from clonedna.app.job_values import EvaluateOrder, IdentityOrder, JobOrdered, Order, Result
from clonedna.app.merging import Merged, Merging
from clonedna.app.minting import Minting
from clonedna.app.parts import Parts
from clonedna.app.stages import watched
from clonedna.app.workspace import Workspace, write_atomic
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import plain, sha256
from clonedna.core.errors import Internal
from clonedna.core.events import Emit
from clonedna.core.merge import MergeOrder
from clonedna.core.value import Value

VALUE = "value.json"
JobStatus = Literal["registered", "rejected", "done"]


class Work(Protocol):
    """One job's stages. ``run`` does one, keeps what it leaves, and gives that value's SHA-256."""

    def run(self, stage: str) -> str: ...


def stages_of(order: Order) -> tuple[str, ...]:
    """The stages of this order, each of which is not done again once it has ended."""
    if isinstance(order, ApplyOrder):
        return genome_apply.STAGES
    return minting.stages_of(order) if isinstance(order, MintOrder) else (order.kind,)


def work_of(workspace: Workspace, parts: Parts, emit: Emit, stopped: Callable[[], None]) -> Work:
    """What carries out the order in ``workspace``. ``stopped`` raises ``Interrupted`` once it should stop; ``emit`` does so as well."""
    ordered = workspace.read("order.json", JobOrdered)
    order = ordered.order
    if isinstance(order, MintOrder):
        return Minting(workspace, parts, emit, stopped)
    if isinstance(order, ApplyOrder):
        return Assembling(workspace, order, ordered.created_at, parts, emit, stopped)
    return Single(workspace, order, parts, emit, stopped)


class Single:
    """The one stage of a job that is no mint."""

    def __init__(
        self, workspace: Workspace, order: Order, parts: Parts, emit: Emit, stopped: Callable[[], None]
    ) -> None:
        self.workspace, self.order, self.parts, self.emit, self.stopped = workspace, order, parts, emit, stopped

    def run(self, stage: str) -> str:
        """Do it, keep its value. Errors are ``DnaError``, but those of the disk."""
        work: Callable[[], Awaitable[Value]] = self._work
        value = anyio.run(watched, work, self.stopped)
        return self.workspace.write(f"stages/{stage}.json", _finite(plain(value)))

    async def _work(self) -> Value:
        order, parts, emit = self.order, self.parts, self.emit
        match order:
            case EvaluateOrder():
                return await self._evaluate(order)
            case IdentityOrder():
                found, _ = await Identifying(parts, emit).identify(
                    order.blocks, controls=order.controls, unsafe=order.unsafe
                )
                return found
            case CompareOrder():
                return await Comparing(parts, emit).compare(order)
            case MergeOrder():
                return await Merging(parts, emit).merge(order)
            case BenchOrder():
                return await Benching(parts, emit).bench(order)
            case MintOrder() | ApplyOrder():
                raise Internal(f"job {self.workspace.id} has stages", "please report this")

    async def _evaluate(self, order: EvaluateOrder) -> Value:
        evaluating = Evaluating(self.parts, self.emit)
        if order.pairs is not None:
            return await evaluating.measure(
                order.block, self._given(order.pairs.sha256), on=order.on, seed=order.seed, unsafe=order.unsafe
            )
        return await evaluating.examine(
            order.block, full=order.full, tasks=self._given(order.tasks.sha256) if order.tasks else None, samples=order.samples,
            on=order.on, seed=order.seed, unsafe=order.unsafe,
        )  # fmt: skip

    def _given(self, digest: str) -> Path:
        """Where a given file is, once it is what it was."""
        self.workspace.given(digest)
        return self.workspace.directory / "given" / digest


def ended(workspace: Workspace, order: Order) -> tuple[Result, JobStatus]:
    """How a job ended all of whose stages have; its value, where it has one, is then in ``value.json``. Doing it twice is as once."""
    if isinstance(order, MintOrder):
        block = workspace.read("stages/register.json", BlockRef)
        return Result(block=block), _standing(block)
    last = stages_of(order)[-1]
    data = (workspace.directory / "stages" / f"{last}.json").read_bytes()
    write_atomic(workspace.directory / VALUE, data)
    if isinstance(order, MergeOrder):
        merged = Merged.model_validate_json(data)
        return Result(block=merged.block, value=sha256(data)), _standing(merged.block)
    return Result(value=sha256(data)), "done"


def _standing(block: BlockRef) -> Literal["registered", "rejected"]:
    return "rejected" if block.status == "rejected" else "registered"


def _finite(value: Any) -> Any:
    """The same with infinities and NaN as the words that values write them with: canonical JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value
