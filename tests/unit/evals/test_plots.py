"""Bars and marks: what is drawn, that it is the same twice, and that a name is no markup."""

from __future__ import annotations

import pytest

from clonedna.evals.plots import MOST_BARS, Bar, Panel, bars, planes

FOUND = (Bar("<b>$x$</b> one", 0.5, (0.2, 0.7), 0.8, (0.4, 0.6)), Bar("two", -0.3), Bar("nothing", None))
PANEL = Panel({"right": [(0.1, 0.9)], "wrong": [(0.2, 0.1), (0.3, 0.2)]}, "predicted", "measured", line=True)


@pytest.mark.parametrize("dark", [False, True])
def test_the_same_figures_give_the_same_bytes(dark: bool) -> None:
    first, second = (bars(FOUND, title="Bars", note="a note", unit="share", dark=dark) for _ in range(2))
    assert first == second
    assert first.png.startswith(b"\x89PNG")
    assert b"<b>" not in first.svg
    drawn = planes([PANEL, Panel({"pair": [(1.0, 2.0)]}, "phi", "damage")], title="Marks", dark=dark)
    assert drawn == planes([PANEL, Panel({"pair": [(1.0, 2.0)]}, "phi", "damage")], title="Marks", dark=dark)


def test_what_differs_is_drawn_differently() -> None:
    assert bars(FOUND[:1], title="Bars") != bars([FOUND[0]._replace(value=0.6)], title="Bars")
    assert planes([PANEL], title="Marks") != planes([PANEL._replace(line=False)], title="Marks")


def test_too_few_and_too_many_are_refused() -> None:
    for wrong in ((), FOUND[:1] * (MOST_BARS + 1)):
        with pytest.raises(ValueError, match="bars"):
            bars(wrong, title="Bars")
    with pytest.raises(ValueError, match="panels"):
        planes([], title="Marks")
    with pytest.raises(ValueError, match="marks"):
        planes([Panel({"many": [(0.0, 0.0)] * 4001}, "x", "y")], title="Marks")
