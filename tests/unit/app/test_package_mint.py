"""A block of a package: named after the package, local-only whatever was asked for, and every piece traceable to file and digest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from clonedna.app.jobs import Jobs
from clonedna.app.preflight import preflight
from clonedna.app.profiles import ProfileOrder, Profiles
from clonedna.app.settings import Settings
from clonedna.cli.main import app
from clonedna.core.block import MintOrder, Recipe
from clonedna.core.errors import ConsentMissing, InputError, NotFound
from clonedna.core.events import silent
from clonedna.core.seams import Source
from clonedna.core.work import Identity
from clonedna.sources.package import PackageSource
from tests.cli import CliRunner
from tests.packages import functions, install
from tests.parts import FakeEngineParts

FAST = Recipe(epochs=2, batch_tokens=512, learning_rate=0.0001, base_instruct_ratio=0.05)


class PackageParts(FakeEngineParts):
    """Fake engine, real packages, in a folder that stands for an environment."""

    def __init__(self, home: Path) -> None:
        super().__init__(Settings(home=home, encoder="hashed", min_free_bytes=0))
        self._packages = PackageSource(folder=home / "installed")

    @property
    def source(self) -> Source:  # type: ignore[override]
        return self._packages


def ordered(target: str, authors: Sequence[str], consent: str = "auto") -> MintOrder:
    return MintOrder(
        target=target, authors=tuple(Identity(name=name) for name in authors), base="fake", consent=consent, recipe=FAST  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_block_of_a_package_is_the_package_s_and_stays_here(tmp_path: Path) -> None:
    install(tmp_path / "installed", "abacus", version="2.1")
    parts = PackageParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(ordered("package:abacus", ["abacus"]))
    manifest = parts.registry.resolve(jobs.run(workspace, silent).id, unsafe=True)
    assert manifest.consent_mode == "local-only"
    assert (manifest.name, manifest.candidate.name, manifest.candidate.handle) == ("abacus", "abacus", "abacus")
    block = parts.store.path(manifest.id)
    pairs = [json.loads(line) for line in (block / "pairs.jsonl").read_text().splitlines()]
    for pair in pairs:
        origin = pair["provenance"]
        lines = (tmp_path / "installed" / origin["path"]).read_text().splitlines(keepends=True)
        assert "".join(lines[origin["start"] - 1 : origin["end"]]) == pair["completion"]
        assert (origin["url"], origin["author"]) == ("pkg:pypi/abacus@2.1", "abacus")
    written = "".join(path.read_text() for path in block.iterdir() if path.suffix in (".json", ".md", ".jsonl"))
    assert str(tmp_path) not in written
    assert "profile" not in json.loads((block / "manifest.json").read_text())["specialization"]


def test_three_packages_are_held_out_whole(tmp_path: Path) -> None:
    for name in ("abacus", "beads", "chalk", "drum"):
        install(tmp_path / "installed", name, files=functions(name, 3))
    parts = PackageParts(tmp_path)
    order = ordered("package:abacus,beads,chalk,drum", ["abacus,beads,chalk,drum"])
    report = preflight(parts, order, silent)
    assert report.splits is not None
    assert report.splits.by == "repository"
    assert [(one.name, one.spans > 0) for one in report.repositories] == [
        (name, True) for name in ("abacus", "beads", "chalk", "drum")
    ]


@pytest.mark.parametrize("consent", ["self", "granted"])
def test_nobody_can_consent_for_a_package(tmp_path: Path, consent: str) -> None:
    install(tmp_path / "installed", "abacus", files=functions("abacus", 2))
    parts = PackageParts(tmp_path)
    order = ordered("package:abacus", ["abacus"], consent)
    report = preflight(parts, order, silent)
    assert [(one.code, "no person" in one.message) for one in report.blockers] == [("consent_missing", True)]
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order)
    with pytest.raises(ConsentMissing, match="no person"):
        jobs.run(workspace, silent)
    assert parts.registry.manifests() == ()


def test_a_package_has_no_profile(tmp_path: Path) -> None:
    install(tmp_path / "installed", "abacus")
    with pytest.raises(InputError, match="a profile is of a person"):
        anyio.run(Profiles(PackageParts(tmp_path)).make, ProfileOrder(target="package:abacus"))


def test_the_command_line_asks_for_no_author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "installed", "abacus")
    monkeypatch.setenv("DNA_PACKAGES", str(tmp_path / "installed"))
    monkeypatch.setenv("DNA_HOME", str(tmp_path / "home"))
    listed = CliRunner().invoke(app, ["authors", "package:abacus", "--json"])
    assert [one["identity"]["name"] for one in json.loads(listed.stdout)] == ["abacus"]
    dry = CliRunner().invoke(app, ["mint", "package:abacus", "--dry-run", "--json"])
    report = json.loads(dry.stdout)
    assert (dry.exit_code, report["target"], report["consent"]) == (0, "pkg:pypi/abacus@1.0", "local-only")
    refused = CliRunner().invoke(app, ["mint", "package:abacus", "--dry-run", "--json", "--consent", "self"])
    assert refused.exit_code == 4
    missing = CliRunner().invoke(app, ["mint", "package:nothing-there", "--json"])
    assert isinstance(missing.exception, NotFound)
