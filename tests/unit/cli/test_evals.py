"""`dna eval`: what does not go together is refused, and the exit status says what the numbers are worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.jobs import Jobs
from clonedna.cli.context import State
from clonedna.cli.main import app
from clonedna.core.block import Measure
from clonedna.core.errors import BlockNotFound, InputError
from clonedna.core.events import silent
from clonedna.evals import again
from tests.cli import CliRunner
from tests.parts import FakeParts, order


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> FakeParts:
    parts = FakeParts(tmp_path_factory.mktemp("home"))
    jobs = Jobs(parts.settings, parts)
    jobs.run(jobs.create(order())[0], silent)
    return parts


@pytest.fixture(autouse=True)
def at_home(parts: FakeParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "parts", property(lambda self: parts))
    monkeypatch.setattr(State, "blocks", property(lambda self: Blocks(parts)))
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    status = done.return_value if isinstance(done.return_value, int) else done.exit_code
    return status, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("ada-example", "ada-example"), ("ada-example", "--out", "x"), ("ada-example", "--controls"),
        ("ada-example", "--full", "--pairs", "x"), ("ada-example", "ada-example", "--identity", "--full"),
        ("ada-example", "ada-example", "--identity", "--seed", "3"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        run("eval", *arguments)


def test_no_such_block() -> None:
    with pytest.raises(BlockNotFound):
        run("eval", "nobody")


def test_a_table_for_people_and_an_object_for_machines() -> None:
    status, out, err = run("eval", "ada-example")
    assert status == 0
    assert "nll.delta" in out
    assert "ok" in out
    assert "reproduced" in err
    status, out, _ = run("eval", "ada-example", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["reproduced"] is True
    assert found["contaminated"] is None
    _, shown, told = run("show", "ada-example")
    assert "maturity" in shown
    assert "evaluated again" in told
    _, listed, _ = run("ls")
    assert "maturity" in listed


def test_training_data_is_exit_status_four(parts: FakeParts, tmp_path: Path) -> None:
    trained = [p for p in Blocks(parts).pairs("ada-example") if p.split == "train"][:5]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in trained), "utf-8")
    status, out, err = run("eval", "ada-example", "--pairs", str(file))
    assert status == 4
    assert "training data" in out
    assert "100.0% of these pairs are training data" in err
    status, out, _ = run("eval", "ada-example", "--pairs", str(file), "--json")
    assert status == 4
    assert json.loads(out)["contaminated"] == 1.0


def test_what_is_not_reproduced_is_exit_status_five(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = again._reading

    def other(name: str, stored: Measure | None, now: Measure | None, same: bool) -> again.Reading:
        if name == "nll.base" and now is not None and now.value is not None:
            now = now.model_copy(update={"value": now.value + 0.5})
        return whole(name, stored, now, same)

    monkeypatch.setattr(again, "_reading", other)
    status, out, err = run("eval", "ada-example")
    assert status == 5
    assert "over 0.001" in out
    assert "not reproduced within the tolerance: nll.base" in err
