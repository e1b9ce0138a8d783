"""The papers of a verified block as values. A signed paper that is not what its name says is an error of the block, never of the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from clonedna.core.block import ConsentRecord, Evaluation, Manifest, SourceRecord
from clonedna.core.canonical import sha256, strict_json
from clonedna.core.errors import BlockCorrupt
from clonedna.core.value import Value
from clonedna.core.work import Pair

V = TypeVar("V", bound=Value)


def consent_of(block: Path) -> ConsentRecord:
    """Under what consent it was made. Raises ``BlockCorrupt``, as all here."""
    return _paper(block, "consent.json", ConsentRecord)


def evaluation_of(block: Path) -> Evaluation:
    """What was measured when it was made."""
    return _paper(block, "eval.json", Evaluation)


def source_of(block: Path) -> SourceRecord | None:
    """Where its pairs come from; ``None`` for a merge, whose sources are its ancestors'."""
    try:
        return _paper(block, "sources.json", SourceRecord)
    except BlockCorrupt:
        return None


def pairs_of(block: Path) -> tuple[Pair, ...]:
    """The person's own pairs. Only a newline ends one: what else ends a line elsewhere may stand in code."""
    lines = (block / "pairs.jsonl").read_bytes().split(b"\n")
    try:
        return tuple(Pair.model_validate(json.loads(line)) for line in lines if line)
    except (ValueError, RecursionError) as error:
        raise _wrong("pairs.jsonl", error) from None


def signed_pairs_of(block: Path, manifest: Manifest) -> tuple[Pair, ...]:
    """The same, when the file is still the one that the manifest lists."""
    entry = manifest.files.get("pairs.jsonl")
    if entry is None or sha256((block / "pairs.jsonl").read_bytes()) != entry.sha256:
        raise BlockCorrupt(
            f"pairs.jsonl of block {manifest.id[:12]} is not the one that was signed",
            "dna verify it",
            file="pairs.jsonl",
        )
    return pairs_of(block)


def _paper(block: Path, name: str, kind: type[V]) -> V:
    try:
        return kind.model_validate(strict_json((block / name).read_bytes()))
    except (ValueError, RecursionError) as error:
        raise _wrong(name, error) from None


def _wrong(name: str, error: Exception) -> BlockCorrupt:
    where = ""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = f" ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    return BlockCorrupt(f"{name}: not what a block of this format has there{where}", "ask who made it", file=name)
