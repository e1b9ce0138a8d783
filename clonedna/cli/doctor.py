"""`dna doctor`: whether this machine, or a server's, is fit to mint and serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table

if TYPE_CHECKING:
    from clonedna.app.doctor import Diagnosis


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    context: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the base and try the sandbox: takes as long as they take.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at what has to be right on this machine, and say what to do where it is not.

    The exit status is 0, or 6 when something fails; warnings do not change it.
    """
    from clonedna.core.errors import Unavailable

    diagnosis = _diagnosis(context.obj, deep)
    if as_json:
        print_json(diagnosis)
    else:
        rows = [
            [one.status, one.name, one.found + (f"\n-> {one.fix}" if one.fix else "")] for one in diagnosis.findings
        ]
        table("", ["", "looked at", "found"], rows, whole=2)
    if diagnosis.status == "fail":
        raise typer.Exit(Unavailable.exit_code)


def _diagnosis(state: State, deep: bool) -> Diagnosis:
    import anyio

    from clonedna.app.doctor import Doctor, unsettled
    from clonedna.core.errors import BadConfig

    try:
        client = state.client
    except BadConfig as error:
        return unsettled(error)
    if client is not None:
        return client.doctor.examine(deep=deep)
    try:
        return Doctor(state.parts).examine(deep=deep)
    finally:
        anyio.run(state.parts.close)
