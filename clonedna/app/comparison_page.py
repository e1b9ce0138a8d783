"""A comparison as one page: a single HTML file that loads nothing, runs nothing and is read on a phone, on paper, in light and in dark.

Names, prompts and answers are third-party text: jinja2 escapes every one, control and direction characters are shown as what they are,
and a content security policy forbids everything but the page's own style sheet (by its hash). Pictures are inline SVG, placed here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clonedna import __version__
from clonedna.app.comparison_drawings import forest, heat, scatter
from clonedna.app.workspace import write_atomic
from clonedna.core.block import Measure
from clonedna.core.comparison import Comparison, WeightSimilarity
from clonedna.core.errors import InputError

TEMPLATE = "comparison.html.j2"
PARTS = (("a", "on_a"), ("b", "on_b"), ("general", "general"))
OPEN_ANSWERS = 2


def write_page(path: Path, found: Comparison) -> None:
    """Write the page, whole or not at all. Raises ``InputError`` when it cannot be written there, ``NoSpace``."""
    data = page(found).encode()
    try:
        write_atomic(path, data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "give another file with --html") from error


def page(found: Comparison) -> str:
    """The page as text."""
    return _template().render(
        c=found, version=__version__, css=_css(), policy=_policy(), cards=_cards(found), heats=_heats(found.weights),
        points=scatter(found.spans), gains=forest(_gains(found)), styles=forest(_styles(found), low=0.0),
        open_answers=OPEN_ANSWERS,
    )  # fmt: skip


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("clonedna.app", "templates"), undefined=StrictUndefined, autoescape=True, finalize=inert,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"measure": show_measure, "number": show_number}
    return environment.get_template(TEMPLATE)


@cache
def _css() -> Markup:
    return Markup(files("clonedna.app").joinpath("templates/comparison.css").read_text("utf-8"))  # noqa: S704 - our own file


@cache
def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_css().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def inert(value: Any) -> Any:
    """Text without characters that move, hide or turn what stands around them; everything else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)


def show_number(value: float | None, form: str = ".3f") -> str:
    """A number with a true minus sign; a dash for none."""
    return "–" if value is None else format(value, form).replace("-", "\N{MINUS SIGN}")


def show_measure(measure: Measure, form: str = ".3f") -> str:
    """Value and interval, or a dash."""
    if measure.value is None:
        return "–"
    ends = f" [{show_number(measure.ci95[0], form)}, {show_number(measure.ci95[1], form)}]" if measure.ci95 else ""
    return show_number(measure.value, form) + ends


def _cards(found: Comparison) -> list[dict[str, Any]]:
    """The headlines: a label, a measure, how it is written, and what it means in a sentence."""
    measures = found.measures
    cards = [
        ("Weights", "weights.cosine", "+.3f", "cosine of both updates: 1 the same direction, 0 unrelated"),
        ("Angle", "weights.angle.columns", ".1f", _chance(found.weights)),
        ("Behaviour", "behaviour.spearman", "+.2f", "rank correlation of the gains on the same spans"),
        ("Style", "style.answers", ".2f", "distance between both blocks' answers; 1 is about that between two people"),
    ]
    return [
        {
            "label": label, "value": show_number(measures[name].value, form),
            "interval": show_measure(measures[name], form).partition(" ")[2],
            "unit": "°" if "angle" in name and measures[name].value is not None else "", "says": says,
            "why": measures[name].how if measures[name].value is None else "",
        }
        for label, name, form, says in cards
        if name in measures
    ]  # fmt: skip


def _chance(weights: WeightSimilarity | None) -> str:
    columns = weights.whole.columns if weights else None
    if columns is None:
        return "mean angle between what both write"
    return f"mean angle between what both write; they share {columns.overlap:.0%}, chance gives {columns.by_chance:.0%}"


def _heats(weights: WeightSimilarity | None) -> list[dict[str, Any]]:
    """Matrix kinds down, layers across: the cosine, and how much of the column spaces is shared beyond chance."""
    if weights is None:
        return []
    shared = {
        one.module: (one.columns.overlap - one.columns.by_chance) / (1 - one.columns.by_chance)
        if one.columns and one.columns.by_chance < 1
        else None
        for one in weights.modules
    }
    cosines = {one.module: one.cosine for one in weights.modules}
    return [
        {"title": "Cosine", "says": "blue: the same way, orange: against each other", **heat(weights.modules, cosines)},
        {
            "title": "Shared directions", "says": "what is written: 0 as strangers share by chance, 1 all",
            **heat(weights.modules, shared),
        },
    ]  # fmt: skip


def _gains(found: Comparison) -> list[tuple[str, list[tuple[str, Measure]]]]:
    words = {"a": f"{found.a.name}’s hold-out", "b": f"{found.b.name}’s hold-out", "general": "general set"}
    return [
        (words[part], [(which, found.measures[f"gain.{which}.{where}"]) for which in ("a", "b")])
        for part, where in PARTS
        if f"gain.a.{where}" in found.measures
    ]


def _styles(found: Comparison) -> list[tuple[str, list[tuple[str, Measure]]]]:
    people = (("person_a", found.a.person), ("person_b", found.b.person))
    rows: list[tuple[str, list[tuple[str, Measure]]]] = []
    for key, name in people:
        sides: Sequence[str] = [
            side for side in ("a", "b", "base", "base_b") if f"style.{side}.{key}" in found.measures
        ]
        if sides:
            rows.append((f"from {name}", [(side, found.measures[f"style.{side}.{key}"]) for side in sides]))
    return rows
