"""Blocks with adapters made by hand, put and registered in seconds: for tests of what is done with blocks, not of how they are minted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clonedna.app.parts import Parts
from clonedna.core.block import Candidate, ConsentRecord, Manifest, SourceRecord
from clonedna.core.canonical import canonical
from clonedna.core.work import Identity
from clonedna.engine.adapters import write_adapter
from tests.unit.store.making import contents, write_block
from tests.values import ADA, REPOSITORY

SHAPES = {
    f"model.layers.{layer}.self_attn.{target}": (12, out) for layer in (0, 1) for target, out in (("q_proj", 12), ("v_proj", 6))
}  # fmt: skip


def random_adapter(
    directory: Path, seed: int, *, shapes: Mapping[str, tuple[int, int]], base: str, fingerprint: str, rank: int = 4,
    targets: Sequence[str] = ("q_proj", "v_proj"), size: float = 0.05,
) -> Path:  # fmt: skip
    """Adapter files with normal factors of this deviation on these modules (``(in, out)`` by name)."""
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        name: (size * torch.randn(rank, inside, generator=draw), size * torch.randn(outside, rank, generator=draw))
        for name, (inside, outside) in shapes.items()
        if name.rpartition(".")[2] in targets
    }
    write_adapter(directory, matrices, rank=rank, alpha=2 * rank, rslora=False, base=base, fingerprint=fingerprint)
    return directory


def add_block(
    parts: Parts, name: str, seed: int, *, fingerprint: str, base: str = "fake", person: Identity = ADA,
    shapes: Mapping[str, tuple[int, int]] = SHAPES, rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj"), size: float = 0.05,
    consent: ConsentRecord | None = None, files: Mapping[str, bytes] | None = None, **changes: Any,
) -> Manifest:  # fmt: skip
    """A signed, registered block of ``person`` with a random adapter. Consent is ``local-only`` unless given."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = random_adapter(
            Path(folder) / "adapter", seed, shapes=shapes, base=base, fingerprint=fingerprint, rank=rank, targets=targets, size=size
        )  # fmt: skip
        record = consent or parts.consents.local_only((person,), REPOSITORY.url)
        source = SourceRecord(
            repository=REPOSITORY.model_copy(update={"authors": ()}), author=person.name, files=(), refused=(), refused_counts={}
        )  # fmt: skip
        made = contents(note=name) | {file.name: file.read_bytes() for file in adapter.iterdir()}
        made |= {"consent.json": canonical(record), "sources.json": canonical(source), "pairs.jsonl": b""}
        fields: dict[str, Any] = {
            "name": name, "base_model": base, "base_fingerprint": fingerprint, "rank": rank, "alpha": 2.0 * rank,
            "target_modules": tuple(sorted(targets)), "consent_mode": record.mode, "specialization": f"python code by {person.name}",
            "candidate": Candidate(handle=name, name=person.name, expertise_domains=("python",), consent_verified=False),
        }  # fmt: skip
        manifest = write_block(Path(folder) / "block", parts.signer, made | dict(files or {}), **(fields | changes))
        parts.store.put(Path(folder) / "block")
    parts.registry.publish(manifest)
    return manifest
