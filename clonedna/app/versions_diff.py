"""What changed between two blocks, most often two versions of one name: pairs and files, recipe, measures, lineage, licence, consent.

Both are verified before anything of them is read. Pairs are the same when their answers are, byte for byte: a later mint reads the same
lines at another commit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from clonedna.app.blocks import Blocks
from clonedna.app.parts import Parts
from clonedna.core.block import BlockRef, Manifest, Measure, not_available
from clonedna.core.canonical import plain
from clonedna.core.value import Value
from clonedna.core.work import Pair

MOST_FILES = 200
NOT_THERE = "not measured for this block"


class Counts(Value):
    """Pairs by split that only one side has, or both; ``moved``: pairs whose split differs, as ``before -> after``."""

    removed: dict[str, int]
    added: dict[str, int]
    same: dict[str, int]
    moved: dict[str, int]


class FileChange(Value):
    """Pairs of one file that only the first or only the second block has. ``path`` is third-party text."""

    path: str
    removed: int
    added: int


class Change(Value):
    """A field whose value differs; ``before`` and ``after`` are JSON."""

    field: str
    before: str
    after: str


class MeasureChange(Value):
    """``difference`` is after minus before, where both were measured."""

    name: str
    before: Measure
    after: Measure
    difference: float | None


class VersionDiff(Value):
    """``a`` -> ``b``. ``facts``: name, base, licence, consent, gate, lineage; only what differs is listed, but for the measures."""

    a: BlockRef
    b: BlockRef
    pairs: Counts
    files: tuple[FileChange, ...]
    files_left_out: int
    recipe: tuple[Change, ...]
    facts: tuple[Change, ...]
    measures: tuple[MeasureChange, ...]


def diff(parts: Parts, a: str, b: str) -> VersionDiff:
    """Of any two blocks, by reference; rejected ones by their ids. Raises what resolving and verifying raise."""
    blocks = Blocks(parts)
    one, other = blocks.show(a), blocks.show(b)
    before, after = blocks.pairs(one.manifest.id), blocks.pairs(other.manifest.id)
    files = _files(before, after)
    measured = [(detail.evaluation.measures) for detail in (one, other)]
    names = sorted({*measured[0], *measured[1]})
    gone = not_available(NOT_THERE)
    return VersionDiff(
        a=_ref(one.manifest), b=_ref(other.manifest), pairs=_counts(before, after), files=tuple(files[:MOST_FILES]),
        files_left_out=len(files[MOST_FILES:]), recipe=_changes(_flat(one.manifest.recipe), _flat(other.manifest.recipe)),
        facts=_changes(
            _facts(one.manifest) | {"consent": one.consent.how}, _facts(other.manifest) | {"consent": other.consent.how}
        ),
        measures=tuple(_measure(name, measured[0].get(name, gone), measured[1].get(name, gone)) for name in names),
    )  # fmt: skip


def _ref(manifest: Manifest) -> BlockRef:
    status = "rejected" if manifest.gate.status == "rejected" else "registered"
    return BlockRef(name=manifest.name, version=manifest.version, id=manifest.id, status=status)


def _key(pair: Pair) -> str:
    return f"{pair.provenance.url}:{pair.provenance.path}:{pair.provenance.sha256}"


def _counts(before: Sequence[Pair], after: Sequence[Pair]) -> Counts:
    old, new = ({_key(pair): pair.split for pair in pairs} for pairs in (before, after))
    both = old.keys() & new.keys()

    def sorted_counts(words: list[str]) -> dict[str, int]:
        return dict(sorted(Counter(words).items()))

    return Counts(
        removed=sorted_counts([split for key, split in old.items() if key not in both]),
        added=sorted_counts([split for key, split in new.items() if key not in both]),
        same=sorted_counts([new[key] for key in both if new[key] == old[key]]),
        moved=sorted_counts([f"{old[key]} -> {new[key]}" for key in both if new[key] != old[key]]),
    )


def _files(before: Sequence[Pair], after: Sequence[Pair]) -> list[FileChange]:
    """Files by how many pairs differ, most first."""
    old, new = {_key(pair): pair for pair in before}, {_key(pair): pair for pair in after}
    removed = Counter(pair.provenance.path for key, pair in old.items() if key not in new)
    added = Counter(pair.provenance.path for key, pair in new.items() if key not in old)
    found = [FileChange(path=path, removed=removed[path], added=added[path]) for path in removed.keys() | added.keys()]
    return sorted(found, key=lambda one: (-one.removed - one.added, one.path))


def _flat(value: Value | None, prefix: str = "") -> dict[str, object]:
    """Fields of a value and of the values in it, as ``lora.rank``."""
    found: dict[str, object] = {}
    for name in type(value).model_fields if value is not None else ():
        field = getattr(value, name)
        found |= _flat(field, f"{prefix}{name}.") if isinstance(field, Value) else {f"{prefix}{name}": field}
    return found


def _facts(manifest: Manifest) -> dict[str, object]:
    return {
        "name": manifest.name, "base": manifest.base_model, "base_fingerprint": manifest.base_fingerprint,
        "person": manifest.candidate.name, "license": manifest.license, "consent_mode": manifest.consent_mode, "gate": manifest.gate.status,
        "relation": manifest.lineage.relation, "parents": manifest.lineage.parents, "created_by": manifest.created_by,
        "training_pairs": manifest.training_pairs, "num_epochs": manifest.num_epochs,
    }  # fmt: skip


def _changes(before: dict[str, object], after: dict[str, object]) -> tuple[Change, ...]:
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        Change(field=name, before=_json(before.get(name)), after=_json(after.get(name)))
        for name in names
        if before.get(name) != after.get(name)
    )


def _json(value: object) -> str:
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True)


def _measure(name: str, before: Measure, after: Measure) -> MeasureChange:
    known = before.value is not None and after.value is not None
    return MeasureChange(
        name=name, before=before, after=after, difference=(after.value or 0.0) - (before.value or 0.0) if known else None
    )  # fmt: skip
