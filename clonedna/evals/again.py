"""A measure that was stored, beside the same measure now: how far they are apart, and how far they may be.

On the machine and with the libraries that a block was minted with, nothing may differ. Elsewhere the matrix products round differently,
so each kind of measure has a tolerance; a measure beyond its tolerance is not the one that was stored.
"""

from __future__ import annotations

from clonedna.core.block import Evaluation, Measure
from clonedna.core.value import Value

LIKELIHOOD = 1e-3
HALF = 0.02
FLIPS = 2
DRAWN = 0.05
ROUNDING = 1e-12  # of the subtraction itself
TIMINGS = frozenset(("latency_overhead_ms", "latency.adapter_ms", "latency.base_ms"))
TRAINED = frozenset(("final_loss", "best_loss"))
_NLL = ("nll.", "bits_per_byte.", "perplexity_reduction_ratio", "forgetting", "identity.", "layer_drift")
_COUNTED = ("memorisation.", "tool_calls.", "tasks", "domain_accuracy", "secrets")


class Reading(Value):
    """``drift`` = ``now`` minus ``stored``; ``within`` its ``tolerance``. ``None`` where the two cannot be compared: ``why`` says so."""

    name: str
    stored: Measure | None
    now: Measure | None
    drift: float | None = None
    tolerance: float | None = None
    within: bool | None = None
    why: str = ""


def readings(stored: Evaluation, now: Evaluation, *, same_dtype: bool = True) -> tuple[Reading, ...]:
    """Every measure of either, by name. ``same_dtype``: whether the base is held in the numbers it was held in then."""
    names = sorted({*stored.measures, *now.measures})
    return tuple(_reading(name, stored.measures.get(name), now.measures.get(name), same_dtype) for name in names)


def _reading(name: str, stored: Measure | None, now: Measure | None, same_dtype: bool) -> Reading:
    def without(why: str) -> Reading:
        return Reading(name=name, stored=stored, now=now, why=why)

    if name in TRAINED:
        return without("measured while it was trained")
    if name in TIMINGS:
        return without("a time of one machine")
    if name == "maturity":
        return without("follows from the others")
    if now is None:
        return without("not measured again")
    if stored is None or stored.value is None:
        return without("not stored" if now.value is not None else now.how)
    if now.value is None:
        return without(now.how)
    if stored.n != now.n:
        return without(f"measured on other items: {stored.n} then, {now.n} now")
    drift, most = now.value - stored.value, tolerance(name, now.n or 0, same_dtype=same_dtype)
    return Reading(name=name, stored=stored, now=now, drift=drift, tolerance=most, within=abs(drift) <= most + ROUNDING)


def tolerance(name: str, n: int, *, same_dtype: bool = True) -> float:
    """How far two machines may be apart.

    1e-3 for likelihoods and norms (fp32 sums in another order differ by about 1e-5; 0.02 where one side holds the base in half precision).
    Shares of greedy completions: two of ``n`` may tip, where two tokens are as good as equal. What is drawn or counted over completions
    (style): 0.05. Comparisons of texts: 0.
    """
    if name.startswith("leakage"):
        return 0.0
    if name.startswith(_NLL):
        return LIKELIHOOD if same_dtype else HALF
    if name.startswith(_COUNTED):
        return FLIPS / n if n else 0.0
    return DRAWN
