"""`dna mint --teacher --general --general-ratio`: what is asked for is what is ordered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clonedna.app.minting import Ordered
from clonedna.cli import minting
from clonedna.cli.main import app
from clonedna.core.block import MintOrder
from clonedna.core.errors import InputError
from tests.cli import CliRunner


@pytest.fixture
def ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the order that a command line makes; nothing is run."""

    class Ran(Exception):
        pass

    def run_job(state: Any, workspace: Any, as_json: bool) -> None:
        raise Ran(workspace)

    monkeypatch.setattr(minting, "run_job", run_job)

    def order(*options: str) -> MintOrder:
        line = ["--home", str(tmp_path), "mint", str(tmp_path), "--author", "Ada Example <ada@example.org>", *options]
        result = CliRunner().invoke(app, line)
        assert isinstance(result.exception, Ran), result.output
        return result.exception.args[0].read("order.json", Ordered).order

    return order


def test_defaults(ordered: Any) -> None:
    order = ordered()
    assert (order.teacher, order.recipe.general, order.recipe.base_instruct_ratio) == ("own-words", "rehearsal", 0.5)
    assert order.recipe.preset == "style"


def test_a_teacher_a_source_and_a_ratio(ordered: Any) -> None:
    order = ordered("--teacher", "openai", "--general", "auto", "--general-ratio", "0.25")
    assert (order.teacher, order.recipe.general, order.recipe.base_instruct_ratio) == ("openai", "auto", 0.25)
    assert ordered("--general-ratio", "0").recipe.base_instruct_ratio == 0


def test_given_pairs_have_no_teacher(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("")
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "mint", "--pairs", str(file), "--teacher", "openai"])
    assert isinstance(result.exception, InputError)
    assert "--teacher" in result.exception.hint


def test_a_licence_for_a_repository_is_not_taken_in_silence(tmp_path: Path) -> None:
    line = [
        "--home",
        str(tmp_path),
        "mint",
        str(tmp_path),
        "--author",
        "Ada Example <ada@example.org>",
        "--licence",
        "MIT",
    ]
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, InputError)
    assert "--allow-licence" in result.exception.hint
