"""`dna eval --identity`: the matrix as a table, what it says in numbers and in words, and where the pictures are."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedna.cli.context import State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.identity_report import IdentityReport
    from clonedna.core.block import Measure
    from clonedna.evals.identity import Identified

NAME_CHARACTERS = 14
CELL = 11  # characters of a figure with its marks, and the space before it


def identity(
    state: State, references: list[str], *, out: Path | None, controls: bool, as_json: bool, unsafe: bool = False
) -> None:
    """Compare the blocks and show whose style each is. Ctrl-C leaves at once; given again, controls go on where they stood."""
    import anyio

    from clonedna.app.identity import Identifying
    from clonedna.app.identity_report import files_of
    from clonedna.app.workspace import write_atomic
    from clonedna.cli.progress import listener
    from clonedna.core.errors import InputError
    from clonedna.core.events import silent

    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", "give a folder for --out; it is made when it is not there")

    if state.client is not None:
        _there(state, references, out=out, controls=controls, as_json=as_json, unsafe=unsafe)
        return

    async def work(listen: Any) -> tuple[IdentityReport, Path]:
        try:
            return await Identifying(state.parts, listen).identify(references, controls=controls, unsafe=unsafe)
        finally:
            with anyio.CancelScope(shield=True):
                await state.parts.close()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if as_json:
        report, folder = anyio.run(work, silent)
    else:
        with listener(False) as listen:
            report, folder = anyio.run(work, listen)
    if out is not None:
        for name, data in files_of(report).items():
            write_atomic(out / name, data)
        folder = out
    if as_json:
        print_json({"report": report, "folder": str(folder)})
    else:
        show(report, folder)


def _there(
    state: State, references: list[str], *, out: Path | None, controls: bool, as_json: bool, unsafe: bool
) -> None:
    """The same on the server that was named. Pictures are drawn here, into ``out``; without it there are none."""
    from clonedna.app.identity_report import IdentityReport, files_of
    from clonedna.app.job_asks import IdentityAsk
    from clonedna.app.workspace import write_atomic
    from clonedna.cli import following

    ask = following.asked(IdentityAsk, blocks=tuple(references), controls=controls, unsafe=unsafe)
    report: IdentityReport = following.value_of(following.order(state, ask, silent=as_json), IdentityReport)
    if out is not None:
        for name, data in files_of(report).items():
            write_atomic(out / name, data)
    if as_json:
        print_json({"report": report, "folder": None if out is None else str(out)})
    else:
        show(report, out)


def _stop(signum: int, frame: Any) -> None:
    from clonedna.app.jobs import stop_now

    stop_now("\nerror[interrupted]: nothing is half-written\n  next: the same command goes on where it stood\n")


def show(report: IdentityReport, folder: Path | None) -> None:
    """Matrix, people, shares, remarks, verdict, pictures."""
    from clonedna.app.identity_report import control_sentence, names_of

    found = report.identified
    names = [f"{j + 1} {_short(name)}" for j, name in enumerate(names_of(found))]
    _matrix(found)
    tell("[ ] a person's own block   * explains this person best")
    print()
    gains: list[list[str]] = []
    shares: list[list[str]] = []
    for name, one in zip(names, found.people, strict=True):
        second = "" if one.runner_up is None else found.blocks[one.runner_up]
        gains.append([name, _signed(one.gain), _signed(one.margin), second])
        control = _signed(one.control) if report.controls else "-"
        shares.append([name, f"{one.n_files}/{one.n_spans}", _share(one.files), _share(one.spans), control])
    table("", ["person", "own gain", "over the best other", "which is"], gains)
    print()
    table("", ["person", "files/spans", "files", "spans", "over a control"], shares)
    print()
    _shares(found)
    for remark in report.remarks:
        tell(f"note: {printable(remark)}")
    for name, one in zip(names, found.people, strict=True):
        if report.controls and one.control.value is None:
            tell(f"note: no gain over a control for {printable(name)}: {printable(one.control.how)}")
    sys.stdout.flush()
    tell(f"\n{printable(found.verdict.text)}.")
    if said := control_sentence(report):
        tell(f"{said}.")
    tell(f"pictures and figures: {folder if folder is not None else 'give --out FOLDER'}")


def _matrix(found: Identified) -> None:
    """The matrix, in as many tables as the terminal's width asks for; people by their number."""
    width = shutil.get_terminal_size().columns - max(map(len, found.blocks))
    each = max(1, width // CELL)
    for start in range(0, len(found.people), each):
        people = list(enumerate(found.people))[start : start + each]
        rows = [
            [block, *(_cell(found.matrix[i][j], i in one.person.own, one.best == i) for j, one in people)]
            for i, block in enumerate(found.blocks)
        ]
        title = "gain of each block on each person's held-out code, nats a token" if start == 0 else ""
        table(title, ["block", *(f"    {j + 1}" for j, _ in people)], rows, whole=1 + len(people))


def _shares(found: Identified) -> None:
    rows: list[list[str]] = []
    for what, form in (("people", _share), ("files", _share), ("spans", _share), ("mrr", _plain)):
        measure = found.measures[f"identification.{what}"]
        chance = found.chance.get(f"identification.{what}")
        lucky = "" if chance is None else f"{chance:.0%}" if form is _share else f"{chance:.2f}"
        title = "mean reciprocal rank" if what == "mrr" else f"{what} identified"
        rows.append([title, form(measure), lucky, str(measure.n or "")])
    for what in ("people", "files"):
        measure = found.measures[f"identification.p_{what}"]
        value = f"p = {measure.value:.2g}" if measure.value is not None else _plain(measure)
        rows.append([f"as good by lot ({what})", value, "", ""])
    table("", ["", "value [95 %]", "chance", "n"], rows)


def _cell(gain: float | None, own: bool, best: bool) -> str:
    if gain is None:
        return "n/a"
    text = f"[{gain:+.3f}]" if own else f" {gain:+.3f}"
    return text + ("*" if best else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


def _signed(measure: Measure) -> str:
    if measure.value is None:
        return "n/a"
    interval = f" [{measure.ci95[0]:.3f}, {measure.ci95[1]:.3f}]" if measure.ci95 else ""
    return f"{measure.value:+.3f}{interval}"


def _share(measure: Measure) -> str:
    if measure.value is None:
        return "n/a"
    interval = f" [{measure.ci95[0]:.0%}, {measure.ci95[1]:.0%}]" if measure.ci95 else ""
    return f"{measure.value:.0%}{interval}"


def _plain(measure: Measure) -> str:
    if measure.value is None:
        return f"not available: {measure.how}"
    interval = f" [{measure.ci95[0]:.2f}, {measure.ci95[1]:.2f}]" if measure.ci95 else ""
    return f"{measure.value:.2f}{interval}"
