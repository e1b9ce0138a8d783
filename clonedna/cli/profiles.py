"""`dna profile`: what a person's code, account, page and resume say of them, each item with its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable


def add_to(app: typer.Typer) -> None:
    app.command()(profile)


def profile(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[HANDLE | PATH]", help="A GitHub handle, or a repository (path or URL).", show_default=False
        ),
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(help="Whose work in a repository: 'Name <mail>', mail or name. Repeatable.")
    ] = None,
    website: Annotated[str | None, typer.Option(metavar="URL", help="The person's own page.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="FILE", help="Their resume: PDF, DOCX or text.")] = None,
    teacher: Annotated[
        str, typer.Option(help="A teacher model for a second pass: openai or engine. own-words reads nothing.")
    ] = "own-words",
    refresh: Annotated[bool, typer.Option("--refresh", help="Read anew, even within 24 hours.")] = False,
    as_json: Json = False,
) -> None:
    """Say what can be counted or is stated of a person's work; every item carries the words or files that prove it.

    Without a teacher nothing is read into anything. Reports are kept for 24 hours on this machine.
    """
    state: State = context.obj
    import anyio

    from clonedna.app.profiles import ProfileOrder, Profiles
    from clonedna.app.profiles_text import profile_markdown
    from clonedna.core.errors import InputError
    from clonedna.core.work import Identity

    try:
        people = tuple(Identity.parse(text) for text in author or ())
    except ValueError as error:
        raise InputError(str(error), "write it as 'Name <mail>'") from None
    order = ProfileOrder(
        target=target, authors=people, website=website, resume=str(resume.expanduser().absolute()) if resume else None, teacher=teacher,
        refresh=refresh,
    )  # fmt: skip
    report = anyio.run(Profiles(state.parts).make, order)
    if as_json:
        print_json(report)
    else:
        typer.echo(printable(profile_markdown(report)), nl=False)
