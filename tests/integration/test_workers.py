"""Several processes on one home: whatever is killed, and when, every job is done once, and ends as if nothing had happened.

The same on SQLite and on PostgreSQL (`make test-postgres`). ``TEST_CHAOS_JOBS`` and ``TEST_CHAOS_SEED`` make it longer or another one.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clonedna.app.job_asks import CompareAsk, MergeAsk, MintAsk
from clonedna.app.job_values import Queued
from clonedna.app.jobs import Jobs
from clonedna.app.worker import Worker, filesystem, refuse_shared
from clonedna.app.workspace import Workspace
from clonedna.client import Client
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadConfig, DnaError, TimedOut, Unavailable
from clonedna.core.events import StageFinished
from tests.databases import KINDS, SKIPPED, new_url
from tests.jobs_fake import Nursery, ProcessParts, nursery, small
from tests.merges import add_block
from tests.postgres.cluster import VARIABLE, cluster

pytestmark = pytest.mark.slow
JOBS = int(os.environ.get("TEST_CHAOS_JOBS", "20"))
SEED = int(os.environ.get("TEST_CHAOS_SEED", "1"))
PATIENCE = 240.0


@pytest.fixture(scope="module")
def processes() -> Generator[Nursery]:
    with nursery() as made:
        yield made


def put(jobs: Jobs, number: int) -> Workspace:
    with jobs.creating():
        return jobs.put(small(number), queued=Queued(base="nano"))


def wait_for(what: str, jobs: Jobs, made: list[Workspace], home: Path) -> None:
    """Until all of them stand so."""
    end = time.monotonic() + PATIENCE
    while not all(jobs.status(one) == what for one in made):
        if time.monotonic() > end:
            log = (home / "processes.log").read_text() if (home / "processes.log").exists() else ""
            raise AssertionError(f"{[(one.id, jobs.status(one)) for one in made]}\n{log[-3000:]}")
        time.sleep(0.05)


def offsets(workspace: Workspace) -> list[int]:
    """The offsets in a job's log as they stand there: two writers would have given one out twice."""
    lines = (workspace.directory / "events.jsonl").read_bytes().split(b"\n")
    found: list[int] = []
    for line in lines:
        try:
            found.append(json.loads(line)["offset"])
        except (ValueError, KeyError):  # cut by a kill
            continue
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_three_workers_one_of_them_killed_every_job_done_once(kind: str, tmp_path: Path, processes: Nursery) -> None:
    home = tmp_path / "home"
    home.mkdir()
    url = new_url(kind, home)
    parts = ProcessParts(home, url)
    _ = parts.signer.key_id
    jobs = Jobs(parts.settings, parts)
    made = [put(jobs, i) for i in range(6)]
    workers = [processes.start("worker", home=str(home), url=url, seconds=0.15) for _ in range(3)]
    end = time.monotonic() + PATIENCE
    while sum(jobs.view(one).doing == "train" and one.running() for one in made) < 3:
        assert time.monotonic() < end, [jobs.view(one) for one in made]
        time.sleep(0.02)
    before = {one.id for one in made if one.running()}
    assert len(before) == 3
    processes.kill(workers[0])
    while len(before - {one.id for one in made if one.running()}) != 1:  # the kernel lets go of its lock
        assert time.monotonic() < end
        time.sleep(0.005)
    wait_for("finished", jobs, made, home)
    while list(jobs.queue.iterdir()):  # they are taken out behind their end
        assert time.monotonic() < end
        time.sleep(0.02)
    for pid in workers[1:]:
        processes.kill(pid)

    blocks = Counter(manifest.name for manifest in parts.registry.manifests())
    assert blocks == {f"n{i}": 1 for i in range(6)}
    assert len(list((home / "store" / "blocks").iterdir())) == 6
    for workspace in made:
        found = offsets(workspace)
        assert found == sorted(set(found)), workspace.id
        done = Counter(e.stage for _, _, e in workspace.events() if isinstance(e, StageFinished))
        assert set(done.values()) == {1}, (workspace.id, done)  # also those of the job whose worker was killed


@pytest.mark.parametrize("kind", KINDS)
def test_servers_and_workers_killed_at_random_lose_nothing_and_do_nothing_twice(
    kind: str, tmp_path: Path, processes: Nursery
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    url, draw = new_url(kind, home), random.Random(SEED)
    parts = ProcessParts(home, url)
    for i, name in enumerate(("ada", "bob")):
        add_block(parts, name, i, fingerprint=sha256("fake"))
    jobs = Jobs(parts.settings, parts)
    port = free_port()
    where = {"home": str(home), "url": url, "seconds": 0.01}
    starts = {"server": where | {"port": port}, "first": where, "second": where}
    alive: dict[str, int] = {}

    def kill_one() -> None:
        name = draw.choice(list(alive))
        processes.kill(alive.pop(name))

    def start_all() -> None:
        for name, pid in list(alive.items()):
            assert processes.lives(pid), f"{name} ended by itself:\n{(home / 'processes.log').read_text()[-3000:]}"
        for name in starts.keys() - alive.keys():
            alive[name] = processes.start("server" if name == "server" else "worker", **starts[name])

    start_all()
    made: list[str] = []
    with Client(f"http://127.0.0.1:{port}", timeout=20) as client:
        client.wire.pause = lambda _: time.sleep(0.05)
        for i in range(JOBS):
            made.append(ordered(client, i, start_all))
            if i % 5 == 4:
                kill_one()
    assert len(set(made)) == JOBS
    workspaces = [Workspace(jobs.directory / job) for job in made]
    kills, end = 0, time.monotonic() + PATIENCE
    while not all(jobs.status(one) == "finished" for one in workspaces):
        assert time.monotonic() < end, Counter(jobs.status(one) for one in workspaces)
        start_all()
        time.sleep(draw.uniform(0.1, 1.5))
        if kills < 5:
            kill_one()
            kills += 1
    start_all()
    while list(jobs.queue.iterdir()):  # what killed ones left behind is tidied up
        assert time.monotonic() < end
        time.sleep(0.02)
    for pid in alive.values():
        processes.kill(pid)

    assert {one.id for one in jobs.workspaces()} == set(made)
    kinds = Counter(jobs.ordered(one).order.kind for one in workspaces)
    names = Counter(manifest.name for manifest in parts.registry.manifests())
    assert set(names.values()) == {1}, names
    assert len(names) == 2 + kinds["mint"] + kinds["merge"]
    assert len(list((home / "store" / "blocks").iterdir())) == len(names)
    for workspace in workspaces:
        found = offsets(workspace)
        assert found == sorted(set(found)), workspace.id
        assert not (workspace.directory / "stages").exists()
    results = [jobs.result(one) for one in workspaces]
    assert sum(one is not None and one.well for one in results) == JOBS


def ordered(client: Client, number: int, start_all: object) -> str:
    """Order the job of this number until an answer comes; its key makes it one job, whatever was killed."""
    ask: MintAsk | MergeAsk | CompareAsk
    if number % 5 == 0:
        ask = MintAsk(
            kind="mint", target="@ada-example", authors=("Ada Example <ada@example.org>",), name=f"n{number}", consent="local-only",
            seed=number, epochs=1, max_pairs=24, general_ratio=0, learning_rate=1e-4,
        )  # fmt: skip
    elif number % 2:
        ask = MergeAsk(kind="merge", parts=("ada:0.6", f"bob:0.{number:02}"), name=f"m{number}", check=False)
    else:
        ask = CompareAsk(kind="compare", a="ada", b="bob", weights_only=True, seed=number)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return client.jobs.start(ask, key=f"key-{number}").id
        except (Unavailable, TimedOut) as error:
            if time.monotonic() > end or error.code not in ("unavailable", "timed_out", "overloaded"):
                raise
            start_all()  # type: ignore[operator]
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def test_a_database_that_dies_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    if VARIABLE not in os.environ:
        pytest.skip(SKIPPED)
    with cluster() as server:
        parts = ProcessParts(tmp_path, server.new(), seconds=0.05)
        jobs = Jobs(parts.settings, parts)
        made = [put(jobs, i) for i in range(2)]
        with working(parts):
            end = time.monotonic() + PATIENCE
            while jobs.view(made[0]).doing != "train":
                assert time.monotonic() < end
                time.sleep(0.01)
            server.kill()
            while jobs.status(made[0]) != "queued":  # given up for now
                assert time.monotonic() < end
                time.sleep(0.01)
            server.start()
            wait_for("finished", jobs, made, tmp_path)
        assert Counter(manifest.name for manifest in parts.registry.manifests()) == {"n0": 1, "n1": 1}


def test_a_worker_on_a_network_file_system_needs_postgres(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:50 / /srv/home rw,relatime shared:5 - nfs4 box:/x rw\n"
        "3 1 0:51 / /srv/with\\040space rw - cifs //box/x rw\n"
    )
    assert filesystem(Path("/srv/home/of/ada"), mounts) == "nfs4"
    assert filesystem(Path("/srv/homeless"), mounts) == "ext4"
    assert filesystem(Path("/srv/with space/x"), mounts) == "cifs"
    assert filesystem(Path("/srv"), tmp_path / "none") == ""


def test_a_shared_home_without_postgres_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ProcessParts(tmp_path)
    refuse_shared(parts)
    monkeypatch.setattr("clonedna.app.worker.filesystem", lambda _: "nfs4")
    with pytest.raises(BadConfig, match="nfs4"):
        Worker(parts, "nano").run()
    refuse_shared(ProcessParts(tmp_path, "postgresql://clone@/x?host=/nowhere"))


def test_a_worker_stops_when_nothing_is_left(tmp_path: Path) -> None:
    parts = ProcessParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    made = [put(jobs, i) for i in range(2)]
    other = jobs.put(small(9).model_copy(update={"base": "other"}), queued=Queued(base="other"))
    assert Worker(parts, "nano").run(until_empty=True) == 2
    assert [jobs.status(one) for one in (*made, other)] == ["finished", "finished", "queued"]


def test_a_job_that_cannot_be_recorded_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ProcessParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    workspace = put(jobs, 1)
    whole, failures = Workspace.write, [4]  # two attempts, each of which cannot even say how it ended

    def write(self: Workspace, name: str, value: object) -> str:
        if failures[0] and name in ("stages/split.json", "result.json"):
            failures[0] -= 1
            raise full()
        return whole(self, name, value)

    monkeypatch.setattr(Workspace, "write", write)
    monkeypatch.setattr("clonedna.app.background.LONGEST_PAUSE", 0.1)
    with working(parts):
        wait_for("finished", jobs, [workspace], tmp_path)
    done = Counter(e.stage for _, _, e in workspace.events() if isinstance(e, StageFinished))
    assert set(done.values()) == {1}


@contextmanager
def working(parts: ProcessParts) -> Generator[None]:
    """A worker in a thread of this process."""
    worker = Worker(parts, "nano")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()


def full() -> DnaError:
    from clonedna.core.errors import NoSpace

    return NoSpace("no space left on the disk", "free some")
