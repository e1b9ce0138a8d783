"""The examination of one block: its instruments, in their order. Together they make what ``eval.json`` holds.

An instrument measures one thing of a ``Subject`` and gives the part of an ``Evaluation`` that it found; what it could not measure is
``not_available`` with the reason, never left out. What an instrument needs of the parts (a parser, a sandbox) is lent by ``app``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clonedna.core.block import EvalSummary, Evaluation, Measure, Recipe, not_available
from clonedna.core.events import Emit, StageProgress, silent
from clonedna.core.seams import Engine, OpenSandbox
from clonedna.core.work import Pair
from clonedna.evals.canaries import Probe, canaries
from clonedna.evals.domains import domain_accuracy, domain_gains
from clonedna.evals.drift import LayerDrift, drift_measures
from clonedna.evals.forgetting import forgetting
from clonedna.evals.latency import latency
from clonedna.evals.leakage import Overlaps, leakage
from clonedna.evals.likelihood import file_of, likelihood_measures, score_pairs
from clonedna.evals.memorisation import memorisation
from clonedna.evals.style_capture import examine_style
from clonedna.evals.style_trees import Parse
from clonedna.evals.tasks import tasks
from clonedna.evals.tasks_files import Task
from clonedna.evals.tool_calls import tool_calls


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: an adapter loaded in ``engine`` under the id ``adapter``, its PEFT files, and the work it was made from.

    ``holdout`` was never trained on nor used to stop; ``trained`` is only asked for what was learnt by heart, and for what stands in
    both. ``seed`` is that of every draw. ``emit`` hears of progress inside an instrument.
    """

    engine: Engine
    adapter: str
    directory: Path
    holdout: Sequence[Pair]
    trained: Sequence[Pair]
    recipe: Recipe
    seed: int
    emit: Emit = silent


@dataclass(frozen=True, slots=True)
class Lent:
    """What ``app`` lends of the parts; an instrument whose part is not lent says that its measure is not available.

    ``secret_in``: the kind of secret in a text, or ``None``. ``parse``: a text's syntax tree. ``overlaps``: how each of some pairs stands
    among others. ``layer_drift``: sizes of what the adapter in a directory adds to the engine's base. ``sandbox``: opens one; it says why
    where this machine has none. ``probe``: trains an adapter for one measurement.
    """

    secret_in: Callable[[str], str | None]
    parse: Parse | None = None
    overlaps: Overlaps | None = None
    layer_drift: LayerDrift | None = None
    sandbox: OpenSandbox | None = None
    probe: Probe | None = None


Instrument = Callable[[Subject, Lent], Awaitable[Evaluation]]


async def _likelihood(subject: Subject, lent: Lent) -> Evaluation:
    spans = await score_pairs(subject.engine, subject.holdout, subject.adapter)
    files = [file_of(pair) for pair in subject.holdout]
    domains = domain_gains(subject.holdout, spans, seed=subject.seed)
    measures = likelihood_measures(spans, files=files, seed=subject.seed) | {
        "domain_accuracy": domain_accuracy(domains)
    }
    return Evaluation(measures=measures, spans=spans, domains=domains)


async def _forgetting(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(measures=await forgetting(subject.engine, subject.adapter, seed=subject.seed))


async def _tool_calls(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(measures=await tool_calls(subject.engine, subject.adapter, seed=subject.seed))


async def _memorisation(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(
        measures=await memorisation(
            subject.engine, subject.adapter, subject.trained, secret_in=lent.secret_in, seed=subject.seed, emit=subject.emit
        )
    )  # fmt: skip


async def _style(subject: Subject, lent: Lent) -> Evaluation:
    return await examine_style(subject.engine, subject.adapter, subject.holdout, lent.parse, seed=subject.seed)


async def _drift(subject: Subject, lent: Lent) -> Evaluation:
    report = await lent.layer_drift(subject.engine, subject.directory) if lent.layer_drift is not None else None
    return Evaluation(measures=drift_measures(report), drift=report)


async def _latency(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(measures=await latency(subject.engine, subject.adapter, seed=subject.seed, emit=subject.emit))


async def _canaries(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(
        measures=await canaries(
            subject.engine, subject.recipe, subject.trained, lent.probe, seed=subject.seed, emit=subject.emit
        )
    )


async def _leakage(subject: Subject, lent: Lent) -> Evaluation:
    return Evaluation(measures=leakage(subject.holdout, subject.trained, lent.overlaps))


def tasks_instrument(chosen: Sequence[Task] | None = None, *, samples: int = 1) -> tuple[str, Instrument]:
    """Programming tasks (none chosen: the bundled ones), ``samples`` answers each, in a sandbox."""

    async def work(subject: Subject, lent: Lent) -> Evaluation:
        found = await tasks(
            subject.engine, subject.adapter, lent.sandbox, chosen, samples=samples, seed=subject.seed, emit=subject.emit
        )
        return Evaluation(measures=found)

    return "tasks", work


QUICK: tuple[tuple[str, Instrument], ...] = (
    ("likelihood", _likelihood),
    ("leakage", _leakage),
    ("forgetting", _forgetting),
    ("tool calls", _tool_calls),
    ("style", _style),
    ("drift", _drift),
    ("memorisation", _memorisation),
)
"""What every mint measures."""

ELSEWHERE = {
    "latency_overhead_ms": "a time of one machine, not of a block: dna eval NAME --full measures it",
    "identity.gain": "needs blocks of several people: dna eval --identity A B C",
    "memorisation.canaries": "trains a probe of its own: dna eval NAME --full measures it",
}
"""What an examination that has no such instrument says of these."""

FULL: tuple[tuple[str, Instrument], ...] = (
    *QUICK,
    ("latency", _latency),
    ("canaries", _canaries),
    tasks_instrument(),
)
"""What ``dna eval NAME --full`` measures: also what takes long."""


def with_tasks(chosen: Sequence[Task] | None, samples: int) -> tuple[tuple[str, Instrument], ...]:
    """``FULL`` with these tasks (none: the bundled ones) and so many answers to each."""
    return tuple(tasks_instrument(chosen, samples=samples) if name == "tasks" else (name, one) for name, one in FULL)


async def examine(
    subject: Subject, lent: Lent, instruments: Sequence[tuple[str, Instrument]] = QUICK, *, emit: Emit
) -> Evaluation:
    """All ``instruments`` on one subject, one after another; ``emit`` hears of each one's end.

    The time left is estimated from the instruments that are done, which are not equally long.
    """
    found = Evaluation(measures={})
    began = time.monotonic()
    for done, (name, instrument) in enumerate(instruments, start=1):
        found = joined(found, await instrument(subject, lent))
        left = (time.monotonic() - began) / done * (len(instruments) - done)
        emit(
            StageProgress(
                stage="evaluate", done=done, total=len(instruments), unit=f"instruments ({name})", eta_seconds=round(left, 1)
            )
        )  # fmt: skip
    return joined(Evaluation(measures={name: not_available(why) for name, why in ELSEWHERE.items()}), found)


def joined(first: Evaluation, second: Evaluation) -> Evaluation:
    """Both parts in one: measures by name in alphabetical order, every other field from the part that has it."""
    found = {name: getattr(second, name) for name in Evaluation.model_fields if getattr(second, name)}
    return first.model_copy(update={**found, "measures": dict(sorted({**first.measures, **second.measures}.items()))})


def trained_part(losses: Sequence[float], validation_losses: Sequence[float], pairs: int) -> Evaluation:
    """What the training itself measured: ``losses`` of each epoch, nats a completion token, over ``pairs`` of the person's own."""
    how = "mean nats a completion token of an epoch"
    measures = {
        name: Measure(value=value, status="measured", n=pairs, split="train", how=how)
        for name, value in (("final_loss", losses[-1]), ("best_loss", min(losses)))
    }
    return Evaluation(measures=measures, losses=tuple(losses), validation_losses=tuple(validation_losses))


def summary(evaluation: Evaluation, teacher: str) -> EvalSummary:
    """The manifest's ``eval_summary``: copies under the format's names; what was not measured says so."""

    def copy(name: str) -> Measure:
        return evaluation.measures.get(name) or not_available("not measured")

    return EvalSummary(
        final_loss=copy("final_loss"), best_loss=copy("best_loss"), style_consistency=copy("style.consistency"),
        domain_accuracy=copy("domain_accuracy"), latency_overhead_ms=copy("latency_overhead_ms"),
        perplexity_reduction_ratio=copy("perplexity_reduction_ratio"), nll_delta=copy("nll.delta"),
        identity_gain=copy("identity.gain"), forgetting=copy("forgetting"), memorisation_rate=copy("memorisation.rate"),
        maturity=copy("maturity"), teacher_model=teacher,
    )  # fmt: skip
