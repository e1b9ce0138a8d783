"""`dna genome ls | show | verify | sign | rm | rollback`: genomes that are there. Other modules add their commands to ``genome_app``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.genome_values import GenomeChecked, GenomeLine
    from clonedna.core.block import Measure
    from clonedna.core.genome import GenomeManifest, SignedGenome, Similarity

genome_app = typer.Typer(
    no_args_is_help=True, help="Genomes: signed stacks of layers for a need that was said in words."
)
REFERENCE = "name, name@version, or the beginning of an id."
Reference = Annotated[str, typer.Argument(help=REFERENCE, show_default=False)]
File = Annotated[
    Path | None, typer.Option("--file", help="A genome in a file instead: genome.json, or one with its signature.")
]


def add_to(app: typer.Typer) -> None:
    """The group, with what other modules added to it."""
    app.add_typer(genome_app, name="genome")


@genome_app.command("ls")
def list_genomes(context: typer.Context, as_json: Json = False) -> None:
    """List the genomes, newest first, and what keeps one from being used."""
    state: State = context.obj
    found = state.genomes.list()
    if as_json:
        print_json(found)
        return
    table("", ["genome", "id", "made", "composition", "layers", "fault"], [_row(one) for one in found.genomes], whole=4)
    for fault in found.faults:
        tell(f"{fault.name or fault.id[:12]}: {fault.code}: {printable(fault.why)}")


def _row(one: GenomeLine) -> list[str]:
    layers = ", ".join(f"{x.name}@{x.version}" for x in one.layers)
    return [f"{one.name}@{one.version}", one.id[:8], one.created_at[:10], one.composition, layers, one.fault]


@genome_app.command()
def show(context: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """Show a genome: its layers, what was measured of them together, and what is wrong with it now, if anything."""
    state: State = context.obj
    found = state.genomes.show(reference)
    if as_json:
        print_json(found)
    else:
        show_genome(found)


@genome_app.command()
def verify(
    context: typer.Context,
    reference: Annotated[str | None, typer.Argument(help=REFERENCE)] = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Check a genome's signature, and every member: here, sound, allowed, on its base, licences together."""
    from clonedna.core.errors import GenomeUnsigned
    from clonedna.core.genome import SignedGenome

    state: State = context.obj
    which = _which(reference, file)
    if isinstance(which, str):
        found = state.genomes.verify(which)
    elif isinstance(which, SignedGenome):
        found = state.genomes.verify_signed(which)
    else:
        raise GenomeUnsigned(f"{file} has no signature", f"vouch for it yourself: dna genome sign --file {file}")
    if as_json:
        print_json(found)
    else:
        tell(f"{_called(found.genome)} is whole, signed by {found.genome.created_by[:12]}, and may be used")


@genome_app.command()
def sign(
    context: typer.Context,
    reference: Annotated[str | None, typer.Argument(help="A genome here, by its whole id or name@version.")] = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Vouch for a genome with this machine's key. Of another maker's the next version is made, without the figures it states."""
    from clonedna.core.genome import SignedGenome

    state: State = context.obj
    which = _which(reference, file)
    if isinstance(which, str):
        manifest = state.genomes.show(which).genome if state.client else state.own_genomes.stated(which)
    else:
        manifest = which.manifest if isinstance(which, SignedGenome) else which
    signed = state.genomes.sign(manifest)
    if as_json:
        print_json(signed)
    else:
        tell(f"{_called(signed.manifest)} ({signed.manifest.id[:12]}) is signed by {signed.manifest.created_by[:12]}")


@genome_app.command()
def rollback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The genome's name.", show_default=False)],
    version: Annotated[str, typer.Argument(help="The version to go back to.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make the next version of a genome with the layers of an earlier one. Nothing is removed."""
    state: State = context.obj
    made = state.genomes.rollback(name, version)
    if as_json:
        print_json(made)
    else:
        tell(f"{_called(made)} ({made.id[:12]}) has the layers of {name}@{version}")


@genome_app.command()
def rm(context: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """Forget one version of a genome. Its blocks stay."""
    state: State = context.obj
    gone = state.genomes.remove(reference)
    if as_json:
        print_json(gone)
    else:
        tell(f"removed: {gone.name}@{gone.version} ({gone.id[:12]})")


def _which(reference: str | None, file: Path | None) -> str | GenomeManifest | SignedGenome:
    """The reference, or what the file holds. Raises ``InputError`` for neither or both, and as ``read_file``."""
    from clonedna.app.genomes import read_file
    from clonedna.core.errors import InputError

    if reference is not None and file is None:
        return reference
    if file is not None and reference is None:
        return read_file(file)
    raise InputError("which genome?", "give a reference, or --file")


def show_genome(found: GenomeChecked) -> None:
    """A genome in tables."""
    one = found.genome
    tell(f"{_called(one)} · {one.id[:12]} · {printable(one.desired.request)}")
    facts = [
        ["base", one.base_model], ["composition", f"{one.composition.kind} ({one.composition.method})"], ["licence", one.license],
        ["made", f"{one.created_at} by {one.created_by[:12]}"], ["parent", (one.parent or "")[:12]], ["plan", one.plan[:12]],
        ["size", f"{one.evaluation.bytes / 1e6:.1f} MB"],
        ["interference", _measure(one.evaluation.interference)], ["guard", _measure(one.evaluation.guard)],
    ]  # fmt: skip
    table("", ["", ""], facts)
    rows = [
        [
            f"{x.name}@{x.version}",
            x.id[:8],
            f"{x.weight:.3g}",
            ", ".join(x.skills),
            _measure(one.evaluation.retention.get(x.id)),
        ]
        for x in one.layers
    ]
    table("\nlayers", ["block", "id", "weight", "for", "keeps of its gain"], rows)
    skills = [
        [skill.text, f"{skill.weight:.2f}", similarity(one.evaluation.similarity.get(skill.text))]
        for skill in one.desired.skills
    ]
    table("\nskills", ["skill", "weight", "s* of the genome"], skills)
    for fault in found.faults:
        tell(f"refused: {fault.name}: {fault.code}: {printable(fault.why)}")
    if not found.usable:
        tell("it may not be used as it is; assemble it again: dna assemble")


def _called(one: GenomeManifest) -> str:
    return f"{one.name}@{one.version}"


def _measure(found: Measure | None) -> str:
    if found is None:
        return ""
    return f"n/a: {found.how}" if found.value is None else f"{found.value:.3f} ({found.status}, n {found.n})"


def similarity(found: Similarity | None) -> str:
    """s* with its interval, or why there is none."""
    if found is None:
        return ""
    if found.value is None:
        return f"n/a: {found.how}"
    ends = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends} {found.status}"
