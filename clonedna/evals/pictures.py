"""Pictures of figures: one small theme, light and dark, over matplotlib (loaded only here, only when something is drawn).

The same figures give the same bytes: no dates, no random ids, no library's name, letters as outlines of the one font that matplotlib
brings. Text is data: nothing in a name is mathematics or markup, and what the font cannot draw shows as a box. No window is opened, no
state of pyplot is touched; one picture is drawn at a time.
"""

from __future__ import annotations

import io
import math
import textwrap
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
DPI = 160
LABEL_CHARACTERS = 26
NUMBERS_UP_TO = 12  # rows or columns: beyond it the cells are too small to read
NO_GLYPH = "\N{WHITE SQUARE}"
_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings belong to the process


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture in both formats."""

    svg: bytes
    png: bytes


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as ``#rrggbb``. ``low``, ``middle``, ``high``: below, at and above zero; ``series``: lines and bars, in their order.

    Orange against blue, and the order of the series, stay apart for the common colour blindnesses (Okabe & Ito 2008) and in grey.
    """

    paper: str
    ink: str
    soft: str
    line: str
    low: str
    middle: str
    high: str
    series: tuple[str, ...]

    def figure(self, width: float, height: float) -> Figure:
        """An empty figure of ``width`` x ``height`` inches, without pyplot."""
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), facecolor=self.paper, dpi=DPI)

    def finish(self, figure: Figure) -> Picture:
        """The figure as bytes, cut to what was drawn."""
        nothing: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        return Picture(svg=self._saved(figure, "svg", nothing), png=self.png(figure))

    def png(self, figure: Figure) -> bytes:
        """The same as pixels alone."""
        return self._saved(figure, "png", {"Software": None})

    def _saved(self, figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
        made = io.BytesIO()
        figure.savefig(made, format=form, metadata=metadata, bbox_inches="tight", pad_inches=0.2, facecolor=self.paper)
        return made.getvalue()

    @property
    def diverging(self) -> LinearSegmentedColormap:
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("diverging", [self.low, self.middle, self.high], N=512)

    def on(self, colour: Sequence[float]) -> str:
        """Black or white: what stands out more on ``colour`` (contrast ratio of WCAG 2.2)."""
        light = _luminance(colour)
        return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


LIGHT = Theme(
    paper="#ffffff", ink="#1b1f24", soft="#59636e", line="#d1d9e0", low="#b45309", middle="#f4f5f7", high="#0b5cad",
    series=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"),
)  # fmt: skip
DARK = Theme(
    paper="#0d1117", ink="#e6edf3", soft="#9198a1", line="#3d444d", low="#e58e26", middle="#1c2128", high="#58a6ff",
    series=("#56b4e9", "#e69f00", "#2bb58c", "#cc79a7", "#3d8fd1", "#f0e442"),
)  # fmt: skip


@contextmanager
def drawing(*, dark: bool = False) -> Generator[Theme]:
    """The theme, with matplotlib set to it until the end; others who draw wait. Draw and ``finish`` inside."""
    import matplotlib as mpl

    theme = DARK if dark else LIGHT
    with _ONE_AT_A_TIME, mpl.rc_context():
        mpl.rcdefaults()  # nobody's matplotlibrc decides what our pictures look like
        mpl.rcParams.update(
            {
                "backend": "agg", "font.family": FONT, "font.size": 9.0, "text.parse_math": False, "text.usetex": False,
                "svg.fonttype": "path", "svg.hashsalt": "clonedna", "axes.unicode_minus": True, "axes.facecolor": theme.paper,
                "axes.edgecolor": theme.line, "axes.labelcolor": theme.soft, "axes.titlecolor": theme.ink, "text.color": theme.ink,
                "xtick.color": theme.soft, "ytick.color": theme.soft, "grid.color": theme.line, "grid.linewidth": 0.6,
                "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.labelcolor": theme.ink,
                "savefig.facecolor": theme.paper, "lines.linewidth": 1.8,
            }
        )  # fmt: skip
        yield theme


def label(text: str, most: int = LABEL_CHARACTERS) -> str:
    """A name as a picture can show it: one line, at most ``most`` characters (the middle goes), boxes for what has no glyph."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    shown = "".join(c if drawable(c) else NO_GLYPH for c in line)
    if len(shown) <= most:
        return shown
    front = (most - 1) * 2 // 3
    return f"{shown[:front]}…{shown[len(shown) - (most - 1 - front) :]}"


def drawable(text: str) -> bool:
    """Whether the font has every character of ``text``."""
    return all(ord(c) in _glyphs() for c in text)


def heat_map(
    matrix: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    note: str = "",
    dark: bool = False,
    own: Collection[tuple[int, int]] | None = None,
    row_title: str = "",
    column_title: str = "",
    unit: str = "",
) -> Picture:
    """``matrix[i][j]`` as a table of colours around zero; NaN is an empty cell. The cells in ``own`` are outlined (default: the diagonal),
    and a dot marks the highest of each column where there is one alone.

    The scale is symmetric and ends at the 95th percentile of the sizes or the highest of ``own``, so one outlier does not bleach the
    rest. Up to 12 x 12 the figures stand in the cells. ``rows``, ``columns``, ``title`` may be third-party text. Raises ``ValueError``
    for a matrix of another shape than the names.
    """
    values = np.array(matrix, dtype=np.float64)
    if not values.size or values.shape != (len(rows), len(columns)):
        raise ValueError(f"a matrix of {values.shape} for {len(rows)} rows and {len(columns)} columns")
    marked = {(i, i) for i in range(min(values.shape))} if own is None else set(own)
    cell = min(0.72, 8.0 / max(values.shape))
    with drawing(dark=dark) as theme:
        width, height = cell * len(columns), cell * len(rows)
        figure = theme.figure(width + 4, height + 4)
        axes = figure.add_axes((2 / (width + 4), 2 / (height + 4), width / (width + 4), height / (height + 4)))
        _cells(figure, axes, values, marked, theme, unit, cell)
        _names(axes, rows, columns, theme, cell)
        axes.set_xlabel(column_title, fontsize=9.5, labelpad=8)
        axes.set_ylabel(row_title, fontsize=9.5, labelpad=8)
        _words(figure, axes, label(title, 90), note, theme)
        return theme.finish(figure)


def _cells(
    figure: Figure, axes: Axes, values: np.ndarray, own: set[tuple[int, int]], theme: Theme, unit: str, cell: float
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    limit = _limit(values, own)
    colours = ScalarMappable(Normalize(-limit, limit), theme.diverging)
    best = _best(values)
    lines = max(0.6, 2.4 * cell / 0.72)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    for (i, j), value in np.ndenumerate(values):
        there = math.isfinite(value)
        face: Any = colours.to_rgba(value) if there else theme.paper
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor=theme.paper, linewidth=lines / 2))
        ink = theme.on(face) if there else theme.soft
        if max(values.shape) <= NUMBERS_UP_TO:
            text = _number(value, limit) if there else "–"
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=8.5)
        if (i, j) in best:
            small = max(values.shape) <= NUMBERS_UP_TO
            axes.plot(j, i + (0.32 if small else 0), "o", color=ink, markersize=3.0 if small else 7 * cell)
    for i, j in sorted(own):
        axes.add_patch(
            Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=theme.ink, linewidth=lines, zorder=3)
        )
    for spine in axes.spines.values():
        spine.set_visible(False)
    _scale(figure, axes, colours, values, limit, unit, theme)


def _scale(
    figure: Figure, axes: Axes, colours: object, values: np.ndarray, limit: float, unit: str, theme: Theme
) -> None:
    """The bar that says which colour is how much, beside the table; its ends are pointed where values lie beyond."""
    low, high = bool((values < -limit).any()), bool((values > limit).any())
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    frame = axes.get_position()
    wide, tall = figure.get_size_inches()
    height = min(frame.height, 2.6 / tall)
    place = figure.add_axes((frame.x1 + 0.22 / wide, frame.y1 - height, 0.13 / wide, height))
    bar = figure.colorbar(colours, cax=place, extend=ends[low, high])  # type: ignore[arg-type]
    bar.outline.set_visible(False)  # type: ignore[union-attr]
    place.tick_params(labelsize=8, length=2, color=theme.line)
    bar.set_label(unit, fontsize=8.5, color=theme.soft)


def _names(axes: Axes, rows: Sequence[str], columns: Sequence[str], theme: Theme, cell: float) -> None:
    size = min(9.5, max(5.5, 13.5 * cell))
    down, across = [label(name) for name in rows], [label(name) for name in columns]
    axes.set_yticks(range(len(down)), down, fontsize=size, color=theme.ink)
    flat = max(map(len, across)) * size * 0.0095 <= cell  # about 0.6 em a letter
    if flat:
        axes.set_xticks(range(len(across)), across, fontsize=size, color=theme.ink)
    else:
        axes.set_xticks(
            range(len(across)), across, fontsize=size, color=theme.ink, rotation=38, ha="right", rotation_mode="anchor"
        )
    axes.tick_params(length=0, pad=5)


def _words(figure: Figure, axes: Axes, title: str, note: str, theme: Theme) -> None:
    """Title above and note below everything that is drawn so far, from its left edge."""
    figure.draw_without_rendering()
    boxes = [one.get_tightbbox() for one in figure.axes]
    wide, tall = figure.get_size_inches() * figure.dpi
    left, right = min(b.x0 for b in boxes if b), max(b.x1 for b in boxes if b)
    low, high = min(b.y0 for b in boxes if b), max(b.y1 for b in boxes if b)
    letters = max(44, int((right - left) / figure.dpi * 13.5))
    heading = textwrap.fill(title, max(30, int(letters * 0.68)))
    figure.text(left / wide, (high + 0.14 * DPI) / tall, heading, fontsize=12.5, va="bottom", fontweight="bold")
    lines = "\n".join(textwrap.fill(line, letters) for line in note.splitlines())
    figure.text(
        left / wide, (low - 0.14 * DPI) / tall, lines, fontsize=8.5, va="top", color=theme.soft, linespacing=1.4
    )


def _limit(values: np.ndarray, own: set[tuple[int, int]]) -> float:
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.size:
        return 1.0
    mine = [values[at] for at in own if math.isfinite(values[at])]
    return max(float(np.percentile(sizes, 95)), *mine, 1e-9)


def _best(values: np.ndarray) -> set[tuple[int, int]]:
    """The highest cell of each column, where no other is as high."""
    found: set[tuple[int, int]] = set()
    for j in range(values.shape[1]):
        there = [i for i in range(values.shape[0]) if math.isfinite(values[i, j])]
        top = [i for i in there if values[i, j] == max(values[k, j] for k in there)]
        if len(top) == 1 and len(there) > 1:
            found.add((top[0], j))
    return found


def _number(value: float, limit: float) -> str:
    """Signed, with as many decimals as the scale needs; a true minus sign, and none before a zero."""
    text = f"{value:+.{2 if limit >= 0.1 else 3}f}"
    return text[1:] if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FONT)).get_charmap())
