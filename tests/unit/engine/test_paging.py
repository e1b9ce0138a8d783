"""The policy by itself, with a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.engine.paging import HYSTERESIS, WINDOW, Held, Policy

NOW = 1000.0


def held(
    id: str, *, bytes: int = 10, owner: str = "a", priority: float = 0.5, used: float = 0.0, loaded: float = 0.0, busy: bool = False
) -> Held:  # fmt: skip
    return Held(id, bytes, owner, priority, used, loaded, busy)


@st.composite
def crowds(draw: st.DrawFn) -> list[Held]:
    count = draw(st.integers(0, 12))
    times = st.floats(0, NOW)
    return [
        held(
            str(i), bytes=draw(st.integers(1, 50)), owner=draw(st.sampled_from("abc")), priority=draw(st.floats(0, 1)),
            used=draw(times), loaded=draw(times), busy=draw(st.booleans()),
        )
        for i in range(count)
    ]  # fmt: skip


@given(crowds(), st.integers(1, 200), st.integers(1, 300))
def test_who_goes_is_free_and_enough_or_nobody_goes(crowd: list[Held], needed: int, budget: int) -> None:
    victims = Policy(budget).victims(crowd, needed, NOW)
    by_id = {one.id: one for one in crowd}
    there = sum(one.bytes for one in crowd)
    free = [one for one in crowd if not one.busy and one.priority <= 0.9]
    if victims is None:
        assert there - sum(one.bytes for one in free) + needed > budget  # not even all of them would do
        return
    assert len(set(victims)) == len(victims)
    assert all(by_id[id] in free for id in victims)
    left = there - sum(by_id[id].bytes for id in victims)
    assert left + needed <= budget
    if victims:  # the last one was needed
        assert left + by_id[victims[-1]].bytes + needed > budget


def test_the_oldest_and_least_important_goes_first() -> None:
    policy = Policy(40)
    crowd = [held("old", used=100), held("new", used=900), held("important", used=100, priority=0.8)]
    assert policy.victims(crowd, 20, NOW) == ["old"]
    assert policy.victims(crowd, 30, NOW) == ["old", "important"]  # 900 / 8 against 100 / 5
    assert policy.victims(crowd, 40, NOW) == ["old", "important", "new"]
    assert policy.victims(crowd, 10, NOW) == []


def test_what_was_just_loaded_goes_only_when_nothing_older_can() -> None:
    policy = Policy(20)
    fresh = held("fresh", used=0, loaded=NOW - HYSTERESIS + 1)
    assert policy.victims([fresh, held("settled", used=NOW, loaded=0)], 10, NOW) == ["settled"]
    assert policy.victims([fresh, held("settled", used=NOW, loaded=0, busy=True)], 10, NOW) == ["fresh"]
    assert policy.victims([fresh, held("settled", used=NOW - 1, loaded=0)], 10, NOW + 2) == ["fresh"]  # 30 s are over


def test_an_owner_beyond_its_share_gives_first() -> None:
    """Half of 100 bytes, two owners, priority 0.5: a share is 25."""
    policy = Policy(100)
    crowd = [held("a1", bytes=13, used=400), held("a2", bytes=13, used=500), held("b1", bytes=24, owner="b", used=100)]
    share = 0.5 * 100 / 2
    assert policy.score(crowd[0], crowd, NOW) == pytest.approx(2 * 600 / 5)
    assert policy.score(crowd[2], crowd, NOW) == pytest.approx(900 / 5)
    assert policy.victims(crowd, 60, NOW) == ["a1"]
    crowd[1].bytes = int(share) - 13  # now within it, though older things decide again
    assert policy.victims(crowd, 52, NOW) == ["b1"]


@pytest.mark.parametrize("busy", [True, False])
def test_pinned_and_busy_adapters_stay(busy: bool) -> None:
    one = held("one", busy=True) if busy else held("one", priority=0.91)
    assert Policy(10).victims([one], 10, NOW) is None
    assert Policy(10).victims([held("one", priority=0.9)], 10, NOW) == ["one"]


def churn(policy: Policy, *, kinds: int = 4, hit: bool = False, evictions: int = 11) -> None:
    for i in range(20):
        policy.asked(str(i % kinds), hit, NOW + i)
    for i in range(evictions):
        policy.evicted(NOW + i)


def test_memory_that_only_churns_admits_the_important_alone_until_it_calms_down() -> None:
    policy = Policy(10)
    assert policy.admits(0.5, NOW)
    churn(policy)
    assert policy.thrashing(NOW + 20)
    assert [policy.admits(priority, NOW + 20) for priority in (0.0, 0.8, 0.81)] == [False, False, True]
    assert not policy.thrashing(NOW + 20 + WINDOW)
    assert policy.admits(0.0, NOW + 20 + WINDOW)


@pytest.mark.parametrize("calm", [{"kinds": 5}, {"hit": True}, {"evictions": 10}])
def test_each_sign_of_thrashing_is_needed(calm: dict[str, int]) -> None:
    policy = Policy(10)
    churn(policy, **calm)
    assert not policy.thrashing(NOW + 20)


def test_only_the_latest_minute_is_kept_though_nobody_looks() -> None:
    policy = Policy(10)
    for second in range(10_000):
        policy.asked(str(second), True, float(second))
        policy.evicted(float(second))
    assert len(policy._asked) <= WINDOW + 1
    assert len(policy._evicted) <= WINDOW + 2
