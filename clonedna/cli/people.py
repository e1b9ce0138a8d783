"""`dna headhunt`: people on GitHub by words and role, and the side list of those to remember."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.people import SideList
    from clonedna.core.people import Headhunt


def add_to(app: typer.Typer) -> None:
    app.command()(headhunt)


def headhunt(
    context: typer.Context,
    query: Annotated[
        str,
        typer.Argument(
            help="What GitHub's user search takes, e.g. 'language:python location:Berlin'.", show_default=False
        ),
    ] = "",
    role: Annotated[
        Literal["pm", "swe", "designer"] | None, typer.Option(help="Adds what GitHub can search of a role.")
    ] = None,
    most: Annotated[int, typer.Option("--limit", min=1, max=30, help="At most so many people.")] = 10,
    keep: Annotated[str | None, typer.Option(metavar="HANDLE", help="Put somebody on the side list.")] = None,
    drop: Annotated[str | None, typer.Option(metavar="HANDLE", help="Take somebody off the side list.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the side list.")] = False,
    as_json: Json = False,
) -> None:
    """Look for people on GitHub, in GitHub's own order; keep some on a side list. Being found or kept is no consent to anything."""
    state: State = context.obj
    from clonedna.app.people import People
    from clonedna.core.errors import InputError

    people = People(state.parts)
    asked = [name for name, given in (("--keep", keep), ("--drop", drop), ("--list", listed)) if given]
    if len(asked) > 1 or (asked and (query or role)):
        raise InputError("one thing at a time", "search, or give one of --keep, --drop and --list", param="keep")
    if asked:
        kept = people.keep_handle(keep) if keep else people.drop(drop) if drop else people.kept()
        print_json(kept) if as_json else _show_list(kept)
        return
    found = people.headhunt(query, role, most)
    print_json(found) if as_json else _show(found)


def _show(found: Headhunt) -> None:
    rows = [
        [
            one.account.login, one.account.name, one.location, f"{one.followers}", f"{one.stars}" + ("" if one.complete else "+"),
            ", ".join(one.languages[:3]), ", ".join(name.partition("/")[2] for name in one.top),
        ]
        for one in found.people
    ]  # fmt: skip
    table("", ["handle", "name", "location", "followers", "stars", "languages", "most starred"], rows, whole=1)
    tell(f"{len(found.people)} of {found.total} for: {printable(found.query)}")
    if found.incomplete:
        tell("GitHub's search ran out of time: there may be more")
    for login, reason in found.refused.items():
        tell(f"not shown: {printable(login)} ({reason})")


def _show_list(kept: SideList) -> None:
    table("", ["handle", "name", "id", "host"], [[one.login, one.name, str(one.id), one.host] for one in kept.accounts])
