"""`dna df | prune | backup | restore`: what a home holds, what of it can go, and a copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.usage import Home
    from clonedna.client.upkeep import RemoteHome


def add_to(app: typer.Typer) -> None:
    for command in (df, prune, backup, restore):
        app.command()(command)


def _home(state: State) -> Home | RemoteHome:
    from clonedna.app.usage import Home

    return Home(state.parts) if state.client is None else state.client.home


def df(context: typer.Context, as_json: Json = False) -> None:
    """Show how many bytes the home holds, by kind."""
    usage = _home(context.obj).usage()
    if as_json:
        print_json(usage)
        return
    rows = [[kind, size(held.bytes), str(held.files)] for kind, held in usage.kinds.items()]
    table(
        "",
        ["kind", "bytes", "files"],
        [*rows, ["in all", size(usage.bytes), str(sum(h.files for h in usage.kinds.values()))]],
        whole=3,
    )
    tell(f"{size(usage.free)} free on the disk")


def prune(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    older_than: Annotated[
        int,
        typer.Option(min=0, max=36_500, help="Days: of caches, and of the work of jobs that failed or were cancelled."),
    ] = 30,
    blocks: Annotated[bool, typer.Option("--blocks", help="Also blocks in the store that no catalogue names.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what nothing refers to and no running process holds."""
    from clonedna.app.usage import DAY

    pruned = _home(context.obj).prune(dry_run=dry_run, older_than=older_than * DAY, blocks=blocks)
    if as_json:
        print_json(pruned)
        return
    table("", ["what", "why", "bytes"], [[one.path, one.why, size(one.bytes)] for one in pruned.removed])
    for name in pruned.kept:
        tell(f"could not be removed: {printable(name)}")
    tell(f"{'would free' if dry_run else 'freed'} {size(pruned.bytes)}")


def backup(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="A new file, or a folder to write one in.", show_default=False)],
    with_keys: Annotated[
        bool,
        typer.Option(
            "--with-keys", help="Also this machine's private keys and the tokens of its server: guard the file."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write blocks, consents, tombstones, audit log, records and database to one file."""
    from clonedna.app.backing import backup as make

    state: State = context.obj
    done = make(state.parts, out, secrets=with_keys)
    if as_json:
        print_json(done)
        return
    tell(f"written: {done.path} ({done.blocks} blocks, {done.files} files, {size(done.bytes)})")
    if not done.secrets:
        tell("private keys are not in it; with them: dna backup --with-keys")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What dna backup wrote.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make an empty home out of a backup: everything is verified before anything is there."""
    from clonedna.app.backing import restore as make

    state: State = context.obj
    state.refuse_server()
    done = make(state.settings, file)
    if as_json:
        print_json(done)
        return
    for one in done.left_out:
        tell(f"not catalogued: {one.path}: {one.reason}: {printable(one.detail)}")
    tell(f"restored: {done.home} as of {done.made_at} ({done.blocks} blocks, {done.files} files, {done.rows} rows)")
    if not done.secrets:
        tell("without private keys: this home gets an identity of its own when it first signs")


def size(count: int) -> str:
    """Bytes for a person."""
    if count < 1000:
        return f"{count} B"
    power = min(len(str(count)) - 1, 11) // 3
    return f"{count / 1000**power:.1f} {('', 'k', 'M', 'G')[power]}B"
