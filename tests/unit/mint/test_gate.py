"""The gate says no to what is surely wrong, and not to what chance alone can do."""

from __future__ import annotations

import pytest

from clonedna.core.block import Check, Evaluation, Measure, not_available
from clonedna.core.fakes import FakeConsents
from clonedna.mint.gate import GateLimits, judge
from tests.values import ADA

GOOD = Check(value=True, how="test")
CONSENT = FakeConsents().local_only([ADA], "local:abacus")


def measure(value: float, low: float | None = None, high: float = 1.0, n: int = 100) -> Measure:
    return Measure(value=value, status="measured", how="test", n=n, ci95=None if low is None else (low, high))


def evaluation(**changes: Measure | None) -> Evaluation:
    measures: dict[str, Measure | None] = {
        "nll.delta": measure(0.05, 0.01, 0.1), "forgetting": measure(0.0, -0.01, 0.01), "memorisation.excess": measure(0.0, 0.0, 0.0),
        "secrets": measure(0.0), "leakage": measure(0.0),
    }  # fmt: skip
    measures |= {name.replace("_", "."): value for name, value in changes.items()}
    return Evaluation(measures={name: value for name, value in measures.items() if value is not None})


def reasons(examined: Evaluation, peft: Check = GOOD, licence: str | None = "MIT") -> tuple[str, ...]:
    verdict = judge(examined, peft, CONSENT, licence, GateLimits())
    assert (verdict.status == "accepted") == (not verdict.reasons)
    return verdict.reasons


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forgetting": measure(0.05, 0.01, 0.09)},  # perhaps over 3 %, perhaps not
        {"forgetting": measure(0.029, 0.028, 0.03)},
        {"memorisation_excess": measure(0.02, 0.0, 0.06)},
        {"memorisation_excess": not_available("no completion is long enough")},
        {"secrets": not_available("no completion is long enough")},
    ],
)
def test_a_good_block_passes_and_chance_does_not_reject_it(changes: dict[str, Measure]) -> None:
    assert not reasons(evaluation(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nll_delta": measure(0.05, 0.0)}, "no sure gain"),
        ({"nll_delta": measure(0.0005, 0.0004, 0.0006)}, "no sure gain"),
        ({"nll_delta": measure(0.0, 0.0, 0.0)}, "no sure gain"),
        ({"nll_delta": measure(0.05)}, "no sure gain"),
        ({"nll_delta": None}, "not measured"),
        ({"forgetting": measure(0.11, -0.05, 0.3)}, "forgetting 11.0% is over"),
        ({"forgetting": measure(0.06, 0.04, 0.08)}, "surely over 3%"),
        ({"forgetting": not_available("broken")}, "forgetting is not known"),
        ({"memorisation_excess": measure(0.04, 0.02, 0.08)}, "surely over 1%"),
        ({"memorisation_excess": measure(0.125, 0.0, 0.25, n=24)}, "over the limit"),
        ({"memorisation_excess": None}, "not measured"),
        ({"secrets": measure(1.0)}, "secrets in 1 of 100"),
        ({"secrets": None}, "not looked for"),
        ({"leakage": measure(0.01)}, "1.0% of its hold-out was trained on"),
        ({"leakage": not_available("nothing was lent")}, "not known"),
    ],
)
def test_each_measure_can_reject(changes: dict[str, Measure | None], said: str) -> None:
    (reason,) = reasons(evaluation(**changes))
    assert said in reason


def test_what_cannot_be_loaded_and_what_has_no_licence_is_rejected() -> None:
    assert "not loadable" in reasons(evaluation(), Check(value=False, how="other logits"))[0]
    assert "not loadable" in reasons(evaluation(), Check(value=None, how="did not run"))[0]
    assert reasons(evaluation(), licence=None) == ("licence unknown",)
