"""Pictures: the same bytes each time, names as data, the right cells marked."""

from __future__ import annotations

import math
import struct

import pytest
from defusedxml.ElementTree import fromstring

from clonedna.evals import pictures
from clonedna.evals.pictures import DARK, LIGHT, drawable, drawing, heat_map, label

MATRIX = ((0.2, -0.05, 0.01), (0.0, 0.11, -0.3), (-0.02, 0.02, math.nan))
NAMES = ("Ada $x^2$ Example", "<b>Bo</b> & -->", "山田 太郎")


def picture(dark: bool = False) -> pictures.Picture:
    return heat_map(
        MATRIX, NAMES, NAMES, title="Whose $style$ is it?", note="a note\nin two lines", dark=dark, unit="nats"
    )


def test_the_same_figures_give_the_same_bytes_and_hold_no_date() -> None:
    first, second = picture(), picture()
    assert first == second
    assert b"date" not in first.svg.lower()
    assert b"matplotlib.org" not in first.svg
    assert b"Software" not in first.png
    assert picture(dark=True).svg != first.svg


def test_both_formats_are_whole_and_as_large_as_they_say() -> None:
    made = picture()
    width, height = struct.unpack(">II", made.png[16:24])
    assert made.png.startswith(b"\x89PNG")
    assert made.png.endswith(b"IEND\xaeB`\x82")
    assert 300 < width < 2000
    assert 300 < height < 2000
    assert fromstring(made.svg).tag.endswith("svg")


def test_a_name_is_neither_mathematics_nor_markup() -> None:
    svg = picture().svg.decode()
    root = fromstring(svg)  # a name that ends a comment or opens a tag would break it, or add one
    assert not [one for one in root.iter() if isinstance(one.tag, str) and one.tag.endswith("}b")]
    assert "$x^2$" in svg  # drawn letter by letter, as it was written
    assert not [one for one in root.iter() if isinstance(one.tag, str) and one.tag.endswith("}text")]


def test_a_label_is_one_short_line_and_boxes_stand_for_what_has_no_glyph() -> None:
    assert label("Ada\n\x1b[31mExample\u202e") == "Ada [31mExample"
    assert label("山田 ada") == "□□ ada"
    assert drawable("Żółć Δημήτρης Ада")
    assert not drawable("山田")
    long = label("a-very-long-name-that-never-seems-to-end@10.0.12", 20)
    assert len(long) == 20
    assert long.startswith("a-very")
    assert long.endswith("@10.0.12"[-5:])


def test_the_highest_of_a_column_is_marked_and_a_tie_is_not() -> None:
    import numpy as np

    values = np.array([[1.0, 2.0, math.nan], [0.5, 2.0, 3.0], [0.0, 1.0, math.nan]])
    assert pictures._best(values) == {(0, 0)}  # pyright: ignore[reportPrivateUsage]


def test_one_outlier_does_not_bleach_the_rest_and_own_cells_are_within_the_scale() -> None:
    import numpy as np

    values = np.full((8, 8), 0.01)
    values[3, 4] = -50.0
    limit = pictures._limit(values, {(i, i) for i in range(8)})  # pyright: ignore[reportPrivateUsage]
    assert limit == pytest.approx(0.01)
    values[2, 2] = 0.4
    assert pictures._limit(values, {(2, 2)}) == 0.4  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("size", [1, 13])
def test_any_size_is_drawn_also_without_a_figure(size: int) -> None:
    names = [f"name {i}" for i in range(size)]
    empty = heat_map([[math.nan] * size] * size, names, names, title="", own=())
    assert empty.png.startswith(b"\x89PNG")


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="for 2 rows and 1 columns"):
        heat_map([[1.0, 2.0], [3.0, 4.0]], ["a", "b"], ["a"], title="")
    with pytest.raises(ValueError, match="for 0 rows"):
        heat_map([], [], [], title="")


def test_figures_in_cells_are_signed_and_a_zero_is_no_minus_zero() -> None:
    number = pictures._number  # pyright: ignore[reportPrivateUsage]
    assert (number(-0.123, 0.5), number(0.06, 0.5), number(-0.001, 0.5)) == ("−0.12", "+0.06", "0.00")
    assert number(-0.001, 0.05) == "−0.001"


def test_figures_stand_out_on_every_colour_of_the_scale() -> None:
    for theme in (LIGHT, DARK):
        for step in range(11):
            colour = theme.diverging(step / 10)
            light = pictures._luminance(colour)  # pyright: ignore[reportPrivateUsage]
            ink = 0.0 if theme.on(colour) == "#000000" else 1.0
            high, low = max(light, ink), min(light, ink)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, level AA


def test_only_the_bundled_font_is_used_whatever_the_machine_has() -> None:
    import matplotlib as mpl
    from matplotlib.font_manager import findfont

    with drawing():
        assert findfont(pictures.FONT).startswith(mpl.get_data_path())
