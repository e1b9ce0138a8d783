"""`dna eval --identity`: what a person sees, and what a machine reads."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedna.app.identity_report import IdentityReport
from clonedna.cli.context import State
from clonedna.cli.identity import identity
from clonedna.core.block import Candidate
from clonedna.core.errors import InputError
from clonedna.evals import pictures
from tests.parts import FakeParts
from tests.whose import add, work


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(pictures, "heat_map", lambda *_, **__: pictures.Picture(svg=b"<svg/>", png=b"\x89PNG"))
    monkeypatch.setenv("COLUMNS", "200")
    made = State(home=tmp_path / "home", config=None)
    made.parts = FakeParts(tmp_path / "home")  # type: ignore[misc]
    for habit, name in enumerate(("ada", "bob", "cyd", "dee")):
        add(made.parts, name, work(habit))
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_table_names_blocks_and_people_and_ends_in_words(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = Candidate(handle="eve", name="Eve \x1b[31m[bold]Example", consent_verified=False)
    add(state.parts, "eve", work(4), candidate=evil)
    identity(state, ["ada", "bob", "cyd", "dee", "eve"], out=tmp_path / "out", controls=True, as_json=False)
    shown, said = capsys.readouterr()
    assert "\x1b" not in shown + said
    own = next(line for line in shown.splitlines() if line.startswith("bob@1.0.0 "))
    assert own.count("[+") == own.count("]*") == 1
    for words in (
        "[31m[bol…",
        "people identified",
        "100%",
        "20%",
        "mean reciprocal rank",
        "p = 0.0083",
        "over a control",
    ):
        assert words in shown
    assert "identity: a person's own block explains 100% of 25 held-out files" in said
    assert "5 of 5 people's blocks that can be told explain them better" in said
    assert f"pictures and figures: {tmp_path / 'out'}" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "matrix-dark.png", "matrix-dark.svg", "matrix.png", "matrix.svg", "result.json",
    ]  # fmt: skip


def test_without_controls_nothing_is_trained_and_the_column_is_empty(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    identity(state, ["ada", "bob"], out=None, controls=False, as_json=False)
    shown, said = capsys.readouterr()
    assert "once in 2: compare four or more" in said
    assert "no gain over a control" not in said
    assert not (state.parts.settings.home / "identity" / "controls").exists()
    assert next(line for line in shown.splitlines() if line.startswith("1 Ada") and "/" in line).rstrip().endswith(" -")


def test_a_narrow_terminal_gets_the_matrix_in_parts(
    state: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    identity(state, ["ada", "bob", "cyd", "dee"], out=None, controls=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    matrix = [line for line in lines if "@1.0.0 " in line and line.count(".") > 3]
    assert [line.split()[0] for line in matrix] == [f"{name}@1.0.0" for name in ("ada", "bob", "cyd", "dee")] * 2
    assert all(len(line) <= 40 for line in lines)
    assert sum(line.count("]*") for line in matrix) == 4


def test_json_is_the_report_and_the_folder(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    identity(state, ["ada", "bob"], out=None, controls=False, as_json=True)
    shown, said = capsys.readouterr()
    (line,) = shown.splitlines()
    assert said == ""
    found = json.loads(line)
    report = IdentityReport.model_validate(found["report"])
    assert report.identified.measures["identification.people"].value == 1.0
    assert (Path(found["folder"]) / "result.json").is_file()


def test_a_file_is_no_folder_for_the_pictures(state: State, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        identity(state, ["ada", "bob"], out=tmp_path / "here", controls=False, as_json=False)
