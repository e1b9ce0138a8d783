"""Genomes of a server: what ``app.genomes`` and ``app.genome_desk`` do for those of this machine."""

from __future__ import annotations

import secrets
from contextlib import closing

from clonedna.app.genome_values import (
    FoundLayers,
    GenomeChecked,
    GenomeLine,
    GenomeList,
    KeptPlan,
    NeedAsk,
    PlanEvent,
    PlanMade,
    PlanSaid,
)
from clonedna.app.job_values import JobView
from clonedna.client.blocks import segment
from clonedna.client.chat import told
from clonedna.client.wire import Wire
from clonedna.core.errors import BadAnswer, BadReference, not_a_genome
from clonedna.core.events import Emit, silent
from clonedna.core.genome import DesiredGenome, GenomeManifest, SignedGenome

COMMAND, GENOMES = "/api/v1/genome", "/api/v1/genomes"


class RemoteGenomes:
    """Use cases over a server's genomes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def list(self) -> GenomeList:
        """All, newest first."""
        return self._wire.get(GENOMES, GenomeList)

    def show(self, reference: str) -> GenomeChecked:
        """One, and what is wrong with its members there."""
        return self._wire.get(f"{GENOMES}/{_segment(reference)}", GenomeChecked)

    def verify(self, reference: str) -> GenomeChecked:
        """The same; what is wrong is raised."""
        return self._wire.post(f"{COMMAND}/verify", GenomeChecked, {"reference": reference})

    def verify_signed(self, signed: SignedGenome) -> GenomeChecked:
        """The same of one that is not kept there."""
        return self._wire.post(f"{COMMAND}/verify", GenomeChecked, {"signed": signed})

    def sign(self, manifest: GenomeManifest) -> SignedGenome:
        """Have the server vouch for a manifest. Needs a key with the scope admin, as ``rollback`` and ``remove`` do."""
        return self._wire.post(f"{COMMAND}/sign", SignedGenome, {"manifest": manifest})

    def rollback(self, name: str, version: str) -> GenomeManifest:
        """The next version of ``name``, with the layers of ``version``."""
        return self._wire.post(f"{GENOMES}/{_segment(name)}/rollback", GenomeManifest, {"version": version})

    def remove(self, reference: str) -> GenomeLine:
        """Forget one version there."""
        return self._wire.delete(f"{GENOMES}/{_segment(reference)}", GenomeLine)

    def analyze(self, request: str) -> DesiredGenome:
        """The request as skills."""
        return self._wire.post(f"{COMMAND}/analyze-requirements", DesiredGenome, {"request": request})

    def search(self, request: str, most: int = 10) -> FoundLayers:
        """The server's blocks that may be used, for the whole request and for each skill."""
        return self._wire.post(f"{COMMAND}/search-layers", FoundLayers, {"request": request, "most": most})

    def plan(self, ask: NeedAsk, emit: Emit = silent) -> KeptPlan:
        """A plan, kept there; ``emit`` hears how far it is. It may take minutes, since layers are measured."""
        kinds: dict[str, type[PlanEvent]] = {"event": PlanSaid, "end": PlanMade}
        with closing(told(self._wire, f"{GENOMES}/plan", ask, kinds.get)) as events:
            for event in events:
                if isinstance(event, PlanMade):
                    return event.reply
                emit(event.event)
        raise BadAnswer("the stream ended without a plan", "ask again; see the server's log")

    def kept(self, reference: str) -> KeptPlan:
        """A plan of the server."""
        return self._wire.get(f"{GENOMES}/plans/{_segment(reference)}", KeptPlan)

    def apply(self, plan: str, *, name: str | None = None, key: str | None = None) -> JobView:
        """Carry a plan out; the job's result is the genome."""
        return self._wire.post(f"{GENOMES}/apply", JobView, {"plan": plan, "name": name}, headers=_once(key))

    def assemble(self, ask: NeedAsk, *, name: str | None = None, key: str | None = None) -> JobView:
        """Plan a need and carry it out; the job's result is the genome."""
        body = ask.model_dump(mode="json") | {"name": name}
        return self._wire.post(f"{COMMAND}/assemble", JobView, body, headers=_once(key))


def _segment(reference: str) -> str:
    """A genome's reference as a part of a path. Raises ``BadReference``."""
    try:
        return segment(reference)
    except BadReference:
        raise not_a_genome(reference) from None


def _once(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or secrets.token_hex(16)}
