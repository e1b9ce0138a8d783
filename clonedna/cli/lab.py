"""`dna lab`: layers from installed packages, and what they say about retrieval, probes, composition and interference."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.lab_values import LabReport


def add_to(app: typer.Typer) -> None:
    app.command()(lab)


def lab(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Where everything is kept: a home of its own, figures, report.")] = Path(
        "lab"
    ),
    layers: Annotated[int, typer.Option(help="How many layers to build, 3 to 16.")] = 12,
    packages: Annotated[
        str | None, typer.Option(help="Installed packages to build them from, separated by commas.", show_default=False)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Of retrieval, probe, composition, interference, separated by commas.", show_default=False),
    ] = None,
    base: Annotated[str, typer.Option(help="Base model: nano, a folder, or a hub name.")] = "nano",
    pairs: Annotated[int, typer.Option(help="Training pairs of a layer, at most.")] = 192,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 2,
    seed: Annotated[int, typer.Option(help="Decides splits, initial weights and intervals.")] = 0,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Layers made at once, each in a process with its own copy of the base; else 2 on nano, 1 on others.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build small layers from installed packages and measure retrieval, probe, composition and interference with them.

    Works in a home of its own under --out; yours is not touched. A lab that was stopped goes on when the same command is given again.
    Ends with a status other than 0 where an experiment could not run.
    """
    from clonedna.app.lab import Lab, lab_settings
    from clonedna.app.lab_layers import PACKAGES, at_once
    from clonedna.app.lab_values import EXPERIMENTS, LabOrder
    from clonedna.app.parts import Parts
    from clonedna.cli.following import asked
    from clonedna.cli.progress import listener
    from clonedna.core.events import silent

    state: State = context.obj
    state.refuse_server()
    wanted = _listed(only) or EXPERIMENTS
    order: LabOrder = asked(
        LabOrder, packages=_listed(packages) or PACKAGES, layers=layers, experiments=tuple(dict.fromkeys(wanted)), base=base, pairs=pairs,
        epochs=epochs, seed=seed, processes=processes if processes is not None else at_once(base),
    )  # fmt: skip
    place = out.expanduser().absolute()
    _stoppable(place)
    with listener(False) as listen:
        lab_of = Lab(Parts(lab_settings(state.settings, place)), place, silent if as_json else listen)
        report = lab_of.run(order)
    if as_json:
        print_json(report)
    else:
        show(report, place)
    if report.failed:
        raise typer.Exit(1)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip()) if text is not None else ()


def _stoppable(place: Path) -> None:
    """Ctrl-C and TERM leave everything whole, as a kill would."""
    from clonedna.app.jobs import stop_now

    def stop(signum: int, frame: Any) -> None:
        stop_now(
            f"\nerror[interrupted]: the lab was stopped\n  next: give the same command again; it goes on in {place}\n"
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def show(report: LabReport, place: Path) -> None:
    """Every figure, then which aims were reached."""
    from clonedna.app.lab_page import interval_of, value_of, verdict

    for result in report.results:
        rows = [
            [
                one.name, value_of(one.measure), interval_of(one.measure), "" if one.measure.n is None else str(one.measure.n), one.aim,
                verdict(one) if one.aim else "",
            ]
            for one in result.figures
        ]  # fmt: skip
        table(result.experiment, ["figure", "value", "95 % interval", "n", "aim", ""], rows, whole=1)
        print()
    for result in report.results:
        if result.error:
            tell(f"could not run: {result.experiment}: {printable(result.error)}")
    there = sum(not one.why for one in report.layers)
    tell(f"{there} layers; {report.seconds:.0f} s in this run, {report.work_seconds:.0f} s of work in all")
    tell(f"report: {place / 'report.md'}; all figures: {place / 'lab.json'}")
