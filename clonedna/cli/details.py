"""`dna files, lineage`: a block's table of files, and who was made from whom."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of an id.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    for command in (files, lineage):
        app.command()(command)


def files(context: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """List the files of a block: size, SHA-256, and which are open to all who may read."""
    state: State = context.obj
    found = state.details.files(reference)
    if as_json:
        print_json(found)
        return
    rows = [[one.path, str(one.size), "yes" if one.open else "no", one.sha256] for one in found.files]
    table(f"{found.block} ({found.block.id[:12]})", ["file", "bytes", "open", "sha256"], rows, whole=3)
    if found.closed:
        tell(f"not open: {printable(found.closed)}")


def lineage(
    context: typer.Context,
    reference: Reference,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As the text of a Mermaid flowchart.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="As a drawing (SVG).")] = False,
    as_json: Json = False,
) -> None:
    """Show where a block comes from and what was made from it; of persona:NAME, or of a name that only a persona has: its own lineage."""
    from clonedna.app.lineage import called
    from clonedna.app.lineage import mermaid as drawn
    from clonedna.app.persona_lineage import of_blocks
    from clonedna.cli.personas import drawn as draw
    from clonedna.core.errors import BlockNotFound, InputError, NotFound
    from clonedna.core.persona import PERSONA

    if mermaid + svg + as_json > 1:
        raise InputError("--mermaid, --svg and --json exclude each other", "give one of them")
    state: State = context.obj
    if reference.startswith(PERSONA):
        draw(state.persona_lineages.of(reference.removeprefix(PERSONA)), mermaid=mermaid, svg=svg, as_json=as_json)
        return
    try:
        graph = state.lineages.of(reference)
    except BlockNotFound as error:
        try:
            found = state.persona_lineages.of(reference)
        except (NotFound, InputError):
            raise error from None
        draw(found, mermaid=mermaid, svg=svg, as_json=as_json)
        return
    if svg:
        draw(of_blocks(graph), mermaid=False, svg=True, as_json=False)
        return
    if as_json:
        print_json(graph)
        return
    if mermaid:
        sys.stdout.write(drawn(graph))
        return
    names = {one.id: one for one in graph.blocks}
    made_of = {
        one.id: [called(names[edge.parent]) for edge in graph.edges if edge.child == one.id] for one in graph.blocks
    }
    rows = [
        [f"{one.step:+d}" if one.step else "0", called(one), one.relation or "", one.status, ", ".join(made_of[one.id])]
        for one in graph.blocks
    ]
    table(str(graph.block), ["step", "block", "relation", "status", "from"], rows, whole=4)
    if graph.left_out:
        tell(f"and at least {graph.left_out} more, which were not looked at")
