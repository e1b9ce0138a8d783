"""Whose code it is: moves, reverts, shared classes, old addresses, older licences, hunks; on repositories of people who do not exist."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from clonedna.core.canonical import sha256
from clonedna.core.errors import Cancelled, NoSuchAuthor, TimedOut
from clonedna.core.events import Note, StageProgress
from clonedna.core.work import Collection, Identity, Span
from clonedna.sources import blame, collecting
from clonedna.sources.git import GitSource
from clonedna.sources.process import Git
from tests.repos import ADA, BOB, MIT, RepoBuilder


def function(name: str, *, indent: str = "", noun: str = "item") -> str:
    lines = [
        f"def {name}({noun}s):",
        "    total = 0",
        f"    for {noun} in {noun}s:",
        f"        total += {noun}.{name}",
        "    return total",
    ]
    return "".join(f"{indent}{line}\n" for line in lines)


def module(*names: str) -> str:
    return "\n\n".join(function(name) for name in names)


class Heard:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def __call__(self, event: object) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


def collect(target: Path | str, who: str = ADA, *, home: Path, heard: Heard | None = None, licences: Sequence[str] = ("MIT",),
            max_files: int = 100, max_changes: int = 100, owned_share: float = 0.8) -> Collection:  # fmt: skip
    source = GitSource(cache=home / "cache")
    return source.collect(
        source.find(str(target)), [Identity.parse(who)], licences=licences, owned_share=owned_share, max_files=max_files,
        max_changes=max_changes, emit=heard or Heard(),
    )  # fmt: skip


def names(found: Collection) -> list[str]:
    return [span.name for span in found.spans if span.kind != "hunk"]


def hunks(found: Collection) -> list[Span]:
    return [span for span in found.spans if span.kind == "hunk"]


@pytest.fixture
def repo(tmp_path: Path) -> RepoBuilder:
    made = RepoBuilder(tmp_path / "repo")
    made.commit(BOB, "add the licence", {"LICENSE": MIT})
    return made


def test_who_moves_code_to_another_file_does_not_own_it(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add six", {"a.py": module("one", "two", "three", "four", "five", "six")})
    repo.commit(ADA, "split the module", {"a.py": module("one", "two", "three"), "b.py": module("four", "five", "six")})
    assert names(collect(repo.path, home=tmp_path)) == []
    # Bob never touched the new file, so it is not looked at for him.
    assert names(collect(repo.path, BOB, home=tmp_path)) == ["one", "two", "three"]


def test_who_reverts_does_not_own_what_comes_back(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add one", {"a.py": module("one")})
    repo.commit(BOB, "drop it", {"a.py": "x = 1\n"})
    repo.commit(ADA, 'Revert "drop it"', {"a.py": module("one")})
    found = collect(repo.path, home=tmp_path)
    assert found.spans == ()
    assert found.lines_owned == 0


def test_of_a_shared_class_the_own_methods_count(repo: RepoBuilder, tmp_path: Path) -> None:
    mine = "class Box:\n" + function("weigh", indent="    ")
    repo.commit(ADA, "add the box", {"a.py": mine})
    repo.commit(
        BOB,
        "let it count",
        {"a.py": mine + "\n" + function("count", indent="    ") + "\n" + function("fold", indent="    ")},
    )
    (span,) = collect(repo.path, home=tmp_path).spans
    assert (span.kind, span.name, span.start, span.owned) == ("method", "Box.weigh", 2, 1.0)


def test_owned_is_the_share_of_filled_lines(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(ADA, "add one", {"a.py": module("one")})
    repo.commit(BOB, "start elsewhere", {"a.py": module("one").replace("total = 0", "total = 7")})
    found = collect(repo.path, home=tmp_path)
    assert [(span.name, span.owned) for span in found.spans] == [("one", 0.8)]
    strict = collect(repo.path, home=tmp_path, owned_share=0.81)
    assert [(r.reason, r.detail) for r in strict.refusals] == [("not_owned", "80 % of its lines")]


def test_the_subject_is_that_of_the_latest_own_commit_in_the_span(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(ADA, "feat: sum one over the items (#12)", {"a.py": module("one", "two")})
    repo.commit(ADA, "wip", {"a.py": module("one", "two").replace("item.two", "item.two + 1")})
    found = collect(repo.path, home=tmp_path)
    assert {span.name: span.subject for span in found.spans} == {"one": "feat: sum one over the items", "two": ""}


def test_an_older_address_finds_the_person_that_the_mailmap_names(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit("Ada <old@example.org>", "add one", {"a.py": module("one")})
    repo.commit(ADA, "add two", {"b.py": module("two")})
    repo.commit(BOB, "add the mailmap", {".mailmap": "Ada Example <ada@example.org> <old@example.org>\n"})
    assert names(collect(repo.path, "old@example.org", home=tmp_path)) == ["one", "two"]
    found = GitSource(cache=tmp_path / "cache").find(str(repo.path))
    assert [(share.identity.email, share.commits) for share in found.repository.authors] == [
        ("ada@example.org", 2),
        ("bob@example.org", 2),
    ]


def test_bots_are_no_authors_and_merges_no_commits(repo: RepoBuilder, tmp_path: Path) -> None:
    robot = "dependabot[bot] <support@example.org>"
    repo.commit(robot, "add what it needs", {"a.py": module("one")})
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(ADA, "add two", {"b.py": module("two")})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "Merge the side", "side", author=BOB)
    found = GitSource(cache=tmp_path / "cache").find(str(repo.path)).repository
    assert [(str(share.identity), share.commits) for share in found.authors] == [(ADA, 1), (BOB, 1)]
    assert found.commits == 3
    assert found.authors[0].share == pytest.approx(1 / 3)
    with pytest.raises(NoSuchAuthor):
        collect(repo.path, robot, home=tmp_path)


def test_nobody_gets_the_closest_names(repo: RepoBuilder, tmp_path: Path) -> None:
    with pytest.raises(NoSuchAuthor) as error:
        collect(repo.path, "Bob Simple <bob@exampel.org>", home=tmp_path)
    assert error.value.facts["candidates"] == [BOB]
    assert BOB in error.value.hint


def test_who_works_here_is_as_git_has_it(repo: RepoBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "gitconfig"
    mine.write_text("[user]\n\tname = Ada Example\n\temail = ada@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(mine))
    source = GitSource(cache=tmp_path / "cache")
    assert source.find(str(repo.path)).you == Identity.parse(ADA)
    repo.git("config", "user.email", "here@example.org")
    assert source.find(str(repo.path)).you == Identity(name="Ada Example", email="here@example.org")
    monkeypatch.chdir(repo.path)
    assert source.find(f"file://{repo.path}").you == Identity.parse(ADA), (
        "a URL has nothing to do with where the process stands"
    )


def test_hunks_lose_no_byte_at_the_end_of_a_file(repo: RepoBuilder, tmp_path: Path) -> None:
    old = "def f(a):\r\n    x = 1\r\n    y = 2\r\n    return x"
    new = "def f(a):\r\n    first = 1\r\n    second = 2\r\n    third = 3\r\n    return first"
    repo.commit(BOB, "add f", {"a.py": old})
    commit = repo.commit(ADA, "say what f holds", {"a.py": new})
    (hunk,) = hunks(collect(repo.path, home=tmp_path))
    assert hunk.text == "    first = 1\r\n    second = 2\r\n    third = 3\r\n    return first"
    assert hunk.before == "    x = 1\r\n    y = 2\r\n    return x"
    assert (hunk.name, hunk.commit, hunk.start, hunk.end, hunk.owned) == ("f", commit, 2, 5, 1.0)
    assert hunk.blob == repo.git("rev-parse", f"{commit}:a.py")


def test_a_hunk_is_under_the_licence_of_its_own_commit(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add one", {"a.py": module("one"), "LICENSE": "All rights reserved, for now.\n"})
    repo.commit(ADA, "sum over the things", {"a.py": function("one", noun="thing").replace("total", "whole")})
    repo.commit(BOB, "free it", {"LICENSE": MIT})
    found = collect(repo.path, home=tmp_path)
    assert hunks(found) == []
    assert ("a.py", "licence_unknown") in {(r.path, r.reason) for r in found.refusals}
    assert found.repository.licence.spdx == "MIT"


def test_a_change_that_removes_a_secret_is_refused(repo: RepoBuilder, tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2" * 9
    repo.commit(BOB, "add a client", {"a.py": f'KEY = "{secret}"\n' + "a = 1\nb = 2\nc = 3\n"})
    repo.commit(
        ADA,
        "read the key from the environment",
        {"a.py": "import os\n\nKEY = os.environ['KEY']\nfirst = 1\nsecond = 2\nthird = 3\n"},
    )
    found = collect(repo.path, home=tmp_path)
    assert found.spans == ()
    assert [r.reason for r in found.refusals] == ["secret"]
    assert secret not in found.model_dump_json()


def test_a_hunk_with_much_of_others_inside_is_none(repo: RepoBuilder, tmp_path: Path) -> None:
    lines = [f"a{i} = {i}\n" for i in range(8)]
    repo.commit(BOB, "add numbers", {"a.py": "".join(lines)})
    lines[1], lines[3], lines[5] = "first = 1\n", "second = 2\n", "third = 3\n"
    repo.commit(ADA, "name some of the numbers", {"a.py": "".join(lines)})
    assert hunks(collect(repo.path, home=tmp_path)) == []
    (hunk,) = hunks(collect(repo.path, home=tmp_path, owned_share=0.6))
    assert (hunk.text, hunk.owned) == ("".join(lines[1:6]), 0.6)


def test_who_listens_can_stop_it(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(ADA, "add some", {f"m{i}.py": module(f"f{i}") for i in range(3)})

    class Stopping(Heard):
        def __call__(self, event: object) -> None:
            raise Cancelled("stopped", "go on later")

    with pytest.raises(Cancelled):
        collect(repo.path, home=tmp_path, heard=Stopping())
    assert len(names(collect(repo.path, home=tmp_path))) == 3


def test_one_huge_reformatting_gives_no_hunks(repo: RepoBuilder, tmp_path: Path) -> None:
    numbered = {f"m{i}.py": f"a{i} = 'x'\nb{i} = 'y'\nc{i} = 'z'\nd{i} = 'w'\n" for i in range(31)}
    repo.commit(BOB, "add modules", numbered)
    repo.commit(
        ADA, "use the other quotes everywhere", {path: text.replace("'", '"') for path, text in numbered.items()}
    )
    assert hunks(collect(repo.path, home=tmp_path)) == []


def test_no_changes_wanted_none_given(repo: RepoBuilder, tmp_path: Path) -> None:
    repo.commit(BOB, "add one", {"a.py": module("one")})
    repo.commit(ADA, "sum over the things", {"a.py": function("one", noun="thing").replace("total", "whole")})
    assert hunks(collect(repo.path, home=tmp_path))
    assert hunks(collect(repo.path, home=tmp_path, max_changes=0)) == []


def test_only_the_files_with_most_own_commits_are_read_and_it_is_said(repo: RepoBuilder, tmp_path: Path) -> None:
    heard = Heard()
    repo.commit(ADA, "add both", {"a.py": module("one"), "b.py": module("two")})
    repo.commit(ADA, "add three", {"b.py": module("two", "three")})
    found = collect(repo.path, home=tmp_path, max_files=1, heard=heard)
    assert names(found) == ["two", "three"]
    assert [(r.path, r.reason) for r in found.refusals] == [("a.py", "over_max_files")]
    assert len(heard.notes) == 1
    assert (found.files_seen, found.files_used) == (2, 1)


def test_progress_ends_at_its_total(repo: RepoBuilder, tmp_path: Path) -> None:
    heard = Heard()
    repo.commit(ADA, "add some", {f"m{i}.py": module(f"f{i}") for i in range(20)})
    collect(repo.path, home=tmp_path, heard=heard)
    told = [(event.done, event.total) for event in heard.events if isinstance(event, StageProgress)]
    assert told[-1] == (20, 20)
    assert told == sorted(told)


def test_a_shallow_clone_works_and_says_what_it_is(repo: RepoBuilder, tmp_path: Path) -> None:
    heard = Heard()
    repo.commit(BOB, "add one", {"a.py": module("one")})
    repo.commit(ADA, "add two", {"b.py": module("two")})
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow")], check=True)
    assert names(collect(tmp_path / "shallow", home=tmp_path, heard=heard)) == ["one", "two"]
    assert any("shallow" in note for note in heard.notes)


def test_a_blame_over_its_time_is_a_refusal(repo: RepoBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit(ADA, "add both", {"a.py": module("one"), "b.py": module("two")})

    def slow_for_one(git: Git, revision: str, path: str, extra: Sequence[str]) -> list[str]:
        if path == "a.py":
            raise TimedOut("git blame took longer than 60 s", "wait")
        return blame.blame(git, revision, path, extra)

    monkeypatch.setattr(collecting, "blame", slow_for_one)
    found = collect(repo.path, home=tmp_path)
    assert names(found) == ["two"]
    assert [(r.path, r.reason) for r in found.refusals] == [("a.py", "blame_timeout")]


def test_short_long_and_broken_definitions_are_refused_by_name(repo: RepoBuilder, tmp_path: Path) -> None:
    text = (
        "def short(): \n    pass\n\n\ndef long():\n"
        + "    x = 1\n" * 130
        + "\n\ndef broken(a):\n    b = = a\n    return b\n"
    )
    repo.commit(
        ADA, "add odd ones", {"a.py": text + f'\n\ndef mail():\n    to = "robin@{"company"}.io"\n    return to\n'}
    )
    found = collect(repo.path, home=tmp_path)
    assert found.spans == ()
    assert {r.reason for r in found.refusals} >= {"too_short", "too_long", "email"}
    assert "robin@" not in found.model_dump_json()


def test_every_span_is_what_git_shows(repo: RepoBuilder, tmp_path: Path) -> None:
    odd = "\ufeffx = 1\n\n\ndef f(a):\n\ty = '\u2028\x0c'\n\treturn y\n"
    javascript = "export const f = (a) => {\r\n  const b = a;\r\n  return b;\r\n};\r\n"
    repo.commit(ADA, "add some", {"a.py": module("one", "two"), "ü b.py": odd, "c.mjs": javascript})
    repo.commit(
        ADA,
        "sum from the far end",
        {"a.py": module("one", "two").replace("in items", "in reversed(items)"), "d.py": module("last")[:-1]},
    )
    found = collect(repo.path, home=tmp_path)
    assert {span.path for span in found.spans} == {"a.py", "ü b.py", "c.mjs", "d.py"}
    for span in found.spans:
        shown = subprocess.run(
            ["git", "-C", str(repo.path), "show", f"{span.commit}:{span.path}"], capture_output=True, check=True
        )
        lines = shown.stdout.split(b"\n")
        text = b"\n".join(lines[span.start - 1 : span.end]) + (b"\n" if span.end < len(lines) else b"")
        assert span.text.encode() == text
        assert span.sha256 == sha256(text)
        assert span.blob == repo.git("rev-parse", f"{span.commit}:{span.path}")
