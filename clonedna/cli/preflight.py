"""`dna mint --dry-run`: the preflight as tables, or as one line of JSON.

Exit status 0 when the mint could begin, 4 (refused) when something would refuse it; the report is printed in both cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from clonedna.cli.context import State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.preflight import Preflight
    from clonedna.core.block import Measure, MintOrder


def show_preflight(state: State, order: MintOrder, as_json: bool) -> None:
    """Make the preflight and print it. Raises ``typer.Exit`` with 4 when there are blockers."""
    from clonedna.app.preflight import preflight
    from clonedna.cli.progress import listener
    from clonedna.core.errors import Refused
    from clonedna.core.events import silent

    if as_json:
        report = preflight(state.parts, order, silent)
        print_json(report)
    else:
        with listener(False) as listen:
            report = preflight(state.parts, order, listen)
        _tables(report)
    if report.blockers:
        raise typer.Exit(Refused.exit_code)


def _tables(report: Preflight) -> None:
    table(
        "repositories", ["name", "commit", "licence", "found by", "spans"],
        [[one.name, one.commit[:12], one.licence or "unknown", one.how, str(one.spans)] for one in report.repositories],
    )  # fmt: skip
    table("\nspans", ["language", "n"], [[name, str(n)] for name, n in report.spans.items()])
    table("\nrefusals", ["reason", "n"], [[name, str(n)] for name, n in report.refusals.items()])
    table("\nwhat would be minted", ["", "", ""], _rows(report))
    for one in report.blockers:
        tell(f"refused[{one.code}]: {printable(one.message)}\n  next: {printable(one.hint)}")


def _rows(report: Preflight) -> list[list[str]]:
    splits, memory = report.splits, report.memory
    rows = [
        ["base", report.base, ""],
        ["consent", report.consent, "would be asked for; nothing was stored"],
        ["files", f"{report.files_used} of {report.files_seen}", f"{report.lines_owned} lines are the person's"],
    ]
    if splits:
        sizes = f"{splits.train} train, {splits.validation} validation, {splits.holdout} held out"
        rows.append(["spans by split", sizes, f"by {splits.by}"])
    rows += [
        _measure("pairs", report.pairs),
        _measure("tokens an epoch", report.tokens),
        _measure("training, seconds", report.training_seconds),
    ]
    if memory:
        need = f"{_mib(memory.base)} base + {_mib(memory.training)} training + {_mib(memory.reserve)} reserve"
        answer = f"{'fits' if report.fits else 'does not fit'}: {need}, {_mib(memory.available)} MiB available"
        rows.append(["memory", answer, report.memory_how])
    else:
        rows.append(["memory", "", report.memory_how])
    if report.teaching and report.teaching.model:
        taught = report.teaching
        asked = f"{taught.calls} questions, {taught.cached} answered before, about {taught.prompt_tokens} prompt tokens"
        rows.append(["teacher", asked, f"{taught.teacher}: {taught.model}"])
    return rows


def _measure(name: str, measure: Measure) -> list[str]:
    value = "not available" if measure.value is None else f"{measure.value:g}"
    return [name, value, measure.how]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
