"""Bars with intervals, and marks in a plane, over the theme of ``pictures``: names are data, what has no value is not drawn as zero."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from clonedna.evals.pictures import Picture, Theme, drawing, label

MOST_BARS, MOST_MARKS = 40, 4000


class Bar(NamedTuple):
    """A value, its interval where it has one, a line that it should reach where there is one, and single values beside it."""

    name: str
    value: float | None
    ends: tuple[float, float] | None = None
    aim: float | None = None
    marks: tuple[float, ...] = ()


class Panel(NamedTuple):
    """Marks by group, each ``(x, y)``, under one pair of axes. ``line``: y = x is drawn."""

    groups: dict[str, Sequence[tuple[float, float]]]
    x: str
    y: str
    line: bool = False


def bars(found: Sequence[Bar], *, title: str, note: str = "", unit: str = "", dark: bool = False) -> Picture:
    """Horizontal bars, one under the other, in the order that they come in. Raises ``ValueError`` for none or more than 40."""
    if not 0 < len(found) <= MOST_BARS:
        raise ValueError(f"{len(found)} bars; from 1 to {MOST_BARS} can be drawn")
    with drawing(dark=dark) as theme:
        figure = theme.figure(7.2, 1.0 + 0.3 * len(found))
        axes = figure.add_subplot()
        for at, one in enumerate(found):
            if one.value is None:
                axes.text(0.0, at, " not available", va="center", color=theme.soft, fontsize=8.5)
                continue
            axes.barh(at, one.value, height=0.62, color=theme.series[0], alpha=0.85)
            if one.ends is not None:
                axes.plot(one.ends, (at, at), color=theme.ink, linewidth=1.2)
            if one.marks:
                axes.plot(one.marks, [at] * len(one.marks), "o", color=theme.series[1], markersize=3.5)
            if one.aim is not None:
                axes.plot((one.aim, one.aim), (at - 0.42, at + 0.42), color=theme.series[1], linewidth=2.2)
        axes.set_yticks(range(len(found)), [label(one.name, 40) for one in found], color=theme.ink)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.axvline(0.0, color=theme.line, linewidth=0.8)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(label(unit, 80))
        figure.tight_layout()
        return _finished(theme, figure, title, note)


def planes(panels: Sequence[Panel], *, title: str, note: str = "", dark: bool = False) -> Picture:
    """One to three panels beside each other. Raises ``ValueError`` for another number, or too many marks."""
    if not 1 <= len(panels) <= 3:
        raise ValueError(f"{len(panels)} panels; from 1 to 3 can be drawn")
    if sum(len(marks) for one in panels for marks in one.groups.values()) > MOST_MARKS:
        raise ValueError(f"more than {MOST_MARKS} marks")
    with drawing(dark=dark) as theme:
        figure = theme.figure(4.6 * len(panels), 4.2)
        for number, one in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), number)
            for colour, (name, marks) in enumerate(one.groups.items()):
                kind = "o^sDv"[colour % 5]
                axes.plot(
                    [x for x, _ in marks], [y for _, y in marks], kind, color=theme.series[colour % len(theme.series)],
                    markersize=5, alpha=0.75, label=label(name),
                )  # fmt: skip
            if one.line:
                axes.plot((0, 1), (0, 1), color=theme.soft, linewidth=1.0, linestyle="--")
            axes.grid()
            axes.set_axisbelow(True)
            axes.set_xlabel(label(one.x, 60))
            axes.set_ylabel(label(one.y, 60))
            if len(one.groups) > 1:
                axes.legend(loc="best", fontsize=8)
        figure.tight_layout()
        return _finished(theme, figure, title, note)


def _finished(theme: Theme, figure: object, title: str, note: str) -> Picture:
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    figure.text(0.02, 1.0, label(title, 90), fontsize=12, fontweight="bold", va="bottom")
    figure.text(0.02, -0.02, textwrap.fill(label(note, 400), 95), fontsize=8.5, va="top", color=theme.soft)
    return theme.finish(figure)
