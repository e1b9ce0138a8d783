"""Fine-tuning over HTTP with the official client, on the fake engine: from a file to a block that answers; jobs outlive servers."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from clonedna.app.blocks import Blocks
from clonedna.app.jobs import Jobs
from clonedna.app.service import Service
from clonedna.app.uploads import Uploads
from clonedna.core.errors import JobBusy
from clonedna.core.events import Note, StageStarted
from clonedna.core.fakes import FakeTrainer
from tests.serving import running
from tests.slow import SlowParts, SlowTrainer, at_full_speed

PERSON = {"name": "Ada Example", "handle": "ada-greets", "licence": "MIT", "consent": "local-only"}
QUICK: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.1}}}


def jsonl(count: int, *, word: str = "hello") -> bytes:
    """Examples with different prompts and answers alike."""
    rows = [
        {"messages": [{"role": "user", "content": f"Greet number {i}."}, {"role": "assistant", "content": f"{word} {word} number {i}!"}]}
        for i in range(count)
    ]  # fmt: skip
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(autouse=True)
def quick() -> Generator[None]:
    with at_full_speed():
        yield


@contextmanager
def serving(parts: SlowParts) -> Generator[openai.OpenAI]:
    """A client of a server with jobs in the background."""
    with (
        running(parts, "nano", whole=True) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def upload(client: openai.OpenAI, data: bytes, name: str = "examples.jsonl") -> str:
    return client.files.create(file=(name, data), purpose="fine-tune").id


def create(client: openai.OpenAI, data: bytes, **changes: Any) -> FineTuningJob:
    fields: dict[str, Any] = {
        "model": "nano",
        "seed": 1,
        "method": QUICK,
        "extra_body": {"clone_dna": PERSON},
    } | changes
    return client.fine_tuning.jobs.create(training_file=upload(client, data), **fields)


def until(client: openai.OpenAI, job: str, *statuses: str, seconds: float = 60) -> FineTuningJob:
    deadline = time.monotonic() + seconds
    while True:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in statuses:
            return found
        assert found.status not in ("succeeded", "failed", "cancelled"), found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def until_training(client: openai.OpenAI, job: str) -> None:
    deadline = time.monotonic() + 60
    while not any(event.type == "metrics" for event in client.fine_tuning.jobs.list_events(job, limit=100).data):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_from_a_file_to_a_block_that_answers(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path)
    data = jsonl(20)
    with serving(parts) as client:
        job = create(client, data, suffix="greets", metadata={"team": "blue"})
        assert job.status in ("queued", "validating_files", "running")
        done = until(client, job.id, "succeeded")
        assert done.fine_tuned_model == "ada-greets@1.0.0"
        assert done.trained_tokens
        assert done.finished_at
        assert done.metadata == {"team": "blue"}
        (results,) = done.result_files
        table = client.files.content(results).text.splitlines()
        assert table[0] == "epoch,train_loss,valid_loss"
        assert len(table) == 3
        answer = client.chat.completions.create(
            model=done.fine_tuned_model,
            messages=[{"role": "user", "content": "Greet number 3."}],
            max_tokens=8,
            temperature=0,
        )
        assert answer.choices[0].message.content
        events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
        assert events[-1].message == "read: started"
        assert events[0].message == "registered: ada-greets@1.0.0"
        assert any(event.type == "metrics" for event in events)
        assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []

    blocks = Blocks(parts)
    detail = blocks.show("ada-greets")
    folder = Path(detail.path)
    sources = json.loads((folder / "sources.json").read_text())
    assert sources["repository"] is None
    assert sources["given"]["licence"] == "MIT"
    (upload_file,) = [one for one in Uploads(parts.settings).list() if one.purpose == "fine-tune"]
    assert sources["given"]["training"]["sha256"] == upload_file.sha256
    assert detail.consent.mode == "local-only"
    assert detail.manifest.gate.status == "accepted"
    pairs = blocks.pairs("ada-greets")
    train = {p.messages for p in pairs if p.split == "train"}
    held = {p.messages for p in pairs if p.split == "holdout"}
    assert train
    assert held
    assert not train & held
    assert detail.evaluation.measures["nll.delta"].n == len(held)
    assert "given as a file" in (folder / "README.md").read_text()
    lines = data.splitlines()
    for pair in pairs:
        row = json.loads(lines[pair.provenance.start - 1])
        assert pair.completion == row["messages"][-1]["content"]


def test_a_validation_file_is_what_is_measured(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path)
    with serving(parts) as client:
        held = jsonl(30)
        validation = upload(client, b"\n".join(held.splitlines()[20:]) + b"\n", "held.jsonl")
        job = create(client, held, validation_file=validation)
        done = until(client, job.id, "succeeded")
        assert done.validation_file == validation
    pairs = Blocks(parts).pairs("ada-greets")
    assert [p.split for p in pairs].count("holdout") == 10
    assert [p.split for p in pairs].count("train") == 20  # the ten that are held out were in both files


def test_bad_lines_fail_the_job_with_their_numbers(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path)) as client:
        job = create(client, jsonl(12) + b'{"messages": []}\nnot json\n')
        failed = until(client, job.id, "failed")
        assert failed.error
        assert failed.error.code == "bad_input"
        assert failed.error.param == "training_file"
        assert "line 13" in failed.error.message
        assert "line 14" in failed.error.message
        assert failed.fine_tuned_model is None
        assert client.fine_tuning.jobs.list_events(job.id).data[0].level == "error"


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"extra_body": {"clone_dna": PERSON | {"licence": ""}}}, 403, "licence_unknown", "clone_dna.licence"),
        ({"extra_body": {}}, 403, "licence_unknown", "clone_dna.licence"),
        ({"extra_body": {"clone_dna": PERSON | {"licence": "whatever"}}}, 403, "licence_unknown", "clone_dna.licence"),
        ({"extra_body": {"clone_dna": PERSON | {"consent": "granted"}}}, 400, "bad_input", "clone_dna.consent"),
        ({"model": "other"}, 404, "not_found", "model"),
        ({"method": {"type": "dpo"}}, 400, "bad_input", "method"),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
            400,
            "bad_input",
            None,
        ),
        ({"validation_file": "file-" + "0" * 24}, 404, "not_found", "validation_file"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, 400, "bad_input", "integrations"),
        ({"extra_body": {"clone_dna": PERSON, "made_up": 1}}, 400, "bad_input", "made_up"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    changes: dict[str, Any], status: int, code: str, param: str | None, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        create(client, jsonl(12), **changes)
    assert caught.value.status_code == status
    assert caught.value.code == code
    if param:
        assert caught.value.param == param
    assert not client.fine_tuning.jobs.list().data


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    with serving(SlowParts(tmp_path_factory.mktemp("home"), max_upload_bytes=200_000, parallel_training=0)) as made:
        yield made


def test_files_are_kept_listed_fetched_and_forgotten(client: openai.OpenAI) -> None:
    before = len(client.files.list().data)
    data = jsonl(3)
    first, second = upload(client, data, "../../a b.jsonl"), upload(client, data)
    assert client.files.content(first).content == data
    assert client.files.retrieve(first).filename.endswith("a b.jsonl")
    assert "/" not in client.files.retrieve(first).filename
    page = client.files.list(limit=1)
    assert [one.id for one in page.data] == [second]
    assert page.has_more
    assert len(client.files.list().data) == before + 2
    client.files.delete(first)
    assert client.files.content(second).content == data
    client.files.delete(second)
    with pytest.raises(openai.NotFoundError):
        client.files.content(second)
    for bad in ("file-../../etc/passwd", "file-" + "0" * 24):
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(bad)


def test_files_are_bounded(client: openai.OpenAI) -> None:
    for data, status in ((b"", 400), (b"x" * 200_001, 413), (b"x" * 400_000, 413)):
        with pytest.raises(openai.APIStatusError) as caught:
            upload(client, data)
        assert caught.value.status_code == status
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a", b"{}"), purpose="vision")


def test_a_cancelled_job_stops_in_training_and_goes_on_when_resumed(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.1
    parts = SlowParts(tmp_path)
    with serving(parts) as client:
        job = create(client, jsonl(40), method=_batches_of(1))
        until_training(client, job.id)
        assert client.fine_tuning.jobs.cancel(job.id).status in ("cancelled", "running")
        until(client, job.id, "cancelled")
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.cancel(job.id)
        SlowTrainer.seconds = 0.0
        client.fine_tuning.jobs.resume(job.id)
        assert until(client, job.id, "succeeded").fine_tuned_model == "ada-greets@1.0.0"
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data]
        assert any("resumed at step" in one for one in messages)
        assert not any("tried again" in one for one in messages)


def test_no_more_train_at_once_than_the_setting_says_and_the_others_wait(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.05
    with serving(SlowParts(tmp_path, parallel_training=2)) as client:
        jobs = [
            create(
                client, jsonl(20, word=word), method=_batches_of(2), extra_body={"clone_dna": PERSON | {"handle": word}}
            )
            for word in ("one", "two", "three")
        ]
        until_training(client, jobs[0].id)
        assert client.fine_tuning.jobs.retrieve(jobs[2].id).status == "queued"
        for job, name in zip(jobs, ("one", "two", "three"), strict=True):
            assert until(client, job.id, "succeeded").fine_tuned_model == f"{name}@1.0.0"
        assert SlowTrainer.most == 2
        listed = client.fine_tuning.jobs.list(limit=2)
        assert [one.id for one in listed.data] == [jobs[2].id, jobs[1].id]
        assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id for job in reversed(jobs)]


def test_jobs_of_a_stopped_server_go_on_by_themselves_with_the_same_block(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path / "whole")) as client:
        until(client, create(client, jsonl(40), method=_batches_of(1)).id, "succeeded")
    whole = Blocks(SlowParts(tmp_path / "whole")).show("ada-greets")

    SlowTrainer.seconds = 0.1
    with serving(SlowParts(tmp_path / "home")) as client:
        job = create(client, jsonl(40), method=_batches_of(1))
        waiting = create(client, jsonl(20, word="later"), extra_body={"clone_dna": PERSON | {"handle": "later"}})
        until_training(client, job.id)
    SlowTrainer.seconds = 0.0
    parts = SlowParts(tmp_path / "home")
    with serving(parts) as client:
        until(client, job.id, "succeeded")
        until(client, waiting.id, "succeeded")
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data]
        assert any(message.startswith("resumed at step") for message in messages)
    again = Blocks(parts).show("ada-greets").manifest
    weights = "adapter_model.safetensors"
    assert again.files[weights] == whole.manifest.files[weights]
    assert again.files["eval.json"] == whole.manifest.files["eval.json"]


def test_a_server_s_job_can_be_finished_in_the_foreground_and_is_not_done_again(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.1
    with serving(SlowParts(tmp_path)) as client:
        job = create(client, jsonl(40), method=_batches_of(1))
        until_training(client, job.id)
    SlowTrainer.seconds = 0.0
    parts = SlowParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    workspace = jobs.find(job.id)
    assert jobs.view(workspace).status == "queued"
    heard: list[Any] = []
    reference = jobs.run(workspace, heard.append)
    assert next(event.stage for event in heard if isinstance(event, StageStarted)) == "train"
    assert any(isinstance(event, Note) and event.text.startswith("resumed at step") for event in heard)
    with serving(SlowParts(tmp_path)) as client:
        assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == str(reference)
        time.sleep(2)  # the queue was looked at by now
        assert jobs.view(workspace).status == "finished"
        assert jobs.view(workspace).block == str(reference)


def test_a_job_that_failed_goes_on_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeTrainer.save
    full = True

    async def save(self: FakeTrainer, directory: Path, *, resumable: bool = False) -> None:
        if full and resumable:
            raise OSError(errno.ENOSPC, "No space left on device")
        await whole(self, directory, resumable=resumable)

    monkeypatch.setattr(FakeTrainer, "save", save)
    with serving(SlowParts(tmp_path)) as client:
        job = create(client, jsonl(20))
        failed = until(client, job.id, "failed")
        assert failed.error
        assert failed.error.code == "no_space"
        assert failed.error.param is None
        full = False
        client.fine_tuning.jobs.resume(job.id)
        until(client, job.id, "succeeded")


def test_what_the_gate_rejects_is_a_failed_job_with_its_reasons(tmp_path: Path) -> None:
    # One prompt's answers are noise to the others: nothing that is learnt helps the hold-out.
    rows = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": chr(33 + i) * 30}]}
        for i in range(12)
    ]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    with serving(SlowParts(tmp_path)) as client:
        failed = until(client, create(client, data).id, "failed")
        assert failed.error
        assert failed.error.code == "block_rejected"
        assert "no sure gain" in failed.error.message
        assert failed.fine_tuned_model is None
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.resume(failed.id)


def test_events_can_be_streamed(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path)) as client:
        job = create(client, jsonl(12))
        with client.with_streaming_response.fine_tuning.jobs.list_events(
            job.id, extra_query={"stream": "true"}
        ) as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert events[0]["message"] == "read: started"
    assert len({event["id"] for event in events}) == len(events)


def test_a_second_server_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path)), pytest.raises(JobBusy, match="another server"):
        Service(SlowParts(tmp_path), "nano").background.open()


def test_a_second_server_in_one_process_is_refused_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path / "one")) as client:
        for _ in range(2):
            with pytest.raises(JobBusy, match="this process"):
                Service(SlowParts(tmp_path / "other"), "nano").background.open()
        until(client, create(client, jsonl(12)).id, "succeeded")


def _batches_of(size: int) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": {
        "n_epochs": 2, "learning_rate_multiplier": 0.1, "batch_size": size,
    }}}  # fmt: skip
