"""The judge of a home: what it knows of blocks that are the same thing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clonedna.app import genome_judge
from clonedna.app.genome_judge import HomeJudge
from clonedna.core.interference import WeightSketch
from tests.genomes import GenomeParts, skilled


def test_a_block_s_sketch_is_made_once_for_all_judges_of_a_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = GenomeParts(tmp_path)
    says = {"ada": "abc", "bob": "mno", "twin": "abc"}
    ids = {name: skilled(parts, name, f"{name} code", text).id for name, text in says.items()}
    made: list[Path] = []

    def sketch(path: Path, *, fingerprint: str) -> WeightSketch:
        made.append(path)
        row = np.zeros(4, np.float32)
        row[1 if path.name == ids["bob"] else 0] = 1.0
        return WeightSketch(row, 1.0)

    def factory(kind: str, name: str) -> Any:
        assert (kind, name) == ("sketch", "weights")
        return sketch

    monkeypatch.setattr(genome_judge, "factory", factory)
    blocks = {one: parts.store.path(one) for one in ids.values()}
    wanted = {ids["ada"]: frozenset({ids["twin"]}), ids["twin"]: frozenset({ids["ada"]})}
    assert HomeJudge(parts).kin(blocks) == wanted
    assert HomeJudge(parts).kin(blocks) == wanted
    assert sorted(made) == sorted(blocks.values())


def test_words_are_counted_again_only_when_a_block_came_or_went(tmp_path: Path) -> None:
    parts = GenomeParts(tmp_path)
    skilled(parts, "ada", "socket parser", "abc")
    first = parts.rarity
    assert parts.rarity is first
    bob = skilled(parts, "bob", "quantum parser", "xyz")
    second = parts.rarity
    assert second is not first
    assert second.sharing(["quantum"])(bob.id) == 1.0
    parts.registry.forget(bob.id)
    assert parts.rarity.of("quantum") > second.of("quantum")
