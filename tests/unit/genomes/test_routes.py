"""Routes: each is reached from inputs that a probe really gives, they never fall when similarity rises, and an interval counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clonedna.core.genome import Route, Similarity
from clonedna.core.model import Score
from clonedna.genomes.probing import Bar, base_passes, similarity_of
from clonedna.genomes.routes import ORDER, Routed, Thresholds, route_of, thresholds_for

USUAL = Thresholds()
BAR = Bar(gain=0.2, level=0.5, n=9, how="nine made-up specialists")
shares = st.floats(0, 1, allow_nan=False)


def scores(losses: list[float], tokens: int = 100) -> list[Score]:
    return [Score(nll=loss * tokens, tokens=tokens, bytes=tokens) for loss in losses]


def probed(layer: list[float], base: list[float] | None = None, *, trainable: bool = True) -> Routed:
    """The route of a layer with these losses on exemplars on which the base has 2 nats a token."""
    under = scores(base or [2.0] * len(layer))
    return route_of(
        similarity_of(under, scores(layer), BAR), USUAL, base_passes=base_passes(under, BAR), trainable=trainable
    )


WITNESSES: dict[Route, Routed] = {
    "use-as-is": probed([1.55] * 16),  # a gain of .45 where .40 is wanted
    "refine": probed([1.68] * 16),  # .32 of .40
    "fork": probed([1.73] * 16),
    "scratch": probed([1.95] * 16),
    "base-suffices": probed([0.4] * 16, base=[0.45] * 16),
    "abstain": probed([1.95] * 16, trainable=False),
}


@pytest.mark.parametrize("route", WITNESSES)
def test_each_route_has_a_witness_in_likelihoods(route: Route) -> None:
    assert WITNESSES[route].route == route
    assert WITNESSES[route].verified


def test_a_layer_that_is_good_on_average_but_not_surely_is_not_used_as_it_is() -> None:
    sure, unsure = probed([1.62] * 16), probed([1.2, 2.04] * 8)
    assert sure.route == "use-as-is"
    assert unsure.route == "refine"
    assert "not surely" in unsure.reason


def test_a_wrong_layer_starts_nothing_and_a_weak_one_starts_the_new_one() -> None:
    assert not probed([2.3] * 16).start
    assert probed([1.85] * 16).start
    assert probed([1.85] * 16).route == "scratch"


def similarity(value: float, low: float, status: str = "measured") -> Similarity:
    return Similarity(value=value, low=min(low, value), high=1.0, status=status, how="")  # type: ignore[arg-type]


@given(shares, shares, shares, shares)
def test_a_route_never_falls_when_similarity_rises(a: float, b: float, c: float, d: float) -> None:
    less, more = similarity(min(a, b), min(c, d)), similarity(max(a, b), max(c, d))
    found = [route_of(one, USUAL, base_passes=False, trainable=True).route for one in (less, more)]
    assert ORDER.index(found[0]) <= ORDER.index(found[1])


@given(shares, shares)
def test_words_alone_never_stop_a_training(value: float, low: float) -> None:
    found = route_of(similarity(value, low, "predicted"), USUAL, base_passes=None, trainable=True)
    assert found.route in ("refine", "fork", "scratch")
    assert not found.verified


@given(shares, shares, st.booleans(), st.sampled_from([None, True, False]))
def test_use_as_is_is_measured_or_says_that_it_is_a_trial(
    value: float, low: float, trainable: bool, passes: bool | None
) -> None:
    for status in ("measured", "predicted"):
        found = route_of(similarity(value, low, status), USUAL, base_passes=passes, trainable=trainable)
        if found.route == "use-as-is" and status == "measured":
            assert min(low, value) >= USUAL.use
        if found.route == "use-as-is" and status == "predicted":
            assert "trial" in found.reason
            assert not found.verified
            assert not trainable


def test_nothing_known_and_nothing_to_train_from_is_to_abstain() -> None:
    assert route_of(None, USUAL, base_passes=None, trainable=False).route == "abstain"
    assert route_of(None, USUAL, base_passes=None, trainable=True).route == "scratch"
    unknown = Similarity(value=None, status="not_available", how="its exemplars are its training pairs")
    assert "training pairs" in route_of(unknown, USUAL, base_passes=None, trainable=False).reason


def test_thresholds_are_those_of_the_nearest_domain() -> None:
    strict, loose = Thresholds(use=0.99), Thresholds(use=0.8)
    tuned = {"lang": strict, "lang/python": loose}
    assert thresholds_for("lang/python", tuned) == loose
    assert thresholds_for("lang/rust", tuned) == strict
    assert thresholds_for("fw/django", tuned) == Thresholds()
    assert thresholds_for("", {"*": strict}) == strict
    with pytest.raises(ValidationError):
        Thresholds(use=0.5, refine=0.7)
