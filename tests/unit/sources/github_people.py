"""A made-up GitHub for these tests: Ada with two repositories that she and Bob wrote, Bob, and an organisation."""

from __future__ import annotations

from pathlib import Path

from clonedna.sources.github_client import GitHub
from tests.github_fake import FakeGitHub
from tests.github_world import Account, Repository, World
from tests.repos import ADA, BOB, MIT, RepoBuilder

TOKEN = "ghp_" + "made0up" * 5
NOREPLY = "Ada Example <1001+ada-example@users.noreply.127.0.0.1>"


def function(name: str, salt: int = 0) -> str:
    """Nine lines that no other call gives."""
    return (
        f"def {name}(value):\n"
        + "".join(f"    {name}_{i} = value * {salt + i} + len('{name}')\n" for i in range(7))
        + f"    return {name}_6\n"
    )


def repositories(folder: Path) -> tuple[Path, Path]:
    """The two git repositories, made once for a folder."""
    if not folder.exists():
        abacus = RepoBuilder(folder / "abacus")
        abacus.commit(ADA, "feat: add sums", {"LICENSE": MIT, "abacus/sums.py": function("sums", 1)})
        abacus.commit(NOREPLY, "fix: carry the one", {"abacus/carry.py": function("carry", 20)})
        abacus.commit(BOB, "add differences", {"abacus/differences.py": function("differences", 40)})
        beads = RepoBuilder(folder / "beads")
        beads.commit(ADA, "docs: write to ada@example.org", {"LICENSE": MIT, "beads.py": function("beads", 60)})
    return folder / "abacus", folder / "beads"


def world(folder: Path) -> World:
    """``abacus`` (7 stars, MIT): Ada under her address and GitHub's own, and Bob. ``beads`` (9 stars, MIT): Ada alone."""
    abacus, beads = repositories(folder)
    ada = Account(
        1001, "ada-example", "Ada Example", ("ada@example.org",), bio="I count. Write to ada@example.org", location="Utrecht",
        blog="ada.example.org", followers=12,
    )  # fmt: skip
    bob = Account(1002, "bob-sample", "Bob Sample", ("bob@example.org",), bio="product manager", location="Oslo")
    team = Account(1003, "count-team", "The team", type="Organization")
    return World(
        [ada, bob, team],
        [
            Repository(
                1, ada, "abacus", abacus, stars=7, languages={"Python": 900, "C": 30}, topics=("counting", "maths")
            ),
            Repository(2, ada, "beads", beads, stars=9, languages={"Python": 100}, topics=("counting",)),
        ],
    )


def client(fake: FakeGitHub, home: Path, **changes: object) -> GitHub:
    """A client that waits for nothing longer than a second."""
    given: dict[str, object] = {"url": fake.url, "cache": home / "github", "max_wait": 1.0, "pause": 0.01} | changes
    return GitHub(**given)  # type: ignore[arg-type]
