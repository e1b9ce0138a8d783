"""A plan that somebody waits for: what it says on the way, its errors, and that it stops when they leave."""

from __future__ import annotations

import time
from contextlib import aclosing

import anyio
import pytest

from clonedna.app.genome_desk import GenomeDesk
from clonedna.app.genome_values import KeptPlan, NeedAsk, PlanEvent, PlanSaid
from clonedna.core.errors import Cancelled, DnaError, GenomeEmpty
from clonedna.core.events import Emit, Note, silent


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
