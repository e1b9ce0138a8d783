"""A server's use cases from another program or machine, as typed functions: ``Client(url, token).blocks.show(name)``.

What a server answers is checked against the values of ``app`` and ``core``; an error comes out as the ``DnaError`` that it was there.
"""

from __future__ import annotations

from clonedna.client.blocks import RemoteBlocks
from clonedna.client.calibration import RemoteCalibrating
from clonedna.client.catalogue import RemoteCatalogue
from clonedna.client.chat import RemoteChat, RemoteThreads
from clonedna.client.consent import RemoteConsent
from clonedna.client.details import RemoteComparing, RemoteDetails, RemoteLineages
from clonedna.client.developers import RemoteDevelopers
from clonedna.client.doctor import RemoteDoctor
from clonedna.client.genomes import RemoteGenomes
from clonedna.client.interfering import RemoteInterfering
from clonedna.client.jobs import RemoteJobs
from clonedna.client.personas import RemotePersonaArchives, RemotePersonaLineages, RemotePersonas
from clonedna.client.teams import RemoteTeams
from clonedna.client.tokens import RemoteAudit, RemoteTokens
from clonedna.client.transfer import RemoteTransfer
from clonedna.client.upkeep import RemoteHome
from clonedna.client.versions import RemoteVersions
from clonedna.client.wire import Wire


class Client:
    """One server. ``token``: a key that it knows; none for a server on this machine that wants none. Close it, or use it in ``with``."""

    def __init__(self, url: str, token: str = "", *, timeout: float = 60.0) -> None:
        """Raises ``InputError`` for what is no http(s) URL; nothing is sent yet."""
        self.wire = Wire(url, token, timeout=timeout)
        self.blocks = RemoteBlocks(self.wire)
        self.catalogue = RemoteCatalogue(self.wire)
        self.calibrating = RemoteCalibrating(self.wire)
        self.interfering = RemoteInterfering(self.wire)
        self.details = RemoteDetails(self.wire)
        self.lineages = RemoteLineages(self.wire)
        self.comparing = RemoteComparing(self.wire)
        self.home = RemoteHome(self.wire)
        self.transfer = RemoteTransfer(self.wire)
        self.versions = RemoteVersions(self.wire)
        self.consent = RemoteConsent(self.wire)
        self.developers = RemoteDevelopers(self.wire)
        self.doctor = RemoteDoctor(self.wire)
        self.chat = RemoteChat(self.wire)
        self.threads = RemoteThreads(self.wire)
        self.teams = RemoteTeams(self.wire)
        self.personas = RemotePersonas(self.wire)
        self.persona_lineages = RemotePersonaLineages(self.wire)
        self.persona_archives = RemotePersonaArchives(self.wire)
        self.tokens = RemoteTokens(self.wire)
        self.audit = RemoteAudit(self.wire)
        self.jobs = RemoteJobs(self.wire)
        self.genomes = RemoteGenomes(self.wire)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.wire.close()


__all__ = ["Client"]
