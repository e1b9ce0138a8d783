"""`dna ls, search, reindex`: find blocks, here or on a server, and rebuild what finds them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

import anyio
import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell
from clonedna.core.errors import InputError
from clonedna.core.events import Note

Base = Annotated[str | None, typer.Option(help="Of blocks on this base.")]
Licence = Annotated[str | None, typer.Option(help="... under this licence (SPDX).")]
Consent = Annotated[str | None, typer.Option(help="... under this consent: self, granted, local-only.")]
Domain = Annotated[str | None, typer.Option(help="... about this; a language, too.")]
Language = Annotated[str | None, typer.Option(help="... in this programming language.")]
Maturity = Annotated[float | None, typer.Option(help="... of at least this maturity, 0 to 1.")]
Score = Annotated[float | None, typer.Option(help="... of at least this gain over the base, in nats a token.")]
Status = Annotated[str | None, typer.Option(help="... that the gate let pass (registered), or not (rejected).")]
Name = Annotated[str | None, typer.Option(help="... of this name, all versions.")]
Handle = Annotated[str | None, typer.Option(help="... of this person's handle.")]
Limit = Annotated[int | None, typer.Option(help="At most so many; default 48 in a table, all in JSON.")]


PROGRESS_SECONDS = 2.0


def add_to(app: typer.Typer) -> None:
    app.command("ls")(list_blocks)
    app.command()(search)
    app.command()(reindex)


def list_blocks(
    context: typer.Context, base: Base = None, licence: Licence = None, consent: Consent = None, domain: Domain = None,
    language: Language = None, maturity: Maturity = None, score: Score = None, status: Status = None, name: Name = None,
    handle: Handle = None, limit: Limit = None,
    sort: Annotated[str, typer.Option(help="newest, name, maturity or gain.")] = "newest",
    cursor: Annotated[str | None, typer.Option(help="Go on where a list ended.")] = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List blocks, newest first, with those that the gate rejected."""
    from clonedna.app.catalogue import asked, pages
    from clonedna.core.catalogue import MOST_LINES, ListQuery
    from clonedna.core.errors import InputError

    state: State = context.obj
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} lines", "give 1 or more", param="limit")
    at_once = min(limit or (MOST_LINES if as_json else 48), MOST_LINES)
    query = asked(ListQuery, **_filters(context), sort=sort, cursor=cursor, limit=at_once)
    if as_json:
        print_json(list(islice(pages(query, state.catalogue.page), limit)))
        return
    page = state.catalogue.page(query)
    rows = [
        [f"{b.name}@{b.version}", b.id[:8], _signed(b.gain), "rejected" if b.status == "rejected" else _plain(b.maturity),
         b.created_at[:10], b.consent, b.person]
        for b in page.blocks
    ]  # fmt: skip
    table("", ["block", "id", "gain", "maturity", "minted", "consent", "person"], rows, whole=6)
    if page.next is not None:
        tell(f"{len(rows)} of {page.total}; go on with: --cursor {page.next}")
    elif not rows and not _filters(context):
        tell("no blocks yet; mint one: dna mint PATH --author 'Name <mail>'")
    elif not rows:
        tell("no block is like that; see all: dna ls")


def search(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(help="What to look for.", show_default=False)] = None,
    skill: Annotated[list[str] | None, typer.Option(help="A skill that has to be there; again for more.")] = None,
    mode: Annotated[str, typer.Option(help="text (words), semantic (meaning), or hybrid (both).")] = "hybrid",
    base: Base = None, licence: Licence = None, consent: Consent = None, domain: Domain = None, language: Language = None,
    maturity: Maturity = None, score: Score = None, name: Name = None, handle: Handle = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20, as_json: Json = False,
) -> None:  # fmt: skip
    """Find blocks by words and by meaning; only such as may be used."""
    from clonedna.app.catalogue import asked
    from clonedna.core.catalogue import SearchQuery

    state: State = context.obj
    query = asked(
        SearchQuery, **_filters(context), q=" ".join(words or ()), skills=tuple(skill or ()), mode=mode, limit=limit
    )
    found = state.catalogue.search(query)
    if as_json:
        print_json(found)
        return
    rows = [
        [f"{one.block.name}@{one.block.version}", one.block.id[:8], f"{one.score:.3g}", _plain(one.cosine),
         _signed(one.block.gain), one.block.specialization]
        for one in found.found
    ]  # fmt: skip
    table("", ["block", "id", "score", "cosine", "gain", "about"], rows, whole=5)
    tell(f"{len(rows)} found by {found.mode}" + (f", encoder {found.encoder}" if found.encoder else ""))


def reindex(
    context: typer.Context,
    vectors: Annotated[
        bool, typer.Option("--vectors/--without-vectors", help="Encode meanings now, or when somebody asks.")
    ] = True,
    encoder: Annotated[
        str | None, typer.Option(help="Only make what is missing of the vectors by this encoder, beside those in use.")
    ] = None,
    teacher: Annotated[
        Literal["none", "openai", "engine"],
        typer.Option(help="Only let it write what people may type who look for each block; a server may cost money."),
    ] = "none",
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --teacher: of at most so many blocks.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild catalogue, words and meanings from the block directories alone; or encode all with another encoder; or let a teacher write
    what blocks are looked for by."""
    from clonedna.app.catalogue import Catalogue

    state: State = context.obj
    told = _progress()
    if teacher != "none":
        if encoder is not None or not vectors:
            raise InputError(
                "--teacher goes with neither --encoder nor --without-vectors", "give one of them", param="teacher"
            )
        work = partial(Catalogue(state.parts).query, teacher, limit, _note, _progress("asked about"), told)
        done = anyio.run(work)
    elif encoder is None:
        done = Catalogue(state.parts).reindex(vectors=vectors, told=told)
    else:
        done = Catalogue(state.parts).encode(encoder, told)
    if as_json:
        print_json(done)
        return
    for one in done.left_out:
        tell(f"left out: {one.path}: {one.reason}: {printable(one.detail)}")
    tell(f"{done.blocks} blocks" + (f", {done.encoded} encoded by {done.encoder}" if done.encoder else ""))
    if done.queried is not None:
        tell(
            f"{done.queried.asked} blocks were asked about, {done.queried.blocks} have what they are looked for by ({done.queried.by})"
        )
        for why, count in done.queried.left_out.items():
            tell(f"left out: {count} {why}")
    for how in sorted(set(done.searched)):
        if how != "exact":
            tell(f"searched: {how}")
    if encoder is not None and done.encoder != state.parts.encoder.name:
        tell(f"to search with it: set encoder = '{encoder}' (DNA_ENCODER)")


def _note(event: object) -> None:
    if isinstance(event, Note):
        tell(f"note: {printable(event.text)}")


def _progress(what: str = "encoded") -> Callable[[int, int], None]:
    """Says how many blocks are encoded (``what``), and about how long the rest takes, every few seconds."""
    began = last = time.monotonic()
    first: int | None = None

    def told(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done - 1 if first is None else first
        if now - last >= PROGRESS_SECONDS or (done == total and now - began >= PROGRESS_SECONDS):
            left = (total - done) * (now - began) / max(1, done - first)
            tell(f"{what} {done} of {total} blocks, about {left:.0f} s to go")
            last = now

    return told


def _filters(context: typer.Context) -> dict[str, Any]:
    from clonedna.core.catalogue import Filters

    return {key: value for key, value in context.params.items() if key in Filters.model_fields and value is not None}


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.3f}"


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
