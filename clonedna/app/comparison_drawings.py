"""Where the marks of the comparison's pictures stand: numbers for the template's SVG, no markup and no colour here.

Every drawing is a dict of plain values: ``width`` and ``height`` in the units of its view box, ``shown`` its natural width in pixels.
What has no value is not drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clonedna.core.block import Measure
from clonedna.core.comparison import ModuleSimilarity, SpanGain

CELL, NUMBERS_UP_TO = 40, 16
MOST_POINTS = 400
SIDE, ROW, LABEL = 420.0, 56.0, 140.0
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def heat(modules: Sequence[ModuleSimilarity], values: Mapping[str, float | None]) -> dict[str, Any]:
    """A table of cells: kinds of matrix down, layers across. ``strength`` 0 to 1 is how strongly a cell is coloured, ``sign`` which way."""
    depths = sorted({one.depth if one.depth is not None else 0 for one in modules})
    kinds = [kind for kind in KINDS if any(one.module.endswith(kind) for one in modules)]
    size = CELL if len(depths) <= NUMBERS_UP_TO else max(8, CELL * NUMBERS_UP_TO // len(depths))
    left, top = 84, 22
    cells: list[dict[str, Any]] = []
    for one in modules:
        kind = one.module.rpartition(".")[2]
        if kind not in kinds:
            continue
        value = values[one.module]
        cells.append(
            {
                "x": left + size * depths.index(one.depth or 0), "y": top + CELL * kinds.index(kind), "value": value,
                "strength": 0.0 if value is None else round(min(1.0, abs(value)), 3), "sign": "neg" if (value or 0) < 0 else "pos",
                "title": f"{one.module}: {_text(value)}" + (f", only in {one.only.upper()}" if one.only else ""),
                "text": _text(value) if size == CELL else "",
            }
        )  # fmt: skip
    width = left + size * len(depths) + 4
    names = [(kind.removesuffix("_proj"), top + CELL * (i + 0.5)) for i, kind in enumerate(kinds)]
    return {
        "cells": cells, "size": size, "tall": CELL, "kinds": names,
        "depths": [(depth, left + size * (i + 0.5)) for i, depth in enumerate(depths) if size == CELL or i % 4 == 0],
        "width": width, "height": top + CELL * len(kinds) + 4, "shown": round(1.4 * width),
    }  # fmt: skip


def _text(value: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:.2f}".replace("0.", ".", 1)
    return {"-.00": ".00"}.get(text, text).replace("-", "\N{MINUS SIGN}")


def scatter(spans: Sequence[SpanGain]) -> dict[str, Any] | None:
    """First block's gain across, the second's up, on one scale; the outermost half per cent of each end lies on the frame."""
    if not spans:
        return None
    values = sorted(v for one in spans for v in (one.gain_a, one.gain_b))
    cut = len(values) // 200
    ticks = _ticks(min(0.0, values[cut]), max(0.0, values[-1 - cut]))
    low, high = ticks[0], ticks[-1]
    left, top = 52.0, 10.0
    room = SIDE - left - top - 30

    def place(value: float) -> float:
        return round(room * (min(high, max(low, value)) - low) / (high - low), 2)

    step = max(1, math.ceil(len(spans) / MOST_POINTS))
    return {
        "points": [
            {"x": left + place(one.gain_a), "y": top + room - place(one.gain_b), "of": one.of,
             "title": f"{one.gain_a:+.3f}, {one.gain_b:+.3f}"}
            for one in spans[::step]
        ],
        "ticks": [(_tick(tick), left + place(tick), top + room - place(tick)) for tick in ticks],
        "left": left, "top": top, "room": room, "zero_x": left + place(0.0), "zero_y": top + room - place(0.0),
        "width": SIDE, "height": top + room + 26, "shown": 500,
    }  # fmt: skip


def forest(rows: Sequence[tuple[str, list[tuple[str, Measure]]]], *, low: float | None = None) -> dict[str, Any] | None:
    """Rows of dots with their intervals on one scale that holds zero (or begins at ``low``). ``None`` where nothing is measured."""
    ends = [
        end for _, dots in rows for _, m in dots if m.value is not None for end in (m.value, *(m.ci95 or ()))
    ]  # fmt: skip
    if not ends:
        return None
    ticks = _ticks(min([0.0, *ends]) if low is None else low, max([0.0, *ends]))
    first, last = ticks[0], ticks[-1]
    width, right = 480.0, 24.0

    def place(value: float) -> float:
        return round(LABEL + (width - LABEL - right) * (value - first) / (last - first), 2)

    drawn: list[dict[str, Any]] = []
    for i, (label, dots) in enumerate(rows):
        marks: list[dict[str, Any]] = []
        for j, (who, m) in enumerate(dots):
            y = ROW * i + ROW * (j + 1) / (len(dots) + 1)
            if m.value is not None:
                low_end, high_end = m.ci95 or (m.value, m.value)
                marks.append({"who": who, "x": place(m.value), "y": round(y, 2), "low": place(low_end), "high": place(high_end),
                              "title": f"{m.value:+.4f}"})  # fmt: skip
        drawn.append({"label": label, "y": ROW * (i + 0.5), "marks": marks})
    return {
        "rows": drawn, "ticks": [(_tick(tick), place(tick)) for tick in ticks], "zero": place(0.0), "width": width,
        "bottom": ROW * len(rows), "height": ROW * len(rows) + 28, "shown": 520,
    }  # fmt: skip


def _ticks(low: float, high: float, many: int = 5) -> list[float]:
    """Round numbers a round step apart (1, 2 or 5 times a power of ten), from at or below ``low`` to at or above ``high``."""
    width = high - low if high > low else max(abs(high), 1.0) * 0.1
    raw = width / many
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
