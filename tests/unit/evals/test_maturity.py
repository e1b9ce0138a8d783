"""Points for facts, a reason for each, and nothing green without a passed gate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.block import Evaluation, GateVerdict, Measure, not_available
from clonedna.evals.maturity import maturity, with_maturity

ACCEPTED, REJECTED = GateVerdict(status="accepted"), GateVerdict(status="rejected", reasons=("no",))


def measure(value: float, low: float | None = None) -> Measure:
    return Measure(value=value, status="measured", how="test", ci95=None if low is None else (low, value + 1))


def examined(relative: float = 0.85, low: float = 0.1, style: Measure | None = None) -> Evaluation:
    base = 2.0
    delta = base * (1 - relative)
    return Evaluation(
        measures={
            "nll.base": measure(base), "nll.adapter": measure(base * relative), "nll.delta": measure(delta, low),
            "perplexity_reduction_ratio": measure(2.718281828459045**delta), "style.capture": style or measure(0.3, 0.1),
        }
    )  # fmt: skip


def test_everything_there_gives_one() -> None:
    found = maturity(examined(), pairs=60, weights=True, gate=ACCEPTED)
    assert (found.score, found.colour, found.validated, found.caps) == (1.0, "green", True, ())
    assert sum(rule.points for rule in found.rules) == 1.0


def test_each_missing_fact_costs_its_points_and_says_so() -> None:
    cases = {
        "deep": (examined(relative=0.93), 60, True), "rich data": (examined(), 49, True), "weights": (examined(), 60, False),
        "phenotype": (examined(style=measure(0.3, -0.01)), 60, True),
    }  # fmt: skip
    for name, (evaluation, pairs, weights) in cases.items():
        found = maturity(evaluation, pairs=pairs, weights=weights, gate=ACCEPTED)
        (missing,) = [rule for rule in found.rules if not rule.holds]
        assert missing.name == name
        assert round(1 - missing.points, 2) == found.score
    unmeasured = maturity(examined(style=not_available("no parser")), pairs=60, weights=True, gate=ACCEPTED)
    assert "no parser" in next(rule.fact for rule in unmeasured.rules if rule.name == "phenotype")


def test_a_small_gain_is_converged_but_no_quality() -> None:
    found = maturity(examined(relative=0.98), pairs=60, weights=True, gate=ACCEPTED)
    assert {rule.name for rule in found.rules if not rule.holds} == {"deep", "quality"}


def test_a_loss_is_capped() -> None:
    found = maturity(examined(relative=1.1, low=-0.4), pairs=60, weights=True, gate=REJECTED)
    assert found.score <= 0.59
    assert any("worse than the base" in cap for cap in found.caps)


@given(
    relative=st.floats(0.2, 3.0),
    low=st.floats(-1.0, 1.0),
    pairs=st.integers(0, 500),
    weights=st.booleans(),
    accepted=st.booleans(),
)
def test_nothing_is_green_or_validated_without_the_gate_and_an_interval_above_zero(
    relative: float, low: float, pairs: int, weights: bool, accepted: bool
) -> None:
    found = maturity(examined(relative, low), pairs=pairs, weights=weights, gate=ACCEPTED if accepted else REJECTED)
    assert 0 <= found.score <= 1
    assert found.validated == (accepted and low > 0)
    if not found.validated:
        assert found.score <= 0.84
        assert found.colour != "green"


def test_the_measure_names_what_it_rests_on() -> None:
    found = with_maturity(examined(), pairs=60, gate=REJECTED).measures["maturity"]
    assert found.value == 0.84
    assert "not validated: at most 0.84: the gate rejected it" in found.how
    empty = with_maturity(Evaluation(measures={}), pairs=0, gate=REJECTED).measures["maturity"]
    assert empty.value == 0.2
