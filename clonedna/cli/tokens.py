"""`dna tokens new | ls | rotate | revoke | pair`, `dna pair` and `dna audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.app.tokens import NewToken, Token
    from clonedna.core.access import Scope

app = typer.Typer(
    name="tokens", no_args_is_help=True, help="Who may use the server of a home: tokens with scopes, shown once."
)
Name = Annotated[str, typer.Argument(help="The token's name.", show_default=False)]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="read, chat, mint or admin (everything); again for more.", show_default=False),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Until it expires.")]
Forever = Annotated[bool, typer.Option("--no-expiry", help="It does not expire.")]


def add_to(main: typer.Typer) -> None:
    main.add_typer(app, name="tokens")
    main.command()(pair)
    main.command()(audit)


@app.command()
def new(
    context: typer.Context, name: Name, scope: Scopes, days: Days = 90, forever: Forever = False, as_json: Json = False
) -> None:
    """Make a token, and show it this once."""
    from clonedna.app.tokens import TokenOrder
    from clonedna.core.access import token_name

    state: State = context.obj
    made = state.tokens.new(TokenOrder(name=token_name(name), scopes=_once(scope), days=None if forever else days))
    _show(made, as_json)


@app.command("ls")
def list_tokens(context: typer.Context, as_json: Json = False) -> None:
    """List tokens: scopes, until when, and about when each was last used."""
    state: State = context.obj
    tokens = state.tokens.list()
    if as_json:
        print_json(tokens)
        return
    rows = [
        [one.name, one.id, ", ".join(one.scopes), one.status, one.code_until or one.expires_at or "never", one.used_at or "never"]
        for one in tokens
    ]  # fmt: skip
    table("", ["name", "id", "scopes", "status", "ends", "used"], rows, whole=2)
    if not rows:
        tell("no tokens; make one: dna tokens new NAME --scope read")


@app.command()
def rotate(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Put another secret in a token's place, and show it this once; the old one is refused from now on."""
    state: State = context.obj
    _show(state.tokens.rotate(name), as_json)


@app.command()
def revoke(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Refuse a token, or the pairing code that stands for it, from now on."""
    state: State = context.obj
    gone = state.tokens.revoke(name)
    if as_json:
        print_json(gone)
    else:
        tell(f"revoked: {_words(gone)}")
        if not state.tokens.list():
            tell("no token is left: without a key, a server on this machine alone asks for none")


@app.command("pair")
def new_pairing(
    context: typer.Context,
    name: Name,
    scope: Scopes,
    days: Days = 90,
    forever: Forever = False,
    minutes: Annotated[int, typer.Option(min=1, max=60, help="How long the code can be claimed.")] = 10,
    as_json: Json = False,
) -> None:
    """Show a code with which one other machine gets this token: dna --server URL pair CODE."""
    from clonedna.app.tokens import PairOrder
    from clonedna.core.access import token_name

    state: State = context.obj
    order = PairOrder(
        name=token_name(name), scopes=_once(scope), days=None if forever else days, minutes=minutes
    )  # fmt: skip
    made = state.tokens.pair(order)
    if as_json:
        print_json(made)
        return
    tell(f"for one machine, until {made.about.code_until}: {_words(made.about)}\nthere: dna --server URL pair CODE")
    print(made.code)


def pair(
    context: typer.Context,
    code: Annotated[
        str | None, typer.Argument(help="What `dna tokens pair` showed on the server's machine.", show_default=False)
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Forget this machine's token for the server.")] = False,
    as_json: Json = False,
) -> None:
    """Claim a token of the server that --server names, and keep it for later commands."""
    from clonedna.app.paired import Paired, readable_on_the_way
    from clonedna.core.errors import InputError

    state: State = context.obj
    settings = state.settings
    if settings.server is None:
        raise InputError("which server?", "dna --server URL pair CODE")
    if (code is None) != forget:
        raise InputError("a code, or --forget", "make a code on the server's machine: dna tokens pair NAME --scope ...")
    paired = Paired(settings.home)
    if code is None:
        there = paired.forget(settings.server)
        print_json({"forgotten": there}) if as_json else tell("forgotten" if there else "there was none")
        return
    if readable_on_the_way(settings.server):
        tell("there is no TLS between this machine and the server: who carries the token can read it")
    made = state.claim(code)
    path = paired.keep(settings.server, made.about.name, made.token)
    if as_json:
        print_json({"about": made.about.model_dump(mode="json"), "path": str(path)})
    else:
        tell(f"paired with {settings.server} as {_words(made.about)}\nkept in {path}")


def audit(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check every signature, the chain and its end.")] = False,
    before: Annotated[int | None, typer.Option(min=1, help="Only entries older than this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what was changed, and by whom, newest first; or check that the log is whole."""
    from clonedna.core.errors import Corrupt

    state: State = context.obj
    if verify:
        report = state.audit.verify()
        if not report.ok:
            raise Corrupt(
                f"the audit log was tampered with or damaged: {report.fault}", "compare it with a copy", line=report.line
            )  # fmt: skip
        print_json(report) if as_json else tell(f"sound: {report.entries} entries")
        return
    page = state.audit.page(before=before, limit=limit)
    if as_json:
        print_json(page)
        return
    rows = [
        [str(one.seq), one.at, one.facts.get("who", ""), one.facts.get("what", one.kind), one.about, one.facts.get("result", "")]
        for one in page.entries
    ]  # fmt: skip
    table("", ["", "at", "who", "what", "about", "result"], rows, whole=2)
    if page.before is not None:
        tell(f"older ones: dna audit --before {page.before}")


def _once(scopes: list[str]) -> tuple[Scope, ...]:
    """The scopes that were named. Raises ``InputError``."""
    from clonedna.core.access import SCOPES
    from clonedna.core.errors import InputError

    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise InputError(f"no scope is called {unknown[0][:80]!r}", f"there are: {', '.join(SCOPES)}", param="scope")
    return tuple(scope for scope in SCOPES if scope in scopes)


def _show(made: NewToken, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    tell(
        f"{_words(made.about)}\nIt is shown this once; only its digest is kept. Give it as DNA_TOKEN, or Authorization: Bearer ..."
    )
    print(made.token)


def _words(about: Token) -> str:
    return f"{about.name} ({', '.join(about.scopes)}), {f'until {about.expires_at}' if about.expires_at else 'without an end'}"
