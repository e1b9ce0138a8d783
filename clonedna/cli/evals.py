"""`dna eval`: measure a block again, on its own hold-out or on given pairs; or find out whose code several blocks explain best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.blocks import On, Unsafe
from clonedna.cli.context import Json, State, print_json
from clonedna.cli.evaluations import show_evaluated

if TYPE_CHECKING:
    from clonedna.app.evaluations import Evaluated

CONTAMINATED = 4
NOT_REPRODUCED = 5


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    context: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(metavar="BLOCK...", help="name, name@version, or the beginning of the id.", show_default=False),
    ],
    full: Annotated[bool, typer.Option("--full", help="Also what takes long: tasks, timings, canaries.")] = False,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Measure likelihood on these pairs (JSONL) instead.")
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            "--tasks", help="With --full: these programming tasks (JSONL of HumanEval or MBPP).", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=100, help="With --full: answers to each programming task.")
    ] = 1,
    on: On = None,
    seed: Annotated[
        int | None, typer.Option(help="Of every draw; by default the recipe's.", show_default=False)
    ] = None,
    unsafe: Unsafe = False,
    identity: Annotated[
        bool, typer.Option("--identity", help="Whose code do these blocks explain best? Give two or more.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --identity: a folder for table and pictures.")] = None,
    controls: Annotated[
        bool | None,
        typer.Option(
            "--controls/--no-controls",
            help="With --identity: also train a control on the others' code for each (the default; takes a training each).",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a block again and show how far it is from what is stored.

    Exit status 4: the pairs are training data of the block. 5: a stored measure was not reproduced.
    """
    from clonedna.core.errors import InputError

    state: State = context.obj
    if identity:
        if full or pairs is not None or tasks is not None or on is not None or seed is not None:
            raise InputError(
                "--identity goes with --out, --no-controls, --unsafe and --json only", "leave the other options out"
            )
        from clonedna.cli.identity import identity as show_identity

        show_identity(state, references, out=out, controls=controls is not False, as_json=as_json, unsafe=unsafe)
        return
    if len(references) != 1:
        raise InputError(f"{len(references)} blocks; one is measured at a time", "compare several: dna eval --identity")
    if out is not None or controls is not None:
        raise InputError("--out, --controls and --no-controls go with --identity", "leave them out")
    if full and pairs is not None:
        raise InputError("--full measures the block's own pairs", "leave out --full or --pairs")
    if not full and (tasks is not None or samples != 1):
        raise InputError("--tasks and --samples go with --full", "add --full")
    done = _run(
        state,
        references[0],
        full=full,
        pairs=pairs,
        tasks=tasks,
        samples=samples,
        on=on,
        seed=seed,
        unsafe=unsafe,
        as_json=as_json,
    )
    if as_json:
        print_json(done)
    else:
        show_evaluated(done)
    if done.contaminated:
        raise typer.Exit(CONTAMINATED)
    if done.reproduced is False:
        raise typer.Exit(NOT_REPRODUCED)


def _run(
    state: State, reference: str, *, full: bool, pairs: Path | None, tasks: Path | None, samples: int, on: str | None,
    seed: int | None, unsafe: bool, as_json: bool,
) -> Evaluated:  # fmt: skip
    import anyio

    if state.client is not None:
        return _there(
            state, reference, full=full, pairs=pairs, tasks=tasks, samples=samples, on=on, seed=seed, unsafe=unsafe,
            silent=as_json,
        )  # fmt: skip
    from clonedna.app.evaluating import Evaluating
    from clonedna.cli.progress import listener
    from clonedna.core.events import silent

    async def work(listen: object) -> Evaluated:
        evaluating = Evaluating(state.parts, listen)  # type: ignore[arg-type]
        try:
            if pairs is not None:
                return await evaluating.measure(reference, pairs, on=on, seed=seed, unsafe=unsafe)
            return await evaluating.examine(
                reference, full=full, tasks=tasks, samples=samples, on=on, seed=seed, unsafe=unsafe
            )
        finally:
            with anyio.CancelScope(shield=True):
                await state.parts.close()

    if as_json:
        return anyio.run(work, silent)
    with listener(False) as listen:
        return anyio.run(work, listen)


def _there(
    state: State, reference: str, *, full: bool, pairs: Path | None, tasks: Path | None, samples: int, on: str | None,
    seed: int | None, unsafe: bool, silent: bool,
) -> Evaluated:  # fmt: skip
    """The same on the server that was named; files go there first."""
    from clonedna.app.evaluations import Evaluated
    from clonedna.app.job_asks import EvaluateAsk
    from clonedna.cli import following

    following.refuse_base(on)
    ask = following.asked(
        EvaluateAsk, block=reference, full=full, pairs=following.uploaded(state, pairs), tasks=following.uploaded(state, tasks),
        samples=samples, seed=seed, unsafe=unsafe,
    )  # fmt: skip
    return following.value_of(following.order(state, ask, silent=silent), Evaluated)
