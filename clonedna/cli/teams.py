"""`dna team`: slots, who may take them, and the blocks that talk in them; here or on the server that was named."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.chatting import given
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.teams import Extracted
    from clonedna.core.chat import Candidate, Slot, Team

TeamId = Annotated[str, typer.Argument(metavar="TEAM", help="A team's id, or its name.", show_default=False)]
SlotId = Annotated[
    str,
    typer.Argument(metavar="SLOT", help="A slot's id, its number, or its role where one has it.", show_default=False),
]
Roles = Literal["pm", "swe", "designer", "any"]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_ID = re.compile(r"(team|slot)-[0-9a-f]{24}")

app = typer.Typer(no_args_is_help=True, help="Teams: role slots, candidates, and the blocks that talk in them.")


@app.command()
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called.", show_default=False)],
    role: Annotated[
        list[str] | None, typer.Option(help="A slot: pm, swe, designer or any; again for more, in their order.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a team with empty slots."""
    from clonedna.app.teams import TeamOrder

    state: State = context.obj
    team = state.teams.create(given(TeamOrder, name=name, roles=tuple(role or ())))
    print_json(team) if as_json else _show(team)


@app.command("ls")
def list_teams(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="The next of the page before.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List teams, last changed first."""
    state: State = context.obj
    page = state.teams.list(limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    rows = [
        [t.id, t.name, ", ".join(s.role for s in t.slots), str(sum(s.persona is not None for s in t.slots))]
        for t in page.teams
    ]
    table("", ["team", "name", "slots", "personas"], rows, whole=1)
    if page.next:
        tell(f"more: --after {page.next}")


@app.command()
def show(context: typer.Context, team: TeamId, as_json: Json = False) -> None:
    """Show a team: its slots, candidates and personas."""
    found = _team(context.obj, team)
    print_json(found) if as_json else _show(found)


@app.command()
def rename(
    context: typer.Context,
    team: TeamId,
    name: Annotated[str, typer.Argument(help="The new name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Give a team another name."""
    state: State = context.obj
    renamed = state.teams.rename(_team(state, team).id, _named(name))
    print_json(renamed) if as_json else tell(f"renamed: {renamed.id} {printable(renamed.name)}")


@app.command()
def rm(context: typer.Context, team: TeamId, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a team with its slots, candidates and threads. Blocks stay."""
    state: State = context.obj
    found = _team(state, team)
    if not yes and not as_json:
        typer.confirm(f"Delete {printable(found.name)} and its threads?", abort=True, err=True)
    gone = state.teams.delete(found.id)
    print_json(gone) if as_json else tell(f"deleted: {gone.id}")


@app.command()
def add(
    context: typer.Context,
    team: TeamId,
    role: Annotated[Roles, typer.Argument(help="The slot's role.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Add a slot at the end."""
    state: State = context.obj
    changed = state.teams.add_slot(_team(state, team).id, role)
    print_json(changed) if as_json else _show(changed)


@app.command()
def drop(context: typer.Context, team: TeamId, slot: SlotId, as_json: Json = False) -> None:
    """Take a slot out."""
    state: State = context.obj
    found = _team(state, team)
    changed = state.teams.drop_slot(found.id, _slot(found, slot).id)
    print_json(changed) if as_json else _show(changed)


@app.command()
def search(
    context: typer.Context,
    team: TeamId,
    slot: SlotId,
    query: Annotated[str, typer.Argument(help="What GitHub's user search takes; the slot's role adds to it.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=30, help="At most so many people.")] = 10,
    as_json: Json = False,
) -> None:
    """Look for people for a slot, in GitHub's own order; nothing is kept."""
    state: State = context.obj
    found = _team(state, team)
    people = state.teams.search(found.id, _slot(found, slot).id, query, limit)
    if as_json:
        print_json(people)
        return
    rows = [
        [p.account.login, p.account.name, p.location, str(p.stars), ", ".join(p.languages[:3])] for p in people.people
    ]
    table("", ["handle", "name", "location", "stars", "languages"], rows, whole=1)
    tell(f"{len(rows)} of {people.total} for: {printable(people.query)}")


@app.command()
def headhunt(
    context: typer.Context,
    team: TeamId,
    slot: SlotId,
    query: Annotated[str, typer.Argument(help="What GitHub's user search takes; the slot's role adds to it.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=30, help="At most so many people.")] = 10,
    as_json: Json = False,
) -> None:
    """The same, person by person: each becomes a candidate of the slot. Being found is no consent to anything."""
    from clonedna.app.teams import HuntDone, HuntFound, HuntPassed

    state: State = context.obj
    found = _team(state, team)
    with closing(state.teams.hunt(found.id, _slot(found, slot).id, query, limit)) as events:
        for event in events:
            if isinstance(event, HuntFound) and not as_json:
                tell(f"found: {_who(event.candidate)}")
            elif isinstance(event, HuntPassed) and not as_json:
                tell(f"not read: {printable(event.login)} ({event.reason})")
            elif isinstance(event, HuntDone):
                print_json(event.reply) if as_json else _show_slot(event.reply)


@app.command()
def select(
    context: typer.Context,
    team: TeamId,
    slot: SlotId,
    who: Annotated[str, typer.Argument(help="A candidate's id, or a GitHub handle.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Let somebody take a slot."""
    from clonedna.app.teams import Choice

    state: State = context.obj
    found = _team(state, team)
    field = "candidate" if who.startswith("candidate-") else "handle"
    changed = state.teams.select(found.id, _slot(found, slot).id, given(Choice, **{field: who}))
    print_json(changed) if as_json else _show_slot(changed)


@app.command()
def clear(context: typer.Context, team: TeamId, slot: SlotId, as_json: Json = False) -> None:
    """Forget a slot's candidates and who was selected; its persona stays."""
    state: State = context.obj
    found = _team(state, team)
    changed = state.teams.clear(found.id, _slot(found, slot).id)
    print_json(changed) if as_json else _show_slot(changed)


@app.command()
def extract(
    context: typer.Context,
    team: TeamId,
    slot: SlotId,
    website: Annotated[str | None, typer.Option(metavar="URL", help="A person's own page.", show_default=False)] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A PDF, DOCX or text file.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a page or a resume: what it states, with the words that prove it; the person becomes a candidate."""
    from clonedna.core.errors import InputError

    state: State = context.obj
    if (website is None) == (resume is None):
        raise InputError("one of --website and --resume is wanted", "give one", param="website")
    found = _team(state, team)
    where = _slot(found, slot).id
    made = _read_page(state, found.id, where, website) if website else _read_file(state, found.id, where, resume)
    if as_json:
        print_json(made)
        return
    from clonedna.app.profiles_text import profile_markdown

    typer.echo(printable(profile_markdown(made.report)), nl=False)
    tell(f"candidate: {made.candidate.id}")


@app.command()
def bind(
    context: typer.Context,
    team: TeamId,
    slot: SlotId,
    block: Annotated[
        str | None,
        typer.Argument(help="A block (name, name@version, id), genome:NAME or persona:NAME.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What it is called in the team.", show_default=False)] = None,
    instructions: Annotated[str, typer.Option(help="Put before every conversation.")] = "",
    nobody: Annotated[bool, typer.Option("--none", help="Take the persona out again.")] = False,
    as_json: Json = False,
) -> None:
    """Let a block, a genome or a persona talk in a slot: dna chat --persona SLOT."""
    from clonedna.app.teams import Binding
    from clonedna.core.errors import InputError

    state: State = context.obj
    if nobody == (block is not None):
        raise InputError("one of a block and --none is wanted", "name who talks there", param="block")
    found = _team(state, team)
    where = _slot(found, slot).id
    if nobody:
        changed = state.teams.unbind(found.id, where)
    else:
        changed = state.teams.bind(found.id, where, given(Binding, block=block, name=name, instructions=instructions))
    print_json(changed) if as_json else _show_slot(changed)


def _read_page(state: State, team: str, slot: str, url: str) -> Extracted:
    if state.client is not None:
        return state.client.teams.extract_website(team, slot, url)
    import anyio

    return anyio.run(state.own_teams.extract_website, team, slot, url)


def _read_file(state: State, team: str, slot: str, path: Path | None) -> Extracted:
    from clonedna.app.teams import MOST_RESUME
    from clonedna.core.errors import InputError

    assert path is not None
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MOST_RESUME + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", "give a PDF, DOCX or text file", param="resume"
        ) from None
    if not 0 < len(data) <= MOST_RESUME:
        raise InputError(f"{path.name} has 0 or more than {MOST_RESUME} bytes", "give another file", param="resume")
    if state.client is not None:
        return state.client.teams.extract_resume(team, slot, path.name, data)
    import anyio

    return anyio.run(state.own_teams.extract_resume, team, slot, path.name, data)


def _team(state: State, given_name: str) -> Team:
    """A team by its id, or by a name that one of the newest has. Raises ``NotFound``, ``InputError`` for several."""
    from clonedna.core.errors import InputError, NotFound

    if _ID.fullmatch(given_name):
        return state.teams.get(given_name)
    found = [one for one in state.teams.list(limit=200).teams if one.name == given_name]
    if not found:
        raise NotFound(f"no team {given_name[:80]!r}", "see: dna team ls")
    if len(found) > 1:
        raise InputError(f"{len(found)} teams are called {given_name[:80]!r}", "give its id: dna team ls")
    return found[0]


def _slot(team: Team, given_name: str) -> Slot:
    """A slot of a team by id, by number from 1 on, or by a role that one slot has. Raises ``NotFound``, ``InputError``."""
    from clonedna.core.errors import InputError, NotFound

    if given_name.isascii() and given_name.isdigit() and 0 < int(given_name[:4]) <= len(team.slots):
        return team.slots[int(given_name) - 1]
    found = [one for one in team.slots if given_name in (one.id, one.role)]
    if not found:
        raise NotFound(f"no slot {given_name[:80]!r} in this team", "see: dna team show TEAM")
    if len(found) > 1:
        raise InputError(f"{len(found)} slots have the role {given_name}", "give its number or id: dna team show TEAM")
    return found[0]


def _named(name: str) -> str:
    from clonedna.app.teams import TeamOrder

    return given(TeamOrder, name=name).name


def _who(one: Candidate | None) -> str:
    if one is None:
        return ""
    account = one.account.login if one.account else one.handle or one.source
    return printable(f"{account} {one.name}".strip())


def _show(team: Team) -> None:
    rows = [
        [
            str(number), slot.id, slot.role, _who(slot.selected), str(len(slot.candidates)),
            f"{slot.persona.name}: {slot.persona.block}" if slot.persona else "",
        ]
        for number, slot in enumerate(team.slots, 1)
    ]  # fmt: skip
    table(f"{team.name} ({team.id})", ["", "slot", "role", "selected", "candidates", "persona"], rows, whole=2)


def _show_slot(slot: Slot) -> None:
    persona = f"{slot.persona.name}: {slot.persona.block} ({slot.persona.block_id[:12]})" if slot.persona else "none"
    tell(f"{slot.id} ({slot.role}); selected: {_who(slot.selected) or 'nobody'}; persona: {printable(persona)}")
    rows = [[one.id, _who(one), one.origin, one.source] for one in slot.candidates]
    if rows:
        table("", ["candidate", "who", "by", "from"], rows, whole=1)
