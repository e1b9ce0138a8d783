"""`dna genome ...`: stacks of layers for a need that was said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.core.genome import GenomeManifest

genome_app = typer.Typer(
    no_args_is_help=True, help="Genomes: signed stacks of layers for a need that was said in words."
)
Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of an id.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """The group; other modules add their commands to ``genome_app``."""
    app.add_typer(genome_app, name="genome")


@genome_app.command("ls")
def list_genomes(context: typer.Context, as_json: Json = False) -> None:
    """List the genomes of this home, newest first."""
    state: State = context.obj
    found = state.parts.genomes.manifests()
    if as_json:
        print_json(found)
        return
    table("", ["genome", "id", "made", "layers"], [_row(one) for one in found])
    for fault in state.parts.genomes.faults():
        tell(f"{fault.name or fault.id[:12]}: {fault.code}: {fault.why}")


def _row(one: GenomeManifest) -> list[str]:
    return [
        f"{one.name}@{one.version}",
        one.id[:8],
        one.created_at[:10],
        ", ".join(f"{x.name}@{x.version}" for x in one.layers),
    ]
