"""Plans keep pairs: those that hold what a revoked block was made of go with it, and the jobs that carry them out."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.consent import Consent
from clonedna.app.genome_plan import Planning
from clonedna.app.genome_values import ApplyOrder, KeptPlan, PlanAsk
from clonedna.app.jobs import Jobs
from clonedna.app.revoking import Revoking
from clonedna.app.uploads import Uploads
from clonedna.app.workspace import Workspace
from clonedna.core.block import GivenFile, GivenPairs, Manifest, SourceRecord
from clonedna.core.canonical import canonical, sha256
from clonedna.core.work import Identity
from tests.genomes import GenomeParts, SourceParts, given_lines, skilled
from tests.judges import ToldJudge
from tests.serving import add_block
from tests.unit.store.making import contents, write_block

EVE = Identity(name="Eve Example", email="eve@example.org")


def planned(parts: GenomeParts, request: str, pairs: bytes | None = None) -> KeptPlan:
    given = GivenFile(sha256=sha256(pairs), name="pairs.jsonl", bytes=len(pairs)) if pairs is not None else None
    wanted = PlanAsk(request=request, pairs=given, licence="MIT" if given else "")
    judge = ToldJudge(parts, {"alpha": {"ada": 0.97}, "beta": {"bob": 0.97}})
    return anyio.run(lambda: Planning(parts, judge).plan(wanted, "nano", pairs=pairs))


def folder(parts: GenomeParts, plan: KeptPlan) -> Path:
    return Planning(parts, ToldJudge(parts, {})).folder(plan.plan.id)


def applying(parts: GenomeParts, plan: KeptPlan) -> Workspace:
    """A job of the plan that was begun and interrupted."""
    return Jobs(parts.settings, parts).create(ApplyOrder(plan=plan.plan.id, name="stack"))[0]


def put(parts: GenomeParts, name: str, **files: bytes) -> Manifest:
    """A block of this name with these files, their dots written as ``_``."""
    directory = parts.settings.home / "work" / name
    fields: dict[str, Any] = {"base_model": "fake", "base_fingerprint": sha256("fake"), "name": name}
    more = {key.replace("_", "."): value for key, value in files.items()}
    made = write_block(directory, parts.signer, contents(note=name) | more, **fields)
    parts.store.put(directory)
    parts.registry.publish(made)
    return made


def test_a_plan_goes_with_the_block_that_its_given_pairs_became(tmp_path: Path) -> None:
    parts = GenomeParts(tmp_path)
    skilled(parts, "ada", "alpha", "abc")
    data = given_lines("alpha", "abc") + given_lines("omega", "mno")
    uploads = Uploads(parts.settings)
    upload = uploads.put(BytesIO(data), "pairs.jsonl", "fine-tune")
    others = given_lines("psi", "pqr")
    kept = uploads.put(BytesIO(others), "others.jsonl", "fine-tune")
    plan, other = planned(parts, "alpha omega", data), planned(parts, "psi", others)
    part, _ = (folder(parts, plan) / "given").iterdir()
    given = GivenPairs(training=GivenFile(sha256=part.name, name="pairs.jsonl", bytes=1), licence="MIT")
    source = SourceRecord(repository=None, given=given, author="given", files=(), refused=(), refused_counts={})
    made = put(parts, "omega", sources_json=canonical(source))
    job, another = applying(parts, plan), applying(parts, other)
    assert part.name != upload.sha256, "each skill has a part of the file"
    done = Revoking(parts).block("omega")
    assert done.blocks == (made.id,)
    assert not folder(parts, plan).exists()
    assert not job.directory.exists()
    assert folder(parts, other).exists()
    assert another.directory.exists()
    assert [one.id for one in uploads.list()] == [kept.id]
    assert (done.jobs, done.files) == (1, 1)


def test_a_plan_goes_with_the_block_that_was_made_of_the_same_pairs_of_a_repository(tmp_path: Path) -> None:
    parts = SourceParts(tmp_path, genome_sources=("nowhere",))
    plan = planned(parts, "function")
    assert plan.plan.skills[0].evidence == "source"
    (held,) = folder(parts, plan).glob("held-*.jsonl")
    put(parts, "other")
    put(parts, "omega", pairs_jsonl=held.read_bytes().splitlines(keepends=True)[0])
    Revoking(parts).block("other")
    assert folder(parts, plan).exists()
    Revoking(parts).block("omega")
    assert not folder(parts, plan).exists()


def test_plans_with_pairs_of_a_repository_go_when_a_person_takes_everything_back(tmp_path: Path) -> None:
    parts = SourceParts(tmp_path, genome_sources=("nowhere",))
    plan = planned(parts, "function")
    job = applying(parts, plan)
    given = planned(parts, "beta", given_lines("beta", "mno"))
    assert [one.plan.skills[0].evidence for one in (plan, given)] == ["source", "given"]
    theirs = parts.consents.local_only((EVE,), "local:abacus")
    add_block(parts, "one", consent=theirs)
    assert Consent(parts).revoke("one").effects.jobs == 1
    assert not folder(parts, plan).exists()
    assert not job.directory.exists()
    assert folder(parts, given).exists()


@pytest.mark.parametrize("text", ["{", '{"ask": 3}', '{"ask": {"pairs": null}}'])
def test_a_plan_that_cannot_be_read_stops_no_revocation(tmp_path: Path, text: str) -> None:
    parts = GenomeParts(tmp_path)
    data = given_lines("omega", "mno")
    place = folder(parts, planned(parts, "omega", data))
    (part,) = (place / "given").iterdir()
    given = GivenPairs(training=GivenFile(sha256=part.name, name="pairs.jsonl", bytes=1), licence="MIT")
    source = SourceRecord(repository=None, given=given, author="given", files=(), refused=(), refused_counts={})
    put(parts, "omega", sources_json=canonical(source))
    (place / "plan.json").write_text(text)
    Revoking(parts).block("omega")
    assert not place.exists()
