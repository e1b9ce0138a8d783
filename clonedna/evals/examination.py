"""The examination of one freshly trained block: everything that ``eval.json`` holds."""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.core.block import EvalSummary, Evaluation, Measure, not_available
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.forgetting import forgetting
from clonedna.evals.likelihood import likelihood_measures, score_pairs
from clonedna.evals.memorisation import memorisation


async def examine(
    engine: Engine, adapter: str, *, holdout: Sequence[Pair], trained: Sequence[Pair],
    losses: Sequence[float], validation_losses: Sequence[float], seed: int,
) -> Evaluation:  # fmt: skip
    """Measure a loaded adapter. ``holdout`` was never trained on nor used to stop; ``trained`` is only asked for memorisation.

    ``losses``: mean training loss of each epoch, nats a token; ``validation_losses``: the same on the validation part, if there was one.
    """
    spans = await score_pairs(engine, holdout, adapter)
    measures = likelihood_measures(spans, seed=seed)
    measures |= await forgetting(engine, adapter, seed=seed)
    measures |= await memorisation(engine, adapter, trained, seed=seed)
    for name, value in (("final_loss", losses[-1]), ("best_loss", min(losses))):
        measures[name] = Measure(
            value=value,
            status="measured",
            n=len(trained),
            split="train",
            how="mean nats a completion token of an epoch",
        )
    return Evaluation(
        measures=dict(sorted(measures.items())),
        spans=spans,
        losses=tuple(losses),
        validation_losses=tuple(validation_losses),
    )


def summary(evaluation: Evaluation, teacher: str) -> EvalSummary:
    """The manifest's ``eval_summary``: copies under the format's names; what this version does not measure says so."""
    m = evaluation.measures
    later = not_available("not measured by this version")
    return EvalSummary(
        final_loss=m["final_loss"], best_loss=m["best_loss"], style_consistency=later, domain_accuracy=later,
        latency_overhead_ms=later, perplexity_reduction_ratio=m["perplexity_reduction_ratio"], nll_delta=m["nll.delta"],
        identity_gain=later, forgetting=m["forgetting"], memorisation_rate=m["memorisation.rate"], teacher_model=teacher,
    )  # fmt: skip
