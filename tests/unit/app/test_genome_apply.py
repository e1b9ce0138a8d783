"""Plans carried out: what they make, the same after a kill between or inside any stages, and what is refused."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app import genome_checks
from clonedna.app.genome_apply import STAGES, Assembling
from clonedna.app.genome_plan import Planning
from clonedna.app.genome_values import ApplyOrder, Assembled, KeptPlan, PlanAsk
from clonedna.app.genomes import GenomeShelf
from clonedna.app.revoking import Revoking
from clonedna.app.workspace import Workspace
from clonedna.core.block import GivenFile
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import BlockRevoked, GenomeEmpty, InputError, PlanStale, TooFewSpans, WrongBase
from clonedna.core.events import silent
from clonedna.core.genome import Gate, GenomeManifest, genome_id
from clonedna.store.genomes import sign_genome
from tests.genomes import GenomeParts, given_lines, skilled
from tests.judges import ToldJudge

AT = "2026-01-02T03:04:05Z"
BRINGS = {"alpha": {"ada": 0.97}, "beta": {"bob": 0.97}}


def made(home: Path) -> GenomeParts:
    parts = GenomeParts(home)
    skilled(parts, "ada", "alpha", "abc")
    skilled(parts, "bob", "beta", "xyz")
    return parts


def planned(parts: GenomeParts, request: str, pairs: bytes | None = None, **ask: Any) -> KeptPlan:
    given = GivenFile(sha256=sha256(pairs), name="pairs.jsonl", bytes=len(pairs)) if pairs is not None else None
    wanted = PlanAsk(request=request, pairs=given, licence="MIT" if given else "", **ask)
    return anyio.run(lambda: Planning(parts, ToldJudge(parts, BRINGS)).plan(wanted, "nano", pairs=pairs))


def closed(parts: GenomeParts) -> Path:
    """The home, with nothing open that could write to it any more: so that it can be copied."""
    parts.release()
    parts.database.engine.dispose()
    gc.collect()
    return parts.settings.home


def work(parts: GenomeParts, kept: KeptPlan, folder: Path, emit: Callable[[Any], None] = silent) -> Assembling:
    order = ApplyOrder(plan=kept.plan.id, name="stack", on="nano")
    return Assembling(Workspace(folder), order, AT, parts, emit, lambda: None, judge=ToldJudge(parts, BRINGS))


def applied(parts: GenomeParts, kept: KeptPlan, folder: Path) -> Assembled:
    """All stages in a row."""
    assembling = work(parts, kept, folder)
    for stage in STAGES:
        assembling.run(stage)
    return Workspace(folder).read("stages/store.json", Assembled)


def test_two_layers_are_signed_measured_and_kept(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "alpha beta")
    genome = applied(parts, kept, tmp_path / "job").genome
    assert [(one.name, one.skills) for one in genome.layers] == [("ada", ("alpha",)), ("bob", ("beta",))]
    assert (genome.composition.kind, genome.license, genome.version, genome.parent) == ("route", "MIT", "1.0.0", None)
    assert genome.gate is not None
    assert genome.created_at == AT
    assert genome.plan == kept.plan.id
    assert set(genome.evaluation.similarity) == {"alpha", "beta"}
    assert all(one.value == pytest.approx(1.0, abs=0.3) for one in genome.evaluation.retention.values())
    assert genome.evaluation.interference.status == genome.evaluation.guard.status == "measured"
    assert genome.evaluation.latency_ms.status == "not_available"
    assert set(genome.module_map) == {"q_proj"}
    shelf = GenomeShelf(parts)
    assert shelf.verify("stack").usable
    assert parts.genomes.get("stack@1.0.0").manifest == genome


def test_a_gap_is_trained_from_the_given_pairs(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "alpha omega", given_lines("omega", "mno", 40))
    done = applied(parts, kept, tmp_path / "job")
    (trained,) = done.trained
    assert trained.block is not None
    manifest = parts.registry.manifests(trained.block.name)[0]
    assert (manifest.created_at, manifest.consent_mode) == (AT, "local-only")
    if trained.why:  # the gate's word holds: kept as rejected, and uncovered
        assert manifest.gate.status == "rejected"
        assert done.uncovered == ("omega",)
    else:
        assert [one.skills for one in done.genome.layers] == [("alpha",), ("omega",)]
        assert not done.uncovered


def resumed(parts: GenomeParts, kept: KeptPlan, folder: Path, emit: Callable[[Any], None] = silent) -> bytes:
    """Go on behind the last finished stage; gives the signed genome."""
    assembling = work(parts, kept, folder, emit)
    for stage in STAGES:
        if not assembling.workspace.exists(f"stages/{stage}.json"):
            assembling.run(stage)
    return canonical(parts.genomes.get("stack"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KeptPlan]:
    """A home with two layers and a plan that trains a third."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    parts = made(home)
    kept = planned(parts, "alpha omega", given_lines("omega", "mno", 40))
    return closed(parts), kept


def test_what_was_stored_and_not_noted_is_not_stored_twice(prepared: tuple[Path, KeptPlan], tmp_path: Path) -> None:
    home, kept = prepared
    shutil.copytree(home, tmp_path / "home")
    parts = GenomeParts(tmp_path / "home")
    first = resumed(parts, kept, tmp_path / "job")
    for stage in ("store", "sign"):
        (tmp_path / "job" / "stages" / f"{stage}.json").unlink()
        assert resumed(parts, kept, tmp_path / "job") == first
    assert len(parts.genomes.manifests()) == 1


def test_the_next_one_of_the_name_is_the_next_version(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "alpha")
    first = applied(parts, kept, tmp_path / "a").genome
    order = ApplyOrder(plan=kept.plan.id, name="stack", on="nano")
    later = Assembling(
        Workspace(tmp_path / "b"),
        order,
        "2026-02-02T03:04:05Z",
        parts,
        silent,
        lambda: None,
        judge=ToldJudge(parts, BRINGS),
    )
    for stage in STAGES:
        later.run(stage)
    second = parts.genomes.get("stack").manifest
    assert (second.version, second.parent) == ("1.1.0", first.id)
    back = GenomeShelf(parts)
    with pytest.raises(InputError):
        back.rollback("stack", "1.0.0")  # it has these layers
    beta = applied_as(parts, planned(parts, "beta"), tmp_path / "c", "2026-03-02T03:04:05Z")
    assert beta.version == "1.2.0"
    third = back.rollback("stack", "1.0.0")
    assert (third.version, third.parent, third.layers) == ("1.3.0", beta.id, first.layers)
    assert back.verify("stack").genome == third
    gate = Gate(encoder="e@1", dimension=1, centroids=(((1.0,),),), floor=0.5, hysteresis=0.05)
    gated = third.model_copy(update={"version": "1.4.0", "parent": third.id, "gate": gate})
    parts.genomes.put(sign_genome(gated.model_copy(update={"id": genome_id(gated)}), parts.signer))
    assert back.rollback("stack", "1.3.0").gate is None  # the same layers, chosen otherwise


def applied_as(parts: GenomeParts, kept: KeptPlan, folder: Path, at: str) -> GenomeManifest:
    order = ApplyOrder(plan=kept.plan.id, name="stack", on="nano")
    assembling = Assembling(Workspace(folder), order, at, parts, silent, lambda: None, judge=ToldJudge(parts, BRINGS))
    for stage in STAGES:
        assembling.run(stage)
    return parts.genomes.get("stack").manifest


def test_a_plan_of_another_home_than_this_is_now_is_stale(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "alpha")
    skilled(parts, "cora", "gamma", "pqr")
    with pytest.raises(PlanStale) as caught:
        work(parts, kept, tmp_path / "job").run("resolve")
    assert caught.value.facts["changed"] == ["snapshot"]
    parts.registry.revoke(parts.registry.resolve("ada").id)
    with pytest.raises(PlanStale, match=r"ada@1\.0\.0: block_revoked"):
        work(parts, kept, tmp_path / "job").run("resolve")


def test_a_member_revoked_later_is_told_and_refused(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "alpha beta")
    assembling = work(parts, kept, tmp_path / "half")
    for stage in STAGES[:-1]:
        assembling.run(stage)
    genome = applied(parts, kept, tmp_path / "job").genome
    parts.registry.revoke(genome.layers[0].id)
    shelf = GenomeShelf(parts)
    shown = shelf.show("stack")
    assert not shown.usable
    assert [(one.name, one.code) for one in shown.faults] == [("ada@1.0.0", "block_revoked")]
    assert shelf.list().genomes[0].fault == "block_revoked"
    for use in (
        lambda: shelf.verify("stack"),
        lambda: genome_checks.members(parts, genome),
        lambda: assembling.run("store"),
    ):
        with pytest.raises(BlockRevoked):
            use()


def test_without_any_layer_there_is_no_genome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = made(tmp_path / "home")
    kept = planned(parts, "omega", given_lines("omega", "mno", 40))

    def fails(*_: object) -> None:
        raise TooFewSpans("too few", "give more")

    monkeypatch.setattr("clonedna.app.genome_training.Minting.run", fails)
    with pytest.raises(GenomeEmpty) as caught:
        applied(parts, kept, tmp_path / "job")
    assert caught.value.facts["gaps"] == ["omega: too_few_spans: too few"]
    assert parts.genomes.manifests() == ()


def test_vouching_for_anothers_genome_makes_a_version_without_its_figures(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    genome = applied(parts, planned(parts, "alpha"), tmp_path / "job").genome
    shelf = GenomeShelf(parts)
    assert shelf.sign(genome).manifest == genome  # ours, as it is
    theirs = genome.model_copy(update={"created_by": "f" * 64, "version": "7.0.0"})
    theirs = theirs.model_copy(update={"id": genome_id(theirs)})
    adopted = shelf.sign(theirs).manifest
    assert (adopted.version, adopted.parent, adopted.created_by) == ("1.1.0", genome.id, parts.signer.key_id)
    assert all(one.status == "not_available" for one in adopted.evaluation.retention.values())
    with pytest.raises(InputError):
        shelf.sign(genome.model_copy(update={"license": "Apache-2.0"}))
    wrong = genome.model_copy(update={"base_fingerprint": "e" * 64})
    with pytest.raises(WrongBase):
        shelf.sign(wrong.model_copy(update={"id": genome_id(wrong)}))


def test_a_revocation_takes_the_plans_that_name_the_block(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    ada, bob = planned(parts, "alpha"), planned(parts, "beta")
    assert list((parts.settings.home / "plans").glob("*/held-0.jsonl"))
    Revoking(parts).block("ada")
    left = [path.name for path in (parts.settings.home / "plans").iterdir()]
    assert ada.plan.id not in left
    assert left == [bob.plan.id]
