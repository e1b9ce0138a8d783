"""Figures of a home: jobs by kind and state, what they said, blocks, and a database that is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from clonedna.app import figures
from clonedna.app.figures import BOUNDS, Figures, HomeFigures, JobCount, JobFigures
from clonedna.app.jobs import Jobs
from clonedna.app.workspace import now
from clonedna.core.errors import Unavailable
from clonedna.core.events import JobFailed, JobFinished, Note, StageProgress
from clonedna.server.home_metrics import HomeMetrics
from tests.parts import order
from tests.serving import ServerParts, add_block


def progress(loss: float) -> StageProgress:
    return StageProgress(stage="train", done=1, total=2, unit="steps", loss=loss)


def finished(seconds: float) -> JobFinished:
    return JobFinished(block="ada@1.0.0", status="registered", seconds=seconds)


def test_what_jobs_say_is_counted() -> None:
    told = JobFigures()
    told.heard("mint-1", progress(2.0))
    told.heard("mint-2", progress(3.0))
    told.heard("mint-1", progress(1.5))
    told.heard("mint-1", Note(text="x"))
    ended, took, losses = told.read()
    assert [(one.job, one.loss) for one in losses] == [("mint-1", 1.5), ("mint-2", 3.0)]
    assert (ended, took) == ((), ())
    told.heard("mint-1", finished(5.0))
    told.heard("mint-2", JobFailed(code="no_space", message="x"))
    told.heard("merge-1", JobFailed(code="cancelled", message="x"))
    told.heard("evaluate-1", finished(10 * BOUNDS[-1]))
    ended, took, losses = told.read()
    assert losses == ()
    assert {(one.kind, one.status): one.n for one in ended} == {
        ("evaluate", "registered"): 1, ("mint", "failed"): 1, ("mint", "registered"): 1, ("merge", "stopped"): 1,
    }  # fmt: skip
    assert {one.kind: (one.counts.index(1), one.seconds) for one in took} == {
        "mint": (BOUNDS.index(5.0), 5.0), "evaluate": (len(BOUNDS), 10 * BOUNDS[-1]),
    }  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HomeFigures:
    monkeypatch.setattr(figures, "KEEP_SECONDS", -1.0)
    parts = ServerParts(tmp_path)
    return HomeFigures(Jobs(parts.settings, parts), JobFigures())


def test_blocks_and_jobs_are_counted_by_state(read: HomeFigures) -> None:
    jobs = read._jobs
    add_block(jobs.parts, "ada")
    assert (read.read().blocks, read.read().jobs) == ({"registered": 1}, ())
    workspace, _ = jobs.create(order())
    assert read.read().jobs == (JobCount(kind="mint", status="interrupted", n=1),)
    workspace.write("cancel", {"at": now()})
    assert read.read().jobs == (JobCount(kind="mint", status="cancelled", n=1),)
    (workspace.directory / "cancel").unlink()
    assert read.read().jobs == (JobCount(kind="mint", status="interrupted", n=1),), (
        "what was resumed is looked at again"
    )


def test_a_database_that_is_away_is_a_figure(read: HomeFigures, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = read._jobs.parts

    def away() -> None:
        raise Unavailable("away")

    add_block(parts, "ada")
    monkeypatch.setattr(parts.registry, "counts", away)
    assert read.read().blocks is None


def test_errors_of_the_database_are_counted(read: HomeFigures) -> None:
    parts = read._jobs.parts
    (parts.settings.home / "registry.sqlite").write_bytes(b"not a database" * 100)
    seen = read.read()
    assert seen.blocks is None
    assert seen.database_errors == {"corrupt": 1}


def test_they_are_kept_for_some_seconds(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    one = HomeFigures(Jobs(parts.settings, parts), JobFigures())
    assert one.read() is one.read()


def test_prometheus_reads_them() -> None:
    told = JobFigures()
    for seconds in (0.5, 5.0, 1e9):
        told.heard("mint-1", finished(seconds))
    told.heard("mint-2", progress(2.5))
    ended, took, losses = told.read()
    seen = Figures(
        jobs=(JobCount(kind="mint", status="running", n=2),), ended=ended, took=took, losses=losses, blocks={"accepted": 3},
        database_errors={"timed_out": 1}, disk_free=7,
    )  # fmt: skip
    registry = CollectorRegistry()
    HomeMetrics(lambda: seen).register(registry)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert found["dna_jobs", "mint", "running"] == 2
    assert found["dna_jobs_ended_total", "mint", "registered"] == 3
    assert [found["dna_job_seconds_bucket", "mint", bound] for bound in ("1.0", "5.0", "86400.0", "+Inf")] == [
        1,
        2,
        2,
        3,
    ]
    assert found["dna_training_loss", "mint-2"] == 2.5
    assert (found["dna_blocks", "accepted"], found[("dna_database_up",)]) == (3, 1)
    assert found["dna_database_errors_total", "timed_out"] == 1
    assert found[("process_open_fds",)] > 0
