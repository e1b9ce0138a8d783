"""`dna keys show | trust | distrust`."""

from __future__ import annotations

from typing import Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

app = typer.Typer(
    name="keys", no_args_is_help=True, help="This machine's signing key, and the keys whose blocks it believes."
)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show this machine's public key (to give to others) and the ids of all trusted keys."""
    state: State = context.obj
    signer = state.parts.signer
    own, public = signer.key_id, signer.public_key.hex()
    if as_json:
        print_json({"key_id": own, "public_key": public, "trusted": list(signer.trusted())})
        return
    table(
        "",
        ["", ""],
        [["public key", public], ["key id", own], *(["trusted", one] for one in signer.trusted() if one != own)],
    )


@app.command()
def trust(
    context: typer.Context,
    public_key: Annotated[
        str, typer.Argument(help="64 hex digits, as `dna keys show` prints them on its owner's machine.")
    ],
    as_json: Json = False,
) -> None:
    """Believe what this key signs from now on."""
    from clonedna.core.errors import InputError

    state: State = context.obj
    try:
        raw = bytes.fromhex(public_key)
    except ValueError:
        raise InputError(
            f"{public_key[:80]!r} is no public key", "give the 64 hex digits that its owner's dna keys show prints"
        ) from None
    key_id = state.parts.signer.trust(raw)
    if as_json:
        print_json({"trusted": key_id})
    else:
        tell(f"trusted: {key_id}")


@app.command()
def distrust(
    context: typer.Context, key_id: Annotated[str, typer.Argument(help="The key's id.")], as_json: Json = False
) -> None:
    """Believe it no longer; its blocks stay, and are refused."""
    state: State = context.obj
    state.parts.signer.distrust(key_id)
    if as_json:
        print_json({"distrusted": key_id})
    else:
        tell(f"distrusted: {key_id}")
