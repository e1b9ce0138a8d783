"""What a home holds is counted whole; what goes is what nobody needs or holds, and nothing else."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.job_values import Result
from clonedna.app.jobs import Jobs
from clonedna.app.pulls import pulling
from clonedna.app.staging import staging
from clonedna.app.usage import DAY, Home, kind_of
from clonedna.app.workspace import Workspace
from clonedna.core.block import BlockRef
from clonedna.core.events import JobFailed
from tests.parts import order
from tests.serving import ServerParts
from tests.sharing import put

NOW = time.time()  # the files that others write have today's times


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path / "home", min_free_bytes=0)


@pytest.fixture
def home(parts: ServerParts) -> Home:
    return Home(parts, now=lambda: NOW)


def write(home: Home, name: str, *, days: float = 0, data: bytes = b"x" * 100) -> Path:
    path = home.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for one in (path, path.parent):
        os.utime(one, (NOW - days * DAY, NOW - days * DAY))
    return path


def old(path: Path, days: float) -> None:
    for one in (path, *path.rglob("*")):
        os.utime(one, (NOW - days * DAY, NOW - days * DAY))


def files(home: Home) -> list[Path]:
    """All but locks, and what SQLite keeps beside its file while somebody reads it."""
    found = [path for path in sorted(home.home.rglob("*")) if path.is_file()]
    return [path for path in found if path.name != "lock" and not path.name.startswith("registry.sqlite")]


def gone(home: Home, **options: float | bool) -> dict[str, str]:
    """What a prune removes, with the reason; a dry run says the same, and removes nothing."""
    before = files(home)
    said = home.prune(dry_run=True, **options)  # type: ignore[arg-type]
    assert files(home) == before
    done = home.prune(**options)  # type: ignore[arg-type]
    assert (said.removed, said.bytes) == (done.removed, done.bytes)
    assert done.kept == ()
    assert not any((home.home / one.path).exists() for one in done.removed)
    assert home.prune(**options).removed == ()  # type: ignore[arg-type]
    return {one.path: one.why for one in done.removed}


def job(parts: ServerParts, result: Result | None = None, *, cancelled: bool = False) -> Workspace:
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order(name=None, owned_share=0.8 + len(jobs.workspaces()) / 100))
    for name in ("stages/collect.json", "checkpoints/1/x", "adapter/w", "block/y"):
        path = workspace.directory / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1000)
    if result is not None:
        workspace.write("result.json", result)
    if cancelled:
        jobs.cancel(workspace)
    return workspace


WELL = Result(block=BlockRef(name="ada", version="1.0.0", id="0" * 64, status="registered"))
ILL = Result(error=JobFailed(code="no_space", message="full", hint="free some"))


def test_every_byte_is_of_one_kind(parts: ServerParts, home: Home) -> None:
    put(parts, "ada", size=10_000)
    job(parts, WELL)
    for name in (
        "clones/a/x",
        "vectors/v",
        "sealed/b/x",
        "identity/results/d/x",
        "staging/s/x",
        "novel/x",
        "people.json",
        "files/content/x",
    ):
        write(home, name)
    usage = home.usage()
    files = [path for path in home.home.rglob("*") if path.is_file()]
    assert usage.bytes == sum(path.stat().st_size for path in files)
    assert sum(kind.files for kind in usage.kinds.values()) == len(files)
    assert set(usage.kinds) == {
        "arriving", "blocks", "caches", "checkpoints", "clones", "database", "evaluations", "files", "jobs", "other", "records", "sealed"
    }  # fmt: skip
    assert usage.kinds["blocks"].bytes > 10_000
    assert usage.kinds["checkpoints"].bytes == 1000
    assert usage.kinds["other"].files == 1
    assert usage.free > 0


def test_an_empty_home(home: Home) -> None:
    assert (home.usage().bytes, home.usage().kinds) == (0, {})
    assert home.prune(blocks=True).removed == ()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("jobs/j/checkpoints/1/x", "checkpoints"), ("jobs/checkpoints/x", "jobs"), ("registry.sqlite-wal", "database"),
     ("store/incoming/x/y", "arriving"), ("store/blocks/x/y", "blocks"), ("import-1/x", "arriving"), ("keys/own", "records")],
)  # fmt: skip
def test_kinds(path: str, kind: str) -> None:
    assert kind_of(Path(path)) == kind


def test_the_work_of_ended_jobs_goes_and_the_record_stays(parts: ServerParts, home: Home) -> None:
    done, failed, stopped, interrupted = job(parts, WELL), job(parts, ILL), job(parts, cancelled=True), job(parts)
    found = gone(home)
    assert set(found.values()) == {"job_ended"}
    assert {Path(path).parts[1] for path in found} == {done.id}
    assert sorted(path.name for path in done.directory.iterdir() if path.is_file()) == [
        "lock",
        "order.json",
        "result.json",
    ]
    for one in (failed, stopped, interrupted):
        old(one.directory, 40)
    assert {Path(path).parts[1] for path in gone(home)} == {failed.id, stopped.id}
    assert interrupted.checkpoints.exists()


def test_a_job_that_runs_is_left_alone(parts: ServerParts, home: Home) -> None:
    done = job(parts, WELL)
    write(home, "clones/a/x", days=100)
    with done.lock():
        assert gone(home) == {}
    assert len(gone(home)) == 5


def test_what_killed_processes_left_goes_and_what_runs_stays(parts: ServerParts, home: Home) -> None:
    write(home, "staging/dead/arriving.dna")
    write(home, "import-x/block/y", days=2)
    old(home.home / "import-x", 2)
    write(home, "import-y/block/y")
    write(home, "consents/.a.json.77.tmp", days=2)
    write(home, "consents/.b.json.77.tmp")
    write(home, "jobs/mint-20260102-030405006-a1b2c3/given/x", days=2)
    write(home, "jobs/queue/x", days=99)
    old(home.home / "jobs", 2)
    with staging(home.home) as mine:
        (mine / "x").write_text("x")
        assert gone(home) == dict.fromkeys(
            ("staging/dead", "import-x", "consents/.a.json.77.tmp"), "left_by_a_killed_process"
        ) | {"jobs/mint-20260102-030405006-a1b2c3": "never_became_a_job"}  # fmt: skip
        assert (mine / "x").exists()


def test_pulls_go_when_nobody_went_on_for_a_week(home: Home) -> None:
    for name in ("old", "new", "held"):
        with pulling(home.home, "http://127.0.0.1:1", name) as pull:
            pull.start('"x"', 10)
            pull.write(0, b"x")
            if name != "new":
                old(pull.path.parent, 8)
            if name == "held":
                assert [one.why for one in home.prune().removed] == ["stale_pull"]
    assert len(list((home.home / "pulls").iterdir())) == 2


def test_measurements_of_blocks_that_are_gone(parts: ServerParts, home: Home) -> None:
    there = put(parts, "ada").id
    for name in (there, "0" * 64):
        write(home, f"evaluations/{name}/again.json")
    write(home, "identity/results/both/blocks.json", data=f'["{there}", "{"0" * 64}"]'.encode())
    write(home, "identity/results/one/blocks.json", data=f'["{there}"]'.encode())
    write(home, "identity/controls/odd/blocks.json", data=b"{", days=2)
    write(home, "identity/controls/fresh/blocks.json", data=b"{")
    found = gone(home)
    assert found == dict.fromkeys(
        (f"evaluations/{'0' * 64}", "identity/results/both", "identity/controls/odd"), "block_gone"
    )


def test_given_files_without_a_record(home: Home) -> None:
    write(home, f"files/content/{'a' * 64}", days=2)
    write(home, f"files/content/{'b' * 64}", days=2)
    write(home, f"files/content/{'c' * 64}")
    write(home, "files/file-1.json", data=f'{{"sha256": "{"a" * 64}"}}'.encode())
    assert gone(home) == {f"files/content/{'b' * 64}": "no_record"}


@contextmanager
def locked(path: Path) -> Generator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def test_caches_go_when_they_are_old_and_nobody_holds_them(home: Home) -> None:
    for name, days in (("old", 31), ("held", 31), ("young", 29), ("touched", 31)):
        write(home, f"clones/{name}/a/x", days=days)
        old(home.home / "clones" / name, days)
    write(home, "clones/touched/b", days=1)
    write(home, "teacher-cache/x", days=400)
    write(home, "sealed/x/y", days=400)
    with locked(home.home / "clones" / "held.lock"):
        assert gone(home) == {"clones/old": "old_cache"}
    assert gone(home, older_than=20 * DAY) == dict.fromkeys(("clones/held", "clones/young"), "old_cache")
    assert (home.home / "teacher-cache/x").exists()
    assert (home.home / "sealed/x/y").exists()


def test_blocks_go_only_when_asked_and_unknown(parts: ServerParts, home: Home) -> None:
    known, unknown, fresh, revoked = (put(parts, name) for name in ("known", "unknown", "fresh", "revoked"))
    for made in (unknown, fresh):
        parts.registry.forget(made.id)
    parts.store.revoke(revoked.id)  # type: ignore[attr-defined]
    for made in (known, unknown, revoked):
        old(home.home / "store/blocks" / made.id, 2)
    os.utime(home.home / "store/blocks" / fresh.id, (NOW, NOW))
    assert gone(home) == {}
    assert gone(home, blocks=True) == {f"store/blocks/{unknown.id}": "not_in_the_catalogue"}
    assert Blocks(parts).verified("known")[0] == known
    assert parts.reindex() == ()
    assert {one.name for one in parts.registry.manifests()} == {"known", "fresh"}


def test_what_cannot_be_removed_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "staging/dead/x")
    monkeypatch.setattr("clonedna.app.usage.shutil.rmtree", lambda *_, **__: None)
    done = home.prune()
    assert (done.kept, done.removed, done.bytes) == (("staging/dead",), (), 0)
