"""The page loads nothing, runs nothing, and shows third-party text as text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clonedna.app.comparison_drawings import forest, heat, scatter
from clonedna.app.comparison_page import inert, page, write_page
from clonedna.core.block import not_available
from clonedna.core.comparison import Comparison
from clonedna.core.errors import InputError
from tests.comparisons import HOSTILE, comparison, measure

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Every tag with its attributes, the text, the style sheet; and whether all that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style, self._open = "", "", list[str]()
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def found() -> Comparison:
    return comparison(name="ada")


@pytest.fixture(scope="module")
def shown(found: Comparison) -> Page:
    return Page(page(found))


def test_it_is_well_formed(shown: Page) -> None:
    assert shown.unbalanced == []
    assert {"h1", "svg", "table", "details", "pre"} <= {tag for tag, _ in shown.tags}


def test_it_runs_nothing_and_loads_nothing(shown: Page) -> None:
    names = {tag for tag, _ in shown.tags}
    assert not names & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "a",
        "video",
        "audio",
        "use",
        "image",
    }
    for _, attributes in shown.tags:
        assert not [
            name
            for name in attributes
            if name.startswith("on") or name in ("src", "href", "xlink:href", "style", "action")
        ]
    assert not re.search(r"url\(|@import|expression\(", shown.style)
    assert "://" not in shown.style


def test_the_policy_allows_its_own_style_sheet_and_nothing_else(shown: Page) -> None:
    (policy,) = [a["content"] or "" for tag, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(shown.style.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "unsafe" not in policy
    head = [tag for tag, _ in shown.tags]
    assert head.index("meta") < head.index("style")


def test_hostile_text_stays_text(shown: Page) -> None:
    said = inert(HOSTILE)
    assert "<script>alert('x')</script> {{ 7 * 7 }} {% raw %}" in said
    assert shown.text.count(said) >= 4 * 4  # prompt, three answers, references, person, note
    assert "49" not in re.findall(r"\b49\b", shown.text)
    assert "\u202e" not in shown.text
    assert "\x1b" not in shown.text


def test_every_name_may_be_hostile() -> None:
    plain = Page(page(comparison(name="ada", person="Ada", text="plain")))
    hostile = Page(page(comparison(name=HOSTILE, person=HOSTILE, text=HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]


def test_what_is_not_available_is_no_zero(found: Comparison) -> None:
    gone = {name: not_available("nothing to measure") for name in found.measures}
    bare = found.model_copy(update={"weights": None, "measures": gone, "spans": (), "answers": (), "probe": None})
    shown = Page(page(bare))
    assert shown.unbalanced == []
    assert "svg" not in {tag for tag, _ in shown.tags}
    assert shown.text.count("nothing to measure") >= 4
    assert "0.00" not in shown.text


@pytest.mark.parametrize(
    "changes",
    [
        {"same_base": False, "weights": None, "unit": "bits a byte"},
        {"same_block": True},
        {"answers": ()},
        {"spans": ()},
        {"notes": ()},
    ],
)
def test_every_kind_of_comparison_is_a_page(found: Comparison, changes: dict[str, object]) -> None:
    assert Page(page(found.model_copy(update=changes))).unbalanced == []


def test_deep_bases_have_cells_without_figures(found: Comparison) -> None:
    deep = comparison(layers=40, text="plain")
    assert deep.weights is not None
    drawn = heat(deep.weights.modules, {m.module: m.cosine for m in deep.weights.modules})
    assert len(drawn["cells"]) == 280
    assert not [cell for cell in drawn["cells"] if cell["text"]]
    assert drawn["width"] < 900


def test_marks_stand_on_their_scale(found: Comparison) -> None:
    points = scatter(found.spans)
    assert points is not None
    assert len(points["points"]) == len(found.spans)
    for point in points["points"]:
        assert points["left"] <= point["x"] <= points["left"] + points["room"]
        assert points["top"] <= point["y"] <= points["top"] + points["room"]
    drawn = forest([("one", [("a", measure(0.5)), ("b", measure(-0.5)), ("base", not_available("no"))])])
    assert drawn is not None
    first, second = drawn["rows"][0]["marks"]
    assert second["low"] < second["x"] < drawn["zero"] < first["x"] < first["high"]
    assert forest([("one", [("a", not_available("no"))])]) is None
    assert scatter(()) is None


def test_it_is_written_whole_or_refused(found: Comparison, tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "report.html", found)
    assert (tmp_path / "new" / "report.html").read_text("utf-8") == page(found)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        write_page(tmp_path / "file" / "report.html", found)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
