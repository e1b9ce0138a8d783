"""`dna genome calibration | recalibrate`: how similarity is predicted, how well, and fitting it anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.app.calibrating import Calibrating
    from clonedna.client.calibration import RemoteCalibrating
    from clonedna.core.block import Measure


def add_to(app: typer.Typer) -> None:
    for command in (calibration, recalibrate):
        app.command()(command)


def _calibrating(state: State) -> Calibrating | RemoteCalibrating:
    from clonedna.app.calibrating import Calibrating

    return Calibrating(state.parts) if state.client is None else state.client.calibrating


def calibration(context: typer.Context, as_json: Json = False) -> None:
    """Show the card that similarity is predicted with, and how good it is."""
    found = _calibrating(context.obj).show()
    if as_json:
        print_json(found)
        return
    card = found.card
    table("", ["feature", "weight"], [[name, f"{w:.3f}"] for name, w in zip(card.columns, card.weights, strict=True)])
    aims = [[one.name, one.aim, _value(one.measured), "yes" if one.reached else "no"] for one in card.aims]
    if aims:
        table("", ["on held-out domains", "aim", "measured", "reached"], aims)
    tell(f"{found.origin} card {found.id[:12]} for {card.encoder}, from {card.n} outcomes on {card.base}")
    tell(f"calibration error {_value(card.ece)}, inside the 90 % interval {_value(card.coverage)}, on held-out domains")
    tell(f"{found.usable} outcomes of this encoder are stored here; {found.needed} are needed to fit anew")


def recalibrate(
    context: typer.Context,
    outcomes: Annotated[
        Path | None, typer.Option(help="A JSONL file of outcomes, in place of those of this home.", show_default=False)
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab", help="From the bundled lab, for an encoder that has no card yet.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Use the new card also where the old one errs less.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget this home's card, and use the one that the program brings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit the prediction of similarity anew from what probes measured."""
    at = _calibrating(context.obj)
    if reset:
        removed = at.reset()
        if as_json:
            print_json({"removed": removed})
        else:
            tell("this home's card is forgotten" if removed else "this home had no card of its own for this encoder")
        return
    done = at.recalibrate(outcomes, lab=lab, force=force)
    if as_json:
        print_json(done)
        return
    rows = [["before", _value(done.before), done.before.how], ["after", _value(done.after), done.after.how]]
    table("", ["card", "calibration error", "how"], rows)
    tell(
        f"{done.n} outcomes; {done.left_out} left out: of another base, or of another encoder and a block that is not here"
    )
    tell(f"{'in use: card ' + done.id[:12] if done.kept else 'not used'}: {done.why}")


def _value(measure: Measure) -> str:
    return measure.status.replace("_", " ") if measure.value is None else f"{measure.value:.3f}"
