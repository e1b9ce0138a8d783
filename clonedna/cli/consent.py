"""`dna consent request | grant | check | show | revoke | log` and `dna revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.consent import Consent
    from clonedna.app.revoking import Effects
    from clonedna.client.consent import RemoteConsent

app = typer.Typer(
    name="consent",
    no_args_is_help=True,
    help="Ask people for consent, check it, take it back. A licence is no consent.",
)
Handle = Annotated[str, typer.Argument(help="A GitHub handle.", show_default=False)]
Repositories = Annotated[
    list[str] | None, typer.Option("--repository", help="OWNER/NAME; again for more; '*' for all public ones.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_to(main: typer.Typer) -> None:
    main.add_typer(app, name="consent")
    main.command()(revoke)


def _consent(context: typer.Context) -> Consent | RemoteConsent:
    """Of this machine, or of the server that was named."""
    state: State = context.obj
    return state.client.consent if state.client is not None else _own_consent(context)


def _own_consent(context: typer.Context) -> Consent:
    """Of this machine. Raises ``InputError`` when the command is for a server."""
    from clonedna.app.consent import Consent

    state: State = context.obj
    return Consent(state.parts)


@app.command()
def request(
    context: typer.Context,
    handle: Handle,
    repository: Repositories = None,
    use: Annotated[
        list[str] | None, typer.Option(help="mint, serve or share; again for more. Default: mint and serve.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="For how long.")] = 365,
    takes_back: Annotated[bool, typer.Option("--revoke", help="A statement that takes consent back.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write the statement.")] = None,
    as_json: Json = False,
) -> None:
    """Write the statement that this person has to sign, and say how."""
    from clonedna.app import consent_files

    asked = consent_files.request(
        _consent(context), handle, repository or [], use or ["mint", "serve"], days=days, revoke=takes_back, out=out
    )  # fmt: skip
    if as_json:
        print_json(asked)
        return
    tell(
        f"{asked.words}\nThe statement is in {asked.path}. Send it to {asked.statement.login}, who signs exactly this file:\n"
    )
    print(f"  {asked.command}")
    tell(f"\nwith a key that GitHub shows for the account. Then, with the two files:\n\n  {asked.answer}\n")
    if not takes_back:
        tell("Or they put it into their profile repository or a gist: dna consent grant FILE --at URL")


@app.command()
def grant(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The statement.", show_default=False)],
    signature: Annotated[Path | None, typer.Option(help="What ssh-keygen wrote; default: FILE.sig.")] = None,
    at: Annotated[str, typer.Option(help="The file at a commit of the profile repository, or the gist.")] = "",
    as_json: Json = False,
) -> None:
    """Verify an answer, and keep it."""
    from clonedna.app import consent_files

    given = consent_files.grant(_consent(context), file, signature=signature, at=at)
    if as_json:
        print_json(given)
        return
    statement = given.statement
    key = f" by {given.key}" if given.key else ""
    tell(f"granted: {statement.login} (account {statement.account_id}): {given.kind}{key}, {given.how}")


@app.command()
def check(
    context: typer.Context,
    handle: Handle,
    repository: Repositories = None,
    use: Annotated[Literal["mint", "serve", "share"], typer.Option(help="What for.")] = "mint",
    as_json: Json = False,
) -> None:
    """Whether a use is allowed now: the account is looked up again. Refused with exit status 4 and the next command."""
    record = _consent(context).check(handle, repository or ["*"], use)
    if as_json:
        print_json(record)
    else:
        tell(f"allowed until {record.expires_at}: {use} {', '.join(record.repositories)} of {record.subject}")


@app.command()
def show(
    context: typer.Context,
    handle: Annotated[str | None, typer.Argument(help="A GitHub handle; without one, all that are known here.")] = None,
    as_json: Json = False,
) -> None:
    """Show how an account stands: none, requested, granted, revoked or expired."""
    from clonedna.app.consent import scope_words

    standings = _consent(context).show(handle)
    if as_json:
        print_json(standings)
        return
    rows = [
        [one.login, f"{one.account_id}@{one.host}", one.status, *scope_words(one.current),
         f"{one.current.kind}, {one.current.at}" if one.current else ""]
        for one in standings
    ]  # fmt: skip
    table("", ["handle", "account", "consent", "uses", "of", "until", "evidence"], rows, whole=3)
    for one in standings:
        for note in one.notes:
            tell(printable(note))
    if not rows:
        tell("nobody was asked yet: dna consent request HANDLE --repository OWNER/NAME")


@app.command("revoke")
def take_back(
    context: typer.Context,
    who: Annotated[
        str | None, typer.Argument(help="A handle, or a block whose person takes everything back.", show_default=False)
    ] = None,
    statement: Annotated[Path | None, typer.Option(help="A revocation that the person signed.")] = None,
    signature: Annotated[Path | None, typer.Option(help="What ssh-keygen wrote; default: STATEMENT.sig.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take consent back: all blocks of that person are gone at once, and what was made from them is refused."""
    from clonedna.app.consent_files import beside, read_signed
    from clonedna.core.errors import InputError

    if (who is None) == (statement is None):
        raise InputError("whose consent?", "give a handle or a block, or --statement FILE")
    if statement is not None:
        done = _consent(context).take_back(read_signed(statement), read_signed(signature or beside(statement)))
    else:
        assert who is not None
        if not yes and not as_json:
            typer.confirm(f"Revoke everything of {who}? It cannot be undone.", abort=True, err=True)
        done = _consent(context).revoke(who)
    if as_json:
        print_json(done)
    else:
        tell_effects(done.effects)


@app.command()
def log(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check signatures, chain and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show the audit log, or check that nothing in it was changed, left out or cut off."""
    from clonedna.core.errors import Corrupt

    consent = _own_consent(context)
    if not verify:
        entries = consent.log()
        if as_json:
            print_json(entries)
        else:
            facts = [", ".join(f"{name} {value}" for name, value in one.facts.items()) for one in entries]
            rows = [[str(one.seq), one.at, one.kind, one.about, fact] for one, fact in zip(entries, facts, strict=True)]
            table("", ["", "at", "what", "about", ""], rows, whole=3)
        return
    report = consent.verify_log()
    if not report.ok:
        raise Corrupt(
            f"the audit log was tampered with or damaged: {report.fault}", "compare it with a copy", line=report.line
        )
    if as_json:
        print_json(report)
    else:
        behind = f"; the last {report.unsigned_tail} are not in the signed head" if report.unsigned_tail else ""
        tell(f"sound: {report.entries} entries{behind}")


def revoke(
    context: typer.Context,
    block: Annotated[
        str | None, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)
    ] = None,
    tombstone: Annotated[Path | None, typer.Option(help="Follow a tombstone that a trusted machine signed.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Revoke one block: never loaded, served, merged, imported or made again; what was made from it is refused."""
    from clonedna.core.errors import InputError

    if (block is None) == (tombstone is None):
        raise InputError("which block?", "give a block, or --tombstone FILE")
    state: State = context.obj
    if tombstone is not None:
        followed = _own_consent(context).follow(tombstone)
        print_json(followed) if as_json else tell(f"revoked: {followed.id} ({followed.reason})")
        return
    assert block is not None
    if not yes and not as_json:
        typer.confirm(f"Revoke {block}? It cannot be undone.", abort=True, err=True)
    effects = _own_consent(context).revoke_block(block) if state.client is None else state.client.transfer.revoke(block)
    print_json(effects) if as_json else tell_effects(effects)


def tell_effects(effects: Effects) -> None:
    """What a revocation did."""
    for block in effects.blocks:
        tell(f"revoked: {block}")
    for block in effects.derived:
        tell(f"refused, as it was made from it: {block} (merge it again without)")
    tell(
        f"files {effects.weights}; purged: {effects.pairs} pairs, {effects.answers} answers of teachers, {effects.jobs} jobs, "
        f"{effects.files} given files"
    )
    for job in effects.still_running:
        tell(f"job {job} has not stopped yet: revoke again when it has, so that its files go too")
