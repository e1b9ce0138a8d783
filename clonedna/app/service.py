"""One home as a server offers it: every use case over the same parts, made when first asked for, and what runs beside requests.

Its methods and those of what it holds block, but for ``serving`` and ``chat``: call them from worker threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cached_property

from clonedna.app.audit import Audit
from clonedna.app.background import Background
from clonedna.app.blocks import Blocks
from clonedna.app.calibrating import Calibrating
from clonedna.app.catalogue import Catalogue
from clonedna.app.chat import Chat
from clonedna.app.comparing import Comparing
from clonedna.app.consent import Consent
from clonedna.app.details import Details
from clonedna.app.developers import Developers
from clonedna.app.doctor import Doctor
from clonedna.app.figures import HomeFigures
from clonedna.app.finetuning import FineTuning, background_of
from clonedna.app.gate import Gate
from clonedna.app.genome_desk import GenomeDesk
from clonedna.app.genomes import GenomeShelf
from clonedna.app.interfering import Interfering
from clonedna.app.job_asks import Asks
from clonedna.app.job_desk import JobDesk
from clonedna.app.jobs import Jobs
from clonedna.app.keys import Keys
from clonedna.app.lineage import Lineages
from clonedna.app.parts import Parts
from clonedna.app.receiving import Arrivals
from clonedna.app.serving import Serving
from clonedna.app.settings import Settings
from clonedna.app.sharing import Sharing
from clonedna.app.speakers import ServerSpeakers
from clonedna.app.teams import Teams
from clonedna.app.threads import Threads
from clonedna.app.tokens import Tokens
from clonedna.app.versions import Versions


class Service:
    """The use cases of one server, over one base."""

    def __init__(self, parts: Parts, base: str) -> None:
        """Loads the base; takes seconds. Raises ``UnknownBase``, ``NoMemory``."""
        self.parts, self.base = parts, base
        parts.stays = True
        self.serving = Serving(parts, base)

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    @cached_property
    def blocks(self) -> Blocks:
        return Blocks(self.parts)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.parts)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self.settings, self.parts)

    @cached_property
    def genomes(self) -> GenomeShelf:
        return GenomeShelf(self.parts)

    @cached_property
    def genome_desk(self) -> GenomeDesk:
        return GenomeDesk(self.parts, self.base)

    @cached_property
    def versions(self) -> Versions:
        return Versions(self.parts, self.jobs)

    @cached_property
    def details(self) -> Details:
        return Details(self.parts)

    @cached_property
    def consent(self) -> Consent:
        return Consent(self.parts)

    @cached_property
    def developers(self) -> Developers:
        return Developers(self.parts)

    @cached_property
    def lineages(self) -> Lineages:
        return Lineages(self.parts)

    @cached_property
    def calibrating(self) -> Calibrating:
        return Calibrating(self.parts)

    @cached_property
    def interfering(self) -> Interfering:
        return Interfering(self.parts)

    @cached_property
    def comparing(self) -> Comparing:
        return Comparing(self.parts)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.parts)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self.parts)

    @cached_property
    def gate(self) -> Gate:
        return Gate(self.parts)

    @cached_property
    def sharing(self) -> Sharing:
        return Sharing(self.parts)

    @cached_property
    def arrivals(self) -> Arrivals:
        return Arrivals(self.sharing)

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.parts)

    @cached_property
    def threads(self) -> Threads:
        return Threads(self.parts)

    @cached_property
    def teams(self) -> Teams:
        return Teams(self.parts, self.threads)

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.parts, ServerSpeakers(self.serving), self.threads, self.teams)

    @cached_property
    def tuning(self) -> FineTuning:
        return FineTuning(self.parts, self.base, self.jobs, self.background)

    @cached_property
    def desk(self) -> JobDesk:
        return JobDesk(self.jobs, Asks(self.parts, self.base, self.versions), self.background)

    @cached_property
    def background(self) -> Background:
        return background_of(self.parts, self.base)

    @cached_property
    def figures(self) -> HomeFigures:
        return HomeFigures(self.jobs, self.background.figures)

    @cached_property
    def doctor(self) -> Doctor:
        return Doctor(self.parts)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """What runs beside requests: jobs, and answers that nobody listens to. Raises ``JobBusy`` beside another server of this home."""
        async with self.background.lifespan(), self.chat.lifespan():
            try:
                yield
            finally:
                self.gate.close()
