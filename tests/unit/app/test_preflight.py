"""The preflight counts what a mint would use, says what its estimates are made of, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clonedna.app.minting import Ordered
from clonedna.app.orders import order_of
from clonedna.app.pace import recorded_pace
from clonedna.app.parts import Parts
from clonedna.app.preflight import Preflight, preflight
from clonedna.app.settings import Settings
from clonedna.app.workspace import Workspace
from clonedna.cli.main import app
from clonedna.core.block import MintOrder
from clonedna.core.events import Note, StageFinished, StageStarted, silent
from clonedna.core.fakes import FakeSource
from clonedna.core.people import Account
from clonedna.core.work import Identity
from tests.cli import CliRunner
from tests.parts import FakeParts
from tests.people import ADA, BOB, two_people
from tests.repos import RepoBuilder
from tests.values import FOUND, collection


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_people(tmp_path_factory.mktemp("made") / "abacus")


def ordered(home: Path, target: Path, who: str = ADA, **recipe: object) -> tuple[Parts, MintOrder]:
    settings = Settings(home=home)
    order = order_of(
        settings, target=str(target), authors=[Identity.parse(who)], name=None, base=None, consent="auto", allow_licence=[], recipe=recipe
    )  # fmt: skip
    return Parts(settings), order


def made(home: Path, target: Path, who: str = ADA, **recipe: object) -> Preflight:
    return preflight(*ordered(home, target, who, **recipe), silent)


def faked(home: Path, **recipe: object) -> tuple[Parts, MintOrder]:
    """Without git: a person of 60 spans."""
    _, order = ordered(home, home, **recipe)
    return FakeParts(home), order


def fake(home: Path, **recipe: object) -> Preflight:
    return preflight(*faked(home, **recipe), silent)


def record(home: Path, name: str, order: MintOrder, *events: StageStarted | StageFinished | Note) -> None:
    """The log of a job that was run before."""
    workspace = Workspace(home / "jobs" / name)
    workspace.write("order.json", Ordered(order=order, created_at="2026-01-01T00:00:00Z"))
    emit = workspace.emitter(silent)
    for event in events:
        emit(event)


def trained(tokens: int, seconds: float) -> tuple[StageStarted, StageFinished]:
    return StageStarted(stage="train"), StageFinished(stage="train", seconds=seconds, counts={"tokens": tokens})


def test_it_counts_what_a_mint_would_use_and_leaves_only_the_view(repository: Path, tmp_path: Path) -> None:
    report = made(tmp_path / "home", repository)
    (line,) = report.repositories
    assert (line.licence, line.spans) == ("MIT", sum(report.spans.values()))
    assert set(report.spans) == {"python"}
    assert 0 < report.spans["python"] <= 60
    assert report.splits is not None
    assert report.splits.holdout >= 8
    total = report.splits.train + report.splits.validation + report.splits.holdout
    assert report.pairs.status == "measured"
    assert 0 < (report.pairs.value or 0) <= total
    assert report.tokens.status == "estimated"
    assert "3 bytes a token" in report.tokens.how
    assert report.training_seconds.status == "not_available"
    assert report.blockers == ()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["clones"]


def test_memory_is_told_with_its_figures(tmp_path: Path) -> None:
    small, large = fake(tmp_path, rank=8), fake(tmp_path, rank=128)
    assert small.memory is not None
    assert large.memory is not None
    assert small.memory.base == large.memory.base > 0
    assert large.memory.training > small.memory.training
    assert small.fits == (small.memory.base + small.memory.training + small.memory.reserve <= small.memory.available)
    assert not small.memory.model_copy(update={"available": small.memory.base}).fits


def test_time_comes_from_a_training_that_was_recorded_here(tmp_path: Path) -> None:
    _, order = faked(tmp_path)
    record(tmp_path, "old", order, *trained(tokens=1000, seconds=10.0))
    seconds = fake(tmp_path).training_seconds
    assert seconds.status == "estimated"
    assert "100 completion tokens a second in job old" in seconds.how
    assert (fake(tmp_path, epochs=4).training_seconds.value or 0) == pytest.approx(2 * (seconds.value or 0), abs=0.2)


def test_a_pace_is_of_this_base_and_rank_and_of_a_training_run_in_one_go(tmp_path: Path) -> None:
    _, order = faked(tmp_path)
    other = order.model_copy(update={"base": "elsewhere"})
    record(tmp_path, "a", other, *trained(1000, 1.0))
    record(tmp_path, "b", order, StageStarted(stage="train"), *trained(1000, 1.0))
    record(tmp_path, "c", order, StageStarted(stage="train"))
    record(tmp_path, "d", order, StageFinished(stage="mix", seconds=1.0))
    (tmp_path / "jobs/e").mkdir()
    assert recorded_pace(tmp_path / "jobs", order.base, 16) is None
    record(tmp_path, "f", order, *trained(500, 2.0))
    pace = recorded_pace(tmp_path / "jobs", order.base, 16)
    assert pace is not None
    assert (pace.rate, pace.job) == (250.0, "f")
    assert recorded_pace(tmp_path / "jobs", order.base, 8) is None


def test_what_would_refuse_the_mint_is_told_with_the_next_step(repository: Path, tmp_path: Path) -> None:
    few = made(tmp_path, repository, BOB)
    assert [one.code for one in few.blockers] == ["too_few_spans"]
    assert few.blockers[0].hint
    assert few.pairs.status == "not_available"
    unlicensed = two_people(tmp_path / "unlicensed", licence=None, files=2)
    report = made(tmp_path, unlicensed)
    assert [one.code for one in report.blockers] == ["licence_unknown"]
    assert report.repositories[0].licence is None


def test_neither_addresses_nor_secrets_are_in_it(tmp_path: Path) -> None:
    secret, address = "ghp_" + "a1B2" * 9, "robin" + "@" + "company.io"
    repo = RepoBuilder(two_people(tmp_path / "abacus", files=8))
    code = "def f(a):\n    b = a + 1\n    c = b * 2\n    return c\n"
    repo.commit(
        ADA,
        f"add {address}",
        {"leak.py": f"K = {secret!r}\n{code}", f"by_{address}.py": code, "mail.py": f"{code[:-1]}  # {address}\n"},
    )
    report = made(tmp_path / "home", repo.path)
    assert report.refusals["secret"] == 1
    assert report.refusals["email"] == 2
    assert secret not in report.model_dump_json()
    assert "company" not in report.model_dump_json()
    assert "ada@example.org" not in report.model_dump_json()


@pytest.mark.parametrize(
    ("consent", "who", "account", "mode"),
    [
        ("auto", "ada@example.org", None, "self"),
        ("auto", "bob@example.org", None, "local-only"),
        ("local-only", "ada@example.org", None, "local-only"),
        ("auto", "bob@example.org", Account(id=7, login="bob-sample"), "granted"),
    ],
)  # fmt: skip
def test_the_consent_that_a_mint_would_go_by(
    consent: str, who: str, account: Account | None, mode: str, tmp_path: Path
) -> None:
    parts, order = faked(tmp_path)
    parts._source = FakeSource(FOUND.model_copy(update={"account": account}), collection(30))  # type: ignore[attr-defined]
    asked = order.model_copy(update={"consent": consent, "authors": (Identity(email=who),)})
    assert preflight(parts, asked, silent).consent == mode


def test_a_base_that_is_not_here_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("clonedna.engine.base_files.snapshot_download", refuse)
    parts, order = faked(tmp_path)
    report = preflight(parts, order.model_copy(update={"base": "nobody-example/no-such-base"}), silent)
    assert report.memory is None
    assert report.fits is None
    assert "not on this machine" in report.memory_how


@pytest.mark.slow
def test_the_command_prints_it_and_says_by_its_status_whether_a_mint_could_begin(
    repository: Path, tmp_path: Path
) -> None:
    run = CliRunner()
    asked = ["--home", str(tmp_path / "home"), "mint", str(repository), "--dry-run"]
    done = run.invoke(app, [*asked, "--author", ADA, "--json"])
    assert done.exit_code == 0, done.output
    report = Preflight.model_validate(json.loads(done.stdout))
    assert report.blockers == ()
    told = run.invoke(app, [*asked, "--author", ADA])
    assert told.exit_code == 0
    assert "MIT" in told.stdout
    assert "held out" in told.stdout
    assert "fit" in told.stdout
    refused = run.invoke(app, [*asked, "--author", BOB, "--json"])
    assert refused.exit_code == 4
    assert json.loads(refused.stdout)["blockers"][0]["code"] == "too_few_spans"
    assert not (tmp_path / "home/jobs").exists()
    assert not (tmp_path / "home/consents").exists()
    assert not (tmp_path / "home/keys").exists()
