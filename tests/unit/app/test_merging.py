"""Merging blocks: what the merged one says about itself, what it inherits, what is refused. Real store, registry and keys; no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.merge_papers import Parent, inherit_licence
from clonedna.app.merging import Merged, Merging, order_of, weighted
from clonedna.core.block import Check, GateVerdict, MergedSources
from clonedna.core.errors import (
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    ConsentMissing,
    DnaError,
    InputError,
    LicenceNotAllowed,
    LicenceUnknown,
    WrongBase,
)
from clonedna.core.events import Note
from clonedna.core.model import Example
from clonedna.core.work import Identity
from tests.merges import add_block
from tests.parts import FakeParts
from tests.values import ADA, REPOSITORY

BOB = Identity(name="Bob Sample", email="bob@example.org")
PRINT = "a" * 64


class MergeParts(FakeParts):
    """Counts the checks, and answers them as told."""

    answer = Check(value=True, how="fake")
    checked: list[tuple[str, int]]

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.checked = []

    async def check_adapter(self, base: str, directory: Path, examples: Sequence[Example]) -> Check:
        assert (directory / "adapter_model.safetensors").exists()
        self.checked.append((base, len(examples)))
        return self.answer


@pytest.fixture
def parts(tmp_path: Path) -> MergeParts:
    return MergeParts(tmp_path / "home")


@pytest.fixture
def fingerprint(parts: MergeParts) -> str:
    return parts.engine("fake").base.fingerprint


@pytest.fixture
def two(parts: MergeParts, fingerprint: str) -> MergeParts:
    add_block(parts, "ada", 1, fingerprint=fingerprint)
    add_block(parts, "bob", 2, fingerprint=fingerprint, person=BOB, license="Apache-2.0")
    return parts


def merge(
    parts: MergeParts, *given: str, name: str = "both", listen: Any = lambda event: None, **options: Any
) -> Merged:
    order = order_of(given, name=name, **({"method": "svd"} | options))
    return anyio.run(Merging(parts, listen).merge, order)


def test_the_block_says_what_it_is_made_of(two: MergeParts) -> None:
    merged = merge(two, "bob:0.3", "ada@1.0.0:0.7")
    detail = Blocks(two).show("both")
    m = detail.manifest
    assert (m.lineage.relation, str(merged.block), merged.block.status) == ("merged", "both@1.0.0", "registered")
    assert m.lineage.merge is not None
    assert [(p.name, p.weight) for p in m.lineage.merge.parents] == [("ada", 0.7), ("bob", 0.3)]
    assert m.lineage.parents == tuple(p.id for p in m.lineage.merge.parents)
    assert [p.id for p in m.lineage.merge.parents] == [two.registry.resolve(name).id for name in ("ada", "bob")]
    assert m.lineage.merge.spec.method == "svd"
    assert m.lineage.merge.spec.rank == m.rank == 4
    assert (m.candidate.name, m.candidate.handle) == ("Ada Example and Bob Sample", "ada-example-and-bob-sample")
    assert (m.recipe, m.training_pairs, m.num_epochs) == (None, 0, 0)
    assert m.base_fingerprint == two.engine("fake").base.fingerprint


def test_the_distance_is_measured_and_nothing_else_is_claimed(two: MergeParts) -> None:
    merged = merge(two, "ada:0.7", "bob:0.3", rank=4)
    detail = Blocks(two).show("both")
    measures = detail.evaluation.measures
    assert measures["merge.relative_error"].value == merged.report.relative_error > 0.1
    assert sum(name.startswith("merge.relative_error.") for name in measures) == 4
    for name in ("nll.delta", "forgetting", "memorisation.rate"):
        assert measures[name].status == "not_available"
        assert measures[name].value is None
    for name, figure in detail.manifest.eval_summary:
        assert name == "teacher_model" or figure.status == "not_available"
    assert detail.manifest.gate.status == "accepted"
    assert "not examined" in detail.manifest.gate.reasons[0]


def test_the_files_carry_no_pairs_and_all_sources(two: MergeParts) -> None:
    merge(two, "ada:0.7", "bob:0.3")
    folder = Path(Blocks(two).show("both").path)
    assert Blocks(two).pairs("both") == ()
    found = MergedSources.model_validate_json((folder / "sources.json").read_bytes())
    assert {one.record.author for one in found.merged} == {"Ada Example", "Bob Sample"}
    card = (folder / "README.md").read_text()
    assert "Not examined" in card
    assert "ada\\@1.0.0" in card


def test_a_merge_of_merges_keeps_its_first_sources(two: MergeParts, fingerprint: str) -> None:
    merge(two, "ada:0.7", "bob:0.3")
    add_block(two, "cat", 3, fingerprint=fingerprint)
    merge(two, "both:0.5", "cat:0.5", name="all")
    folder = Path(Blocks(two).show("all").path)
    found = MergedSources.model_validate_json((folder / "sources.json").read_bytes())
    assert {one.block for one in found.merged} == {two.registry.resolve(name).id for name in ("ada", "bob", "cat")}


def test_the_same_merge_is_the_same_block(two: MergeParts) -> None:
    one = merge(two, "ada:0.7", "bob:0.3", method="dare_linear_svd")
    again = merge(two, "bob:0.3", "ada:0.7", method="dare_linear_svd")
    assert one.block == again.block
    other = merge(two, "ada:0.6", "bob:0.3", method="dare_linear_svd")
    assert other.block.version == "1.1.0"
    assert other.block.id != one.block.id


def test_nothing_stays_behind_when_it_fails(two: MergeParts, tmp_path: Path) -> None:
    def there() -> set[str]:  # SQLite's own files beside the database come and go with connections
        return {path.name for path in (tmp_path / "home").iterdir() if not path.name.startswith("registry.sqlite-")}

    before = there()
    with pytest.raises(InputError):
        merge(two, "ada:0.7", "bob:0.3", method="svd", rank=100)
    merge(two, "ada:0.7", "bob:0.3")
    assert there() == before


def test_it_is_checked_on_the_base_unless_told_not_to(two: MergeParts) -> None:
    merge(two, "ada:0.7", "bob:0.3")
    assert two.checked == [("fake", 1)]
    merged = merge(two, "ada", "bob", check=False)
    assert len(two.checked) == 1
    assert merged.peft.value is None
    assert any("not loaded" in reason for reason in Blocks(two).show(merged.block.id).manifest.gate.reasons)


def test_what_peft_cannot_load_is_kept_as_rejected(two: MergeParts) -> None:
    two.answer = Check(value=False, how="other logits")
    merged = merge(two, "ada:0.7", "bob:0.3")
    assert merged.block.status == "rejected"
    with pytest.raises(BlockRejected):
        two.registry.resolve("both")


def test_linear_warns_with_its_own_figure(two: MergeParts) -> None:
    heard: list[Any] = []
    merged = merge(two, "ada:0.7", "bob:0.3", method="linear", listen=heard.append)
    (note,) = [event for event in heard if isinstance(event, Note)]
    assert note.level == "warning"
    assert f"{100 * merged.report.relative_error:.1f} %" in note.text
    heard.clear()
    merge(two, "ada:0.7", "bob:0.3", name="exact", method="cat", listen=heard.append)
    assert not [event for event in heard if isinstance(event, Note)]


# What is inherited.


def test_local_only_wins_over_self(parts: MergeParts, fingerprint: str) -> None:
    mine = parts.consents.grant_self(ADA, (ADA,), REPOSITORY.url)
    add_block(parts, "ada", 1, fingerprint=fingerprint, consent=mine)
    add_block(parts, "bob", 2, fingerprint=fingerprint, person=BOB)
    merge(parts, "ada", "bob")
    detail = Blocks(parts).show("both")
    assert detail.consent.mode == detail.manifest.consent_mode == "local-only"
    assert detail.consent.statement == ""
    parts.consents.check(detail.consent, "serve")
    with pytest.raises(ConsentMissing):
        parts.consents.check(detail.consent, "share")


def test_one_consent_of_all_parents_stays(parts: MergeParts, fingerprint: str) -> None:
    mine = parts.consents.grant_self(ADA, (ADA,), REPOSITORY.url)
    add_block(parts, "ada", 1, fingerprint=fingerprint, consent=mine)
    add_block(parts, "ada-two", 2, fingerprint=fingerprint, consent=mine)
    merge(parts, "ada", "ada-two")
    detail = Blocks(parts).show("both")
    assert detail.consent == mine
    assert detail.manifest.candidate.name == "Ada Example"


def test_all_licences_hold_together(two: MergeParts) -> None:
    merge(two, "ada", "bob")
    manifest = two.registry.resolve("both")
    assert manifest.license == manifest.share.license == "Apache-2.0 AND MIT"
    assert not manifest.share.public


def parents(*licences: str) -> list[Parent]:
    from clonedna.core.block import ConsentRecord
    from tests.unit.store.making import contents, manifest

    consent = ConsentRecord.model_validate_json(contents()["consent.json"])
    table = {"x": {"sha256": "0" * 64, "size": 1}}
    return [
        Parent(manifest(table, "0" * 64, name=f"b{i}", license=licence), Path("nowhere"), consent, 1.0)
        for i, licence in enumerate(licences)
    ]


@pytest.mark.parametrize(
    ("licences", "together"),
    [
        (("MIT",), "MIT"),
        (("MIT", "MIT"), "MIT"),
        (("MIT", "Apache-2.0", "BSD-3-Clause"), "Apache-2.0 AND BSD-3-Clause AND MIT"),
        (("GPL-3.0-only", "Apache-2.0"), "Apache-2.0 AND GPL-3.0-only"),
        (("GPL-2.0-or-later", "Apache-2.0"), "Apache-2.0 AND GPL-2.0-or-later"),
        (("MIT OR GPL-2.0-only", "Apache-2.0"), "Apache-2.0 AND (GPL-2.0-only OR MIT)"),
        (("GPL-2.0-only", "MIT"), "GPL-2.0-only AND MIT"),
    ],
)
def test_licences_that_go_together(licences: tuple[str, ...], together: str) -> None:
    assert inherit_licence(parents(*licences)) == together


@pytest.mark.parametrize(
    ("licences", "pair"),
    [
        (("MIT", "GPL-2.0-only", "Apache-2.0"), ["GPL-2.0-only", "Apache-2.0"]),
        (("GPL-2.0-only", "GPL-3.0-only"), ["GPL-2.0-only", "GPL-3.0-only"]),
        (("EPL-2.0 AND MIT", "AGPL-3.0-only"), ["EPL-2.0", "AGPL-3.0-only"]),
        (("MIT", "CC-BY-ND-4.0"), ["MIT", "CC-BY-ND-4.0"]),
        (("CC-BY-NC-ND-4.0",), ["CC-BY-NC-ND-4.0", "CC-BY-NC-ND-4.0"]),
        (("GPL-3.0-only", "CC-BY-NC-4.0"), ["GPL-3.0-only", "CC-BY-NC-4.0"]),
        (("GPL-2.0-only OR AGPL-3.0-only", "CDDL-1.0"), ["GPL-2.0-only", "CDDL-1.0"]),
    ],
)
def test_licences_that_exclude_each_other_are_named(licences: tuple[str, ...], pair: list[str]) -> None:
    with pytest.raises(LicenceNotAllowed) as caught:
        inherit_licence(parents(*licences))
    assert caught.value.facts["pair"] == pair


@pytest.mark.parametrize("licence", ["unknown", "Own Words 1.0", "", "MIT AND " * 80 + "MIT"])
def test_a_licence_that_nobody_knows(licence: str) -> None:
    with pytest.raises(LicenceUnknown):
        inherit_licence(parents("MIT", licence))


# Refusals.


@pytest.mark.parametrize(
    ("text", "reference", "weight"),
    [
        ("ada", "ada", 1.0),
        ("ada:0.7", "ada", 0.7),
        ("ada@1.2.0:-0.5", "ada@1.2.0", -0.5),
        ("0123abcd:2", "0123abcd", 2.0),
    ],
)
def test_weights(text: str, reference: str, weight: float) -> None:
    assert (weighted(text).reference, weighted(text).weight) == (reference, weight)


@pytest.mark.parametrize(
    "text", ["ada:", "ada:x", "ada:nan", "ada:inf", "ada:-inf", "ada:0", "ada:-0.0", ":0.5", "ada:1000", "ada:1e400"]
)
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        weighted(text)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "average"},
        {"density": 0.0},
        {"density": 1.5},
        {"density": float("nan")},
        {"majority": "most"},
        {"seed": -1},
        {"name": "../x"},
    ],
)
def test_orders_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        order_of(["ada"], **({"name": "both", "method": "ties"} | options))
    assert caught.value.hint


def refused(parts: MergeParts, kind: type[DnaError], *given: str, **options: Any) -> DnaError:
    with pytest.raises(kind) as caught:
        merge(parts, *given, **options)
    assert caught.value.hint
    assert all(m.name != "both" for m in parts.registry.manifests())
    return caught.value


def test_parents_that_are_not_there_or_not_to_be_used(two: MergeParts, fingerprint: str) -> None:
    refused(two, BlockNotFound, "ada", "nobody")
    bad = add_block(two, "bad", 4, fingerprint=fingerprint, gate=GateVerdict(status="rejected", reasons=("no gain",)))
    refused(two, BlockRejected, "ada", bad.id[:12])
    refused(two, InputError, "ada:0.5", "ada@1.0.0:0.5")
    two.registry.revoke(two.registry.resolve("bob").id)
    refused(two, BlockRevoked, "ada", "bob")


def test_another_base(two: MergeParts) -> None:
    add_block(two, "other", 3, fingerprint="e" * 64)
    error = refused(two, WrongBase, "ada", "other")
    assert "other@1.0.0" in error.message
    two_of_other = add_block(two, "other-two", 4, fingerprint="e" * 64)
    refused(two, WrongBase, "other", two_of_other.id)  # the engine that is to check it holds another base
    assert merge(two, "other", "other-two", check=False).block.status == "registered"


def test_other_weights_of_the_same_shape(parts: MergeParts, fingerprint: str) -> None:
    for name, seed, weights in (("ada", 1, "1" * 64), ("bob", 2, "2" * 64), ("cat", 3, None)):
        add_block(parts, name, seed, fingerprint=fingerprint, base_weights_digest=weights)
    error = refused(parts, WrongBase, "cat", "ada", "bob")
    assert "1" * 12 in error.message
    assert "2" * 12 in error.message
    merge(parts, "cat", "bob")
    assert parts.registry.resolve("both").base_weights_digest == "2" * 64


def test_a_consent_that_does_not_hold(parts: MergeParts, fingerprint: str) -> None:
    mine = parts.consents.grant_self(ADA, (ADA,), REPOSITORY.url)
    add_block(parts, "ada", 1, fingerprint=fingerprint, consent=mine.model_copy(update={"subject": "Somebody Else"}))
    add_block(parts, "bob", 2, fingerprint=fingerprint, person=BOB)
    refused(parts, ConsentMissing, "ada", "bob")


def test_the_name_of_a_minted_block_is_not_taken(two: MergeParts) -> None:
    error = refused(two, InputError, "ada", "bob", name="ada")
    assert error.hint
    assert two.registry.resolve("ada").version == "1.0.0"


def test_a_parent_whose_files_were_changed(two: MergeParts) -> None:
    path = two.store.path(two.registry.resolve("ada").id) / "eval.json"
    path.chmod(0o600)
    path.write_text(json.dumps({"measures": {"nll.delta": 9}}))
    refused(two, DnaError, "ada", "bob")
