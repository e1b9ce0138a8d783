"""Whoever runs a formatter over code did not write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.sources.history import Author
from clonedna.sources.process import Git
from clonedna.sources.reformats import WIDE, reformatting
from tests.repos import ADA, BOB, MIT, RepoBuilder
from tests.unit.sources.test_attribution import Heard, collect, function, names

ROBOT = "pre-commit-ci[bot] <66853113+pre-commit-ci[bot]@users.noreply.example>"


def packed(name: str) -> str:
    return f"def {name}(items, other):\n    first = [item.{name} for item in items if item.{name} > other and other != '{name}']\n    return sorted(first, key=lambda item: item)\n"


def laid_out(name: str) -> str:
    """The same as a formatter has it."""
    return (
        f"def {name}(\n    items,\n    other,\n):\n    first = [\n        item.{name}\n        for item in items\n"
        f'        if item.{name} > other and other != "{name}"\n    ]\n    return sorted(\n        first,\n        key=lambda item: item,\n    )\n'
    )


@pytest.fixture
def repo(tmp_path: Path) -> RepoBuilder:
    made = RepoBuilder(tmp_path / "repo")
    made.commit(BOB, "add the licence", {"LICENSE": MIT})
    return made


def found(repo: RepoBuilder, *commits: str) -> list[str]:
    kept = reformatting(Git(repo.path, timeout=60), commits)
    return [commit for commit in commits if commit in kept]


def test_lines_stay_with_who_wrote_them(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add some", {f"m{i}.py": packed(f"f{i}") for i in range(3)})
    repo.commit(ADA, "run the formatter", {f"m{i}.py": laid_out(f"f{i}") for i in range(3)})
    repo.commit(ADA, "add mine", {"m0.py": laid_out("f0") + "\n\n" + function("mine")})
    heard = Heard()
    assert names(collect(repo.path, home=tmp_path, heard=heard)) == ["mine"]
    assert names(collect(repo.path, BOB, home=tmp_path)) == ["f0", "f1", "f2"]
    assert any("only lay code out anew" in note for note in heard.notes)


def test_without_looking_through_they_would_change_hands(repo: RepoBuilder, tmp_path: Path) -> None:
    """The same history but for one word: then it is no formatting, and the lines are Ada's. So the test above can fail."""
    repo.commit(BOB, "add one", {"m.py": packed("f")})
    repo.commit(
        ADA,
        "sort from the far end",
        {"m.py": laid_out("f").replace("key=lambda item: item", "key=lambda item: -item, reverse=True")},
    )
    assert names(collect(repo.path, home=tmp_path)) == ["f"]


def test_a_commit_of_a_bot_is_looked_through_too(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(ADA, "add many", {f"m{i}.py": packed(f"f{i}") for i in range(WIDE)})
    settings = laid_out("f0").replace("items", "things")
    repo.commit(ROBOT, "format all", {f"m{i}.py": laid_out(f"f{i}") for i in range(1, WIDE)} | {"m0.py": settings})
    kept = names(collect(repo.path, home=tmp_path))
    assert set(kept) >= {f"f{i}" for i in range(1, WIDE)}


def test_what_changes_a_word_is_no_formatting(repo: RepoBuilder) -> None:
    old = "x = call(a, b)\ny = 'z'\n"
    ids = [repo.commit(ADA, "start", {"a.py": old, "notes.md": "one\n"})]
    for text in (
        "x = call(\n    a,\n    b,\n)\ny = 'z'\n",
        'x = call(\n    a,\n    b,\n)\ny = "z";\n',
        "x = call(a, c)\ny = 'z'\n",
    ):
        ids.append(repo.commit(ADA, "again", {"a.py": text}))
    ids.append(repo.commit(ADA, "words about it", {"notes.md": "one \n"}))
    assert found(repo, *ids) == ids[1:3]
    assert found(repo) == []


def test_a_small_share_of_other_words_is_allowed_over_many_files_only(repo: RepoBuilder) -> None:
    many = {f"m{i}.py": packed(f"f{i}") for i in range(WIDE)}
    repo.commit(ADA, "start", many)
    after = {path: laid_out(f"f{i}") for i, path in enumerate(many)}
    after["m0.py"] = after["m0.py"].replace("first", "firsts")
    wide = repo.commit(ADA, "all", after)
    repo.commit(ADA, "back", {path: many[path] for path in list(many)[:3]})
    narrow = repo.commit(ADA, "three", {path: after[path] for path in list(many)[:3]})
    after["m0.py"] += "".join(packed(f"new{i}") for i in range(9))
    repo.commit(ADA, "back again", many)
    much = repo.commit(ADA, "all and more", after)
    assert found(repo, wide, narrow, much) == [wide]


def test_revisions_that_the_repository_names_are_looked_through(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add one", {"m.py": packed("f")})
    named = repo.commit(ADA, "rename and format", {"m.py": laid_out("f").replace("first", "kept")})
    assert names(collect(repo.path, home=tmp_path)) == ["f"]
    repo.commit(BOB, "name it", {".git-blame-ignore-revs": f"# the formatter\n{named}\n"})
    assert names(collect(repo.path, home=tmp_path)) == []


def test_a_line_that_looks_like_a_header_is_a_line(repo: RepoBuilder) -> None:
    repo.commit(ADA, "start", {"a.py": "x = '''\n'''\ny = 1\n"})
    tricky = repo.commit(ADA, "more", {"a.py": f"x = '''\n++ b/none.txt\n@@ -1 +1 @@\n{'a' * 40}\n'''\ny = 1\n"})
    assert found(repo, tricky) == []


@pytest.mark.parametrize(
    ("name", "email", "bot"),
    [
        ("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.example", True), ("renovate[bot]", "x@example.org", True),
        ("renovate-bot", "x@example.org", True), ("github-actions", "x@example.org", True), ("GitHub Action", "x@example.org", True),
        ("pre-commit-ci[bot]", "x@example.org", True), ("pre-commit ci", "x@example.org", True), ("Some Thing[bot]", "x@example.org", True),
        ("Release", "41898282+github-actions[bot]@users.noreply.example", True), ("Ada Abbot", "abbot@example.org", False),
        ("Robot Lover", "robot@example.org", False), ("Botond", "botond@example.org", False),
    ],
)  # fmt: skip
def test_bots_by_name_or_address(name: str, email: str, bot: bool) -> None:
    assert Author(name, email, name, email).bot is bot
