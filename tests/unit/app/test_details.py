"""One block's papers by themselves: files with who may have them, card, verdict, measures, kin; and what is wrong with a signed paper."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.comparing import Comparing
from clonedna.app.details import WORK, Details
from clonedna.app.lineage import MOST_BLOCKS, Lineages, in_words, mermaid
from clonedna.app.revoking import Revoking
from clonedna.core.block import Lineage
from clonedna.core.canonical import canonical
from clonedna.core.errors import (
    BlockCorrupt,
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    NotFound,
    Overloaded,
    Refused,
    TooLarge,
)
from tests.developers import World, world
from tests.merges import add_block as add_adapter
from tests.serving import ServerParts, add_block
from tests.unit.store.making import contents, rejected, write_block
from tests.values import ADA, REPOSITORY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[World]:
    with world(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path / "home")


def checks(details: Details, name: str) -> dict[str, bool]:
    return {one.name: one.holds for one in details.verify(name).checks}


def test_the_table_is_the_manifests_and_says_what_is_open(here: World) -> None:
    parts = here.parts()
    shared = here.block(parts, "shared", here.consent(parts, ["mint", "serve", "share"]))
    here.block(parts, "closed")
    details = Details(parts)
    table = details.files("shared")
    assert {one.path: (one.sha256, one.size) for one in table.files} == {
        name: (entry.sha256, entry.size) for name, entry in shared.files.items()
    }
    assert (all(one.open for one in table.files), table.closed) == (True, "")
    closed = details.files("closed")
    assert {one.path for one in closed.files if not one.open} == WORK
    assert "local-only" in closed.closed


@pytest.mark.parametrize("name", sorted(WORK))
def test_the_persons_work_goes_only_where_consent_covers_sharing(name: str, here: World) -> None:
    parts = here.parts()
    here.block(parts, "hers", here.consent(parts, ["mint", "serve"], "bob-example"), "bob-example")
    here.block(parts, "shared", here.consent(parts, ["mint", "serve", "share"]))
    here.block(parts, "closed")
    details = Details(parts)
    assert details.file("shared", name, who="key").at.is_file()
    with pytest.raises(Refused, match="work") as caught:
        details.file("hers", name, who="key")
    assert caught.value.facts["why"] == "consent_invalid"
    assert details.file("hers", name, who="key", everything=True).at.is_file()
    for everything in (False, True):
        with pytest.raises(Refused, match="local-only"):
            details.file("closed", name, who="key", everything=everything)
    assert details.file("closed", "README.md", who="key").media.startswith("text/markdown")


@pytest.mark.parametrize(
    "name", ["manifest.json", "nothing", "", "../ada", "/etc/passwd", "README.md/.", "adapter_config.json\0"]
)
def test_only_names_of_the_table_are_files(name: str, parts: ServerParts) -> None:
    add_block(parts, "ada")
    with pytest.raises(NotFound, match="no file"):
        Details(parts).file("ada", name, who="key", everything=True)


def test_a_rejected_block_is_found_by_its_id_and_gives_no_work(parts: ServerParts) -> None:
    bad = add_block(parts, "bad", gate=rejected("no gain"))
    details = Details(parts)
    with pytest.raises(BlockRejected):
        details.files("bad")
    assert details.files(bad.id).block.status == "rejected"
    with pytest.raises(Refused):
        details.file(bad.id, "pairs.jsonl", who="key")
    assert checks(details, bad.id) == {
        "files": True, "signature": True, "id": True, "digests": True, "adapter": True, "revocation": True, "gate": False, "serve": False,
        "share": False,
    }  # fmt: skip


def test_a_verdict_says_what_a_block_may_be_used_for(here: World) -> None:
    parts = here.parts()
    consent = here.consent(parts, ["mint", "serve"])
    here.block(parts, "hers", consent)
    found = Details(parts).verify("hers")
    assert (found.verified, found.files, found.signed_by) == (True, 8, parts.signer.key_id)
    assert {one.name for one in found.checks if not one.holds} == {"share"}
    assert next(one for one in found.checks if one.name == "share").code == "consent_invalid"
    here.later(days=400)
    assert not checks(Details(parts), "hers")["serve"]


def test_a_file_that_was_changed_has_no_verdict(parts: ServerParts) -> None:
    made = add_block(parts, "ada")
    path = parts.store.path(made.id) / "README.md"
    path.chmod(0o644)
    path.write_bytes(b"# Eve\n")
    with pytest.raises(BlockCorrupt, match=r"README\.md"):
        Details(parts).verify("ada")


def test_a_directory_has_a_verdict_too(parts: ServerParts, tmp_path: Path) -> None:
    made = add_block(parts, "ada")
    folder = parts.settings.home / "work" / "ada-1.0.0" / "block"
    found = Details(parts).verify_directory(folder)
    assert (found.id, found.name) == (made.id, "ada")
    Revoking(parts).block("ada")
    with pytest.raises(BlockRevoked):
        Details(parts).verify_directory(folder)


@pytest.mark.parametrize("name", ["consent.json", "eval.json", "pairs.jsonl"])
def test_a_signed_paper_that_is_none_is_an_error_of_the_block(name: str, parts: ServerParts, tmp_path: Path) -> None:
    files = contents() | {"pairs.jsonl": b"", name: b'{"what": [1]}'}
    made = write_block(tmp_path / "odd", parts.signer, files, name="odd")
    parts.store.put(tmp_path / "odd")
    parts.registry.publish(made)
    with pytest.raises(BlockCorrupt) as caught:
        (Blocks(parts).pairs if name == "pairs.jsonl" else Blocks(parts).show)("odd")
    assert caught.value.facts["file"] == name


def test_card_and_measures(parts: ServerParts) -> None:
    add_block(parts, "ada")
    details = Details(parts)
    assert details.card("ada").text.startswith("# Ada\n")
    measured = details.measured("ada")
    assert (measured.again, measured.evaluation.measures) == ((), {})
    with pytest.raises(BlockNotFound):
        details.card("nobody")


def test_a_difference_names_no_files_of_who_did_not_share(here: World) -> None:
    parts = here.parts()
    here.block(parts, "closed")
    here.block(parts, "other")
    details = Details(parts)
    assert details.diff("closed", "other").files == ()
    assert details.diff("closed", "other", everything=True).files_left_out == 0


# Kin.


def line(parts: ServerParts, name: str, *parents: str, relation: str = "continued", **changes: Any) -> str:
    return add_block(
        parts, name, lineage=Lineage.model_validate({"parents": parents, "relation": relation}), **changes
    ).id


def test_kin_over_any_number_of_steps(parts: ServerParts) -> None:
    gone = "f" * 64
    first = line(parts, "first", gone)
    second = line(parts, "second", first)
    other = line(parts, "other", relation="minted")
    merged = line(parts, "merged", second, other, relation="merged")
    last = line(parts, "last", merged, gate=rejected())
    graph = Lineages(parts).of("second")
    assert {(one.id, one.step, one.status) for one in graph.blocks} == {
        (gone, -2, "not_here"), (first, -1, "registered"), (second, 0, "registered"), (merged, 1, "registered"), (last, 2, "rejected"),
    }  # fmt: skip
    assert {(edge.parent, edge.child, edge.relation) for edge in graph.edges} == {
        (gone, first, "continued"), (first, second, "continued"), (second, merged, "merged"), (merged, last, "continued"),
    }  # fmt: skip
    assert graph.left_out == 0
    assert in_words(graph) == f"continued from first@1.0.0 ({first[:12]}); merged into merged@1.0.0 ({merged[:12]})"
    drawn = mermaid(graph)
    assert drawn.startswith("flowchart TD\n")
    assert f'b{second[:16]} -->|"merged"| b{merged[:16]}' in drawn
    assert '(rejected)"]' in drawn


def test_a_revoked_child_stays_in_the_graph(parts: ServerParts) -> None:
    first = line(parts, "first", relation="minted")
    second = line(parts, "second", first)
    Revoking(parts).block("second")
    graph = Lineages(parts).of("first")
    assert [(one.id, one.name, one.status) for one in graph.blocks] == [
        (first, "first", "registered"),
        (second, "second", "revoked"),
    ]
    assert in_words(graph).endswith(", revoked")
    with pytest.raises(BlockRevoked):
        Lineages(parts).of("second")


def test_a_graph_has_a_bound(parts: ServerParts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_BLOCKS == 300
    monkeypatch.setattr("clonedna.app.lineage.MOST_BLOCKS", 3)
    first = line(parts, "first", relation="minted")
    for i in range(4):
        line(parts, f"child-{i}", first)
    graph = Lineages(parts).of("first")
    assert (len(graph.blocks), len(graph.edges), graph.left_out) == (3, 2, 2)


# The quick comparison.


def test_few_quick_comparisons_run_at_once_and_only_small_ones(
    parts: ServerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparing = Comparing(parts)
    add_block(parts, "ada")
    monkeypatch.setattr("clonedna.app.comparing.MOST_QUICK_BYTES", 10)
    with pytest.raises(TooLarge, match="bytes"):
        anyio.run(comparing.weights, "ada", "ada")
    monkeypatch.setattr("clonedna.app.comparing.AT_ONCE", 0)
    with pytest.raises(Overloaded):
        anyio.run(comparing.weights, "ada", "ada")


def test_a_self_asserted_block_is_no_bodys_to_share(parts: ServerParts) -> None:
    own = canonical(parts.consents.grant_self(ADA, [ADA], REPOSITORY.url))
    add_adapter(parts, "own", 1, fingerprint="f" * 64, files={"consent.json": own}, consent_mode="self")
    assert "self" in Details(parts).files("own").closed
