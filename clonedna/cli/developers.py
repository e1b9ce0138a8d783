"""`dna developer show | challenge | prove | revoke`: what was made of one person's work, for that person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.consent import Yes, tell_effects
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.developer_values import Audited, DeveloperView
    from clonedna.app.developers import Developers
    from clonedna.client.developers import RemoteDevelopers

app = typer.Typer(
    name="developer",
    no_args_is_help=True,
    help="See what was made of your work here, and take it back: prove that the account is yours.",
)
Handle = Annotated[str, typer.Argument(help="A GitHub handle.", show_default=False)]
SIGNED = "What ssh-keygen wrote; default: the file's name and .sig."


def add_to(main: typer.Typer) -> None:
    main.add_typer(app, name="developer")


def _developers(context: typer.Context) -> tuple[Developers | RemoteDevelopers, str]:
    """Those of this machine or of the server that was named, and the session of the settings."""
    from clonedna.app.developers import Developers

    state: State = context.obj
    session = state.settings.developer_session
    found = Developers(state.parts) if state.client is None else state.client.developers
    return found, session.get_secret_value() if session else ""


@app.command()
def show(context: typer.Context, handle: Handle, as_json: Json = False) -> None:
    """Show the blocks of somebody's work: all with DNA_DEVELOPER_SESSION, else those that are public anyway."""
    developers, session = _developers(context)
    view = developers.show(handle, session=session)
    if as_json:
        print_json(view)
    else:
        _show(view)


def _show(view: DeveloperView) -> None:
    rows = [
        [
            f"{one.name}@{one.version}", one.id[:12], one.licence, one.consent, one.until or "", "yes" if one.shareable else "no",
        ]
        for one in view.blocks
    ]  # fmt: skip
    account = f"account {view.account_id} at {view.host}" if view.account_id else f"not known here, at {view.host}"
    columns = ["block", "id", "licence", "consent", "until", "may be shared"]
    table(f"{view.handle} ({account}): consent {view.standing}", columns, rows, whole=4)
    for one in view.blocks:
        if one.audited is not None:
            tell(f"{one.name}@{one.version}: {_audited(one.audited)}")
    for block in view.unreadable:
        tell(f"its papers cannot be read, so nobody can use it: {block}")
    for gone in view.revoked:
        because = f", made from {gone.because[:12]}" if gone.because else ""
        given = "".join(f"; {one.way} {one.who} {one.last_at}" for one in gone.holders.holders)
        tell(printable(f"revoked: {gone.id[:12]} at {gone.revoked_at} ({gone.reason}{because}){given}"))
    if not view.proven:
        tell(f"only what is public; if this is you: dna developer challenge {view.handle}")
    elif view.blocks and (audited := view.blocks[0].audited) is not None:
        tell(f"who was given them: {audited.holders.how}")


def _audited(found: Audited) -> str:
    """Where it comes from, under what consent, and what else is made of the same, in one line."""
    sources = ", ".join(f"{one.url or one.name} {one.commit[:12]}".strip() for one in found.sources) or "no sources"
    given = "".join(f"; {one.way} {one.who} {one.last_at}" for one in found.holders.holders)
    kin = "".join(f"; {'made from' if one.step < 0 else 'made into'} {one.id[:12]}" for one in found.kin)
    return printable(
        f"{found.pairs} pairs of {sources}; {found.gate}; consent {found.consent.mode}: {found.consent.how}{kin}{given}"
    )


@app.command()
def challenge(
    context: typer.Context,
    handle: Handle,
    takes_back: Annotated[bool, typer.Option("--revoke", help="A statement that takes everything back.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write it.")] = None,
    as_json: Json = False,
) -> None:
    """Write what you sign to prove that the account is yours, and say how."""
    from clonedna.app.consent_files import write_statement

    developers, _ = _developers(context)
    asked = developers.challenge(handle, "revoke" if takes_back else "prove")
    path = out or Path(f"{asked.action}-{asked.handle}.json")
    write_statement(path, asked.text)
    command = asked.command.replace("FILE", str(path))
    verb = (
        f"dna developer revoke {asked.handle} --statement {path}"
        if takes_back
        else f"dna developer prove {asked.handle} {path}"
    )
    if as_json:
        print_json({**asked.model_dump(mode="json"), "path": str(path), "command": command, "answer": verb})
        return
    tell(f"{asked.words}\nThis is in {path}. Sign exactly this file, with a key that GitHub shows for the account:\n")
    print(f"  {command}")
    tell(f"\nThen{f', before {asked.expires}' if asked.expires else ''}:\n\n  {verb}")


@app.command()
def prove(
    context: typer.Context,
    handle: Handle,
    file: Annotated[Path, typer.Argument(help="The challenge.", show_default=False)],
    signature: Annotated[Path | None, typer.Option(help=SIGNED)] = None,
    as_json: Json = False,
) -> None:
    """Give the signed challenge, and get a session of half an hour for this handle."""
    from clonedna.app.consent_files import beside, read_signed

    developers, _ = _developers(context)
    opened = developers.prove(handle, read_signed(file), read_signed(signature or beside(file)))
    if as_json:
        print_json(opened)
        return
    tell(
        f"proved: {opened.handle} is account {opened.account_id} at {opened.host}, by key {opened.key}. Until {opened.expires}:\n"
    )
    print(f"export DNA_DEVELOPER_SESSION={opened.token}")


@app.command()
def revoke(
    context: typer.Context,
    handle: Handle,
    statement: Annotated[Path | None, typer.Option(help="A signed revocation; else DNA_DEVELOPER_SESSION.")] = None,
    signature: Annotated[Path | None, typer.Option(help=SIGNED)] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take everything back: all blocks of your work are gone at once, and what was made from them is refused."""
    from clonedna.app.consent_files import beside, read_signed

    developers, session = _developers(context)
    if not yes and not as_json:
        typer.confirm(f"Revoke everything of {handle}? It cannot be undone.", abort=True, err=True)
    if statement is None:
        done = developers.revoke(handle, session=session)
    else:
        signed = read_signed(signature or beside(statement))
        done = developers.revoke(handle, statement=read_signed(statement), signature=signed)
    if as_json:
        print_json(done)
    else:
        tell_effects(done.effects)
