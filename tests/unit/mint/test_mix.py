"""General pairs: drawn with a seed from the source that was named, told in the recipe, and an error where the source is not there."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.core.block import Recipe
from clonedna.core.canonical import digest, sha256
from clonedna.core.errors import BadConfig, InputError, Unavailable
from clonedna.core.events import Event, Note
from clonedna.core.fakes import FakeEngine
from clonedna.mint.mix import mix, tool_use_pairs
from clonedna.mint.values import Mixed
from clonedna.sources.secrets import secret_in

SECRET = f"xai-{'c3' * 20}"


def mixed(source: str = "rehearsal", *, ratio: float = 0.5, seed: int = 0, file: Path | None = None, dataset: str = "made/up",
          events: list[Event] | None = None, **recipe: Any) -> Mixed:  # fmt: skip
    order = Recipe.model_validate({"general": source, "base_instruct_ratio": ratio, "seed": seed, **recipe})
    emit = (lambda event: None) if events is None else events.append

    async def work() -> Mixed:
        return await mix(FakeEngine(), order, 20, dataset=dataset, file=file, secret_in=secret_in, emit=emit)

    return anyio.run(work)


class Rows(list[dict[str, str]]):
    column_names = ("instruction", "input", "output")


ROWS = Rows(
    {"instruction": f"Say the number {i}.", "input": "in words" if i % 2 else "", "output": f"It is {i}."} for i in range(50)
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the library `datasets`: ``rows`` are what any data set holds; ``asked`` is what was asked for."""
    said: dict[str, Any] = {"rows": ROWS, "asked": []}

    def load_dataset(name: str, **options: Any) -> Any:
        said["asked"].append((name, options))
        if isinstance(said["rows"], Exception):
            raise said["rows"]
        return said["rows"]

    library = types.SimpleNamespace(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", library)  # type: ignore[arg-type]
    return said


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "general.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"Name {i}"}, {"role": "assistant", "content": f"{i} it is"}]} for i in range(30)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_was_used_is_told_exactly() -> None:
    made = mixed(ratio=0.5, seed=3)
    assert made.general_pairs is not None
    told = made.general_pairs
    assert (told.source, told.n, told.ratio, told.seed) == ("rehearsal", len(made.general), 0.5, 3)
    assert told.digest == digest(made.general)
    assert made.general_source == told.how
    assert mixed(ratio=0.5, seed=3) == made
    assert mixed(ratio=0.5, seed=4).general_pairs != told


def test_no_ratio_no_general_pairs_and_no_source(hub: dict[str, Any]) -> None:
    made = mixed("alpaca-cleaned", ratio=0)
    assert made.general == ()
    assert made.general_pairs is not None
    assert (made.general_pairs.source, made.general_pairs.n, made.general_source) == ("none", 0, "none")
    assert not hub["asked"]
    assert made.tool_use == tool_use_pairs()


def test_the_hub_s_pairs_are_drawn_by_seed_without_a_token(hub: dict[str, Any]) -> None:
    made = mixed("alpaca-cleaned", ratio=1)
    assert hub["asked"] == [("made/up", {"split": "train", "token": False})]
    assert len(made.general) == len(set(made.general)) == 20
    known = {row["output"]: row for row in ROWS}
    for example in made.general:
        row = known[example.completion]
        assert example.messages[0].content == "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
    assert mixed("alpaca-cleaned", ratio=1) == made
    assert mixed("alpaca-cleaned", ratio=1, seed=1).general != made.general
    assert made.general_pairs is not None
    assert made.general_pairs.source == "alpaca-cleaned"


def test_rows_with_secrets_addresses_or_nothing_to_say_are_passed_over(hub: dict[str, Any]) -> None:
    bad = [
        {"instruction": "Log in", "input": "", "output": f"The key is {SECRET}"},
        {"instruction": "Write to ada@example.org", "input": "", "output": "Done."},
        {"instruction": "Be silent", "input": "", "output": "  "},
        {"instruction": "Be long", "input": "", "output": "word " * 4000},
    ]
    hub["rows"] = Rows([*bad, *ROWS[:10]])
    made = mixed("alpaca-cleaned", ratio=4)
    assert len(made.general) == 10, "fewer than wanted is told, not filled up"
    assert made.general_pairs is not None
    assert made.general_pairs.n == 10


@pytest.mark.parametrize(
    "error", [ConnectionError("no network"), FileNotFoundError("no data set"), RuntimeError("odd")]
)
def test_an_unreachable_hub_is_an_error_and_auto_goes_on(hub: dict[str, Any], pairs: Path, error: Exception) -> None:
    hub["rows"] = error
    with pytest.raises(Unavailable) as found:
        mixed("alpaca-cleaned", file=pairs)
    assert "--general rehearsal" in found.value.hint
    events: list[Event] = []
    by_file, by_itself = mixed("auto", file=pairs, events=events), mixed("auto", events=events)
    assert by_file.general_pairs is not None
    assert by_itself.general_pairs is not None
    assert (by_file.general_pairs.source, by_itself.general_pairs.source) == ("jsonl", "rehearsal")
    notes = [event.text for event in events if isinstance(event, Note)]
    assert sum("not from the hub" in note for note in notes) == 2
    assert sum("own answers" in note for note in notes) == 1


def test_other_columns_are_an_error(hub: dict[str, Any]) -> None:
    rows = Rows(ROWS)
    rows.column_names = ("prompt", "answer")  # type: ignore[assignment]
    hub["rows"] = rows
    with pytest.raises(BadConfig, match="other columns"):
        mixed("alpaca-cleaned")


def test_a_missing_library_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadConfig) as found:
        mixed("alpaca-cleaned")
    assert "pip install" in found.value.hint


def test_the_real_library_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    pytest.importorskip("datasets", reason="the extra `general` is not installed")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = mixed("alpaca-cleaned", ratio=1, dataset=str(folder))
    assert len(made.general) == 20
    with pytest.raises(Unavailable):
        mixed("alpaca-cleaned", dataset=str(tmp_path / "nowhere"))


def test_a_file_s_pairs_are_drawn_by_seed_and_named_by_digest(pairs: Path) -> None:
    made = mixed("jsonl", ratio=0.5, file=pairs)
    assert len(made.general) == 10
    assert sha256(pairs.read_bytes()) in made.general_source
    assert str(pairs.parent) not in made.general_source
    assert mixed("jsonl", ratio=0.5, file=pairs) == made
    assert mixed("jsonl", ratio=0.5, seed=9, file=pairs).general != made.general


def test_files_that_cannot_be_used(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(BadConfig, match="no file"):
        mixed("jsonl")
    with pytest.raises(BadConfig, match="cannot read"):
        mixed("jsonl", file=tmp_path / "nowhere.jsonl")
    pairs.write_text('{"messages": []}\n')
    with pytest.raises(InputError):
        mixed("jsonl", file=pairs)
