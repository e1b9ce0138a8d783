"""`dna genome analyze | search | plan | apply` and `dna assemble`: from a need in words to a signed genome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell
from clonedna.cli.genome_wants import Need, On, Wants, wanting
from clonedna.cli.genomes import genome_app, show_genome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clonedna.app.genome_values import ApplyOrder, Assembled, FoundLayer, KeptPlan
    from clonedna.core.genome import Match, Similarity, SkillPlan

EVIDENCE = {
    "given": "given", "source": "of genome_sources", "teacher": "written by the teacher", "library": "held out by the near blocks",
    "none": "",
}  # fmt: skip
Name = Annotated[str | None, typer.Option(help="The genome's name; default: made of the request.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    for command in (analyze, search, wanting(plan), apply):
        genome_app.command()(command)
    app.command()(wanting(assemble))


def analyze(context: typer.Context, request: Need, as_json: Json = False) -> None:
    """Take a need apart into skills with weights."""
    state: State = context.obj
    found = _desk(state, None).analyze(request)
    if as_json:
        print_json(found)
        return
    rows = [[one.text, one.node or "(free text)", f"{one.weight:.2f}", f"{one.strength:.2f}"] for one in found.skills]
    table("", ["skill", "node", "weight", "strength"], rows)


def search(
    context: typer.Context, request: Need, limit: Annotated[int, typer.Option(min=1, max=50)] = 5, on: On = None, as_json: Json = False
) -> None:  # fmt: skip
    """Show the blocks that are near to a need and to each of its skills, and those that may not be used. Nothing is measured."""
    state: State = context.obj
    found = _desk(state, on).search(request, limit)
    if as_json:
        print_json(found)
        return
    groups = [("the whole request", found.whole)]
    groups += [(f"{one.skill.text} ({one.skill.weight:.2f})", one.layers) for one in found.skills]
    for title, layers in groups:
        rows = [
            [
                f"{x.name}@{x.version}",
                x.id[:8],
                f"{x.cosine:.2f}",
                "" if x.predicted is None else f"{x.predicted:.2f}",
                f"{x.score:.2f}",
            ]
            for x in layers
        ]
        table(title, ["block", "id", "cosine", "s* predicted", "score"], rows)
    _tell_repeats([x for _, layers in groups for x in layers])
    for out in found.refused:
        tell(f"refused: {printable(out.name)}: {out.code}: {printable(out.why)}")


def plan(
    context: typer.Context, wants: Wants,
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file.", show_default=False)] = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Say what assembling would do: layers, what each brings, trainings, time, disk, licence, conflicts. Nothing is trained."""
    from clonedna.app.workspace import write_atomic
    from clonedna.cli.progress import listener
    from clonedna.core.canonical import canonical

    state: State = context.obj
    if state.client is not None:
        with listener(as_json) as listen:
            kept = state.client.genomes.plan(wants.there(state), listen)
    else:
        kept = _planned(state, wants, as_json)
    if out is not None:
        write_atomic(out, canonical(kept))
    if as_json:
        print_json(kept)
    else:
        _show_plan(kept)
        tell(f"\nnext: dna genome apply {kept.plan.id[:12]}")


def apply(
    context: typer.Context,
    plan: Annotated[
        str, typer.Argument(help="A plan's id, its first digits, or the file of a plan.", show_default=False)
    ],
    name: Name = None,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Carry a plan out: train what is missing, compose, measure, sign and keep the genome. Goes on after a kill: dna jobs resume."""
    from clonedna.app.genome_orders import of_plan, plan_named

    state: State = context.obj
    reference = plan_named(plan)
    if state.client is not None:
        from clonedna.cli import following

        following.refuse_base(on)
        _followed(state, state.client.genomes.apply(reference, name=name).id, as_json)
        return
    order, _ = of_plan(state.parts, reference, name, on=on)
    _run(state, order, {}, as_json)


def assemble(context: typer.Context, wants: Wants, name: Name = None, as_json: Json = False) -> None:
    """Plan a need and carry the plan out: a signed genome of the layers that bring what is wanted."""
    from clonedna.app.genome_orders import of_need

    state: State = context.obj
    if state.client is not None:
        _followed(state, state.client.genomes.assemble(wants.there(state), name=name).id, as_json)
        return
    ask = wants.here(state)
    files = {ask.pairs.sha256: wants.pairs} if ask.pairs is not None and wants.pairs is not None else {}
    _run(state, of_need(ask, name, on=wants.on), files, as_json)


def _desk(state: State, on: str | None) -> Any:
    """Where needs are taken apart and searched for: here, or the server that was named."""
    from clonedna.app.genome_desk import GenomeDesk
    from clonedna.cli import following

    if state.client is None:
        return GenomeDesk(state.parts, on or state.settings.base)
    following.refuse_base(on)
    return state.client.genomes


def _planned(state: State, wants: Wants, as_json: bool) -> KeptPlan:
    import anyio

    from clonedna.app.genome_judge import HomeJudge
    from clonedna.app.genome_plan import Planning
    from clonedna.cli.progress import listener

    ask = wants.here(state)
    data = wants.pairs.read_bytes() if wants.pairs is not None else None

    async def work() -> KeptPlan:
        with listener(as_json) as listen:
            try:
                planning = Planning(state.parts, HomeJudge(state.parts), listen)
                return await planning.plan(ask, wants.on or state.settings.base, pairs=data)
            finally:
                await state.parts.close()

    return anyio.run(work)


def _run(state: State, order: ApplyOrder, files: dict[str, Path], as_json: bool) -> None:
    """As a job of this process, that goes on where an interrupted one of the same order stopped."""
    from clonedna.app.genome_values import Assembled
    from clonedna.cli.minting import carry_out

    workspace, goes_on = state.jobs.create(order, files=files)
    if goes_on:
        tell(f"going on with the interrupted job {workspace.id}")
    carry_out(state, workspace, as_json)
    _told(workspace.read("value.json", Assembled), as_json)


def _followed(state: State, job: str, as_json: bool) -> None:
    from clonedna.app.genome_values import Assembled
    from clonedna.cli import following

    tell(f"job {job} on {state.settings.server}: it goes on without this command")
    _told(following.value_of(following.followed(state, job, events=as_json), Assembled), as_json)


def _told(made: Assembled, as_json: bool) -> None:
    from clonedna.app.genome_values import GenomeChecked

    if as_json:
        print_json(made)
        return
    tell("")
    show_genome(GenomeChecked(genome=made.genome, usable=True, faults=()))
    for one in made.trained:
        tell(
            f"trained for {printable(one.skill)}: {one.block or 'nothing'}{f'; not used: {printable(one.why)}' if one.why else ''}"
        )
    for skill in made.uncovered:
        tell(f"uncovered: {printable(skill)}")
    _tell_warnings([one for one in made.warnings if not one.startswith("uncovered")])
    tell(f"\nnext: dna genome show {made.genome.name}")


def _show_plan(kept: KeptPlan) -> None:
    found = kept.plan
    tell(f"plan {found.id[:12]} for {found.base_model}: {printable(found.desired.request)}")
    table(
        "",
        ["route", "weight", "layer", "s* predicted", "measured", "skill"],
        [_skill_row(one) for one in found.skills],
        whole=5,
    )
    for one in found.skills:
        on = f" [{one.exemplars} exemplars: {EVIDENCE[one.evidence]}]" if one.exemplars else ""
        tell(f"{printable(one.skill.text)}: {printable(one.reason)}{on}")
    facts = [
        ["composition", f"{found.composition.kind} ({found.composition.method})"], ["covered before training", _value(found.covered)],
        ["licence", found.license or "none yet"], ["training", _value(found.seconds, " s")],
        ["disk", _value(found.disk, " bytes")], ["memory", _value(found.memory, " bytes")],
    ]  # fmt: skip
    table("", ["", ""], facts)
    matches = [m for one in found.skills for m in one.matches]
    _tell_repeats(matches)
    names = {m.id: f"{m.name}@{m.version}" for m in matches}
    for one in found.conflicts:
        tell(
            f"{one.light}: {names.get(one.source, one.source[:12])} beside {names.get(one.target, one.target[:12])}: {one.why}"
        )
    for out in found.refused:
        tell(f"refused: {printable(out.name)}: {out.code}: {printable(out.why)}")
    _tell_warnings(found.warnings)


def _tell_warnings(found: Sequence[str]) -> None:
    """The last one may say why no more layers were chosen: that is none."""
    for one in found:
        tell(printable(one) if one.startswith("chosen: ") else f"warning: {printable(one)}")


def _tell_repeats(found: Sequence[FoundLayer | Match]) -> None:
    """Which blocks are copies, forks or merges of one that is ranked before them."""
    names = {one.id: f"{one.name}@{one.version}" for one in found}
    repeats = [(one.id, one.duplicate_of) for one in found if one.duplicate_of is not None]
    for block, other in dict.fromkeys(repeats):
        tell(f"{names[block]} repeats {names.get(other, other[:12])}: beside it, it adds nothing")


def _skill_row(one: SkillPlan) -> list[str]:
    match = next((m for m in one.matches if m.id == one.layer), None)
    told = (
        ["", "", ""]
        if match is None
        else [f"{match.name}@{match.version}", _short(match.predicted), _short(match.measured)]
    )
    return [one.route + (" (trains)" if one.trains else ""), f"{one.skill.weight:.2f}", *told, one.skill.text]


def _short(found: Similarity) -> str:
    return "n/a" if found.value is None else f"{found.value:.2f}"


def _value(measure: Any, unit: str = "") -> str:
    return (
        f"n/a: {measure.how}" if measure.value is None else f"{measure.value:g}{unit} ({measure.status}: {measure.how})"
    )
