"""Genomes on a server: a need is planned and assembled as a job there, and what comes of it is shown, verified, vouched for and removed."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from clonedna.app.genome_values import Assembled, KeptPlan, NeedAsk
from clonedna.app.job_values import JobView
from clonedna.client import Client
from clonedna.core.errors import (
    BadReference,
    BlockNotFound,
    DnaError,
    GenomeEmpty,
    GenomeNotFound,
    InputError,
    NotFound,
)
from clonedna.core.events import StageFinished
from clonedna.core.genome import genome_id
from tests.genomes import GenomeParts, given_lines, signed, skilled
from tests.serving import running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    parts = GenomeParts(home, port=0, parallel_training=1)
    skilled(parts, "ada", "python testing", "abc")
    parts.genomes.put(signed(parts.signer, "broken"))
    return home


@pytest.fixture(scope="module")
def url(home: Path) -> Generator[str]:
    with running(GenomeParts(home, port=0, parallel_training=1), "nano", whole=True) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Generator[Client]:
    with Client(url) as made:
        yield made


def ended(client: Client, job: str) -> JobView:
    *_, last = client.jobs.follow(job)
    assert isinstance(last, JobView)
    return last


def test_a_need_becomes_a_genome_as_a_job(client: Client, url: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(given_lines("write sql queries", "mno", 40))
    ask = NeedAsk(request="sql", pairs=client.jobs.upload(file), licence="MIT")
    kept = client.genomes.plan(ask)
    assert kept.plan.skills[0].trains
    assert client.genomes.kept(kept.plan.id[:8]) == kept
    said: list[object] = []
    assert client.genomes.plan(ask, said.append) == kept
    assert any(isinstance(one, StageFinished) for one in said)
    whole = httpx2.post(f"{url}/api/v1/genomes/plan", json=ask.model_dump(mode="json"), timeout=120)
    assert KeptPlan.model_validate_json(whole.content) == kept
    with pytest.raises(InputError, match="several layers"):
        client.genomes.plan(ask.model_copy(update={"compose": "arrow"}))
    view = ended(client, client.genomes.apply(kept.plan.id, name="reports").id)
    assert view.kind == "genome"
    if view.status == "failed":  # what the gate does not accept makes no genome
        assert view.error is not None
        assert view.error.code == "genome_empty"
        return
    genome = Assembled.model_validate(client.jobs.result(view.id).value).genome
    assert client.genomes.show("reports").genome == genome
    assert client.genomes.verify("reports@1.0.0").usable
    assert client.genomes.sign(genome).manifest == genome
    theirs = genome.model_copy(update={"created_by": "f" * 64})
    adopted = client.genomes.sign(theirs.model_copy(update={"id": genome_id(theirs)})).manifest
    assert (adopted.version, adopted.parent) == ("1.1.0", genome.id)
    assert [one.name for one in client.genomes.list().genomes][:2] == ["reports", "reports"]
    assert client.genomes.remove("reports@1.1.0").version == "1.1.0"


def test_what_cannot_be_is_told_with_its_code(client: Client) -> None:
    with pytest.raises(BlockNotFound):
        client.genomes.verify("broken")
    assert client.genomes.show("broken").faults[0].code == "block_not_found"
    for asked, code in (
        (lambda: client.genomes.show("nobody"), GenomeNotFound), (lambda: client.genomes.show("../x"), BadReference),
        (lambda: client.genomes.analyze("!?"), InputError), (lambda: client.genomes.kept("0" * 64), NotFound),
        (lambda: client.genomes.apply("0" * 64), NotFound), (lambda: client.genomes.rollback("broken", "9.9.9"), GenomeNotFound),
        (lambda: client.genomes.plan(NeedAsk(request="quantum chemistry")), GenomeEmpty),
        (lambda: client.genomes.plan(NeedAsk(request="sql", pairs="file-" + "0" * 24, licence="MIT")), NotFound),
    ):  # fmt: skip
        with pytest.raises(code):
            asked()


def test_a_need_that_nothing_brings_ends_as_a_failed_job(client: Client) -> None:
    view = ended(client, client.genomes.assemble(NeedAsk(request="quantum chemistry in fortran")).id)
    assert view.status == "failed"
    assert view.error is not None
    assert view.error.code == "genome_empty"
    with pytest.raises(DnaError):
        client.jobs.result(view.id)
