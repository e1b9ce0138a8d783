"""The pictures of a block's model card, drawn from its evaluation alone: equal evaluations give equal bytes.

PNG, because hubs and viewers show it wherever the card stands and nothing in it can run; on white paper, so that it is legible on a dark
page as well. What was not measured has no picture, and the card says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clonedna.core.block import EvalSpan, Evaluation
from clonedna.core.style import StyleReport
from clonedna.evals.pictures import Theme, drawing
from clonedna.evals.style import FARTHEST, scales
from clonedna.evals.style_table import Feature, features_of
from clonedna.evals.style_words import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING, HOLDOUT, STYLE = "plot-training.png", "plot-holdout.png", "plot-style.png"
MOST_FEATURES = 10


def plots(evaluation: Evaluation) -> dict[str, bytes]:
    """File name -> PNG of every picture that the evaluation has figures for."""
    made: dict[str, bytes] = {}
    if evaluation.losses:
        made[TRAINING] = _training(evaluation.losses, evaluation.validation_losses)
    if evaluation.spans:
        made[HOLDOUT] = _holdout(evaluation.spans)
    if evaluation.style is not None and (rows := style_rows(evaluation.style)):
        made[STYLE] = _style(evaluation.style, rows)
    return made


def _training(losses: Sequence[float], validation: Sequence[float]) -> bytes:
    """Loss of training and of the validation part, epoch by epoch; a single epoch is a point."""
    with drawing() as theme:
        figure = theme.figure(6.4, 3.2)
        axes = figure.add_subplot()
        lines = (
            ("training", losses, theme.series[0], "o-"),
            ("validation (never trained on)", validation, theme.series[1], "s--"),
        )
        for name, values, colour, mark in lines:
            if values:
                axes.plot(range(1, len(values) + 1), values, mark, color=colour, label=name, markersize=5)
        _frame(axes, theme, "Loss of each epoch", "epoch", "nats a completion token")
        axes.set_xticks(range(1, max(len(losses), len(validation)) + 1))
        if not validation:
            figure.text(0.99, 0.01, "no validation part", ha="right", fontsize=7.5, color=theme.soft)
        axes.legend(fontsize=8, loc="best")
        return theme.png(figure)


def gains(spans: Sequence[EvalSpan]) -> list[float]:
    """What each held-out piece becomes cheaper to explain, nats a token, highest first."""
    return sorted(((span.base - span.adapter) / span.tokens for span in spans if span.tokens), reverse=True)


def _holdout(spans: Sequence[EvalSpan]) -> bytes:
    """Every held-out piece as one bar, in order of its gain, around the line of the base."""
    values = gains(spans)
    better = sum(value > 0 for value in values)
    with drawing() as theme:
        figure = theme.figure(6.4, 3.2)
        axes = figure.add_subplot()
        colours = [theme.series[0] if value > 0 else theme.series[1] for value in values]
        axes.bar(range(1, len(values) + 1), values, width=0.85, color=colours)
        axes.axhline(0.0, color=theme.ink, linewidth=0.9)
        title = f"Held out: {better} of {len(values)} pieces are explained better than by the base"
        _frame(axes, theme, title, "held-out pieces, by gain", "gain, nats a token")
        axes.set_xlim(0.2, len(values) + 0.8)
        axes.set_xticks([1, len(values)] if len(values) > 1 else [1])
        return theme.png(figure)


def style_rows(report: StyleReport) -> list[tuple[Feature, float, float, float, float]]:
    """``(feature, scale, person, base, block)`` of at most ten: those that moved, else those that the base is farthest off in."""
    known = zip(features_of(report.language), scales(report.language), strict=True)
    rows: list[tuple[Feature, float, float, float, float]] = []
    for row, scale in known:
        person, base, block = (side.value(row.name) for side in (report.person, report.base, report.block))
        if scale is not None and person is not None and base is not None and block is not None:
            rows.append((row, scale, person, base, block))
    moved = [move.feature for move in report.moves]
    if moved:
        chosen = [one for one in rows if one[0].name in moved[:MOST_FEATURES]]
        return sorted(chosen, key=lambda one: moved.index(one[0].name))
    return sorted(rows, key=lambda one: -abs(one[3] - one[2]) / one[1])[:MOST_FEATURES]


def _style(report: StyleReport, rows: Sequence[tuple[Feature, float, float, float, float]]) -> bytes:
    """Each feature's bars: how far base and block are from the person, in spreads between people, with the three values beside them."""
    with drawing() as theme:
        figure = theme.figure(7.2, 1.3 + 0.46 * len(rows))
        axes = figure.add_subplot()
        sides = (
            (-1, "base", theme.series[1], [base - person for _, _, person, base, _ in rows]),
            (1, "block", theme.series[0], [block - person for _, _, person, _, block in rows]),
        )
        for sign, label, colour, apart in sides:
            places = [i + 0.19 * sign for i in range(len(rows))]
            widths = [max(-FARTHEST, min(FARTHEST, by / row[1])) for by, row in zip(apart, rows, strict=True)]
            axes.barh(places, widths, height=0.34, color=colour, label=label)
        axes.axvline(0.0, color=theme.ink, linewidth=0.9)
        axes.set_yticks(range(len(rows)), [_label(*one) for one in rows], fontsize=8, color=theme.ink)
        axes.invert_yaxis()
        moved = (
            "what moved beyond noise" if report.moves else "nothing moved beyond noise; where the base is farthest off"
        )
        _frame(
            axes,
            theme,
            f"Style: {moved}",
            f"distance from the person (0), in spreads between people, cut at {FARTHEST:.0f}",
            "",
        )
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.legend(fontsize=8, loc="best")
        return theme.png(figure)


def _label(row: Feature, scale: float, person: float, base: float, block: float) -> str:
    unit = "" if row.unit == "%" else f" {row.unit}"
    return f"{row.name}\nperson {show(row, person)}, base {show(row, base)}, block {show(row, block)}{unit}"


def _frame(axes: Axes, theme: Theme, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=10)
    axes.set_xlabel(across, fontsize=8.5)
    axes.set_ylabel(up, fontsize=8.5)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(visible=True, axis="y")
    axes.set_axisbelow(True)
