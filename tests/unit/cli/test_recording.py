"""Which commands are changes, and what an entry about one may say."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.main import get_command

from clonedna.cli.main import app
from clonedna.cli.recording import KEYLESS, OWN_ENTRIES, READING, _objects, _result
from clonedna.core.errors import BlockRevoked, NoSpace


def commands() -> set[str]:
    """Every command of the program, as ``tokens new``."""

    def below(one: Any, words: tuple[str, ...]) -> set[str]:
        inner = getattr(one, "commands", None)
        if inner is None:
            return {" ".join(words)}
        return {command for name, part in inner.items() for command in below(part, (*words, name))}

    return below(get_command(app), ())


def test_what_is_listed_is_there() -> None:
    assert commands() >= READING | OWN_ENTRIES | KEYLESS


def test_no_command_that_takes_away_or_lets_in_is_taken_for_one_that_reads() -> None:
    verbs = {
        "rm",
        "new",
        "revoke",
        "rotate",
        "import",
        "pull",
        "push",
        "merge",
        "mint",
        "cancel",
        "trust",
        "distrust",
        "prune",
        "restore",
    }
    assert not {command for command in READING if verbs & set(command.split())}
    assert len(commands() - READING) > 20


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"name": "ada", "scope": ["read"]}, ["ada"]),
        ({"reference": "ada@1.0.0"}, ["ada@1.0.0"]),
        ({"references": ["ada", "bob"]}, ["ada", "bob"]),
        ({"target": "../somebody/repo"}, []),
        ({"target": "https://user:secret@example.org/x"}, []),
        ({"target": "package:numpy"}, ["package:numpy"]),
        ({"name": "free words of somebody"}, []),
        ({"prompt": "ada", "passphrase": "ada", "code": "ada", "file": "ada"}, []),
        ({"name": None, "version": 3}, []),
        ({"name": "a" * 101}, []),
    ],
)
def test_an_entry_names_objects_and_no_paths_words_or_secrets(params: dict[str, Any], said: list[str]) -> None:
    assert _objects(params) == said


@pytest.mark.parametrize(
    ("error", "result"),
    [(NoSpace("x"), "failed no_space"), (BlockRevoked("x"), "refused block_revoked"), (typer.Exit(0), "done"), (typer.Exit(3), "failed 3"),
     (KeyboardInterrupt(), "interrupted"), (typer.Abort(), "interrupted"), (ValueError("inner words"), "failed")],
)  # fmt: skip
def test_how_it_ended(error: BaseException, result: str) -> None:
    assert _result(error) == result
