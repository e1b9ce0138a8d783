"""What a server tells of its jobs while they run and when they ended: figures, and lines that name the job."""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clonedna.app import figures
from clonedna.client import Client
from tests.integration.test_jobs_http import finish, mint, serving, until, until_training
from tests.logs import logged
from tests.slow import SlowParts, SlowTrainer, at_full_speed

pytestmark = pytest.mark.slow


@pytest.fixture
def stream() -> Generator[io.StringIO]:
    with at_full_speed(), logged("info") as made:
        yield made


def read(client: Client) -> dict[tuple[str, ...], float]:
    with client.wire.stream("GET", "/metrics") as answer:
        text = b"".join(answer.iter_bytes()).decode()
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_a_job_is_counted_timed_and_named(tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "KEEP_SECONDS", -1.0)
    with serving(SlowParts(tmp_path)) as url, Client(url) as client:
        finish(client.jobs, mint())
        ended = read(client)
        SlowTrainer.seconds = 0.2
        job = client.jobs.start(mint(name="slow", seed=2)).id
        until_training(client.jobs, job)
        training = read(client)
        client.jobs.cancel(job)
        until(client.jobs, job, "cancelled")
        stopped = read(client)
    assert ended["dna_jobs", "mint", "finished"] == 1
    assert sum(value for key, value in ended.items() if key[:2] == ("dna_jobs_ended_total", "mint")) == 1
    assert ended["dna_job_seconds_count", "mint"] == 1
    assert ended["dna_job_seconds_sum", "mint"] > 0
    assert training["dna_jobs", "mint", "running"] == 1
    assert training["dna_training_loss", job] > 0
    assert ("dna_training_loss", job) not in stopped
    assert stopped["dna_jobs", "mint", "cancelled"] == 1
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    mine = {line["event"] for line in lines if line.get("job") == job}
    assert {"stage_started", "stage_finished", "job_stopped"} <= mine
    assert all("job" in line for line in lines if line["event"].startswith(("stage_", "job_")))
