"""The documents keep up with the code: every manifest field, error, room and seam is written down, and every link leads somewhere."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from clonedna.core import errors, fakes, seams
from clonedna.core.block import Manifest
from clonedna.store.blocks import LIMITS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def rows(name: str) -> tuple[tuple[str, ...], ...]:
    """All table rows of a document, as cells without back-ticks around them."""
    lines = (DOCS / name).read_text("utf-8").splitlines()
    return tuple(tuple(c.strip().strip("`") for c in line.strip("|").split("|")) for line in lines if line[:1] == "|")


def first_cells(name: str) -> set[str]:
    return {row[0] for row in rows(name)}


def pages() -> list[Path]:
    found = [
        *ROOT.glob("*.md"),
        *(page for folder in ("docs", "clonedna", "tests", "tools", "bench") for page in (ROOT / folder).rglob("*.md")),
    ]
    return sorted(found)


def prose(page: Path) -> str:
    """The page without fenced code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def error_tree(kind: type[errors.DnaError]) -> list[type[errors.DnaError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in error_tree(child))]


# Only those of the tree itself: another test's own subclass is no part of it.
ERRORS = [kind for kind in error_tree(errors.DnaError) if kind.__module__ == errors.__name__]
ROOMS = sorted(p.name for p in (ROOT / "clonedna").iterdir() if p.is_dir() and p.name != "__pycache__")
SEAMS = {
    node.name: {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.parse(Path(seams.__file__).read_text("utf-8")).body
    if isinstance(node, ast.ClassDef)
}


def test_every_manifest_field_has_a_row() -> None:
    assert set(Manifest.model_fields) <= first_cells("block-format.md")


def test_every_field_of_the_summary_is_named() -> None:
    (row,) = [row for row in rows("block-format.md") if row[0] == "eval_summary"]
    fields = Manifest.model_fields["eval_summary"].annotation.model_fields  # type: ignore[union-attr]
    assert set(fields) <= set(re.findall(r"`?(\w+)`?", row[1]))


def test_every_file_of_a_block_has_a_row_with_its_limit() -> None:
    listed = {row[0]: row[1] for row in rows("block-format.md") if row[1].endswith(" MB")}
    assert listed == {name: f"{limit // 1_000_000} MB" for name, limit in LIMITS.items()}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_with_its_statuses(kind: type[errors.DnaError]) -> None:
    (row,) = [row for row in rows("errors.md") if row[1:2] == (kind.__name__,)]
    assert row[:4] == (kind.code, kind.__name__, str(kind.exit_code), str(kind.http_status))
    assert row[4]
    assert row[5]


def test_no_error_is_documented_that_does_not_exist() -> None:
    documented = {row[1] for row in rows("errors.md")} - {"Class", "---"}
    assert documented == {kind.__name__ for kind in ERRORS}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_row(room: str) -> None:
    assert f"{room}/" in first_cells("architecture.md")


def test_no_room_is_documented_that_does_not_exist() -> None:
    documented = {row[0].rstrip("/") for row in rows("architecture.md") if row[0].endswith("/")}
    assert documented == set(ROOMS)


def test_there_are_seams() -> None:
    assert {"Engine", "Source", "Store"} <= set(SEAMS)


@pytest.mark.parametrize("seam", sorted(SEAMS))
def test_every_seam_has_a_row_with_its_methods_and_fake(seam: str) -> None:
    (row,) = [row for row in rows("architecture.md") if row[0] == seam and len(row) == 5]
    assert set(row[1].split(", ")) == SEAMS[seam]
    assert hasattr(fakes, row[3])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(prose(page)) if not re.match(r"[a-z][a-z+.-]*:|#", target)]
    missing = [target for target in targets if not (page.parent / unquote(target.partition("#")[0])).exists()]
    assert not missing


def test_there_are_links_to_check() -> None:
    assert sum(len(LINK.findall(prose(page))) for page in pages()) > 10
