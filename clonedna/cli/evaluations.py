"""How an evaluation looks: the table after `dna eval`, the line in `dna show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedna.cli.context import printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.evaluations import Evaluated
    from clonedna.core.block import Maturity, Measure
    from clonedna.evals.again import Reading


def show_evaluated(done: Evaluated) -> None:
    """A table of what was measured, and in words what to make of it."""
    where = f"{done.base.id} {done.base.dtype} on {done.base.device}, {done.base.threads} threads"
    title = f"{done.block} · {done.block_id[:12]} · {where}"
    if done.kind == "pairs":
        rows = [
            [name, _value(m), _interval(m), str(m.n or ""), m.split or ""]
            for name, m in done.evaluation.measures.items()
        ]
        table(title, ["measure", "value", "95 % interval", "n", "split"], rows, whole=4)
        if done.contaminated:
            kinds = ", ".join(f"{n} {kind}" for kind, n in done.overlaps.items())
            tell(f"\nwarning: {done.contaminated:.1%} of these pairs are training data of this block ({kinds}):")
            tell("the numbers say what it was trained on, not what it learnt")
        elif done.contaminated is None:
            tell("\nwarning: whether these pairs are training data of this block is not known")
        return
    rows = [
        [one.name, _value(one.stored), _value(one.now), _drift(one), _interval(one.now), one.why]
        for one in done.readings
    ]
    table(title, ["measure", "stored", "now", "drift", "95 % interval", ""], rows, whole=5)
    off = [one.name for one in done.readings if one.within is False]
    if off:
        tell(f"\nwarning: not reproduced within the tolerance: {', '.join(off)}")
    elif done.reproduced:
        tell("\nreproduced: every stored measure that can be compared is within its tolerance")


def show_maturity(found: Maturity) -> None:
    """The score, and why it is what it is."""
    standing = "validated" if found.validated else "not validated"
    rows = [
        [one.name, f"{one.points:.2f}" if one.holds else "-", f"of {one.points:.2f}", one.fact] for one in found.rules
    ]
    print()
    table(f"maturity {found.score:.2f} · {found.colour} · {standing}", ["rule", "points", "", "because"], rows, whole=3)
    for cap in found.caps:
        tell(f"maturity: {cap}")


def _value(measure: Measure | None) -> str:
    if measure is None:
        return ""
    return "n/a" if measure.value is None else f"{measure.value:.4f}"


def _interval(measure: Measure | None) -> str:
    return f"{measure.ci95[0]:+.4f} … {measure.ci95[1]:+.4f}" if measure is not None and measure.ci95 else ""


def _drift(one: Reading) -> str:
    if one.drift is None or one.tolerance is None:
        return ""
    return f"{one.drift:+.2g} {'ok' if one.within else f'over {one.tolerance:.2g}'}"


def again_line(done: Evaluated) -> str:
    """One kept evaluation in words, for ``dna show``."""
    what = {"quick": "its hold-out", "full": "its hold-out, in full", "pairs": "given pairs"}[done.kind]
    said = f"{done.at}: {what}, {done.base.dtype} on {done.base.device}"
    if done.kind == "pairs":
        delta = done.evaluation.measures["nll.delta"]
        told = f", {done.contaminated:.1%} of them training data" if done.contaminated else ""
        return printable(f"{said}: gain {_value(delta)} on {delta.n} pairs{told}")
    off = [one.name for one in done.readings if one.within is False]
    return printable(f"{said}: {'not reproduced: ' + ', '.join(off) if off else 'reproduced'}")
