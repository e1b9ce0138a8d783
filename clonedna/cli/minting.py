"""`dna mint` and `dna authors`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell
from clonedna.cli.preflight import show_preflight

if TYPE_CHECKING:
    from clonedna.app.job_values import JobView
    from clonedna.app.workspace import Workspace
    from clonedna.core.block import BlockRef, MintOrder
    from clonedna.core.work import AuthorShare, Identity

WHERE = "A local repository, a git URL, a GitHub handle, or package:NAME[,NAME]."
Target = Annotated[str, typer.Argument(help=WHERE, show_default=False)]
MaybeTarget = Annotated[str | None, typer.Argument(help=WHERE, show_default=False)]


def add_to(app: typer.Typer) -> None:
    app.command()(mint)
    app.command()(authors)


def mint(
    context: typer.Context,
    target: MaybeTarget = None,
    author: Annotated[
        list[str] | None, typer.Option(help="'Name <mail>' of the person; again for further identities.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The block's name; default: made of the person's name.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model: nano, a folder, or a hub name.")] = None,
    consent: Annotated[
        Literal["auto", "self", "granted", "local-only"],
        typer.Option(
            help="self: the author is you; granted: the account consented; local-only: can never be shared; auto: what holds."
        ),
    ] = "auto",
    allow_licence: Annotated[
        list[str] | None, typer.Option(help="A further SPDX id to accept beside the settings' list.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides splits, order, initial weights.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, max=100, help="At most so many passes.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank: 8, 16, 32, 64 or 128.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    max_pairs: Annotated[
        int | None, typer.Option(min=1, help="Train on at most so many of the person's pairs.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Instead of a repository: a JSONL file of examples (chat messages).")
    ] = None,
    licence: Annotated[str, typer.Option(help="With --pairs: the licence of the examples, an SPDX id.")] = "",
    teacher: Annotated[
        Literal["own-words", "openai", "engine"],
        typer.Option(
            help="Who writes the tasks: the person's own words; a server (settings); the base model. Code goes to that server."
        ),
    ] = "own-words",
    general: Annotated[
        Literal["auto", "alpaca-cleaned", "jsonl", "rehearsal"],
        typer.Option(
            help="Pairs against forgetting: the hub's data set; a file (settings); the base's own answers; auto: the first there is."
        ),
    ] = "rehearsal",
    general_ratio: Annotated[
        float | None, typer.Option(min=0.0, max=4.0, help="General pairs for each pair of the person's; 0 = none.")
    ] = None,
    continues: Annotated[
        str | None,
        typer.Option("--continue", help="Make the next version of this block, from what the person wrote since."),
    ] = None,
    replay: Annotated[
        float | None,
        typer.Option(min=0.0, max=10.0, help="With --continue: old training pairs for each new one."),
    ] = None,
    guard: Annotated[
        list[str] | None, typer.Option(help="Train so that this block of the same base is left be; may be repeated.")
    ] = None,
    guard_weight: Annotated[
        float | None, typer.Option(min=0.0, max=1000.0, help="With --guard: how firmly what it says is kept (1).")
    ] = None,
    guard_energy: Annotated[
        float | None, typer.Option(min=0.0, max=1e6, help="With --guard: also keep off what its modules read (0).")
    ] = None,
    guard_orthogonal: Annotated[
        float | None,
        typer.Option(min=0.0, max=1e6, help="With --guard: also keep off its directions, as O-LoRA does (0)."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only tell what would be minted, and what would refuse it; nothing is trained or stored."
        ),
    ] = False,
    queue: Annotated[
        bool,
        typer.Option("--queue", help="Only order it: a server or worker (dna worker) of this home carries it out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Mint a block from one person's code in a repository, or from given pairs.

    Finds what they wrote by blame, holds out whole files, trains an adapter, examines it on the held-out code, packs and signs it.
    A mint that was interrupted goes on when the same command is given again.
    """
    state: State = context.obj
    _refuse(
        target=target, pairs=pairs, continues=continues, name=name, licence=licence, replay=replay, teacher=teacher,
        consent=consent, dry_run=dry_run, queue=queue,
    )  # fmt: skip
    if state.client is not None:
        ask = {
            "target": _place(target), "authors": author or (), "licence": licence, "continues": continues, "name": name, "base": base,
            "consent": consent, "allow_licences": allow_licence or (), "teacher": teacher, "seed": seed, "epochs": epochs, "rank": rank,
            "learning_rate": learning_rate, "max_pairs": max_pairs, "general": general, "general_ratio": general_ratio, "replay": replay,
            "guard": guard or (), "guard_weight": guard_weight, "guard_energy": guard_energy, "guard_orthogonal": guard_orthogonal,
        }  # fmt: skip
        _mint_there(state, ask, pairs, dry_run=dry_run, queue=queue, as_json=as_json)
        return
    from clonedna.app.guarding import guard_recipe

    recipe = {
        "seed": seed,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "max_train_pairs": max_pairs,
        "rank": rank,
        "general": None if general == "rehearsal" else general,
        "base_instruct_ratio": general_ratio,
        "guard": guard_recipe(
            state.parts, guard or [], kl=guard_weight, energy=guard_energy, orthogonal=guard_orthogonal
        ),
    }
    if pairs is not None:
        order, files = _given(state, pairs, author, name, base, consent, licence, recipe)
        _mint(state, order, files, dry_run=False, queue=queue, as_json=as_json)
        return
    if continues is not None:
        order = state.own_versions.order(
            continues, target=target, authors=_people(state, "", author) if author else (), base=base, consent=consent,
            allow_licence=allow_licence or [], recipe={**recipe, "seed": seed or None, "replay_ratio": replay}, teacher=teacher,
        )  # fmt: skip
    else:
        from clonedna.app.orders import order_of

        assert target is not None
        order = order_of(
            state.settings, target=target, authors=_people(state, target, author), name=name, base=base, consent=consent,
            allow_licence=allow_licence or [], recipe=recipe, teacher=teacher,
        )  # fmt: skip
    _mint(state, order, {}, dry_run=dry_run, queue=queue, as_json=as_json)


def _refuse(
    *, target: str | None, pairs: Path | None, continues: str | None, name: str | None, licence: str, replay: float | None,
    teacher: str, consent: str, dry_run: bool, queue: bool,
) -> None:  # fmt: skip
    """What does not go together. Raises ``InputError``."""
    from clonedna.core.errors import InputError

    if dry_run and queue:
        raise InputError("--dry-run orders nothing", "leave out --dry-run or --queue", param="queue")
    if continues is not None:
        if pairs is not None or name is not None or licence:
            raise InputError(
                "a version that continues a block has that block's name, and is made from its repository",
                "leave out --pairs, --licence and --name", param="continue",
            )  # fmt: skip
        return
    if replay is not None:
        raise InputError("--replay is of a version that continues a block", "give --continue NAME", param="replay")
    if (target is None) == (pairs is None):
        raise InputError("say what to mint from", "give a repository, or --pairs FILE.jsonl", param="target")
    if target is not None:
        if licence:
            raise InputError(
                "--licence is of given pairs",
                "files of a repository have their own; --allow-licence accepts one more",
                param="licence",
            )
        return
    if dry_run:
        raise InputError("--dry-run reads a repository", "leave out --pairs or --dry-run", param="dry_run")
    if teacher != "own-words":
        raise InputError("given pairs have their instructions", "leave --teacher out", param="teacher")
    if consent == "granted":
        raise InputError(
            "given pairs have no account that could grant them", "give --consent self or local-only", param="consent"
        )


def _mint(state: State, order: MintOrder, files: dict[str, Path], *, dry_run: bool, queue: bool, as_json: bool) -> None:
    """Carry out an order, or only tell what it would do, or leave it to those who look for work."""
    if dry_run:
        show_preflight(state, order, as_json)
    elif queue:
        from clonedna.app.job_values import Queued

        with state.jobs.creating():
            state.jobs.refuse_full()
            workspace = state.jobs.put(order, files=files, queued=Queued(base=order.base))
        _ordered(state.jobs.view(workspace), as_json)
    else:
        _run(state, *state.jobs.create(order, files=files), as_json)


def _mint_there(
    state: State, ask: dict[str, Any], pairs: Path | None, *, dry_run: bool, queue: bool, as_json: bool
) -> None:
    """The same on the server that was named."""
    from clonedna.app.job_asks import MintAsk
    from clonedna.cli import following
    from clonedna.core.errors import InputError

    if dry_run:
        raise InputError("--dry-run reads on this machine alone", "leave out --server or --dry-run", param="dry_run")
    made = following.asked(MintAsk, **ask, pairs=following.uploaded(state, pairs))
    if queue:
        _ordered(following.remote(state).start(made), as_json)
        return
    block = following.order(state, made, events=as_json).block
    if block is not None and not as_json:
        show_result(state, block)


def _place(target: str | None) -> str | None:
    """A folder of this machine by its whole path: a server on this machine may know it, another one says that it does not."""
    return str(Path(target).absolute()) if target is not None and Path(target).is_dir() else target


def _ordered(view: JobView, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        tell(f"ordered: {view.id}; watch it with: dna jobs follow {view.id}")


def _run(state: State, workspace: Workspace, goes_on: bool, as_json: bool) -> None:
    if goes_on:
        tell(f"going on with the interrupted job {workspace.id}")
    reference = run_job(state, workspace, as_json)
    if not as_json:
        show_result(state, reference)


def _given(
    state: State, pairs: Path, author: list[str] | None, name: str | None, base: str | None,
    consent: Literal["auto", "self", "granted", "local-only"], licence: str, recipe: dict[str, Any],
) -> tuple[MintOrder, dict[str, Path]]:  # fmt: skip
    """The order for pairs given as a file, and the file by its SHA-256. Nothing about the person is guessed: it is local-only unless
    --consent self is given."""
    from clonedna.app.orders import given_order, read_given
    from clonedna.core.block import GivenPairs
    from clonedna.core.work import Identity

    file = read_given(state.settings, pairs)
    who = _people(state, "", author)[0] if author else Identity(name=name or "unnamed")
    order = given_order(
        state.settings, given=GivenPairs(training=file, licence=licence), author=who, name=name, base=base,
        consent="self" if consent == "self" else "local-only", recipe=recipe,
    )  # fmt: skip
    return order, {file.sha256: pairs}


def run_job(state: State, workspace: Workspace, as_json: bool) -> BlockRef:
    """Run a mint in this process; Ctrl-C and TERM leave it as a kill would, to be resumed."""
    block = carry_out(state, workspace, as_json)
    assert block is not None
    return block


def carry_out(state: State, workspace: Workspace, as_json: bool) -> BlockRef | None:
    """Run a job in this process; gives the block that it made, where it made one. Ctrl-C and TERM leave it, to be resumed."""
    from clonedna.app.jobs import stop_now
    from clonedna.cli.progress import listener

    def stop(signum: int, frame: Any) -> None:
        stop_now(f"\nerror[interrupted]: job {workspace.id} was stopped\n  next: dna jobs resume {workspace.id}\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with listener(as_json) as listen:
        return state.jobs.carry_out(workspace, listen).block


def show_result(state: State, reference: BlockRef) -> None:
    """What was minted, and whether it is worth something."""
    from clonedna.cli.blocks import measure_rows

    detail = state.blocks.show(reference.id)
    tell("")
    table(
        f"{reference} · {reference.id[:12]} · {reference.status}",
        ["measure", "value", "95 % interval", "n"],
        measure_rows(detail.evaluation),
    )
    for reason in detail.manifest.gate.reasons:
        tell(f"rejected: {printable(reason)}")
    if reference.status == "registered":
        tell(f"\nnext: dna run {reference.name} 'Write a function that reads a file' --beside-base")


def authors(context: typer.Context, target: Target, as_json: Json = False) -> None:
    """List who wrote a repository, with their share of the commits."""
    state: State = context.obj
    shares = state.parts.source.find(target).repository.authors
    if as_json:
        print_json(shares)
    else:
        _author_table(shares)


def _author_table(shares: tuple[AuthorShare, ...], most: int | None = None) -> None:
    rows = [[str(s.identity), str(s.commits), f"{100 * s.share:.1f} %"] for s in shares[:most]]
    table("", ["author", "commits", "share"], rows)


def _people(state: State, target: str, given: list[str] | None) -> tuple[Identity, ...]:
    """The identities asked for; without any, ask on a terminal, refuse elsewhere."""
    from clonedna.core.errors import AuthorNeeded, InputError
    from clonedna.core.work import Identity

    if given:
        try:
            return tuple(Identity.parse(text) for text in given)
        except ValueError as error:
            raise InputError(str(error), "write it as 'Name <mail>'") from None
    found = state.parts.source.find(target)
    shares = found.repository.authors
    if found.account or found.local_only:
        return tuple(share.identity for share in shares)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise AuthorNeeded(
            f"say whose code to mint; {len(shares)} authors wrote this repository",
            f"give --author, e.g. --author '{shares[0].identity}'" if shares else "the repository has no commits",
            authors=[f"{share.identity} ({100 * share.share:.1f} %)" for share in shares[:20]],
        )
    table("", ["", "author", "commits", "share"], [
        [str(i), str(s.identity), str(s.commits), f"{100 * s.share:.1f} %"] for i, s in enumerate(shares[:30], 1)
    ])  # fmt: skip
    chosen = typer.prompt("Whose code? (number)", type=int, err=True)
    if not 1 <= chosen <= min(30, len(shares)):
        raise InputError(f"there is no author {chosen}", "give one of the numbers, or --author")
    return (shares[chosen - 1].identity,)
