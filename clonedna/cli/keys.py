"""`dna keys new | show | rotate | trust | distrust | list | log | fetch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, ask_passphrase, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.app.keys import Keys, OwnKey

app = typer.Typer(
    name="keys", no_args_is_help=True, help="This machine's signing key, and the keys whose blocks it believes."
)
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _keys(context: typer.Context) -> Keys:
    from clonedna.app.keys import Keys

    state: State = context.obj
    return Keys(state.parts)


@app.command()
def new(
    context: typer.Context,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect it: DNA_KEY_PASSPHRASE, else you are asked.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where there is a key: another identity; the old one stays trusted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make this machine's signing key. (One without is made when it is first needed.)"""
    state: State = context.obj
    secret = state.settings.key_passphrase
    chosen = secret.get_secret_value() if secret else ask_passphrase(twice=True) if passphrase else None
    _show(_keys(context).new(chosen, replace=replace), as_json)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show this machine's public key (to give to others) and the identities it trusts."""
    _show(_keys(context).own(), as_json)


@app.command()
def rotate(
    context: typer.Context,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Somebody else may have the key: what is not known yet is void.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put the next key in the current one's place; others learn it from: dna keys log --out FILE."""
    if compromised and not yes and not as_json:
        typer.confirm("Give the current key up? Only what machines know already stays valid.", abort=True, err=True)
    _show(_keys(context).rotate(compromised=compromised), as_json)


@app.command()
def trust(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="A file by `dna keys log --out`, or the 64 hex digits of a public key.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The identity it must be: 64 digits, as its owner reads them to you.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Believe what this identity signs from now on; with a newer log, also its newer keys."""
    identity = _keys(context).trust(key, fingerprint=fingerprint)
    if as_json:
        print_json({"trusted": identity})
    else:
        tell(f"trusted: {identity}")


@app.command()
def distrust(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The identity, or the id of one of its keys.")],
    as_json: Json = False,
) -> None:
    """Believe it no longer; its blocks stay, and are refused."""
    _keys(context).distrust(key_id)
    if as_json:
        print_json({"distrusted": key_id})
    else:
        tell(f"distrusted: {key_id}")


@app.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List every key seen here: whose, where in its log, and whether it is trusted."""
    known = _keys(context).list()
    if as_json:
        print_json(known)
        return
    rows = [
        [
            one.identity[:12], "" if one.seq is None else str(one.seq), one.key_id[:12], one.status,
            "this machine" if one.own else "yes" if one.trusted else "no",
        ]
        for one in known
    ]  # fmt: skip
    table("", ["identity", "seq", "key", "status", "trusted"], rows, whole=5)
    if not rows:
        tell("no keys yet; make this machine's: dna keys new")


@app.command()
def log(
    context: typer.Context,
    identity: Annotated[str | None, typer.Argument(help="Whose; this machine's own if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the whole log to this new file, for others to trust.")] = None,
    as_json: Json = False,
) -> None:
    """Show a key log: which key followed which."""
    keys = _keys(context)
    if out is not None:
        whose = keys.write_log(out, identity)
        if as_json:
            print_json({"identity": whose, "path": str(out)})
        else:
            tell(f"written: {out} (identity {whose})")
        return
    lines = keys.log(identity)
    if as_json:
        print_json(lines)
        return
    rows = [[str(one.seq), one.action, one.key_id[:12], one.next[:12], one.issued] for one in lines]
    table("", ["seq", "the key before", "key", "next", "issued"], rows, whole=5)


@app.command()
def fetch(
    context: typer.Context,
    key: Annotated[str | None, typer.Argument(help="An identity or a key's id; the server's own if not given.")] = None,
    out: Annotated[Path, typer.Option(help="The new file for the key log.")] = Path("signer.keys"),
    as_json: Json = False,
) -> None:
    """Get the key log of who signs on a server, and show its fingerprint. Nothing is trusted by that."""
    from clonedna.app.keys import Keys
    from clonedna.core.errors import InputError, NotFound

    state: State = context.obj
    if state.client is None:
        raise InputError(
            "which server?", "dna --server URL keys fetch; this machine's own log: dna keys log --out FILE"
        )
    remote = state.client.transfer
    if not (key := key or remote.keys().own):
        raise NotFound("the server has no key of its own yet", "name the key that is meant: dna keys fetch KEY")
    offered = remote.key_log(key)
    identity = Keys.write_offered(offered, out)
    if as_json:
        print_json({"identity": identity, "path": str(out)})
        return
    tell(f"written: {out}. Nothing is trusted yet. Compare all 64 digits with what its owner reads to you:")
    sys.stdout.write(f"{identity}\n")
    tell(f"if they are the same: dna keys trust {out} --fingerprint {identity}")


def _show(own: OwnKey, as_json: bool) -> None:
    if as_json:
        print_json(own)
        return
    rows = [
        ["identity", own.identity], ["key id", own.key_id], ["public key", own.public_key], ["place in the log", str(own.seq)],
        *(["trusted", one] for one in own.trusted if one != own.identity),
    ]  # fmt: skip
    for name, value in rows:  # never broken into lines: somebody compares or copies them
        sys.stdout.write(f"{name:18}{value}\n")
