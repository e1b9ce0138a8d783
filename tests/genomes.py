"""Genomes for tests: values of made-up blocks, signed by whoever is given; and homes with a fake engine and blocks that bring a skill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.block import Capability, Manifest, not_available
from clonedna.core.canonical import sha256
from clonedna.core.fakes import FakeSource
from clonedna.core.genome import (
    GENOME_PAYLOAD,
    Composition,
    DesiredGenome,
    GenomeEvaluation,
    GenomeLayer,
    GenomeManifest,
    SignedGenome,
    Skill,
    genome_bytes,
    genome_id,
)
from clonedna.core.profile import CodeFacts
from clonedna.core.seams import Signer, Source
from clonedna.core.work import Found, Identity, Repository
from tests.parts import FakeEngineParts
from tests.serving import add_block
from tests.values import FOUND, collection, pair

NOTHING = not_available("a test")


def layer(name: str = "ada", **changes: Any) -> GenomeLayer:
    """A layer of a block whose id is the digest of its name."""
    made = GenomeLayer(
        id=sha256(name), name=name, version="1.0.0", skills=("python",), license="MIT", consent_mode="local-only", rank=4, alpha=8.0,
        target_modules=("q_proj",),
    )  # fmt: skip
    return made.model_copy(update=changes)


def genome(key_id: str, name: str = "stack", version: str = "1.0.0", **changes: Any) -> GenomeManifest:
    """A manifest with a true id."""
    wanted = DesiredGenome(request="python", skills=(Skill(text="python", weight=1.0),), taxonomy="t@1", encoder="e@1")
    made = GenomeManifest(
        id="0" * 64, name=name, version=version, created_at="2026-01-02T03:04:05Z", created_by=key_id, base_model="fake",
        base_fingerprint=sha256("fake"), desired=wanted, layers=(layer(),), composition=Composition(kind="stack", method="single"),
        encoder="e@1", composite_embedding=(1.0, 0.0), plan=sha256("plan"), snapshot="s", calibration="c",
        evaluation=GenomeEvaluation(
            similarity={}, retention={}, interference=NOTHING, guard=NOTHING, latency_ms=NOTHING, bytes=1
        ),
        license="MIT",
    ).model_copy(update=changes)  # fmt: skip
    return made.model_copy(update={"id": genome_id(made)})


def signed(signer: Signer, name: str = "stack", version: str = "1.0.0", **changes: Any) -> SignedGenome:
    """... and its envelope."""
    made = genome(signer.key_id, name, version, **changes)
    return SignedGenome(manifest=made, envelope=signer.sign(genome_bytes(made), GENOME_PAYLOAD))


class GenomeParts(FakeEngineParts):
    """Everything real but the engine, and the encoder that compares spelling."""

    def __init__(self, home: Path, **settings: Any) -> None:
        super().__init__(
            Settings(home=home, base="fake", encoder="hashed", min_free_bytes=0, checkpoint_seconds=0.0, **settings)
        )


class SourceParts(GenomeParts):
    """... and a source of sixty spans."""

    @property
    def source(self) -> Source:  # type: ignore[override]
        return FakeSource(FOUND, collection(60))

    def count_code(
        self, found: Found, authors: Sequence[Identity], parts: Sequence[Repository]
    ) -> tuple[CodeFacts, ...]:
        return ()


def skilled(parts: Parts, name: str, skill: str, says: str, **changes: Any) -> Manifest:
    """A registered block whose adapter follows the characters of ``says`` in a ring, with pairs whose task is ``skill``."""
    pairs = [
        pair(f"{name}-{split}-{i}", says * (i + 2) + "\n", task=f"{skill} {i}", split=split)
        for split, count in (("train", 20), ("holdout", 12))
        for i in range(count)
    ]  # fmt: skip
    return add_block(parts, name, says=says, pairs=pairs, capability=Capability(text=skill), **changes)


def given_lines(skill: str, says: str, count: int = 24) -> bytes:
    """A file of pairs as a person gives it: different tasks of one skill, answers of one kind."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{skill} number {i}"},
                {"role": "assistant", "content": says * (i + 2)},
            ]
        }
        for i in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
