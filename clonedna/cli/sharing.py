"""`dna push | pull`: a block to a server or from it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, tell

if TYPE_CHECKING:
    from clonedna.app.sharing import Taken

Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    app.command()(push)
    app.command()(pull)


def push(
    context: typer.Context,
    reference: Reference,
    to: Annotated[str | None, typer.Option(help="The server's URL; default: --server, DNA_SERVER.")] = None,
    hub: Annotated[
        str | None, typer.Option(help="OWNER/NAME: a repository on the Hugging Face hub instead (HF_TOKEN).")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="On the hub: everybody may have it. Private otherwise.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a block to a server or the hub: only one that may be shared, and to a server only if it is not there yet."""
    from clonedna.app.sharing import Sharing

    state: State = context.obj
    if hub is not None:
        _alone(to)
        _push_to_hub(state, reference, hub, public, as_json)
        return
    with state.client_at(to) as client, _bar(f"pushing {reference}", as_json) as progress:
        taken = client.transfer.push(Sharing(state.here), reference, progress)
    _say(taken, "pushed", "was there already", as_json)


def pull(
    context: typer.Context,
    reference: Annotated[
        str | None, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="The server's URL; default: --server, DNA_SERVER.")
    ] = None,
    hub: Annotated[
        str | None, typer.Option(help="OWNER/NAME[@REVISION]: a repository on the Hugging Face hub instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get a block from a server or the hub: verified in full before it is visible; its signer must be trusted. What broke off goes on."""
    from clonedna.app.sharing import Sharing
    from clonedna.core.errors import InputError

    state: State = context.obj
    if (reference is None) == (hub is None):
        raise InputError("which block?", "give a block's name, or --hub OWNER/NAME")
    if hub is not None:
        from clonedna.app.hub import Hub

        _alone(origin)
        repository, _, revision = hub.partition("@")
        _say(Hub(state.here).pull(repository, revision or "main"), "pulled", "was here already", as_json)
        return
    assert reference is not None
    with state.client_at(origin) as client, _bar(f"pulling {reference}", as_json) as progress:
        taken = client.transfer.pull(Sharing(state.here), reference, progress)
    _say(taken, "pulled", "was here already", as_json)


def _push_to_hub(state: State, reference: str, repository: str, public: bool, as_json: bool) -> None:
    from clonedna.app.hub import Hub

    done = Hub(state.here).push(reference, repository, public=public)
    if as_json:
        print_json(done)
    else:
        tell(f"pushed: {done.block} to {'public' if public else 'private'} {done.repository}@{done.revision}")


def _alone(url: str | None) -> None:
    from clonedna.core.errors import InputError

    if url is not None:
        raise InputError("a server and the hub at once", "give one of them")


def _say(taken: Taken, done: str, already: str, as_json: bool) -> None:
    if as_json:
        print_json(taken)
    else:
        tell(f"{done if taken.new else already}: {printable(str(taken.block))} {taken.block.id}")


@contextmanager
def _bar(what: str, as_json: bool) -> Generator[Callable[[int, int], None]]:
    """Bytes, speed and time left, on a terminal's stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(printable(what), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
