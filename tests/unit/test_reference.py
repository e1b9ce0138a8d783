"""docs/reference says what the program says; each route, command and setting is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.app.settings import ENVIRONMENT_ONLY, Settings
from tools import reference


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return reference.pages()


def test_no_page_is_stale(made: dict[str, str]) -> None:
    assert not reference.stale(made), "make reference"


def test_a_page_that_says_something_else_is_stale(
    made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    assert reference.stale(made) == list(made)
    for name, text in made.items():
        (tmp_path / name).write_text(text, "utf-8")
    assert not reference.stale(made)
    (tmp_path / "cli.md").write_text(made["cli.md"] + "more\n", "utf-8")
    assert reference.stale(made) == ["cli.md"]


def test_every_setting_has_a_row_and_words(made: dict[str, str]) -> None:
    rows, _, words = made["settings.md"].partition("## What they mean")
    for name in Settings.model_fields:
        assert f"| `{name}`{'*' if name in ENVIRONMENT_ONLY else ''} |" in rows
        assert f"`{name}`" in words or name in WITHOUT_WORDS, f"{name} is not in Settings' docstring"


WITHOUT_WORDS = {
    "base", "licences", "owned_share", "max_files", "max_changes", "min_free_bytes", "git_timeout", "max_clone_bytes", "host", "port",
    "teacher_prompt_price", "teacher_completion_price", "vllm_url", "vllm_key",
}  # fmt: skip


def test_the_home_of_whoever_makes_it_is_in_no_page(made: dict[str, str]) -> None:
    assert not [name for name, text in made.items() if str(Path.home()) in text]


def test_commands_and_routes_are_there(made: dict[str, str]) -> None:
    assert "## dna jobs ls\n" in made["cli.md"]
    assert "### `GET /api/v1/registry/{reference}`\n" in made["http.md"]
    assert "Scope: admin." in made["http.md"]
