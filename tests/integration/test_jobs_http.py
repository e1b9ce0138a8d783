"""Jobs over HTTP on the fake engine: every kind, keys, pages, events that go on, cancel, resume, a server that stops in the middle."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clonedna.app.job_asks import CompareAsk, EvaluateAsk, IdentityAsk, MergeAsk, MintAsk
from clonedna.app.job_durable import Durable
from clonedna.app.job_values import JobEvent, JobView
from clonedna.app.jobs import Jobs
from clonedna.app.service import Service
from clonedna.app.workspace import Workspace
from clonedna.client import Client
from clonedna.client.jobs import RemoteJobs
from clonedna.core.canonical import sha256
from clonedna.core.errors import AddressRefused, InputError, JobNotFound, NotFound, Overloaded, Refused, Unavailable
from clonedna.core.events import Note, StageFinished, silent
from tests.merges import add_block
from tests.serving import running
from tests.slow import SlowParts, SlowTrainer, at_full_speed

MINT: dict[str, Any] = {
    "kind": "mint", "target": "@ada-example", "authors": ["Ada Example <ada@example.org>"], "consent": "local-only", "general_ratio": 0.05,
    "learning_rate": 1e-4, "epochs": 2,
}  # fmt: skip
JOBS = "/api/v1/jobs"


@pytest.fixture(autouse=True)
def quick() -> Generator[None]:
    with at_full_speed():
        yield


def serving(parts: SlowParts, *, port: int = 0) -> AbstractContextManager[str]:
    return running(parts, "nano", whole=True, port=port)


def until(jobs: RemoteJobs, job: str, *statuses: str, seconds: float = 60) -> JobView:
    deadline = time.monotonic() + seconds
    while True:
        found = jobs.get(job)
        if found.status in statuses:
            return found
        assert found.status not in ("finished", "failed", "cancelled"), found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def until_training(jobs: RemoteJobs, job: str) -> None:
    deadline = time.monotonic() + 60
    while (found := jobs.get(job)).doing != "train" or not found.percent:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def mint(**changes: Any) -> MintAsk:
    return MintAsk.model_validate(MINT | changes)


def finish(jobs: RemoteJobs, ask: Any) -> Any:
    """Order it, follow it to its end, give its result."""
    last = list(jobs.follow(jobs.start(ask).id))[-1]
    assert isinstance(last, JobView)
    assert last.status == "finished", last
    return jobs.result(last.id)


def test_every_kind_of_job_ends_in_its_result(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path)
    with serving(parts) as url, Client(url) as client:
        jobs = client.jobs
        first = finish(jobs, mint())
        assert str(first.block) == "ada-example@1.0.0"
        assert first.value is None
        for i, name in enumerate(("bob", "cy")):
            add_block(parts, name, i, fingerprint=sha256("fake"))
        evaluated = finish(jobs, EvaluateAsk(kind="evaluate", block="ada-example"))
        assert evaluated.value["block"] == "ada-example@1.0.0"
        assert evaluated.block is None
        compared = finish(jobs, CompareAsk(kind="compare", a="bob", b="cy", weights_only=True))
        assert [compared.value[one]["name"] for one in "ab"] == ["bob", "cy"]
        merged = finish(jobs, MergeAsk(kind="merge", parts=("bob:0.7", "cy:0.3"), name="both"))
        assert str(merged.block) == merged.value["block"]["name"] + "@1.0.0" == "both@1.0.0"
        assert parts.registry.resolve("both").lineage.relation == "merged"
        page = jobs.list(kind="evaluate")
        assert [(one.kind, one.status, one.target) for one in page.jobs] == [("evaluate", "finished", "ada-example")]


def test_identity_that_cannot_be_is_a_failed_job_with_its_error(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path)) as url, Client(url) as client:
        finish(client.jobs, mint())
        job = client.jobs.start(IdentityAsk(kind="identity", blocks=("ada-example", "ada-example@1.0.0")))
        failed = until(client.jobs, job.id, "failed")
        assert failed.error is not None
        assert failed.error.code == "bad_input"
        with pytest.raises(NotFound, match="bad_input"):
            client.jobs.result(job.id)


def test_a_job_is_kept_before_it_is_answered_and_has_a_place(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path, parallel_training=0)) as url, httpx2.Client(base_url=url, timeout=60) as http:
        answer = http.post(JOBS, json=MINT)
        assert answer.status_code == 202
        job = answer.json()["id"]
        assert answer.headers["Location"] == f"{JOBS}/{job}"
        assert http.get(answer.headers["Location"]).json()["status"] == "queued"
        assert (tmp_path / "jobs" / job / "order.json").exists()


def test_one_key_is_one_job_also_twenty_times_at_once_and_after_a_restart(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "order-1"}
    with serving(SlowParts(tmp_path, parallel_training=0)) as url, httpx2.Client(base_url=url, timeout=60) as http:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: http.post(JOBS, json=MINT, headers=headers), range(20)))
        assert {answer.status_code for answer in answers} == {202}
        ids = {answer.json()["id"] for answer in answers}
        assert len(ids) == 1
        other = http.post(JOBS, json=MINT | {"seed": 9}, headers=headers)
        assert other.status_code == 400
        assert other.json()["error"]["job"] in ids
        assert http.post(JOBS, json=MINT, headers={"Idempotency-Key": "order-2"}).json()["id"] not in ids
        assert http.post(JOBS, json=MINT, headers={"Idempotency-Key": "a b"}).status_code == 400
    with serving(SlowParts(tmp_path, parallel_training=0)) as url, httpx2.Client(base_url=url, timeout=60) as http:
        assert http.post(JOBS, json=MINT, headers=headers).json()["id"] in ids
        assert len(http.get(JOBS).json()["jobs"]) == 2


def test_pages_and_filters(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path, parallel_training=0)) as url, Client(url) as client:
        made = [client.jobs.start(mint(seed=i)).id for i in range(5)]
        first = client.jobs.list(limit=2)
        assert [one.id for one in first.jobs] == made[:2:-1]
        second = client.jobs.list(limit=2, after=first.next)
        third = client.jobs.list(limit=2, after=second.next)
        assert [one.id for one in (*second.jobs, *third.jobs)] == made[2::-1]
        assert third.next is None
        client.jobs.cancel(made[1])
        assert [one.id for one in client.jobs.list(status="cancelled").jobs] == [made[1]]
        assert client.jobs.list(kind="merge").jobs == ()
        with pytest.raises(NotFound):
            client.jobs.list(after="mint-20260101-000000000-abcdef")


def test_events_go_on_behind_the_last_one_and_are_json_too(tmp_path: Path) -> None:
    with serving(SlowParts(tmp_path)) as url, Client(url) as client, httpx2.Client(base_url=url, timeout=60) as http:
        job = client.jobs.start(mint()).id
        told = list(client.jobs.follow(job))
        lines = [one for one in told if isinstance(one, JobEvent)]
        assert [one.offset for one in lines] == list(range(len(lines)))
        assert isinstance(told[-1], JobView)
        page = client.jobs.events(job, after=2, limit=3)
        assert page.events == tuple(lines[3:6])
        assert not page.ended
        assert client.jobs.events(job).ended
        for how in ({"headers": {"Last-Event-ID": "4"}}, {"params": {"last_event_id": "4"}}):
            text = http.get(f"{JOBS}/{job}/events", **how).text
            ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
            assert ids == [str(one.offset) for one in lines[5:]]
            assert "event: end" in text
        assert http.get(f"{JOBS}/{job}/events", headers={"Last-Event-ID": "x"}).status_code == 400


def test_a_quiet_stream_says_that_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clonedna.server.jobs.HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("clonedna.server.jobs.MOST_STREAMS", 1)
    with serving(SlowParts(tmp_path, parallel_training=0)) as url, Client(url) as client:
        job = client.jobs.start(mint()).id
        with httpx2.Client(base_url=url, timeout=60) as http, http.stream("GET", f"{JOBS}/{job}/events") as stream:
            lines = stream.iter_lines()  # it closes the stream when it goes
            while next(lines) != ": still here":
                pass
            with http.stream("GET", f"{JOBS}/{job}/events") as another:
                assert another.status_code == 429
        client.jobs.cancel(job)
        assert isinstance(list(client.jobs.follow(job))[-1], JobView)  # the place of the one that left is free again


def test_a_cancelled_job_stops_and_goes_on_where_it_was(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.1
    with serving(SlowParts(tmp_path)) as url, Client(url) as client:
        job = client.jobs.start(mint()).id
        until_training(client.jobs, job)
        client.jobs.cancel(job)
        assert until(client.jobs, job, "cancelled").done[-1] == "mix"
        assert client.jobs.cancel(job).status == "cancelled"  # again is harmless
        SlowTrainer.seconds = 0.0
        client.jobs.resume(job)
        assert until(client.jobs, job, "finished").block == "ada-example@1.0.0"
        assert client.jobs.cancel(job).status == "finished"
        assert client.jobs.resume(job).status == "finished"
        names = Counter(
            one.event.stage for one in client.jobs.events(job).events if isinstance(one.event, StageFinished)
        )
        assert set(names.values()) == {1}


def test_no_more_than_the_settings_say_run_or_wait(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.05
    with serving(SlowParts(tmp_path, parallel_training=2, max_waiting_jobs=2)) as url, Client(url) as client:
        made = [client.jobs.start(mint(seed=i, name=f"n{i}")).id for i in range(2)]
        for job in made:
            until(client.jobs, job, "running")
        made += [client.jobs.start(mint(seed=i, name=f"n{i}")).id for i in (2, 3)]
        with httpx2.Client(base_url=url, timeout=60) as http:
            full = http.post(JOBS, json=MINT)
            assert full.status_code == 429
            assert full.headers["Retry-After"] == "30"
        SlowTrainer.seconds = 0.0
        for job in made:
            until(client.jobs, job, "finished")
        assert SlowTrainer.most <= 2


def test_a_server_that_stops_in_the_middle_loses_nothing_and_its_client_follows_through(tmp_path: Path) -> None:
    whole = SlowParts(tmp_path / "whole")
    with serving(whole) as url, Client(url) as client:
        expected = whole.registry.resolve(str(finish(client.jobs, mint()).block))

    SlowTrainer.seconds = 0.05
    heard: list[JobEvent | JobView] = []
    with serving(SlowParts(tmp_path / "home")) as url:
        port = int(url.rpartition(":")[2])
        client = Client(url)
        job = client.jobs.start(mint()).id
        waiting = client.jobs.start(mint(name="later", seed=4)).id
        follower = threading.Thread(target=lambda: heard.extend(client.jobs.follow(job)))
        follower.start()
        until_training(client.jobs, job)
    SlowTrainer.seconds = 0.0
    parts = SlowParts(tmp_path / "home")
    with serving(parts, port=port):
        follower.join(60)
        assert not follower.is_alive()
        until(client.jobs, job, "finished")
        until(client.jobs, waiting, "finished")
        again = client.jobs.result(job).block
    client.close()
    offsets = [one.offset for one in heard if isinstance(one, JobEvent)]
    assert offsets == list(range(len(offsets)))
    assert again is not None
    found = parts.registry.resolve(str(again))
    for name in ("adapter_model.safetensors", "eval.json", "pairs.jsonl"):
        assert found.files[name] == expected.files[name], name
    assert not list((tmp_path / "home" / "jobs" / "queue").iterdir())


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        ({"kind": "mint"}, "target"),
        ({"kind": "nothing"}, None),
        ({"kind": "mint", "target": "@ada", "pairs": "file-" + "0" * 24}, "target"),
        ({"kind": "mint", "pairs": "file-" + "0" * 24}, "pairs"),
        ({"kind": "mint", "target": "https://example.org/x.git"}, "authors"),
        ({"kind": "mint", "target": "https://u:p@example.org/x.git"}, "target"),
        ({"kind": "mint", "target": "@ada", "authors": ["<>"]}, "authors"),
        ({"kind": "mint", "target": "@ada", "base": "other"}, "base"),
        ({"kind": "mint", "target": "@ada", "replay": 1.0}, "replay"),
        ({"kind": "mint", "target": "relative/path"}, "target"),
        ({"kind": "evaluate", "block": "nobody"}, None),
        ({"kind": "evaluate", "block": "../../etc/passwd"}, None),
        ({"kind": "merge", "parts": ["ada:x"], "name": "m"}, None),
        ({"kind": "compare", "a": "ada"}, None),
        ({"kind": "mint", "target": "@ada", "epochs": 10**9}, None),
        ({"kind": "mint", "target": "x" * 5000}, None),
    ],
)
def test_what_cannot_be_is_refused_at_once(ask: dict[str, Any], param: str | None, refuser: httpx2.Client) -> None:
    answer = refuser.post(JOBS, json=ask)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error["hint"]
    assert param is None or error["param"] == param
    assert refuser.get(JOBS).json()["jobs"] == []


@pytest.fixture(scope="module")
def refuser(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx2.Client]:
    parts = SlowParts(tmp_path_factory.mktemp("home"), parallel_training=0)
    with serving(parts) as url, httpx2.Client(base_url=url, timeout=60) as http:
        yield http


def test_ids_of_jobs_are_checked(refuser: httpx2.Client) -> None:
    for job in ("..", "%2e%2e", "A", "mint-1", "x" * 65):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/result"), ("POST", "/resume")):
            assert refuser.request(method, f"{JOBS}/{job}{path}").status_code in (400, 404, 405), (method, job, path)


def test_files_are_uploaded_and_measured(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path / "home")
    with serving(parts) as url, Client(url) as client:
        block = finish(client.jobs, mint()).block
        pairs = tmp_path / "pairs.jsonl"
        lines = (parts.store.path(block.id) / "pairs.jsonl").read_bytes().splitlines(keepends=True)
        pairs.write_bytes(b"".join(lines[:4]))
        ask = EvaluateAsk(kind="evaluate", block="ada-example", pairs=client.jobs.upload(pairs))
        found = finish(client.jobs, ask).value
        assert found["kind"] == "pairs"
        assert found["contaminated"] > 0
        with pytest.raises(InputError):
            client.jobs.upload(tmp_path / "nothing.jsonl")
        with pytest.raises(JobNotFound):
            client.jobs.get("../x")


def test_given_pairs_and_the_next_version_are_ordered_as_on_the_command_line(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path / "home")
    rows = [
        {"messages": [{"role": "user", "content": f"Greet number {i}."}, {"role": "assistant", "content": f"hello hello number {i}!"}]}
        for i in range(20)
    ]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(parts) as url, Client(url) as client:
        given = MintAsk(
            kind="mint", pairs=client.jobs.upload(file), licence="MIT", name="greets", epochs=2, learning_rate=1e-4, general_ratio=0
        )  # fmt: skip
        assert str(finish(client.jobs, given).block) == "greets@1.0.0"
        finish(client.jobs, mint())
        nothing_new = client.jobs.start(MintAsk(kind="mint", continues="ada-example"))
        assert nothing_new.authors == ("Ada Example <ada@example.org>",)
        failed = until(client.jobs, nothing_new.id, "failed").error
        assert failed is not None
        assert "nothing" in failed.message
        with pytest.raises(InputError, match="licence"):
            client.jobs.start(MintAsk(kind="mint", target="@ada", licence="MIT"))


def test_a_database_that_is_locked_for_a_while_is_waited_for(tmp_path: Path) -> None:
    SlowTrainer.seconds = 0.02
    with serving(SlowParts(tmp_path)) as url, Client(url) as client:
        job = client.jobs.start(mint()).id
        until_training(client.jobs, job)
        with closing(sqlite3.connect(tmp_path / "jobs" / "workflows.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(1.5)
            assert client.jobs.get(job).status == "running"
            other.execute("ROLLBACK")
        assert until(client.jobs, job, "finished").block == "ada-example@1.0.0"


def test_a_catalogue_that_stays_locked_is_an_error_and_the_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clonedna.store.database.BUSY_SECONDS", 0.2)
    parts = SlowParts(tmp_path)
    _ = parts.registry.manifests()
    SlowTrainer.seconds = 0.02
    with serving(parts) as url, Client(url) as client:
        job = client.jobs.start(mint()).id
        until_training(client.jobs, job)
        with closing(sqlite3.connect(tmp_path / "registry.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            failed = until(client.jobs, job, "failed").error
            other.execute("ROLLBACK")
        assert failed is not None
        assert failed.code == "timed_out"
        client.jobs.resume(job)
        assert until(client.jobs, job, "finished").block == "ada-example@1.0.0"


def test_a_job_that_cannot_be_begun_is_tried_again_and_who_follows_it_hears_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, turns = Durable._take_up, 0  # pyright: ignore[reportPrivateUsage] - where the database of jobs is asked

    def away(self: Durable, workspace: Workspace) -> Any:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise Unavailable("the jobs' database cannot be used: gone")
        return whole(self, workspace)

    monkeypatch.setattr(Durable, "_take_up", away)
    with serving(SlowParts(tmp_path)) as url, Client(url) as client:
        told = list(client.jobs.follow(client.jobs.start(mint()).id))
    events = [one.event for one in told if isinstance(one, JobEvent)]
    assert isinstance(events[0], Note)
    assert events[0].text.endswith("database cannot be used: gone); it is tried again in 2 s")
    assert isinstance(told[-1], JobView)
    assert told[-1].status == "finished"


def test_who_may_name_paths_of_the_server(tmp_path: Path) -> None:
    user, admin = "u" * 20, "a" * 20
    parts = SlowParts(tmp_path / "home", api_key=_secret(user), admin_key=_secret(admin), parallel_training=0)
    service = Service(parts, "nano")
    (tmp_path / "code").mkdir()
    for target in (str(tmp_path / "code"), "./code", "file:///etc", "ssh://git@example.org/x"):
        with pytest.raises(Refused):
            service.desk.start(mint(target=target), paths=False)
    for target in (
        "https://127.0.0.1/x",
        "https://10.0.0.3/x.git",
        "git://localhost/x",
        "https://intranet/x",
        "https://2130706433/x",
    ):
        with pytest.raises(Refused):
            service.desk.start(mint(target=target), paths=False)
    view, _ = service.desk.start(mint(target=str(tmp_path / "code")), paths=True)
    assert view.target == str(tmp_path / "code")
    with serving(parts) as url, httpx2.Client(base_url=url, timeout=60) as http:
        keys = {"user": {"Authorization": f"Bearer {user}"}, "admin": {"Authorization": f"Bearer {admin}"}}
        assert http.post(JOBS, json=MINT, headers=keys["user"]).status_code == 403  # no scope mint
        assert http.get(JOBS, headers=keys["user"]).status_code == 403
        asked = http.post(JOBS, json=MINT | {"target": str(tmp_path / "code")}, headers=keys["admin"])
        assert asked.status_code == 202, asked.text


def test_what_somebody_else_orders_is_read_from_outside_alone(tmp_path: Path) -> None:
    class Refusing:
        def find(self, target: str) -> None:
            raise AddressRefused(f"{target} is at an address that is not public", "give a public one")

    class Outside(SlowParts):
        public_source = Refusing()  # type: ignore[assignment]

    service = Service(Outside(tmp_path), "nano")
    ask = mint(target="https://harmless.example/x")
    theirs, _ = service.desk.start(ask, paths=False)
    with pytest.raises(AddressRefused):
        service.jobs.carry_out(service.jobs.find(theirs.id), silent)
    ours, _ = service.desk.start(ask, paths=True)
    assert service.jobs.carry_out(service.jobs.find(ours.id), silent).well


def test_a_key_is_kept_for_a_day(tmp_path: Path) -> None:
    service = Service(SlowParts(tmp_path), "nano")
    first, new = service.desk.start(mint(), key="k")
    assert (service.desk.start(mint(), key="k"), new) == ((first, False), True)
    assert service.desk.start(mint(), key="k", owner="somebody else")[1]
    (kept, _) = (tmp_path / "jobs" / "keys").iterdir()
    assert b'"k"' not in kept.read_bytes()
    for kept in (tmp_path / "jobs" / "keys").iterdir():
        fields = json.loads(kept.read_bytes())
        kept.write_text(json.dumps(fields | {"at": fields["at"] - 25 * 3600}))
        os.utime(kept, (0, 0))
    assert Service(SlowParts(tmp_path), "nano").desk.start(mint(), key="k")[1]
    assert len(list((tmp_path / "jobs" / "keys").iterdir())) == 1


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    service = Service(SlowParts(tmp_path, max_waiting_jobs=3), "nano")
    for i in range(3):
        service.desk.start(mint(seed=i))
    with pytest.raises(Overloaded):
        service.desk.start(mint(seed=4))
    service.desk.cancel(service.desk.list().jobs[0].id)
    service.desk.start(mint(seed=4))


def test_ids_go_up_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(SlowParts(tmp_path).settings, SlowParts(tmp_path))
    service = Service(SlowParts(tmp_path), "nano")
    made = [service.desk.start(mint(seed=0))[0].id]

    class Back:
        """A clock that was put back ten years."""

        strptime = __import__("datetime").datetime.strptime

        @staticmethod
        def now(zone: Any) -> Any:
            from datetime import datetime

            moment = datetime.now(zone)
            return moment.replace(year=moment.year - 10)

    monkeypatch.setattr("clonedna.app.jobs.datetime", Back)
    made += [service.desk.start(mint(seed=i))[0].id for i in (1, 2)]
    assert [one.id for one in jobs.workspaces()] == made[::-1]
    assert [one.id for one in jobs.waiting()] == made


def test_folders_of_earlier_versions_are_read(tmp_path: Path) -> None:
    parts = SlowParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    service = Service(parts, "nano")
    view, _ = service.desk.start(mint())
    folder = tmp_path / "jobs" / view.id
    stored = json.loads((folder / "order.json").read_text())
    del stored["order"]["kind"]
    (folder / "order.json").write_text(json.dumps(stored))
    (folder / "queued.json").unlink()
    (found,) = jobs.views()
    assert (found.kind, found.status) == ("mint", "interrupted")


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)
