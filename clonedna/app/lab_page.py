"""What a lab found, to read: one page of Markdown and a picture for each experiment, light and dark.

Names and summaries of packages are third-party text: they stand in code spans, on one line, without what could end one.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from clonedna.app.lab_values import LabFigure, LabReport, LabResult
from clonedna.app.workspace import write_atomic
from clonedna.core.block import Measure
from clonedna.evals.pictures import Picture
from clonedna.evals.plots import Bar, Panel, bars, planes

MINUTES = 20
SENTENCES = {
    "retrieval": "Requests in words, and whether the right layer is found first. The mark in a bar is the aim.",
    "probe": "Each layer on its own and on others' held-out pairs: what the calibration predicts from words, and what is measured.",
    "composition": "Three layers composed: the share of its own gain that a member keeps. Dots are members.",
    "interference": "Pairs of layers stacked: the share of its own gain that a layer loses, by what foretells it.",
}


def write_report(out: Path, report: LabReport) -> int:
    """Write the page and the pictures, each whole or not at all; gives how many pictures there are. Raises ``NoSpace``."""
    drawn: dict[str, bool] = {}
    for result in report.results:
        drawn[result.experiment] = False
        for dark in (False, True):
            picture = picture_of(result, dark=dark)
            if picture is not None:
                name = f"{result.experiment}{'-dark' if dark else ''}"
                write_atomic(out / "plots" / f"{name}.svg", picture.svg)
                write_atomic(out / "plots" / f"{name}.png", picture.png)
                drawn[result.experiment] = True
        if not drawn[result.experiment]:  # that of an earlier run would be taken for this one's
            for old in (out / "plots").glob(f"{result.experiment}*.???"):
                old.unlink(missing_ok=True)
    write_atomic(out / "report.md", page(report, {name for name, there in drawn.items() if there}).encode())
    return sum(drawn.values())


def picture_of(result: LabResult, *, dark: bool = False) -> Picture | None:
    """The experiment's picture; ``None`` where it found nothing to draw."""
    if result.error:
        return None
    if result.experiment in ("retrieval", "composition"):
        return _bars(result, dark)
    kinds = {
        "similarity": ("s* predicted from words", "s* measured on held-out pairs", True),
        "phi": ("phi of the pair", "share of its own gain that the target loses", False),
        "norm_ratio": ("ratio of norms", "share of its own gain that the target loses", False),
    }
    panels: list[Panel] = []
    for kind, points in result.points.items():
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for one in points:
            groups[one.group].append((one.x, one.y))
        if points:
            panels.append(Panel(dict(sorted(groups.items())), *kinds[kind]))
    if not panels:
        return None
    return planes(panels, title=result.experiment, note=SENTENCES[result.experiment], dark=dark)


def _bars(result: LabResult, dark: bool) -> Picture | None:
    marks: dict[str, list[float]] = defaultdict(list)
    for one in result.points.get("kept", ()):
        marks[one.label].append(one.y)
    chosen = [one for one in result.figures if result.experiment == "retrieval" or one.name.endswith(" mean")]
    found = [
        Bar(
            one.name, one.measure.value, one.measure.ci95, float(one.aim.split()[-1]) if one.aim else None,
            tuple(marks[one.name.removesuffix(" mean")]),
        )
        for one in chosen
    ]  # fmt: skip
    if not any(one.value is not None for one in found):
        return None
    unit = "share" if result.experiment == "retrieval" else "share of the own gain that is kept"
    return bars(found, title=result.experiment, note=SENTENCES[result.experiment], unit=unit, dark=dark)


def page(report: LabReport, drawn: set[str]) -> str:
    """The page as text."""
    lines = ["# Lab", "", *_head(report), "", "## Aims", "", *_aims(report), ""]
    for result in report.results:
        lines += [f"## {result.experiment.capitalize()}", ""]
        if result.error:
            lines += [f"**Could not run:** {code(result.error)}", ""]
            continue
        lines += [SENTENCES[result.experiment], ""]
        if result.experiment in drawn:
            name = f"plots/{result.experiment}"
            lines += [
                f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">'
                f'<img src="{name}.svg" alt="{result.experiment}"></picture>',
                "",
            ]
        lines += ["| figure | value | 95 % interval | n | standing |", "|---|---|---|---|---|"]
        lines += [_row(one) for one in result.figures]
        kept = " (by an earlier run; nothing that it depends on has changed)" if result.kept else ""
        lines += [
            "",
            *(f"- {code(note)}" for note in result.notes),
            f"- {result.seconds:.0f} s, at {result.at}{kept}",
            "",
        ]
    lines += [
        "## Layers",
        "",
        "| package | version | gain, nats a token | seconds | why not |",
        "|---|---|---|---|---|",
    ]
    for one in report.layers:
        gain = "" if one.gain is None else f"{value_of(one.gain)} {interval_of(one.gain)}"
        why = code(one.why) if one.why else ""
        lines.append(
            f"| {code(one.package)} | {code(one.version)} | {gain} | {one.seconds:.0f}{' (kept)' if one.kept else ''} | {why} |"
        )
    return "\n".join([*lines, ""])


def _head(report: LabReport) -> list[str]:
    there = sum(not one.why for one in report.layers)
    libraries = ", ".join(f"{name} {version}" for name, version in report.libraries.items())
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    base = "not loaded"
    if report.base is not None:
        base = f"{report.base.id}, {report.base.parameters:,} parameters, {report.base.threads} threads"
    return [
        f"{there} layers of installed packages on {code(report.order.base)} (local-only), seed {report.order.seed}.", "",
        f"- clone-dna {report.version}, program {report.program[:12]}; {libraries}", f"- {machine}; base: {base}",
        f"- encoder {code(report.encoder)}; {report.order.pairs} training pairs a layer at most, {report.order.epochs} epochs",
        f"- {report.seconds:.0f} s in this run; {report.work_seconds:.0f} s of work in all, whichever run did it; at {report.at}",
        f"- layers made at once: {report.order.processes}",
    ]  # fmt: skip


def aims_of(report: LabReport) -> list[tuple[str, LabFigure]]:
    """All figures with an aim, by experiment."""
    return [(result.experiment, one) for result in report.results for one in result.figures if one.aim]


def _aims(report: LabReport) -> list[str]:
    rows = ["| experiment | figure | aim | value | |", "|---|---|---|---|---|"]
    for experiment, one in aims_of(report):
        rows.append(f"| {experiment} | {one.name} | {one.aim} | {value_of(one.measure)} | {verdict(one)} |")
    spent = "reached" if report.work_seconds <= 60 * MINUTES else "missed"
    rows.append(
        f"| all | work in all | at most {MINUTES} min on 2 cores | {report.work_seconds / 60:.1f} min | {spent} |"
    )
    return rows


def verdict(one: LabFigure) -> str:
    """What became of the aim, in a word."""
    return "not known" if one.reached is None else "reached" if one.reached else "missed"


def _row(one: LabFigure) -> str:
    measure = one.measure
    n = "" if measure.n is None else str(measure.n)
    standing = measure.status.replace("_", " ") + (f": {code(measure.how)}" if measure.value is None else "")
    return f"| {one.name} | {value_of(measure)} | {interval_of(measure)} | {n} | {standing} |"


def value_of(measure: Measure) -> str:
    """To three places; a dash for none."""
    return "–" if measure.value is None else f"{measure.value:.3f}".replace("-", "\N{MINUS SIGN}")


def interval_of(measure: Measure) -> str:
    """Both ends, or nothing."""
    return "" if measure.ci95 is None else "[{:.3f}, {:.3f}]".format(*measure.ci95).replace("-", "\N{MINUS SIGN}")


def code(text: str) -> str:
    """Third-party text as a code span of one line: no backtick ends it, no bar ends a table's cell."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:600]).split())
    return f"`{line.replace('`', chr(0x2019)).replace('|', '/')}`" if line else ""
