"""Durable jobs on fake parts: what is finished is not done twice, failures and cancels can go on, and the block is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.jobs import Jobs
from clonedna.app.minting import STAGES, Minting
from clonedna.app.workspace import Workspace
from clonedna.core.block import Manifest
from clonedna.core.errors import BlockNotFound, Cancelled, JobNotFound, NoSpace, TooFewSpans
from clonedna.core.events import JobFailed, JobFinished, StageFinished, StageStarted, silent
from tests.parts import FakeParts, order

TIMES = {"created_at"}


def jobs_at(home: Path, **changes: Any) -> Jobs:
    parts = FakeParts(home, **changes)
    return Jobs(parts.settings, parts)


def stages(workspace: Workspace, kind: type = StageFinished) -> list[str]:
    return [event.stage for _, _, event in workspace.events() if isinstance(event, kind)]


def manifest(jobs: Jobs, reference: str) -> dict[str, Any]:
    fields = jobs.parts.registry.resolve(reference).model_dump(mode="json")
    return {key: value for key, value in fields.items() if key not in TIMES}


def failing(stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[[Minting, str], str] = Minting.run

    def run(self: Minting, name: str) -> str:
        if name == stage:
            raise error
        return whole(self, name)

    monkeypatch.setattr(Minting, "run", run)


def test_a_mint_runs_all_stages_in_order_and_registers(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    heard: list[Any] = []
    workspace, goes_on = jobs.create(order())
    assert not goes_on
    reference = jobs.run(workspace, heard.append)
    assert str(reference) == "ada-example@1.0.0"
    assert reference.status == "registered"
    assert stages(workspace) == list(STAGES)
    assert isinstance(heard[-1], JobFinished)
    assert jobs.view(workspace).status == "finished"
    assert not (workspace.directory / "stages").exists()


@pytest.mark.parametrize("stage", ["collect", "train", "pack", "sign", "register"])
def test_a_failed_stage_goes_on_where_it_failed_and_ends_in_the_same_block(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(consent="local-only")  # a consent statement names time and key, so it differs between two homes
    whole = jobs_at(tmp_path / "whole")
    expected = manifest(whole, str(whole.run(whole.create(asked)[0], silent)))

    jobs = jobs_at(tmp_path / "broken")
    workspace, _ = jobs.create(asked)
    with monkeypatch.context() as patch:
        failing(stage, NoSpace("full", "free some"), patch)
        with pytest.raises(NoSpace):
            jobs.run(workspace, silent)
    assert jobs.view(workspace).status == "failed"
    before = stages(workspace)
    assert before == list(STAGES[: STAGES.index(stage)])
    again = manifest(jobs, str(jobs.run(jobs.find(None), silent)))
    assert stages(workspace, StageStarted) == list(STAGES)
    same_key = {"created_by": expected["created_by"]}
    assert again | same_key == expected


def test_a_failure_is_told_and_kept(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path, spans=10)
    workspace, _ = jobs.create(order())
    heard: list[Any] = []
    with pytest.raises(TooFewSpans):
        jobs.run(workspace, heard.append)
    assert isinstance(heard[-1], JobFailed)
    assert heard[-1].code == "too_few_spans"
    assert jobs.view(workspace).error == heard[-1]
    assert not jobs.parts.registry.manifests()


def test_a_cancelled_job_stops_and_can_go_on(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    workspace, _ = jobs.create(order())

    def cancel_in_train(event: Any) -> None:
        if isinstance(event, StageStarted) and event.stage == "train":
            jobs.cancel(workspace)

    with pytest.raises(Cancelled):
        jobs.run(workspace, cancel_in_train)
    assert jobs.view(workspace).status == "cancelled"
    assert jobs.run(jobs.find(workspace.id), silent).status == "registered"


def test_the_same_mint_twice_is_the_same_block(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    first = jobs.run(jobs.create(order())[0], silent)
    second = jobs.run(jobs.create(order())[0], silent)
    assert first == second
    assert len(jobs.parts.registry.manifests()) == 1


def test_another_seed_is_a_new_version_that_names_the_one_before(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    jobs.run(jobs.create(order())[0], silent)
    other = order(recipe=order().recipe.model_copy(update={"seed": 5}))
    second = jobs.run(jobs.create(other)[0], silent)
    assert str(second) == "ada-example@1.1.0"
    assert jobs.parts.registry.resolve(str(second)).previous_version == "1.0.0"


def test_two_mints_that_were_packed_as_one_version_become_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_at(tmp_path)
    first, _ = jobs.create(order())
    with monkeypatch.context() as patch:
        failing("register", NoSpace("full", "free some"), patch)
        with pytest.raises(NoSpace):
            jobs.run(first, silent)
    second, _ = jobs.create(order(recipe=order().recipe.model_copy(update={"seed": 5})))
    assert str(jobs.run(second, silent)) == "ada-example@1.0.0"
    assert str(jobs.run(first, silent)) == "ada-example@1.1.0"
    assert jobs.parts.registry.resolve("ada-example").previous_version == "1.0.0"


def test_the_same_order_takes_up_an_interrupted_job(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    workspace, _ = jobs.create(order())
    again, goes_on = jobs.create(order())
    assert goes_on
    assert again.id == workspace.id
    assert jobs.view(workspace).status == "interrupted"


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    workspace, _ = jobs.create(order())
    first = jobs.run(workspace, silent)
    heard: list[Any] = []
    assert jobs.run(workspace, heard.append) == first
    assert not heard


def test_jobs_are_found_by_beginning_and_not_by_anything_else(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    with pytest.raises(JobNotFound):
        jobs.find(None)
    workspace, _ = jobs.create(order())
    assert jobs.find(workspace.id[:-2]).id == workspace.id
    with pytest.raises(JobNotFound):
        jobs.find("nothing")


def test_the_block_holds_what_the_papers_say(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    reference = jobs.run(jobs.create(order())[0], silent)
    blocks = Blocks(jobs.parts)
    detail = blocks.show(str(reference))
    folder = Path(detail.path)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*detail.manifest.files, "manifest.json", "signature.json"]
    )
    assert {p.split for p in blocks.pairs(str(reference))} == {"train", "holdout"}
    sources = json.loads((folder / "sources.json").read_text())
    assert sources["repository"]["url"] == "local:abacus"
    everything = b"".join(p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".jsonl", ".md"))
    assert b"ada@example.org" not in everything
    assert str(tmp_path).encode() not in everything
    assert b"nowhere" not in everything
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert f"{detail.evaluation.measures['nll.delta'].value}" in card
    assert Manifest.model_validate_json((folder / "manifest.json").read_bytes()) == detail.manifest


def test_removing_a_block_forgets_name_and_files(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path)
    reference = jobs.run(jobs.create(order())[0], silent)
    blocks = Blocks(jobs.parts)
    path = blocks.parts.store.path(reference.id)
    assert blocks.remove(str(reference)) == reference
    assert not path.exists()
    with pytest.raises(BlockNotFound):
        blocks.show(str(reference))
