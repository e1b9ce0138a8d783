"""`dna persona`: who talks, and what speaks for them; here or on the server that was named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.chatting import given
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.persona_lineage import PersonaGraph
    from clonedna.core.persona import Persona

Name = Annotated[str, typer.Argument(metavar="NAME", help="The persona's name.", show_default=False)]
Genome = Annotated[
    str, typer.Argument(metavar="GENOME", help="genome:NAME, a block, or the name of either.", show_default=False)
]
Mermaid = Annotated[bool, typer.Option("--mermaid", help="As the text of a Mermaid flowchart.")]
Svg = Annotated[bool, typer.Option("--svg", help="As a drawing (SVG).")]

app = typer.Typer(no_args_is_help=True, help="Personas: who talks, and the genome or block that speaks for them.")


@app.command()
def create(
    context: typer.Context,
    name: Name,
    binds: Annotated[
        str | None,
        typer.Option("--genome", metavar="GENOME", help="What speaks: genome:NAME, or a block.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="What it is called when it talks.", show_default=False)] = None,
    role: Annotated[Literal["pm", "swe", "designer", "any"], typer.Option(help="What it is in a team.")] = "any",
    about: Annotated[str, typer.Option(help="Shown to people, never to the model; nothing proves it.")] = "",
    instructions: Annotated[str, typer.Option(help="Put before every conversation.")] = "",
    as_json: Json = False,
) -> None:
    """Make a persona."""
    from clonedna.app.personas import PersonaOrder

    state: State = context.obj
    order = given(PersonaOrder, name=name, title=title, role=role, about=about, instructions=instructions, binds=binds)
    made = state.personas.create(order)
    print_json(made) if as_json else _told("made", made)


@app.command("ls")
def list_personas(context: typer.Context, as_json: Json = False) -> None:
    """List personas, and what keeps one from speaking."""
    state: State = context.obj
    found = state.personas.list()
    if as_json:
        print_json(found)
        return
    rows = [
        [one.name, one.title, one.role, one.current or "nothing", str(one.versions), one.fault]
        for one in found.personas
    ]
    table("", ["persona", "title", "role", "speaks", "versions", "fault"], rows, whole=1)
    for fault in found.faults:
        tell(f"{printable(fault.name)}: {fault.code}: {printable(fault.why)}")


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a persona: all its versions, whether it can speak, and whose work it speaks from."""
    state: State = context.obj
    found = state.personas.show(name)
    if as_json:
        print_json(found)
        return
    one = found.persona
    rows = [
        [
            str(v.number),
            v.called,
            v.id[:12],
            v.at[:16].replace("T", " "),
            v.by,
            v.why if v.of is None else f"{v.why} to {v.of}",
        ]
        for v in one.versions
    ]
    table(f"{one.title} ({one.name}, {one.role})", ["", "speaks", "id", "since", "by", "why"], rows, whole=4)
    if one.about:
        tell(f"about, as its owner wrote it: {printable(one.about)}")
    for work in found.works:
        tell(
            f"from {printable(work.block)}, work of {printable(work.handle)} (consent: {work.consent_mode}; {printable(work.license)})"
        )
    for fault in found.faults:
        tell(f"does not speak: {fault.code}: {printable(fault.why)}")


@app.command()
def bind(context: typer.Context, name: Name, genome: Genome, as_json: Json = False) -> None:
    """Let a genome or a block speak for a persona; what spoke before stays among its versions."""
    state: State = context.obj
    made = state.personas.bind(name, genome)
    print_json(made) if as_json else _told("bound", made)


@app.command()
def rollback(
    context: typer.Context,
    name: Name,
    number: Annotated[
        int, typer.Argument(metavar="VERSION", help="Its number: dna persona show.", min=1, show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Let what spoke in an earlier version speak again, as a further version."""
    state: State = context.obj
    made = state.personas.rollback(name, number)
    print_json(made) if as_json else _told("rolled back", made)


@app.command()
def threads(
    context: typer.Context,
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="The next of the page before.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the conversations with a persona, last used first."""
    state: State = context.obj
    page = state.personas.threads(name, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    table(
        "",
        ["thread", "title", "messages", "used"],
        [[t.id, t.title, str(t.messages), t.updated_at[:19]] for t in page.threads],
        whole=1,
    )
    if page.next:
        tell(f"more: --after {page.next}")


@app.command()
def lineage(
    context: typer.Context, name: Name, mermaid: Mermaid = False, svg: Svg = False, as_json: Json = False
) -> None:
    """Show a persona's genomes and blocks, what they were made from, and what was measured of each."""
    state: State = context.obj
    drawn(state.persona_lineages.of(name), mermaid=mermaid, svg=svg, as_json=as_json)


@app.command()
def export(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(help="The new file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write a persona, its genome and every block of it to one signed file: only what may be shared."""
    state: State = context.obj
    made = state.persona_archives.export(name, file)
    if as_json:
        print_json(made)
        return
    tell(f"written: {made.path} ({printable(made.persona)}: {made.speaks}, {made.bytes} bytes)")


@app.command("import")
def import_persona(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that dna persona export wrote.", show_default=False)],
    name: Annotated[str | None, typer.Option("--as", help="What it is called here.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Take in a persona with its genome and blocks: all of it verified before any of it is visible."""
    state: State = context.obj
    made = state.persona_archives.load(file, name=name)
    if as_json:
        print_json(made)
        return
    tell(f"{'imported' if made.new else 'here already'}: {made.persona.name} ({len(made.blocks)} blocks)")


def drawn(graph: PersonaGraph, *, mermaid: bool, svg: bool, as_json: bool) -> None:
    """A graph as it was asked for."""
    from clonedna.app.persona_drawing import svg as drawing
    from clonedna.app.persona_lineage import edge_label, lines_of
    from clonedna.app.persona_lineage import mermaid as flowchart
    from clonedna.core.errors import InputError

    if mermaid + svg + as_json > 1:
        raise InputError("--mermaid, --svg and --json exclude each other", "give one of them")
    if as_json:
        print_json(graph)
        return
    if mermaid or svg:
        sys.stdout.write(drawing(graph) if svg else flowchart(graph))
        return
    names = {node.id: node.label for node in graph.nodes}
    made_of = {
        node.id: [f"{names[e.target]} ({edge_label(e)})" for e in graph.edges if e.source == node.id]
        for node in graph.nodes
    }
    rows = [[*lines_of(node)[:2], "; ".join(lines_of(node)[2:]), ", ".join(made_of[node.id])] for node in graph.nodes]
    table(f"Lineage of {graph.persona}", ["", "what", "measured", "of"], rows)
    if graph.left_out:
        tell(f"and at least {graph.left_out} more, which were not looked at")


def _told(what: str, made: Persona) -> None:
    current = made.current
    tell(
        f"{what}: {made.name} (version {current.number}: {current.called})"
        if current
        else f"{what}: {made.name}; nothing speaks for it yet"
    )
