"""``/api/v1/genome`` (a need: taken apart, searched for, assembled, signed, verified) and ``/api/v1/genomes`` (those that are here)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import Field

from clonedna.app.genome_values import FoundLayers, GenomeChecked, GenomeLine, GenomeList, KeptPlan, NeedAsk
from clonedna.app.job_asks import GenomeAsk
from clonedna.app.job_values import JobView
from clonedna.app.service import Service
from clonedna.core.block import NAME_PATTERN, VERSION_PATTERN
from clonedna.core.errors import InputError
from clonedna.core.genome import DesiredGenome, GenomeManifest, SignedGenome
from clonedna.core.value import Value
from clonedna.server.access import ADMIN, MINT, READ
from clonedna.server.errors import OURS
from clonedna.server.following import Following, streamed
from clonedna.server.jobs import PREFIX as JOBS
from clonedna.server.jobs import Key
from clonedna.server.reading import Routes

Reference = Annotated[
    str, Path(max_length=100, description="A genome: name, name@version, or at least 8 digits of its id.")
]
Plan = Annotated[str, Path(pattern=r"^[0-9a-f]{8,64}$", description="A plan's id, or at least 8 digits of it.")]


PLANNED = "The plan. With `stream`, events: `event` for each step and figure of progress, `end` with the plan; `error` for one that failed."
MOST_WORDS = 20_000  # more than a need may have: what is too long is told as it is on the command line


class NeedWords(Value):
    """A need, in words."""

    request: str = Field(max_length=MOST_WORDS)


class LayersAsk(NeedWords):
    """``most``: layers of each skill."""

    most: int = Field(default=10, ge=1, le=50)


class PlanNeed(NeedAsk):
    """A need to be planned. ``stream``: as server-sent events."""

    stream: bool = False


class AssembleAsk(NeedAsk):
    """A need that is planned and carried out, under a name (default: made of the request)."""

    name: str | None = Field(default=None, max_length=64)


class SignAsk(Value):
    """A manifest, signed by somebody or not."""

    manifest: GenomeManifest


class VerifyAsk(Value):
    """A genome of this server by ``reference``, or one that is ``signed`` and not kept here."""

    reference: str | None = Field(default=None, max_length=100)
    signed: SignedGenome | None = None


class ApplyAsk(Value):
    """A plan of this server by its id, and the genome's name (default: made of the request)."""

    plan: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    name: str | None = Field(default=None, max_length=64)


class RollbackAsk(Value):
    version: str = Field(pattern=VERSION_PATTERN)


def commands(service: Service) -> APIRouter:
    """Routes under ``/api/v1/genome``."""
    made = Routes(prefix="/api/v1/genome", responses=OURS, tags=["genomes"])

    @made.post("/analyze-requirements", dependencies=[READ])
    def analyze_requirements(ask: Annotated[NeedWords, Body()]) -> DesiredGenome:
        """The skills that a need names, with their weights."""
        return service.genome_desk.analyze(ask.request)

    @made.post("/search-layers", dependencies=[READ])
    def search_layers(ask: Annotated[LayersAsk, Body()]) -> FoundLayers:
        """The blocks that may be used, the best first, for the whole request and for each skill, and the near ones that may not be. Nothing
        is probed."""
        return service.genome_desk.search(ask.request, ask.most)

    @made.post("/assemble", dependencies=[MINT], status_code=202)
    def assemble(request: Request, response: Response, ask: Annotated[AssembleAsk, Body()], key: Key = None) -> JobView:
        """Plan a need and carry the plan out, as a job; its result is the genome. `Location` says where the job is."""
        need = NeedAsk.model_validate(ask.model_dump(exclude={"name"}))
        return _ordered(service, request, response, GenomeAsk(kind="genome", need=need, name=ask.name), key)

    @made.post("/sign", dependencies=[ADMIN])
    def sign_genome(ask: Annotated[SignAsk, Body()]) -> SignedGenome:
        """Vouch for a manifest with this server's key, and keep it. Of another maker's the next version is made, without its figures."""
        return service.genomes.sign(ask.manifest)

    @made.post("/verify", dependencies=[READ])
    def verify_genome(ask: Annotated[VerifyAsk, Body()]) -> GenomeChecked:
        """Signature, members, consents, licences and base, as they are now. What is wrong is the error."""
        if (ask.reference is None) == (ask.signed is None):
            raise InputError("say which genome", "give a reference, or a signed genome", param="reference")
        if ask.signed is not None:
            return service.genomes.verify_signed(ask.signed)
        return service.genomes.verify(str(ask.reference))

    return made


def router(service: Service) -> APIRouter:
    """Routes under ``/api/v1/genomes``."""
    made = Routes(prefix="/api/v1/genomes", responses=OURS, tags=["genomes"])

    @made.get("", dependencies=[READ])
    def list_genomes() -> GenomeList:
        """All genomes, newest first, each with the code of what keeps it from being used."""
        return service.genomes.list()

    @made.post("/plan", dependencies=[MINT], responses=streamed(KeptPlan, PLANNED))
    async def plan_genome(body: Annotated[PlanNeed, Body()]) -> Response:
        """What assembling would do, and what that takes. Layers are probed; nothing is trained. The plan is kept under its id.

        It may take minutes: with `stream` it says how far it is. When the client leaves, it stops.
        """
        ask = NeedAsk.model_validate(body.model_dump(exclude={"stream"}))
        return Following(service.genome_desk.planning(ask), stream=body.stream)

    @made.get("/plans/{plan}", dependencies=[READ])
    def show_plan(plan: Plan) -> KeptPlan:
        """A plan that was made here."""
        return service.genome_desk.kept(plan)

    @made.post("/apply", dependencies=[MINT], status_code=202)
    def apply_plan(request: Request, response: Response, ask: Annotated[ApplyAsk, Body()], key: Key = None) -> JobView:
        """Carry a plan out, as a job. One that was made of another state of this server than it has now is refused when the job begins."""
        return _ordered(service, request, response, GenomeAsk(kind="genome", plan=ask.plan, name=ask.name), key)

    @made.get("/{reference}", dependencies=[READ])
    def show_genome(reference: Reference) -> GenomeChecked:
        """A genome whose signature holds, and what is wrong with its members now."""
        return service.genomes.show(reference)

    @made.delete("/{reference}", dependencies=[ADMIN])
    def remove_genome(reference: Reference) -> GenomeLine:
        """Forget one version. Its blocks stay."""
        return service.genomes.remove(reference)

    @made.post("/{name}/rollback", dependencies=[ADMIN])
    def roll_genome_back(
        name: Annotated[str, Path(pattern=NAME_PATTERN)], ask: Annotated[RollbackAsk, Body()]
    ) -> GenomeManifest:
        """The next version of a name, with the layers of an earlier one."""
        return service.genomes.rollback(name, ask.version)

    return made


def _ordered(service: Service, request: Request, response: Response, ask: GenomeAsk, key: str | None) -> JobView:
    who = request.state.who
    view, _ = service.desk.start(ask, key=key, owner=f"{who.kind}:{who.id}")
    request.state.about = view.id
    response.headers["Location"] = f"{JOBS}/{view.id}"
    return view
