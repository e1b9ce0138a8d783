"""The gate: a block is registered only when every one of these holds; otherwise it is kept as rejected, with the reasons."""

from __future__ import annotations

from clonedna.core.block import Check, ConsentRecord, Evaluation, GateVerdict
from clonedna.core.value import Value


class GateLimits(Value):
    """Least gain that the interval must lie above, in nats a token; most relative rise of the NLL on the general set; most excess share
    of verbatim continuations over the base; most share of the hold-out that was trained on.

    ``gain`` is above the rounding of half-precision sums, so that nothing is accepted for noise of the arithmetic.
    """

    gain: float = 1e-3
    forgetting: float = 0.10
    memorisation: float = 0.10
    leakage: float = 0.0


def judge(
    evaluation: Evaluation, peft: Check, consent: ConsentRecord, licence: str | None, limits: GateLimits
) -> GateVerdict:
    """Loadable in a fresh process, better than the base with a 95 % interval above zero, within the limits, consented, licensed."""
    reasons: list[str] = []
    measures = evaluation.measures
    delta = measures["nll.delta"]
    if peft.value is not True:
        reasons.append(f"not loadable: {peft.how}")
    if delta.ci95 is None or delta.ci95[0] <= limits.gain:
        low, high = delta.ci95 or (float("nan"), float("nan"))
        reasons.append(
            f"no sure gain on the hold-out: {delta.value:+.4f} nats a token, 95 % interval [{low:+.4f}, {high:+.4f}]"
        )
    forgetting = measures["forgetting"].value
    if forgetting is None or forgetting > limits.forgetting:
        reasons.append(f"forgetting {forgetting} is over the limit of {limits.forgetting}")
    excess = measures["memorisation.excess"]
    if excess.value is not None and excess.value > limits.memorisation:
        reasons.append(f"memorisation excess {excess.value:.3f} is over the limit of {limits.memorisation}")
    leaked = measures["leakage"]
    if leaked.value is None or leaked.value > limits.leakage:
        reasons.append(
            f"the hold-out was trained on: {leaked.how}" if leaked.value else f"leakage is not known: {leaked.how}"
        )
    if consent.mode != "local-only" and consent.status != "granted":
        reasons.append(f"consent is {consent.status}")
    if licence is None:
        reasons.append("licence unknown")
    return GateVerdict(status="rejected" if reasons else "accepted", reasons=tuple(reasons))
