"""`dna export | import`: a block as one `.dna` file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clonedna.cli.context import Json, State, print_json, tell


def add_to(app: typer.Typer) -> None:
    app.command("export")(export_block)
    app.command("import")(import_block)


def export_block(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(help="The new file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write a verified block to one .dna file. Local-only and revoked blocks stay here."""
    from clonedna.app.archives import Archives

    state: State = context.obj
    made = Archives(state.parts).export(reference, file)
    if as_json:
        print_json(made)
    else:
        tell(f"written: {made.path} ({made.block} {made.id[:12]}, {made.bytes} bytes)")


def import_block(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .dna file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Take in a block from a .dna file: verified in full before it is visible; its signer must be trusted."""
    from clonedna.app.archives import Archives

    state: State = context.obj
    found = Archives(state.parts).load(file)
    if as_json:
        print_json(found)
    else:
        tell(f"imported: {found} {found.id}")
