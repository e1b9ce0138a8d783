"""`dna df, prune, backup, restore` as a person sees them; what they do is tested with the use cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clonedna.cli.main import app
from clonedna.cli.upkeep import size
from clonedna.core.errors import DnaError
from tests.cli import CliRunner
from tests.serving import ServerParts
from tests.sharing import put


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNA_MIN_FREE_BYTES", "0")
    parts = ServerParts(tmp_path / "home", min_free_bytes=0)
    put(parts, "ada")
    left = tmp_path / "home" / "staging" / "dead"
    left.mkdir(parents=True)
    (left / "x").write_bytes(bytes(2500))
    return tmp_path / "home"


def run(*words: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, list(words), standalone_mode=False)
    if isinstance(done.exception, DnaError):
        return done.exception.code, done.exception.hint
    assert done.exception is None, done.exception
    return done.stdout, done.stderr


def as_json(*words: str) -> Any:
    return json.loads(run(*words, "--json")[0].splitlines()[-1])


def test_how_much_and_what_can_go(home: Path) -> None:
    out, said = run("--home", str(home), "df")
    assert "arriving" in out
    assert "2.5 kB" in out
    assert "free on the disk" in said
    before = as_json("--home", str(home), "df")
    out, said = run("--home", str(home), "prune", "--dry-run")
    assert "staging/dead" in out
    assert "would free 2.5 kB" in said
    assert as_json("--home", str(home), "df")["bytes"] == before["bytes"]
    assert as_json("--home", str(home), "prune")["bytes"] == 2500
    assert "freed 0 B" in run("--home", str(home), "prune")[1]
    assert run("--home", str(home), "prune", "--older-than", "0", "--blocks")[1].startswith("freed 0 B")


def test_into_a_file_and_out_of_it(home: Path, tmp_path: Path) -> None:
    said = run("--home", str(home), "backup", "a.tar")[1]
    assert "1 blocks" in said
    assert "private keys are not in it" in said
    assert run("--home", str(home), "backup", "a.tar")[0] == "bad_reference"
    assert run("--home", str(home), "restore", "a.tar")[0] == "bad_input"
    assert "restored" in run("--home", "new", "restore", "a.tar")[1]
    assert as_json("--home", "new", "verify", "ada")["verified"]
    assert as_json("--home", str(home), "backup", ".", "--with-keys")["secrets"]
    (kept,) = tmp_path.glob("clone-dna-*.tar")
    assert "identity of its own" not in run("--home", "second", "restore", kept.name)[1]


def test_a_server_s_home_is_not_copied_from_afar(home: Path) -> None:
    for words in (("backup", "x.tar"), ("restore", "x.tar")):
        assert run("--home", str(home), "--server", "http://127.0.0.1:1", *words)[0] == "bad_input"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (2_500_000, "2.5 MB"), (10**9, "1.0 GB"), (10**13, "10000.0 GB")],
)  # fmt: skip
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words
