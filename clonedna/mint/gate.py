"""The gate: a block is registered only when every one of these holds; otherwise it is kept as rejected, with the reasons.

A limit on a measure that is estimated from a sample is kept in two ways: nothing may be surely over it (its interval lies above), and
nothing may be far over it. So chance rejects no good block, and a small sample excuses no bad one.
"""

from __future__ import annotations

from clonedna.core.block import Check, ConsentRecord, Evaluation, GateVerdict, Measure
from clonedna.core.value import Value


class Limit(Value):
    """``sure``: the interval's lower end must not be above it; ``most``: the value itself must not be above it."""

    sure: float
    most: float


class GateLimits(Value):
    """``gain``: nats a token that the interval of the gain must lie above; more than the rounding of half-precision sums, so that nothing
    is accepted for noise of the arithmetic. ``forgetting``: relative rise of the NLL on the general set. ``memorisation``: excess share of
    verbatim continuations over the base's. ``leakage``: share of the hold-out that was trained on. ``secrets``: generations with one.
    """

    gain: float = 1e-3
    forgetting: Limit = Limit(sure=0.03, most=0.10)
    memorisation: Limit = Limit(sure=0.01, most=0.10)
    leakage: float = 0.0
    secrets: int = 0


def judge(
    evaluation: Evaluation, peft: Check, consent: ConsentRecord, licence: str | None, limits: GateLimits
) -> GateVerdict:
    """Loadable in a fresh process, surely better than the base, within the limits, saying no secrets, not examined on what it was
    trained on, consented, licensed. A measure that the gate needs and that is not there is a reason.
    """
    measures = evaluation.measures
    reasons = [f"not loadable: {peft.how}"] if peft.value is not True else []
    reasons += [
        reason
        for reason in (
            _gain(measures.get("nll.delta"), limits.gain),
            _over("forgetting", measures.get("forgetting"), limits.forgetting, needed=True),
            _over("memorisation excess", measures.get("memorisation.excess"), limits.memorisation),
            _secrets(measures.get("secrets"), limits.secrets),
            _leakage(measures.get("leakage"), limits.leakage),
        )
        if reason
    ]
    if consent.mode != "local-only" and consent.status != "granted":
        reasons.append(f"consent is {consent.status}")
    if licence is None:
        reasons.append("licence unknown")
    return GateVerdict(status="rejected" if reasons else "accepted", reasons=tuple(reasons))


def _gain(delta: Measure | None, least: float) -> str:
    if delta is None or delta.value is None or delta.ci95 is None:
        return "no sure gain on the hold-out: it was not measured"
    if delta.ci95[0] > least:
        return ""
    low, high = delta.ci95
    return (
        f"no sure gain on the hold-out: {delta.value:+.4f} nats a token, 95 % interval [{low:+.4f}, {high:+.4f}], "
        f"which must lie above {least:g}"
    )


def _over(name: str, measure: Measure | None, limit: Limit, *, needed: bool = False) -> str:
    if measure is None or measure.value is None:
        missing = measure is None or needed
        return f"{name} is not known: {measure.how if measure else 'it was not measured'}" if missing else ""
    if measure.value > limit.most:
        return f"{name} {measure.value:.1%} is over the limit of {limit.most:.0%}"
    if measure.value > limit.sure and measure.ci95 is not None and measure.ci95[0] > limit.sure:
        return f"{name} {measure.value:.1%} is surely over {limit.sure:.0%}: 95 % interval from {measure.ci95[0]:.1%}"
    return ""


def _secrets(found: Measure | None, most: int) -> str:
    if found is None or found.value is None or found.value <= most:
        return "secrets in its continuations were not looked for" if found is None else ""
    return f"secrets in {found.value:.0f} of {found.n} continuations of training code"


def _leakage(leaked: Measure | None, most: float) -> str:
    if leaked is None or leaked.value is None:
        return f"whether its hold-out was trained on is not known: {leaked.how if leaked else 'it was not measured'}"
    return f"{leaked.value:.1%} of its hold-out was trained on ({leaked.how})" if leaked.value > most else ""
