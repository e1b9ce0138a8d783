"""A plan that somebody waits for: what it says on the way, its errors, and that it stops when they leave."""

from __future__ import annotations

import time
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from clonedna.app.genome_desk import GenomeDesk, by_likeness
from clonedna.app.genome_values import KeptPlan, NeedAsk, PlanEvent, PlanSaid
from clonedna.core.errors import Cancelled, DnaError, GenomeEmpty
from clonedna.core.events import Emit, Note, silent
from clonedna.core.genome import Features, LayerScore, Match, Similarity
from tests.genomes import GenomeParts, skilled


class Desk(GenomeDesk):
    """Says ``most`` things, one after another, and finds nothing."""

    def __init__(self, most: int) -> None:
        self.most, self.stopped_by = most, list[DnaError]()

    def plan_need(self, ask: NeedAsk, emit: Emit = silent) -> KeptPlan:
        for number in range(self.most):
            try:
                emit(Note(text=str(number)))
            except DnaError as error:
                self.stopped_by.append(error)
                raise
            time.sleep(0.01)
        raise GenomeEmpty("nothing was found")


async def heard(desk: Desk, most: int, found: list[PlanEvent]) -> None:
    async with aclosing(desk.planning(NeedAsk(request="sql"))) as events:
        async for event in events:
            found.append(event)
            if len(found) == most:
                return


def test_whoever_leaves_stops_the_plan() -> None:
    desk, found = Desk(3000), list[PlanEvent]()
    anyio.run(heard, desk, 2, found)
    assert found == [PlanSaid(event=Note(text="0")), PlanSaid(event=Note(text="1"))]
    assert [type(one) for one in desk.stopped_by] == [Cancelled]


def test_a_plan_that_fails_says_what_it_said_and_then_why() -> None:
    desk, found = Desk(3), list[PlanEvent]()
    with pytest.raises(GenomeEmpty, match="nothing was found"):
        anyio.run(heard, desk, 10, found)
    assert found == [PlanSaid(event=Note(text=str(number))) for number in range(3)]
    assert not desk.stopped_by


def test_a_search_has_an_order_for_the_whole_request_and_one_for_each_skill(tmp_path: Path) -> None:
    parts = GenomeParts(tmp_path / "home")
    for name, skill in (("ada", "regular expressions"), ("bob", "sql queries"), ("cora", "docker images")):
        skilled(parts, name, skill, name)
    found = GenomeDesk(parts, "nano").search("sql queries and regular expressions")
    assert {one.name for one in found.whole[:2]} == {"ada", "bob"}
    assert [one.name for one in found.whole][2:] == ["cora"]
    assert [one.score for one in found.whole] == sorted((one.score for one in found.whole), reverse=True)
    assert len(found.skills) >= 2
    assert [one.name for one in GenomeDesk(parts, "nano").search("docker images", 1).whole] == ["cora"]


def match(digit: str, text: float, score: float) -> Match:
    near = Features(text_cosine=text, centroid_cosine=None, meaning_cosine=None, overlap=0.0, margin=0.0, z=0.0)
    unknown = Similarity(value=None, status="not_available", how="not probed")
    ranked = LayerScore(similarity=text, diversity=0.0, trust=0.5, size=0.5, score=score)
    return Match(
        id=digit * 64, name=digit, version="1.0.0", features=near, predicted=unknown, measured=unknown, score=ranked
    )


def test_likeness_orders_what_a_plan_ranks_otherwise_and_a_copy_repeats_what_comes_before_it() -> None:
    a, b, c = match("a", 0.3, 0.9), match("b", 0.6, 0.5), match("c", 0.6, 0.7)
    kin = {a.id: frozenset({b.id}), b.id: frozenset({a.id}), c.id: frozenset[str]()}
    found = by_likeness((a, c, b), kin)
    assert [(one.name, one.duplicate_of) for one in found] == [("b", None), ("c", None), ("a", b.id)]
    assert found[0].score == found[1].score > found[2].score
