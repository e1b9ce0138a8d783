"""What a repository says of itself: one plain line, from its metadata or its README, whatever either of them holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.sources.description import MOST, PLAIN, description_of, one_line
from clonedna.sources.git import GitSource
from tests.repos import ADA, RepoBuilder


def said(**files: str) -> str:
    named = {name.replace("__", "."): text.encode() for name, text in files.items()}
    return description_of(lambda name, most: named.get(name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject__toml", '[project]\nname = "beads"\ndescription = "Counts beads on a string"\n'),
        ("pyproject__toml", '[tool.poetry]\nname = "beads"\ndescription = "Counts beads on a string"\n'),
        ("setup__cfg", "[metadata]\nname = beads\ndescription = Counts beads on a string\n"),
        ("setup__py", "from setuptools import setup\nsetup(name='beads', description='Counts beads on a string')\n"),
        ("package__json", '{"name": "beads", "description": "Counts beads on a string"}'),
        ("Cargo__toml", '[package]\nname = "beads"\ndescription = "Counts beads on a string"\n'),
        ("README__md", "# Beads\n\n[![ci](https://x.org/b.svg)](https://x.org)\n\nCounts beads on a string\n\nMore.\n"),
        ("README__rst", "Beads\n=====\n\n.. image:: b.svg\n\nCounts beads on a string\n\nInstall\n-------\n"),
    ],
)
def test_it_is_found_where_projects_write_it(name: str, text: str) -> None:
    assert said(**{name: text}) == "Counts beads on a string"


def test_metadata_come_before_a_readme_and_what_cannot_be_read_is_passed_by() -> None:
    readme = "Sorts shells by size and colour.\n"
    assert said(package__json='{"description": "Counts beads"}', README__md=readme) == "Counts beads"
    for broken in ("{", "[]", '{"description": ["a"]}', '{"description": null}', "[" * 100_000):
        assert said(package__json=broken, README__md=readme) == readme.strip()
    for broken in ("[project", "project = 3", "[project]\ndescription = 3\n", "[tool]\npoetry = []\n"):
        assert said(pyproject__toml=broken, README__md=readme) == readme.strip()
    for broken in ("setup(description=TEXT)", "def (", "\0"):
        assert said(setup__py=broken, README__md=readme) == readme.strip()
    assert said() == ""


def test_titles_links_and_tables_of_a_readme_are_no_description() -> None:
    links = "[English readme](a.md) [German readme](b.md) [French readme](c.md)"
    text = f"# Beads\n\n{links}\n\n> A quote of somebody.\n\n- one\n- two\n\nCounts `beads`, see [the manual](https://x.org).\n"
    assert said(README__md=text) == "Counts beads, see the manual."
    assert said(README__md=f"# Beads\n\n{links}\n") == ""


def test_markup_addresses_and_secrets_do_not_come_through() -> None:
    assert one_line("<b>Counts</b> *beads* [red]fast[/red] | ada@x.org https://x.org/a") == "Counts beads red fast /red"
    assert one_line("Counts beads with AKIAIOSFODNN7EXAMPLQ") == ""
    assert one_line("\u202e\x1b[31m") == "31m"
    assert one_line("?! 3") == ""


@given(st.text(max_size=1000))
def test_whatever_is_said_comes_out_plain_and_short(text: str) -> None:
    line = one_line(text)
    assert len(line) <= MOST
    assert all(c.isalnum() or c in PLAIN for c in line)
    assert one_line(line) in (line, "")
    for name in ("README__md", "README__rst", "setup__py", "package__json", "pyproject__toml", "setup__cfg"):
        assert all(c.isalnum() or c in PLAIN for c in said(**{name: text}))


def test_git_gives_it_with_the_repository(tmp_path: Path) -> None:
    made = RepoBuilder(tmp_path / "beads")
    made.commit(ADA, "begin", {"pyproject.toml": '[project]\nname = "beads"\ndescription = "Counts beads"\n'})
    assert GitSource(cache=tmp_path / "cache").find(str(made.path)).repository.description == "Counts beads"


def test_a_folder_of_that_name_says_nothing(tmp_path: Path) -> None:
    made = RepoBuilder(tmp_path / "beads")
    made.commit(ADA, "begin", {f"README.md/counts beads on a {word}": "x = 1\n" for word in ("string", "table")})
    assert GitSource(cache=tmp_path / "cache").find(str(made.path)).repository.description == ""
