"""Fine-tuning on the bundled base by `dna serve` in a process of its own: trained, killed in the middle, gone on, and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]
PERSON = {"name": "Ada Example", "handle": "ada", "licence": "MIT"}


def jsonl(count: int) -> bytes:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Write step {i}."},
                {"role": "assistant", "content": f"def step_{i}(total, count):\n    return total * {i} + count\n"},
            ]
        }
        for i in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@contextmanager
def served(home: Path) -> Generator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DNA_")} | {
        "DNA_HOME": str(home), "DNA_MIN_FREE_BYTES": "0", "DNA_CHECKPOINT_SECONDS": "0", "DNA_DRAIN_SECONDS": "20",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "clonedna.cli.main", "serve", "--port", "0", "--json"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def until_step(client: openai.OpenAI, job: str, step: int) -> None:
    deadline = time.monotonic() + 180
    while True:
        assert client.fine_tuning.jobs.retrieve(job).status != "failed"
        steps = [
            e.data["step"] for e in client.fine_tuning.jobs.list_events(job, limit=100) if isinstance(e.data, dict)
        ]
        if max(steps, default=0) >= step:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_in_training_the_next_server_goes_on_and_the_block_answers(tmp_path: Path) -> None:
    hyper = {"n_epochs": 1, "batch_size": 2}
    with served(tmp_path) as (process, client):
        file = client.files.create(file=("steps.jsonl", jsonl(16)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="nano", training_file=file.id, seed=0, extra_body={"clone_dna": PERSON},
            method={"type": "supervised", "supervised": {"hyperparameters": hyper}},  # type: ignore[typeddict-item]
        )  # fmt: skip
        until_step(client, job.id, 2)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with served(tmp_path) as (process, client):
        deadline = time.monotonic() + 180
        while (found := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        assert found.status == "succeeded", found.error
        assert found.fine_tuned_model == "ada@1.0.0"
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert any(message.startswith("resumed at step") for message in messages)
        answer = client.chat.completions.create(
            model=found.fine_tuned_model,
            messages=[{"role": "user", "content": "Write step 3."}],
            max_tokens=12,
            temperature=0,
        )
        assert answer.choices[0].message.content
        assert answer.to_dict()["served_by"]["block"] == "ada@1.0.0"  # type: ignore[index]
