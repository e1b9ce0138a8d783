"""The gate: a block is registered only when every one of these holds; otherwise it is kept as rejected, with the reasons."""

from __future__ import annotations

from clonedna.core.block import Check, ConsentRecord, Evaluation, GateVerdict
from clonedna.core.value import Value


class GateLimits(Value):
    """Most relative rise of the NLL on the general set; most excess share of verbatim continuations over the base."""

    forgetting: float = 0.10
    memorisation: float = 0.10


def judge(
    evaluation: Evaluation, peft: Check, consent: ConsentRecord, licence: str | None, limits: GateLimits
) -> GateVerdict:
    """Loadable in a fresh process, better than the base with a 95 % interval above zero, within the limits, consented, licensed."""
    reasons: list[str] = []
    measures = evaluation.measures
    delta = measures["nll.delta"]
    if peft.value is not True:
        reasons.append(f"not loadable: {peft.how}")
    if delta.ci95 is None or delta.ci95[0] <= 0:
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
    if consent.mode != "local-only" and consent.status != "granted":
        reasons.append(f"consent is {consent.status}")
    if licence is None:
        reasons.append("licence unknown")
    return GateVerdict(status="rejected" if reasons else "accepted", reasons=tuple(reasons))
