"""`dna genome search`: what is said of blocks that repeat each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.app.genome_values import FoundLayer, FoundLayers, SkillLayers
from clonedna.cli import genome_plans
from clonedna.cli.main import app
from clonedna.core.genome import Skill
from tests.cli import CliRunner


def layer(name: str, digit: str, repeats: str | None = None) -> FoundLayer:
    return FoundLayer(
        id=digit * 64, name=name, version="1.0.0", cosine=0.5, predicted=0.7, score=0.6, duplicate_of=repeats
    )


class Desk:
    """Finds what it was told, whatever is asked."""

    def __init__(self, *layers: FoundLayer) -> None:
        self._layers = layers

    def search(self, request: str, most: int) -> FoundLayers:
        skills = (SkillLayers(skill=Skill(text=request, weight=1.0), layers=self._layers[:most]),)
        return FoundLayers(request=request, encoder="hashed-512", whole=self._layers[:most], skills=skills, refused=())


def search(monkeypatch: pytest.MonkeyPatch, home: Path, *layers: FoundLayer) -> str:
    monkeypatch.setattr(genome_plans, "_desk", lambda state, on: Desk(*layers))
    result = CliRunner().invoke(app, ["--home", str(home), "genome", "search", "sql"])
    assert result.exit_code == 0, result.output
    return result.stderr


def test_a_copy_is_told_to_repeat_the_block_that_is_ranked_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = search(monkeypatch, tmp_path, layer("ada", "a"), layer("bob", "b"), layer("twin", "c", "a" * 64))
    assert "twin@1.0.0 repeats ada@1.0.0: beside it, it adds nothing" in told.splitlines()
    assert told.count("repeats") == 1


def test_without_copies_nothing_is_said_of_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "repeats" not in search(monkeypatch, tmp_path, layer("ada", "a"), layer("bob", "b"))
