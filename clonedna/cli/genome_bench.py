"""`dna genome bench`: which way of composing some blocks keeps how much of what each brings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.bench_values import GenomeBench
    from clonedna.core.block import Measure


def add_to(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    context: typer.Context,
    references: Annotated[list[str], typer.Argument(help="Two or more blocks of one base.", show_default=False)],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Ways to compose, separated by commas: gate, average, sum, tuned, svd, regmean, ties, dare, knots_ties, "
            "legacy_peft_linear, arrow, mixture. Default: all.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each block to measure on, at most.")] = 48,
    exemplars: Annotated[
        int, typer.Option(help="Training pairs of each block for covariances and gate, at most.")
    ] = 32,
    top_k: Annotated[int, typer.Option("--top-k", help="Adapters that each token goes through with arrow.")] = 2,
    seed: Annotated[int, typer.Option(help="Decides what dare drops, and the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Compose blocks in every way there is, and measure what each keeps of its own gain on its own held-out pairs."""
    from clonedna.app.bench_values import WAYS, BenchOrder, GenomeBench
    from clonedna.cli import following

    state: State = context.obj
    ways = tuple(way.strip() for way in methods.split(",")) if methods is not None else WAYS
    fields = {
        "blocks": tuple(references),
        "ways": ways,
        "pairs": pairs,
        "exemplars": exemplars,
        "top_k": top_k,
        "seed": seed,
    }
    if state.client is not None:
        from clonedna.app.job_asks import BenchAsk

        ask = following.asked(BenchAsk, **fields)
        found: GenomeBench = following.value_of(following.order(state, ask, silent=as_json), GenomeBench)
    else:
        found = _here(state, following.asked(BenchOrder, **fields), as_json)
    if as_json:
        print_json(found)
    else:
        show(found)


def _here(state: State, order: object, as_json: bool) -> GenomeBench:
    from functools import partial

    import anyio

    from clonedna.app.benching import Benching
    from clonedna.cli.progress import listener
    from clonedna.core.events import silent

    async def work() -> GenomeBench:
        with listener(False) as listen:
            try:
                return await Benching(state.parts, silent if as_json else listen).bench(order)  # type: ignore[arg-type]
            finally:
                with anyio.CancelScope(shield=True):
                    await state.parts.close()

    return anyio.run(partial(work))


def show(found: GenomeBench) -> None:
    """Members, ways by their mean retention, then each member under each way."""
    rows = [
        [one.block, f"{one.pairs}/{one.files}", _signed(one.gain), str(one.rank), _mib(one.bytes)]
        for one in found.members
    ]
    table("", ["member", "pairs/files", "gain alone, nats a token", "rank", "MiB"], rows)
    for one in found.members:
        if one.left_out:
            tell(f"note: {printable(one.block)}: {one.left_out} held-out pairs left out, a member may have seen them")
    print()
    ranked = sorted(found.ways, key=lambda one: -(one.mean.value if one.mean.value is not None else -1e9))
    rows = [["routed, each to its own", _value(found.routed), _value(found.routed), "", "", "", ""]]
    for one in ranked:
        norm, away = (("" if value is None else f"{value:.2f}") for value in (one.norm, one.relative_error))
        rows.append([one.way, _value(one.mean), _value(one.worst), norm, away, f"{one.seconds:.1f}", _mib(one.bytes)])
    table("share of the members' own gain that is kept", ["way", "mean", "worst", "norm", "off", "s", "MiB"], rows)
    print()
    numbers = [f"{number}" for number in range(1, len(found.members) + 1)]
    kept = [[one.way, *(_value(measure) for measure in one.retention)] for one in ranked if one.retention]
    table("kept by each member", ["way", *numbers], kept)
    tell("  ".join(f"{number} {printable(one.block)}" for number, one in zip(numbers, found.members, strict=True)))
    tell("norm: of what is added, by the members' own mean; off: distance from the weighted sum; s: to make it")
    for one in ranked:
        if one.why or one.note:
            tell(f"{one.way}: {printable(one.why or one.note)}")
    for one, first in zip(found.members, ranked[0].retention, strict=False):
        if first.value is None:
            tell(f"n/a for {printable(one.block)}: {printable(first.how)}")


def _signed(measure: Measure) -> str:
    if measure.value is None:
        return "n/a"
    interval = f" [{measure.ci95[0]:+.3f}, {measure.ci95[1]:+.3f}]" if measure.ci95 else ""
    return f"{measure.value:+.3f}{interval}"


def _value(measure: Measure) -> str:
    return "n/a" if measure.value is None else f"{measure.value:.2f}"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / (1 << 20):.2f}"
