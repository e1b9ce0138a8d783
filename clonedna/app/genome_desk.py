"""What faces ask about needs and plans: a request taken apart, the layers that are near, a plan made, a plan shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import anyio
import anyio.to_thread

from clonedna.app.genome_judge import HomeJudge
from clonedna.app.genome_plan import Planning, find_plan
from clonedna.app.genome_values import (
    FoundLayer,
    FoundLayers,
    KeptPlan,
    NeedAsk,
    PlanAsk,
    PlanEvent,
    PlanMade,
    PlanSaid,
    SkillLayers,
)
from clonedna.app.parts import Parts
from clonedna.app.uploads import Uploads
from clonedna.core.block import GivenFile
from clonedna.core.errors import Cancelled
from clonedna.core.events import Emit, silent
from clonedna.core.genome import DesiredGenome, Match, Skill
from clonedna.genomes.planning import Choosing
from clonedna.genomes.ranking import alike, in_order

MOST_FOUND = 50
MOST_NAME = 200
"""Letters of a skill's text."""


class GenomeDesk:
    """Use cases over one home, on one base. Its methods block: call them from worker threads."""

    def __init__(self, parts: Parts, base: str) -> None:
        self.parts, self.base = parts, base

    def analyze(self, request: str) -> DesiredGenome:
        """The request as skills. Raises ``InputError``."""
        return HomeJudge(self.parts).desired(request)

    def search(self, request: str, most: int = 10) -> FoundLayers:
        """The blocks of this base that may be used, the best first, without any probe: by likeness to the whole request, and for each skill
        as a plan ranks them; and near ones that may not be."""
        judge = HomeJudge(self.parts)
        planning, config = Planning(self.parts, judge), Choosing()
        desired = judge.desired(request)
        whole = Skill(text=desired.request[:MOST_NAME], weight=1.0, asked=(desired.request,))
        asked = desired.model_copy(update={"skills": (whole, *desired.skills)})
        pool = planning.pool(asked, self.parts.engine(self.base).base, config)
        first, *rows = planning.matches(asked, pool, config)
        kin = {one.id: one.kin for one in pool.candidates}
        return FoundLayers(
            request=desired.request, encoder=desired.encoder, whole=by_likeness(first, kin)[:most],
            skills=tuple(
                SkillLayers(skill=skill, layers=tuple(_found(one, one.score.score, one.duplicate_of) for one in row[:most]))
                for skill, row in zip(desired.skills, rows, strict=True)
            ),
            refused=pool.refused,
        )  # fmt: skip

    def plan(self, ask: PlanAsk, *, pairs: bytes | None = None, emit: Emit = silent) -> KeptPlan:
        """A plan, kept. Raises as ``Planning.plan``."""

        async def work() -> KeptPlan:
            return await Planning(self.parts, HomeJudge(self.parts), emit).plan(ask, self.base, pairs=pairs)

        return anyio.run(work)

    def plan_need(self, ask: NeedAsk, emit: Emit = silent) -> KeptPlan:
        """The same for a client, whose pairs were uploaded. Raises ``NotFound`` for a file that is not here."""
        upload = Uploads(self.parts.settings).get(ask.pairs, param="pairs") if ask.pairs else None
        if upload is None:
            return self.plan(ask.asked(None), emit=emit)
        data = Uploads(self.parts.settings).content(upload).read_bytes()
        return self.plan(
            ask.asked(GivenFile(sha256=upload.sha256, name=upload.filename, bytes=upload.bytes)), pairs=data, emit=emit
        )

    async def planning(self, ask: NeedAsk) -> AsyncGenerator[PlanEvent]:
        """``plan_need`` for an event loop: what it says, and the plan last. Leaving it stops the plan where it next says something."""
        said, left = SimpleQueue[PlanEvent | BaseException](), Event()

        def emit(event: Any) -> None:
            if left.is_set():
                raise Cancelled("whoever wanted the plan has left", "ask for it again")
            said.put(PlanSaid(event=event))

        def work() -> None:
            try:
                said.put(PlanMade(reply=self.plan_need(ask, emit)))
            except BaseException as error:  # told where the plan is waited for
                said.put(error)

        thread = Thread(target=work, name="clone-dna-plan", daemon=True)
        thread.start()
        try:
            while True:
                event = await anyio.to_thread.run_sync(said.get, abandon_on_cancel=True)
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, PlanMade):
                    return
        finally:
            left.set()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join)

    def kept(self, reference: str) -> KeptPlan:
        """A plan of this home. Raises ``NotFound``, ``InputError``, ``Corrupt``."""
        return find_plan(self.parts.settings.home, reference)


def by_likeness(row: Sequence[Match], kin: Mapping[str, frozenset[str]]) -> tuple[FoundLayer, ...]:
    """Blocks in the order of how like they are to what was asked, with the one before it that each repeats."""
    by_id, first = {one.id: one for one in row}, list[str]()
    found: list[FoundLayer] = []
    for key, score in in_order({one.id: alike(one.features) for one in row}):
        found.append(_found(by_id[key], score, next((one for one in first if one in kin[key]), None)))
        first.append(key)
    return tuple(found)


def _found(match: Match, score: float, twin: str | None) -> FoundLayer:
    seen = match.features
    return FoundLayer(
        id=match.id, name=match.name, version=match.version, predicted=match.predicted.value, score=score, duplicate_of=twin,
        cosine=max(seen.text_cosine, seen.centroid_cosine or -1.0, seen.meaning_cosine or -1.0),
    )  # fmt: skip
