"""How mature a block is: points for measured facts, each with what it rests on, and one hard rule.

The rule: no block is ``validated``, and none is green, unless the gate accepted it and its gain on held-out code has a 95 % interval above
zero. Points alone never make a block green: they count what is there, the rule asks whether it is worth anything.
"""

from __future__ import annotations

from clonedna.core.block import Evaluation, GateVerdict, Manifest, Maturity, MaturityRule, Measure

WEIGHTS_FILE = "adapter_model.safetensors"
CONVERGED, DEEP = 1.0, 0.9
ADEQUATE, RICH = 20, 50
IMPROVEMENT = 0.05
UNPROVEN, WORSE = 0.84, 0.59
COLOURS = ((0.3, "grey"), (0.6, "amber"), (0.8, "cyan"))


def maturity(evaluation: Evaluation, *, pairs: int, weights: bool, gate: GateVerdict) -> Maturity:
    """The score from 0 to 1 with its breakdown. ``pairs``: the person's own training pairs; ``weights``: whether an adapter is there.

    Weights .20. Converged .20: NLL on held-out code under 1.0 of the base's on the same code; deep .10: under 0.9. At least 20 pairs .15,
    50 pairs .10. Phenotype .15: ``style.capture`` surely above zero (its interval, where it has one). Quality .10: perplexity on held-out
    code falls by at least 5 %. Without the hard rule the score ends at .84, and with a loss instead of a gain at .59. What was not
    measured gives no points and says so.
    """
    measures = evaluation.measures
    relative = _relative(measures)
    fall = measures.get("perplexity_reduction_ratio")
    fall_value = None if fall is None or not fall.value else 1 - 1 / fall.value
    style = measures.get("style.capture")
    rules = (
        MaturityRule(name="weights", points=0.2, holds=weights, fact="an adapter is there" if weights else "no adapter"),
        _under("converged", 0.2, relative, CONVERGED),
        _under("deep", 0.1, relative, DEEP),
        MaturityRule(name="adequate data", points=0.15, holds=pairs >= ADEQUATE, fact=f"{pairs} own pairs, asked: {ADEQUATE}"),
        MaturityRule(name="rich data", points=0.1, holds=pairs >= RICH, fact=f"{pairs} own pairs, asked: {RICH}"),
        MaturityRule(name="phenotype", points=0.15, holds=_above_zero(style), fact=_told("style.capture", style)),
        MaturityRule(
            name="quality", points=0.1, holds=fall_value is not None and fall_value >= IMPROVEMENT,
            fact="perplexity was not measured" if fall_value is None else f"perplexity falls by {fall_value:.1%}, asked: {IMPROVEMENT:.0%}",
        ),
    )  # fmt: skip
    delta = measures.get("nll.delta")
    validated = gate.status == "accepted" and delta is not None and delta.ci95 is not None and delta.ci95[0] > 0
    score, caps = sum(rule.points for rule in rules if rule.holds), list[str]()
    if not validated:
        why = "the gate rejected it" if gate.status != "accepted" else "its gain has no interval above zero"
        caps.append(f"at most {UNPROVEN}: {why}")
        score = min(score, UNPROVEN)
    if delta is not None and delta.value is not None and delta.value < 0:
        caps.append(f"at most {WORSE}: it explains held-out code worse than the base does")
        score = min(score, WORSE)
    colour = next((name for end, name in COLOURS if score < end), "green" if validated else "cyan")
    return Maturity(score=round(score, 2), colour=colour, validated=validated, rules=rules, caps=tuple(caps))  # type: ignore[arg-type]


def maturity_of(manifest: Manifest, evaluation: Evaluation) -> Maturity:
    """Of a block, from its manifest and its ``eval.json``."""
    return maturity(
        evaluation, pairs=manifest.candidate_pairs, weights=WEIGHTS_FILE in manifest.files, gate=manifest.gate
    )


def with_maturity(evaluation: Evaluation, *, pairs: int, gate: GateVerdict) -> Evaluation:
    """``evaluation`` with the measure ``maturity``, for a block that is about to be packed with its weights."""
    found = maturity(evaluation, pairs=pairs, weights=True, gate=gate)
    held = ", ".join(rule.name for rule in found.rules if rule.holds) or "nothing"
    measure = Measure(
        value=found.score, status="measured",
        how=f"points for {held}; {'validated' if found.validated else 'not validated: ' + '; '.join(found.caps)}",
    )  # fmt: skip
    return evaluation.model_copy(
        update={"measures": dict(sorted({**evaluation.measures, "maturity": measure}.items()))}
    )


def _relative(measures: dict[str, Measure]) -> float | None:
    base, tuned = measures.get("nll.base"), measures.get("nll.adapter")
    if base is None or tuned is None or not base.value or tuned.value is None:
        return None
    return tuned.value / base.value


def _under(name: str, points: float, relative: float | None, limit: float) -> MaturityRule:
    if relative is None:
        return MaturityRule(name=name, points=points, holds=False, fact="likelihood on held-out code was not measured")
    fact = f"NLL on held-out code is {relative:.3f} of the base's, asked: under {limit:g}"
    return MaturityRule(name=name, points=points, holds=relative < limit, fact=fact)


def _above_zero(measure: Measure | None) -> bool:
    if measure is None or measure.value is None:
        return False
    return measure.value > 0 if measure.ci95 is None else measure.ci95[0] > 0


def _told(name: str, measure: Measure | None) -> str:
    if measure is None or measure.value is None:
        return f"{name} was not measured" + (f" ({measure.how})" if measure is not None else "")
    return f"{name} is {measure.value:.3f}" + (f", from {measure.ci95[0]:.3f}" if measure.ci95 is not None else "")
