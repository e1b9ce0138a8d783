"""Who was given a block: a row for each receiver and way, counted, and kept whatever becomes of the block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clonedna.core.developers import Holder
from clonedna.store.database import Database
from clonedna.store.holders import SqlHolders
from tests.databases import KINDS, new_url

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture(params=KINDS)
def holders(request: pytest.FixtureRequest, tmp_path: Path) -> SqlHolders:
    return SqlHolders(Database(new_url(request.param, tmp_path)))


def test_each_receiver_has_its_first_and_last_time(holders: SqlHolders) -> None:
    holders.note(A, "downloaded", "token laptop (1)", "2026-01-01T00:00:00Z")
    holders.note(A, "downloaded", "token laptop (1)", "2026-01-03T00:00:00Z")
    holders.note(A, "pushed", "http://127.0.0.1:1", "2026-01-02T00:00:00Z")
    holders.note(B, "hub", "https://hub.example ada/block", "2026-01-02T00:00:00Z")
    assert holders.of([A, C]) == {
        A: (
            Holder(
                way="downloaded", who="token laptop (1)", first_at="2026-01-01T00:00:00Z", last_at="2026-01-03T00:00:00Z", times=2
            ),
            Holder(
                way="pushed", who="http://127.0.0.1:1", first_at="2026-01-02T00:00:00Z", last_at="2026-01-02T00:00:00Z", times=1
            ),
        )
    }  # fmt: skip


def test_none_of_many_at_once_is_lost(holders: SqlHolders) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: holders.note(A, "downloaded", "key", "2026-01-01T00:00:00Z"), range(40)))
    assert [one.times for one in holders.of([A])[A]] == [40]
