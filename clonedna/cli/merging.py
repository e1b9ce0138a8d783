"""`dna merge`: several blocks as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.blocks import spec_line
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.merging import Merged
    from clonedna.core.merge import MergeOrder

WORST = 3
Parts = Annotated[
    list[str],
    typer.Argument(help="Blocks with their weights: ada:0.7 bob@1.0.0:0.3 (no weight = 1).", show_default=False),
]
Method = Annotated[
    str,
    typer.Option(
        help="svd: the best of a rank; cat: exact, ranks add up; linear, ties, dare_linear, dare_ties, magnitude_prune: "
        "as PEFT has them, on A and B apart; with _svd behind: on the whole delta."
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command()(merge)


def merge(
    context: typer.Context,
    parts: Parts,
    name: Annotated[str, typer.Option(help="The merged block's name.", show_default=False)],
    method: Method = "svd",
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rank of the result (svd, *_svd, knots_ties); default: the largest (knots_ties: their sum)."
        ),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of entries that ties, dare and magnitude_prune keep; default 0.5.")
    ] = None,
    majority: Annotated[
        Literal["total", "frequency"] | None,
        typer.Option(help="Which sign wins in ties: by sum (default) or by count."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Which entries dare drops; default 0.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Where the base is, if not under the name the blocks give.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Load the result in a fresh process with PEFT; needs the base.")] = True,
    as_json: Json = False,
) -> None:
    """Merge blocks of one base into a new block, and say how far it is from their weighted sum."""
    import anyio

    from clonedna.app.merging import Merging, order_of
    from clonedna.cli.progress import listener

    state: State = context.obj
    order = order_of(
        parts, name=name, method=method, rank=rank, density=density, majority=majority, seed=seed, on=on, check=check
    )  # fmt: skip

    async def work() -> Merged:
        with listener(as_json) as listen:
            try:
                return await Merging(state.parts, listen).merge(order)
            finally:
                await state.parts.close()

    merged = anyio.run(work) if state.client is None else _there(state, parts, order, as_json)
    if as_json:
        print_json(merged)
    else:
        _show(merged)


def _there(state: State, parts: list[str], order: MergeOrder, as_json: bool) -> Merged:
    """The same on the server that was named."""
    from clonedna.app.job_asks import MergeAsk
    from clonedna.app.merging import Merged
    from clonedna.cli import following

    following.refuse_base(order.on)
    spec = order.spec
    ask = following.asked(
        MergeAsk, parts=tuple(parts), name=order.name, method=spec.method, rank=spec.rank, density=spec.density,
        majority=spec.majority, seed=spec.seed, check=order.check,
    )  # fmt: skip
    return following.value_of(following.order(state, ask, events=as_json), Merged)


def _show(merged: Merged) -> None:
    report = merged.report
    facts = [
        ["parents", ", ".join(merged.parents)], ["method", spec_line(report.spec)], ["rank", str(report.rank)],
        ["relative error", f"{report.relative_error:.3g}"],
    ]  # fmt: skip
    worst = sorted((m for m in report.modules if m.relative_error), key=lambda m: -(m.relative_error or 0))[:WORST]
    facts += [[f"worst {i}", f"{m.relative_error:.3g}  {m.module}"] for i, m in enumerate(worst, 1)]
    facts += [["seconds", f"{report.seconds:.2f}"], ["loads in PEFT", f"{merged.peft.value} ({merged.peft.how})"]]
    tell("")
    table(f"{merged.block} · {merged.block.id[:12]} · {merged.block.status}", ["", ""], facts)
    if merged.block.status == "registered":
        tell(f"\nnot examined; next: dna run {merged.block.name} 'Write a function that reads a file' --beside-base")
    else:
        tell(f"\nrejected: see {printable(f'dna show {merged.block.id[:12]}')}")
