"""`dna genome conflicts`: which blocks would harm each other, side by side in one genome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.blocks import On
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.interfering import Conflicts
    from clonedna.core.block import Measure

SHOWN = 3  # modules of a pair


def add_to(app: typer.Typer) -> None:
    app.command()(conflicts)


def conflicts(
    context: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]", help="Blocks: name, name@version, or the beginning of the id.", show_default=False
        ),
    ],
    observe: Annotated[
        bool,
        typer.Option(
            "--observe", help="Run the base on the blocks' own examples to see what their modules read; kept here."
        ),
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Stack every two, measure what each keeps of its gain, and note it.")
    ] = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Show for every ordered pair how much harm the first would do to the second, with a light; and who repeats whom.

    Lights: green up to 10 % of its own gain lost, amber up to 30 %, red beyond. What was measured is believed before what is foretold.
    """
    import anyio

    state: State = context.obj
    if state.client is None:
        from clonedna.app.interfering import Interfering

        work = Interfering(state.parts)
        found = anyio.run(lambda: work.conflicts(references, observe=observe, measured=measure, on=on))
    else:
        found = state.client.interfering.conflicts(references, observe=observe, measured=measure, on=on)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Conflicts) -> None:
    names = {one.id: f"{one.name}@{one.version}" for one in found.blocks}
    rows = [
        [
            one.light, names[one.source], names[one.target], _percent(one.damage), one.by.replace("_", " "), _number(one.phi),
            _number(one.norm_ratio), "-" if one.cosine is None else f"{one.cosine:.2f}",
        ]
        for one in found.pairs
    ]  # fmt: skip
    table("", ["light", "beside", "harms", "loses", "by", "phi", "norms", "cosine"], rows)
    for one in found.pairs:
        if one.light in ("red", "amber"):
            worst = ", ".join(f"{m.module} {m.value:.2f}" for m in one.modules[:SHOWN] if m.value is not None)
            tell(f"{one.light}: {names[one.source]} beside {names[one.target]}: {printable(one.why)}; worst in {worst}")
    for kin in found.kin:
        cosine = "" if kin.cosine is None else f", cosine {kin.cosine:.3f}"
        tell(f"{kin.kind}: {names[kin.one]} of {' and '.join(names[one] for one in kin.of)} (by {kin.by}{cosine})")
    for block, why in found.without_inputs.items():
        tell(f"no covariances of {names[block]}: {printable(why)}")
    for block, kept in found.retention.items():
        tell(f"{names[block]} keeps {_percent(kept)} of its gain beside all the others")
    if (index := found.index) is not None:
        verdict = "not known" if index.passes is None else "within its gates" if index.passes else "over a gate"
        tell(
            f"interference index: members lose {_percent(index.member)} (gate {index.member_gate:.0%}), "
            f"elsewhere {_percent(index.guard)} (gate {index.guard_gate:.0%}): {verdict}"
        )
    tell(f"lights fitted on {found.card_pairs} pairs: {printable(found.card)}")


def _number(measure: Measure) -> str:
    return "-" if measure.value is None else f"{measure.value:.2f}"


def _percent(measure: Measure) -> str:
    return "not known" if measure.value is None else f"{measure.value:.1%}"
