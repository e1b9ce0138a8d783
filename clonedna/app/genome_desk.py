"""What faces ask about needs and plans: a request taken apart, the layers that are near, a plan made, a plan shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
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
from clonedna.core.genome import DesiredGenome
from clonedna.genomes.planning import Choosing

MOST_FOUND = 50


class GenomeDesk:
    """Use cases over one home, on one base. Its methods block: call them from worker threads."""

    def __init__(self, parts: Parts, base: str) -> None:
        self.parts, self.base = parts, base

    def analyze(self, request: str) -> DesiredGenome:
        """The request as skills. Raises ``InputError``."""
        return HomeJudge(self.parts).desired(request)

    def search(self, request: str, most: int = 10) -> FoundLayers:
        """For each skill the blocks of this base that may be used, the best first, without any probe; and near ones that may not be."""
        judge = HomeJudge(self.parts)
        planning, config = Planning(self.parts, judge), Choosing()
        desired = judge.desired(request)
        pool = planning.pool(desired, self.parts.engine(self.base).base, config)
        skills: list[SkillLayers] = []
        for skill, row in zip(desired.skills, planning.matches(desired, pool, config), strict=True):
            found = tuple(
                FoundLayer(
                    id=one.id, name=one.name, version=one.version, predicted=one.predicted.value, score=one.score.score,
                    cosine=max(one.features.text_cosine, one.features.centroid_cosine or -1.0, one.features.meaning_cosine or -1.0),
                    duplicate_of=one.duplicate_of,
                )
                for one in row[:most]
            )  # fmt: skip
            skills.append(SkillLayers(skill=skill, layers=found))
        return FoundLayers(request=desired.request, encoder=desired.encoder, skills=tuple(skills), refused=pool.refused)

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
