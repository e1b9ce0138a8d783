"""A feature's three values as a reader understands them."""

from __future__ import annotations

from clonedna.evals.style_table import Feature


def words(row: Feature, *, person: float, base: float, block: float, move: float) -> str:
    """Such as ``shorter functions: 7.1 lines (base 12.0, person 6.5)``, ``type hints on 92 % of arguments (base 40 %, person 95 %)``.

    A block that went away from the person is said to have done so.
    """
    shown = [show(row, value) for value in (block, base, person)]
    if row.kind == "share":
        said = row.says[0].format(shown[0])
    else:
        said = f"{row.says[0] if block > base else row.says[1]}: {shown[0]} {row.unit}"
    away = "" if move > 0 else "; away from the person"
    return f"{said} (base {shown[1]}, person {shown[2]}{away})"


def show(row: Feature, value: float) -> str:
    """A value alone: per cent of a share, else one decimal."""
    return f"{100 * value:.0f} %" if row.kind == "share" else f"{value:.1f}"
