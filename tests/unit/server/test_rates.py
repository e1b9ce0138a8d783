"""Buckets of requests: how many at once, how many a second, and that one's bucket is not another's."""

from __future__ import annotations

from typing import Any

import pytest

from clonedna.core.errors import Overloaded
from clonedna.server import rates
from clonedna.server.rates import Rates, address_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(of: Rates, whose: str, tries: int = 50) -> int:
    """How many requests are let through in a row."""
    for number in range(tries):
        try:
            of.take(whose)
        except Overloaded:
            return number
    return tries


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    of = Rates(2.0, 5, clock=clock)
    assert taken(of, "a") == 5
    clock.now += 1.0
    assert taken(of, "a") == 2
    clock.now += 1000.0
    assert taken(of, "a") == 5


def test_the_error_says_when_to_come_back() -> None:
    clock = Clock()
    of = Rates(0.5, 1, clock=clock)
    of.take("a")
    with pytest.raises(Overloaded) as told:
        of.take("a")
    assert told.value.facts["retry_after"] == pytest.approx(2.0)
    assert "2 s" in told.value.hint
    clock.now += 2.0
    of.take("a")


def test_being_refused_does_not_put_off_the_next_one() -> None:
    clock = Clock()
    of = Rates(1.0, 1, clock=clock)
    of.take("a")
    for _ in range(9):
        clock.now += 0.1
        with pytest.raises(Overloaded):
            of.take("a")
    clock.now += 0.11
    of.take("a")


def test_buckets_are_apart_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 3)
    of = Rates(1.0, 1, clock=Clock())
    for whose in "abcdef":
        of.take(whose)
    assert list(of._buckets) == ["d", "e", "f"]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    of = Rates(1.0, 1, clock=clock)
    of.take("a")
    clock.now -= 50.0
    assert taken(of, "a") == 0


def test_no_limit() -> None:
    assert taken(Rates(0.0, 1), "a", 5000) == 5000


@pytest.mark.parametrize(
    ("client", "whose"),
    [(("192.0.2.7", 5), "192.0.2.7"), (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"), (("2001:db8:1:2::9", 6), "2001:db8:1:2::/64"),
     (("::ffff:192.0.2.7", 5), "192.0.2.7"), (("testclient", 5), "unknown"), (None, "unknown")],
)  # fmt: skip
def test_whose_bucket_an_address_is_in(client: Any, whose: str) -> None:
    assert address_of({"type": "http", "client": client}) == whose
