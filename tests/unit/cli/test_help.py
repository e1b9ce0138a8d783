"""The command line as documented: every command of the README exists, help loads no model library, errors have codes and statuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from clonedna.cli.context import printable
from clonedna.cli.main import app
from clonedna.core import errors

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def known(words: list[str]) -> bool:
    node = COMMANDS.get(words[0])
    return node is not None and (not hasattr(node, "commands") or words[1] in node.commands)


def documented() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.findall(r"`dna ([a-z][^`]*)`", text)
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        found += re.findall(r"^dna ([a-z].*?)(?:\s+#.*)?$", block, re.MULTILINE)
    return found


def test_the_readme_names_commands() -> None:
    assert len(documented()) >= 8


@pytest.mark.parametrize("line", documented())
def test_every_documented_command_exists(line: str) -> None:
    assert known(line.split())


def test_the_readme_has_no_gap() -> None:
    assert not re.findall(r"@[A-Z]+@", (ROOT / "README.md").read_text("utf-8"))


def test_help_loads_no_model_library_and_no_database() -> None:
    code = (
        "import sys; sys.argv = ['dna', '--help']\n"
        "from clonedna.cli import main\n"
        "try: main.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'dbos', 'sqlalchemy', 'numpy', 'datasketch'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_codes_are_stable_words_and_leaves_differ() -> None:
    def tree(kind: type[errors.DnaError]) -> list[type[errors.DnaError]]:
        return [kind, *(one for child in kind.__subclasses__() for one in tree(child))]

    kinds = tree(errors.DnaError)
    assert all(re.fullmatch(r"[a-z_]+", kind.code) for kind in kinds)
    leaves = [kind.code for kind in kinds if not kind.__subclasses__()]
    assert len(leaves) == len(set(leaves))
    assert {kind.exit_code for kind in kinds} == {2, 3, 4, 5, 6, 70, 130}


def test_names_of_strangers_cannot_speak_to_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\n") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}\n"
